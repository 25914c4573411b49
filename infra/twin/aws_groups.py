"""Security groups and their rules. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/ec2 (vpc_security_group*.go)
"""

import ipaddress
from collections.abc import Iterator
from typing import ClassVar, Final

from infra.engine.providers import Failure
from infra.twin import aws_view
from infra.twin.aws_base import inputs_of
from infra.twin.aws_forms import ACCOUNT, ec2_arn, hex_id
from infra.twin.aws_view import enis_of
from infra.twin.aws_vpc import InVpc
from infra.twin.forms import one_of
from infra.twin.interface import Call, Json, TwinError, known
from infra.twin.store import Item

PROTOCOLS: Final = ("-1", "tcp", "udp", "icmp", "icmpv6", "1", "6", "17", "58")
PEERS: Final = ("cidrIpv4", "cidrIpv6", "referencedSecurityGroupId")
_SAME: Final = ("securityGroupId", "ipProtocol", "fromPort", "toPort", *PEERS)


class SecurityGroup(InVpc):
    """A group of interfaces with rules of its own."""

    type_name = aws_view.GROUP
    model = "chains of nftables in the VPC's router, one pair for each interface that has groups"
    limits = (
        "rules are resources of their own: `ingress` and `egress` of the group itself are refused",
        "a flow between two interfaces is tracked once, not at each of them",
    )
    force_new = frozenset({"name", "namePrefix", "description", "vpcId"})
    in_place = frozenset({"revokeRulesOnDelete"})
    defaults: ClassVar = {"description": "Managed by Pulumi"}
    autoname = "name"
    wanted = ("vpcId",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        name = inputs.get("name")
        if known(name) and (str(name).startswith("sg-") or not 1 <= len(str(name)) <= 255):
            yield Failure("name", f"InvalidParameterValue: {name!r}: 1 to 255 characters, not beginning with sg-")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("sg", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        for item in aws_view.View(items, inputs["vpcId"]).of(self.type_name):
            if inputs_of(item)["name"] == inputs["name"]:
                raise TwinError(
                    f"InvalidGroup.Duplicate: The security group {inputs['name']!r} already exists for VPC "
                    f"{inputs['vpcId']!r}"
                )
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": ec2_arn("security-group", item.id), "ownerId": ACCOUNT, "ingress": [], "egress": []}

    def refuse_delete(self, call: Call, item: Item) -> None:
        for other in call.site.store.items():
            has = any(item.id in (eni.groups or ()) for eni in enis_of(other))
            names = other.token in (aws_view.INGRESS, aws_view.EGRESS) and (
                inputs_of(other).get("referencedSecurityGroupId") == item.id != inputs_of(other)["securityGroupId"]
            )
            if has or (names and not inputs_of(item).get("revokeRulesOnDelete")):
                raise TwinError(f"DependencyViolation: resource {item.id} has a dependent object: {other.id}")


class _Rule(InVpc):
    """What one rule lets through."""

    force_new = frozenset({"securityGroupId"})
    in_place = frozenset({"ipProtocol", "fromPort", "toPort", "description", *PEERS})
    wanted = ("ipProtocol",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        protocol = inputs.get("ipProtocol")
        yield from one_of("ipProtocol", protocol, PROTOCOLS, "protocol")
        if sum(inputs.get(name) is not None for name in PEERS) != 1:
            yield Failure("cidrIpv4", f"exactly one of {', '.join(PEERS)} says who the other side is")
        for name, kind in (("cidrIpv4", ipaddress.IPv4Network), ("cidrIpv6", ipaddress.IPv6Network)):
            if known(inputs.get(name)):
                try:
                    kind(inputs[name])
                except ValueError as error:
                    yield Failure(name, f"InvalidParameterValue: CIDR block {inputs[name]} is malformed: {error}")
        ports = [inputs.get("fromPort"), inputs.get("toPort")]
        if protocol in ("tcp", "udp", "6", "17"):
            if any(port is None for port in ports):
                yield Failure("fromPort", f"InvalidParameterValue: fromPort and toPort are required with {protocol}")
            elif all(known(port) for port in ports) and not 0 <= int(ports[0]) <= int(ports[1]) <= 65535:  # type: ignore[arg-type]  # given
                yield Failure("fromPort", f"InvalidParameterValue: {ports[0]} to {ports[1]} is no range of ports")
        elif protocol == "-1" and any(port not in (None, -1) for port in ports):
            yield Failure("fromPort", "all protocols means all ports: leave fromPort and toPort out")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("sgr", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        groups = {item.id for item in items if item.token == aws_view.GROUP}
        for name in ("securityGroupId", "referencedSecurityGroupId"):
            if inputs.get(name) and inputs[name] not in groups:
                raise TwinError(f"InvalidGroup.NotFound: The security group {inputs[name]!r} does not exist")
        for item in items:
            if item.token == self.type_name and all(inputs_of(item).get(name) == inputs.get(name) for name in _SAME):
                raise TwinError(f"InvalidPermission.Duplicate: the specified rule already exists: {item.id}")
        return {}

    def vpc_of(self, call: Call, item: Item) -> str:
        group = call.site.store.get(aws_view.GROUP, inputs_of(item)["securityGroupId"])
        return "" if group is None else str(inputs_of(group)["vpcId"])

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": ec2_arn("security-group-rule", item.id), "securityGroupRuleId": item.id}


class SecurityGroupIngressRule(_Rule):
    """Who may open flows to interfaces of the group."""

    type_name = aws_view.INGRESS
    model = "a line in the chains of packets to each interface of the group"
    limits = ("rules of IPv6 networks: there is no IPv6 in the VPC",)


class SecurityGroupEgressRule(_Rule):
    """Where interfaces of the group may open flows to."""

    type_name = aws_view.EGRESS
    model = "a line in the chains of packets from each interface of the group"
    limits = ("rules of IPv6 networks: there is no IPv6 in the VPC",)

"""Network load balancers. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/elbv2
"""

from collections.abc import Iterator
from typing import ClassVar, Final

from infra.engine.providers import Failure
from infra.twin import aws_fabric, aws_view
from infra.twin.aws_address import hold, holder_of
from infra.twin.aws_base import AwsType, inputs_of
from infra.twin.aws_forms import REGION, arn, digits, not_kept
from infra.twin.aws_view import Eni, enis_of, free_address
from infra.twin.aws_vpc import InVpc
from infra.twin.forms import one_of
from infra.twin.interface import Call, Json, TwinError, known
from infra.twin.store import Item

PROTOCOLS: Final = ("TCP", "UDP")
LONGEST_NAME: Final = 32
ZONE_ID: Final = "ZLMOA37VPKANP"
"""Of network load balancers in us-east-2. Source: https://docs.aws.amazon.com/general/latest/gr/elb.html"""


def short_name(name: str, digits_: str) -> str:
    """A name of at most 32 characters, as the provider makes one."""
    return f"{name[: LONGEST_NAME - 8].rstrip('-')}-{digits_[:7]}"


class LoadBalancer(AwsType):
    """A network load balancer."""

    type_name = aws_view.BALANCER
    model = "an address in each of its subnets, which the VPC's router answers for; an elastic IP stands for it"
    limits = (
        "of two zones, a flow is balanced over all targets, whichever zone's address it came to",
        "it has no security group; a flow that is idle is forgotten as the router's connection tracking does",
    )
    force_new = frozenset({"name", "namePrefix", "internal", "loadBalancerType", "subnetMappings"})
    in_place = frozenset({"enableCrossZoneLoadBalancing"})
    left_out: ClassVar = {
        "enableDeletionProtection": not_kept("a destroy removes it"),
        "accessLogs": not_kept("there are no access logs"),
    }
    defaults: ClassVar = {"internal": False}
    wanted = ("loadBalancerType", "subnetMappings")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("loadBalancerType", inputs.get("loadBalancerType"), ("network",), "type of load balancer")
        yield from one_of("internal", inputs.get("internal"), (False,), "load balancer with internal")
        name = inputs.get("name")
        if known(name) and not 1 <= len(str(name)) <= LONGEST_NAME:
            yield Failure(
                "name", f"ValidationError: a load balancer's name has 1 to {LONGEST_NAME} characters: {name!r}"
            )
        for mapping in inputs.get("subnetMappings") or ():
            for key in mapping:
                yield from one_of(f"subnetMappings.{key}", key, ("subnetId", "allocationId"), "property of a mapping")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        name = inputs.get("name") or short_name(call.name, digits(call.site.run, number))
        return arn("elasticloadbalancing", f"loadbalancer/net/{name}/{digits(call.site.run, number, 16)}")

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        enis: list[Json] = []
        vpcs = set()
        for index, mapping in enumerate(inputs["subnetMappings"]):
            subnet = next((item for item in items if item.id == mapping["subnetId"]), None)
            if subnet is None:
                raise TwinError(f"SubnetNotFound: The subnet ID {mapping['subnetId']!r} does not exist")
            vpcs.add(inputs_of(subnet)["vpcId"])
            eni = Eni(
                id=f"eni-{digits(call.site.run, number * 100 + index)}",
                subnet=subnet.id,
                address=free_address(items, subnet),
            )
            enis.append(eni.to_json())
        if len(vpcs) != 1:
            raise TwinError("InvalidConfigurationRequest: all subnets of a load balancer must be of one VPC")
        (vpc,) = vpcs
        if not aws_view.View(items, vpc).internet:
            raise TwinError(f"InvalidSubnet: VPC {vpc} has no internet gateway")
        return {"enis": enis, "vpc": vpc}

    def apply(self, call: Call, item: Item) -> None:
        for eni, mapping in zip(enis_of(item), inputs_of(item)["subnetMappings"], strict=True):
            if mapping.get("allocationId"):
                hold(call.site, mapping["allocationId"], eni.id)
        aws_fabric.sync(call.site, item.data["vpc"])

    def outputs(self, call: Call, item: Item) -> Json:
        name, suffix = item.id.split("/")[-2:]
        return {
            "arn": item.id, "arnSuffix": f"net/{name}/{suffix}", "vpcId": item.data["vpc"], "zoneId": ZONE_ID,
            "dnsName": f"{name}-{suffix}.elb.{REGION}.amazonaws.com", "name": name, "ipAddressType": "ipv4",
            "securityGroups": [], "subnets": [eni.subnet for eni in enis_of(item)],
        }  # fmt: skip

    def clear(self, call: Call, item: Item) -> None:
        for listener in call.site.store.items(aws_view.LISTENER):
            if inputs_of(listener)["loadBalancerArn"] == item.id:
                call.site.store.drop(listener.number)
        for eni, mapping in zip(enis_of(item), inputs_of(item)["subnetMappings"], strict=True):
            if mapping.get("allocationId") and holder_of(call.site, mapping["allocationId"]) == eni.id:
                hold(call.site, mapping["allocationId"], "")

    def applied(self, call: Call, item: Item) -> None:
        vpc = call.site.store.get(aws_view.VPC, item.data["vpc"])
        if vpc is not None:
            for eni in enis_of(item):
                line = f"ip address del {eni.address}/32 dev lo 2> /dev/null || true"
                if aws_fabric.exists(call.site, aws_fabric.router_of(vpc)):
                    call.site.script(aws_fabric.router_of(vpc), line)
            aws_fabric.sync(call.site, item.data["vpc"])


class TargetGroup(InVpc):
    """Where a listener sends flows."""

    type_name = aws_view.TARGETS
    model = "addresses that the controller registers, checks by TCP and lets drain"
    limits = ("a check by HTTP or HTTPS is not modelled: TCP alone",)
    force_new = frozenset({"name", "namePrefix", "vpcId", "targetType", "protocol", "port"})
    in_place = frozenset({"preserveClientIp", "deregistrationDelay", "connectionTermination", "healthCheck"})
    left_out: ClassVar = {
        "stickiness": not_kept("a flow goes where its hash says"),
        "slowStart": not_kept("a target takes its share at once"),
    }
    defaults: ClassVar = {"deregistrationDelay": 300, "connectionTermination": False, "targetType": "instance"}
    wanted = ("protocol", "port", "vpcId", "healthCheck")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("protocol", inputs.get("protocol"), PROTOCOLS, "protocol of targets")
        yield from one_of("targetType", inputs.get("targetType"), ("ip",), "type of target")
        keep = inputs.get("preserveClientIp")
        if known(keep) and str(keep).lower() != "true":
            yield Failure("preserveClientIp", "the twin keeps the client's address; with UDP AWS does too, always")
        check = inputs.get("healthCheck")
        if not known(check):
            return
        known_names = (
            *(
                "protocol",
                "port",
                "interval",
                "timeout",
                "healthyThreshold",
                "unhealthyThreshold",
                "enabled",
                "path",
                "matcher",
            ),
        )
        for key in check or {}:
            yield from one_of(f"healthCheck.{key}", key, known_names, "property of a health check")
        yield from one_of("healthCheck.protocol", (check or {}).get("protocol"), ("TCP",), "protocol of health checks")
        interval, timeout = (check or {}).get("interval"), (check or {}).get("timeout")
        if interval is not None and known(interval) and not 5 <= int(interval) <= 300:
            yield Failure(
                "healthCheck.interval", "ValidationError: Health check interval must be from 5 to 300 seconds"
            )
        if (
            interval is not None
            and timeout is not None
            and known(interval)
            and known(timeout)
            and int(timeout) > int(interval)
        ):
            yield Failure("healthCheck.timeout", "ValidationError: Health check timeout must be at most the interval")
        port = (check or {}).get("port")
        if inputs.get("protocol") == "UDP" and known(inputs.get("protocol")) and port in (None, "traffic-port"):
            yield Failure("healthCheck.port", "a target of UDP is checked by TCP: give the port that answers")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        name = inputs.get("name") or short_name(call.name, digits(call.site.run, number))
        return arn("elasticloadbalancing", f"targetgroup/{name}/{digits(call.site.run, number, 16)}")

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        super().begin(call, number, inputs, items)
        return {"targets": []}

    def outputs(self, call: Call, item: Item) -> Json:
        name, suffix = item.id.split("/")[-2:]
        users = [
            str(inputs_of(listener)["loadBalancerArn"])
            for listener in call.site.store.items(aws_view.LISTENER)
            if listens_for(listener) == item.id
        ]
        return {
            "arn": item.id, "arnSuffix": f"targetgroup/{name}/{suffix}", "loadBalancerArns": users, "name": name,
            "ipAddressType": "ipv4",
        }  # fmt: skip

    def refuse_delete(self, call: Call, item: Item) -> None:
        for listener in call.site.store.items(aws_view.LISTENER):
            if listens_for(listener) == item.id:
                raise TwinError(f"ResourceInUse: Target group {item.id!r} is currently in use by a listener or a rule")


def listens_for(listener: Item) -> str:
    """The target group that a listener sends to."""
    return str(inputs_of(listener)["defaultActions"][0].get("targetGroupArn"))


class Listener(AwsType):
    """A port of a load balancer."""

    type_name = aws_view.LISTENER
    model = "address translation by the hash of a flow's source; the client's address is kept"
    force_new = frozenset({"loadBalancerArn"})
    in_place = frozenset({"protocol", "port", "defaultActions"})
    wanted = ("protocol", "port")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("protocol", inputs.get("protocol"), PROTOCOLS, "protocol of listeners")
        actions = inputs.get("defaultActions")
        if known(actions) and (
            len(actions or ()) != 1
            or (actions or [{}])[0].get("type") != "forward"
            or not (actions or [{}])[0].get("targetGroupArn")
        ):
            yield Failure("defaultActions", "the twin models one action: forward, to one targetGroupArn")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        balancer = str(inputs["loadBalancerArn"]).rpartition(":loadbalancer/")[2]
        return arn("elasticloadbalancing", f"listener/{balancer}/{digits(call.site.run, number, 16)}")

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        there = {(item.token, item.id) for item in items}
        if (aws_view.BALANCER, inputs["loadBalancerArn"]) not in there:
            raise TwinError(f"LoadBalancerNotFound: Load balancer {inputs['loadBalancerArn']!r} not found")
        group = next((item for item in items if item.id == inputs["defaultActions"][0]["targetGroupArn"]), None)
        if group is None:
            raise TwinError("TargetGroupNotFound: One or more target groups not found")
        if inputs_of(group)["protocol"] != inputs["protocol"]:
            raise TwinError(
                f"IncompatibleProtocols: the listener's protocol {inputs['protocol']} and its target group's "
                f"{inputs_of(group)['protocol']} differ"
            )
        for item in items:
            if item.token == self.type_name and all(
                inputs_of(item)[key] == inputs[key] for key in ("loadBalancerArn", "port")
            ):
                raise TwinError(f"DuplicateListener: A listener already exists on this port ({inputs['port']})")
        return {}

    def apply(self, call: Call, item: Item) -> None:
        aws_fabric.sync_all(call.site)

    def applied(self, call: Call, item: Item) -> None:
        aws_fabric.sync_all(call.site)

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": item.id}

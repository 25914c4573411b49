"""A VPC, its subnets, gateways to the internet and routes. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/ec2 (vpc_*.go)
"""

import ipaddress
from collections.abc import Iterator
from typing import ClassVar, Final

from infra.engine.providers import Failure
from infra.twin import aws_fabric, aws_view
from infra.twin.aws_base import AwsType, inputs_of
from infra.twin.aws_forms import ACCOUNT, REGION, ZONES, digits, ec2_arn, hex_id, not_kept
from infra.twin.aws_view import enis_of
from infra.twin.forms import lowest_free, one_of
from infra.twin.interface import Call, Json, LeftOut, TwinError, known
from infra.twin.store import Item

MOST_VPCS: Final = 5
"""Of an account in a region, by the default quota."""
_NO_V6: Final = not_kept("there is no IPv6 in the twin's VPC")


def network_failures(name: str, value: object, smallest: int = 28, largest: int = 16) -> Iterator[Failure]:
    """Yield what EC2 refuses of a block of IPv4 addresses."""
    if not known(value):
        return
    try:
        network = ipaddress.IPv4Network(str(value))
    except ValueError as error:
        yield Failure(name, f"InvalidParameterValue: {error}: give an IPv4 network, such as 10.0.0.0/16")
        return
    if not largest <= network.prefixlen <= smallest:
        yield Failure(name, f"InvalidVpc.Range: {network}: the block size must be between /{smallest} and /{largest}")


class Vpc(AwsType):
    """A private network."""

    type_name = aws_view.VPC
    model = (
        "a router (namespace) that every interface of the VPC hangs on, with filters, routes and address translation"
    )
    limits = (
        "the VPC has no default security group and no network ACL of its own: ids are given, nothing stands for them",
        "there is no DHCP: instances and tasks get their addresses from outside; an instance is given no resolver",
        "the router answers no ping at a subnet's gateway address, and packets lose one hop there",
    )
    force_new = frozenset({"cidrBlock"})
    in_place = frozenset({"enableDnsSupport", "enableDnsHostnames", "instanceTenancy"})
    left_out: ClassVar = {
        "assignGeneratedIpv6CidrBlock": _NO_V6,
        "ipv6CidrBlock": _NO_V6,
        "enableNetworkAddressUsageMetrics": not_kept("there are no metrics"),
    }
    defaults: ClassVar = {"enableDnsSupport": True, "instanceTenancy": "default"}
    wanted = ("cidrBlock",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from network_failures("cidrBlock", inputs.get("cidrBlock"))
        yield from one_of("instanceTenancy", inputs.get("instanceTenancy"), ("default",), "tenancy")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("vpc", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        slots = [item.data["slot"] for item in items if item.token == self.type_name]
        try:
            return {"slot": lowest_free(slots, 0, MOST_VPCS - 1, "VPC")}
        except TwinError as error:
            raise TwinError(f"VpcLimitExceeded: The maximum number of VPCs has been reached: {error}") from None

    def apply(self, call: Call, item: Item) -> None:
        aws_fabric.ensure_router(call.site, item)

    def there(self, call: Call, item: Item) -> bool:
        return aws_fabric.exists(call.site, aws_fabric.router_of(item))

    def outputs(self, call: Call, item: Item) -> Json:
        def own(prefix: str) -> str:
            return item.id.replace("vpc", prefix)

        main = aws_view.main_table(item)
        return {
            "arn": ec2_arn("vpc", item.id), "ownerId": ACCOUNT, "defaultNetworkAclId": own("acl"),
            "defaultRouteTableId": main, "mainRouteTableId": main, "defaultSecurityGroupId": own("sg"),
            "dhcpOptionsId": f"dopt-{digits(call.site.run, 0)}", "ipv6AssociationId": "",
        }  # fmt: skip

    def refuse_delete(self, call: Call, item: Item) -> None:
        inside = (
            aws_view.SUBNET,
            aws_view.INTERNET,
            aws_view.TABLE,
            aws_view.GROUP,
            aws_view.ENDPOINT,
            aws_view.TARGETS,
        )
        for other in call.site.store.items():
            if other.token in inside and inputs_of(other).get("vpcId") == item.id:
                raise TwinError(
                    f"DependencyViolation: The vpc {item.id!r} has dependencies and cannot be deleted: {other.id}"
                )

    def clear(self, call: Call, item: Item) -> None:
        aws_fabric.remove_router(call.site, item)


class InVpc(AwsType):
    """What is in a VPC by `vpcId`, or by something that is, and shows in its router."""

    def vpc_of(self, call: Call, item: Item) -> str:
        """The id of its VPC; empty for none."""
        return str(inputs_of(item).get("vpcId") or "")

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if inputs.get("vpcId"):
            aws_view.View(items, str(inputs["vpcId"]))  # or it says that there is none
        return {}

    def apply(self, call: Call, item: Item) -> None:
        self._sync(call, item)

    def applied(self, call: Call, item: Item) -> None:
        self._sync(call, item)

    def _sync(self, call: Call, item: Item) -> None:
        vpc = self.vpc_of(call, item)
        if vpc and call.site.store.get(aws_view.VPC, vpc) is not None:
            aws_fabric.sync(call.site, vpc)


class Subnet(InVpc):
    """A range of a VPC's addresses in a zone."""

    type_name = aws_view.SUBNET
    model = "a routing table of the VPC's router, and the range that interfaces take their addresses from"
    limits = ("a zone is a name: none fails by itself, and all are equally near",)
    force_new = frozenset({"vpcId", "cidrBlock", "availabilityZone"})
    in_place = frozenset({"mapPublicIpOnLaunch"})
    left_out: ClassVar = {"assignIpv6AddressOnCreation": _NO_V6, "ipv6CidrBlock": _NO_V6}
    defaults: ClassVar = {"mapPublicIpOnLaunch": False}
    wanted = ("cidrBlock", "availabilityZone")

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from network_failures("cidrBlock", inputs.get("cidrBlock"))
        yield from one_of("availabilityZone", inputs.get("availabilityZone"), ZONES, "availability zone")
        if inputs.get("mapPublicIpOnLaunch"):
            yield Failure("mapPublicIpOnLaunch", "the twin gives public addresses as elastic IPs alone")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("subnet", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        view = aws_view.View(items, inputs["vpcId"])
        network = ipaddress.IPv4Network(inputs["cidrBlock"])
        if not network.subnet_of(view.network):
            raise TwinError(f"InvalidSubnet.Range: The CIDR '{network}' is invalid: it is not within {view.network}")
        for other in view.subnets.values():
            if other.network.overlaps(network):
                raise TwinError(
                    f"InvalidSubnet.Conflict: The CIDR '{network}' conflicts with another subnet: {other.id}"
                )
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        zone = str(inputs_of(item)["availabilityZone"])
        return {
            "arn": ec2_arn("subnet", item.id), "ownerId": ACCOUNT, "ipv6CidrBlockAssociationId": "",
            "availabilityZoneId": f"use2-az{ord(zone[-1]) - ord('a') + 1}",
        }  # fmt: skip

    def refuse_delete(self, call: Call, item: Item) -> None:
        for other in call.site.store.items():
            if any(eni.subnet == item.id for eni in enis_of(other)):
                raise TwinError(
                    f"DependencyViolation: The subnet {item.id!r} has dependencies and cannot be deleted: {other.id}"
                )


class InternetGateway(InVpc):
    """The VPC's way to and from the internet."""

    type_name = aws_view.INTERNET
    model = "the router's link to its region, where an elastic IP stands for a private address, one to one"
    in_place = frozenset({"vpcId"})

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("igw", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if inputs.get("vpcId") and (other := aws_view.View(items, inputs["vpcId"]).internet):
            raise TwinError(
                f"Resource.AlreadyAssociated: resource {inputs['vpcId']} is already attached to network {other}"
            )
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": ec2_arn("internet-gateway", item.id), "ownerId": ACCOUNT}

    def refuse_delete(self, call: Call, item: Item) -> None:
        vpc = self.vpc_of(call, item)
        if vpc and (public := aws_view.View(call.site.store.items(), vpc).public()):
            raise TwinError(
                f"DependencyViolation: Network {vpc} has some mapped public address(es), {', '.join(public.values())}. "
                "Please unmap those public address(es) before detaching the gateway."
            )

    def update(self, call: Call, outputs: Json, olds: Json, news: Json) -> Json:
        made = super().update(call, outputs, olds, news)
        aws_fabric.sync_all(call.site)
        return made


class RouteTable(InVpc):
    """A table that subnets are associated with."""

    type_name = aws_view.TABLE
    model = "the routes of the subnets that are associated with it"
    force_new = frozenset({"vpcId"})

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("rtb", call.site.run, number)

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": ec2_arn("route-table", item.id), "ownerId": ACCOUNT, "routes": [], "propagatingVgws": []}

    def refuse_delete(self, call: Call, item: Item) -> None:
        for other in call.site.store.items(aws_view.ASSOCIATION):
            if inputs_of(other)["routeTableId"] == item.id:
                raise TwinError(
                    f"DependencyViolation: The routeTable {item.id!r} has dependencies and cannot be deleted: "
                    f"{other.id}"
                )


class OfTable(InVpc):
    """What belongs to a route table."""

    has_tags = False

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if not any(item.token == aws_view.TABLE and item.id == inputs["routeTableId"] for item in items):
            raise TwinError(
                f"InvalidRouteTableID.NotFound: The routeTable ID {inputs['routeTableId']!r} does not exist"
            )
        return {}

    def vpc_of(self, call: Call, item: Item) -> str:
        table = call.site.store.get(aws_view.TABLE, inputs_of(item)["routeTableId"])
        return "" if table is None else str(inputs_of(table)["vpcId"])


class Route(OfTable):
    """One route."""

    type_name = aws_view.ROUTE
    model = "a route in the routing table of each subnet of its table; one to a gateway that is gone is a black hole"
    force_new = frozenset({"routeTableId", "destinationCidrBlock"})
    in_place = frozenset({"gatewayId", "natGatewayId"})
    wanted = ("destinationCidrBlock",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from network_failures("destinationCidrBlock", inputs.get("destinationCidrBlock"), 32, 0)
        given = [name for name in ("gatewayId", "natGatewayId") if inputs.get(name) is not None]
        if len(given) != 1:
            yield Failure("gatewayId", "exactly one of gatewayId and natGatewayId says where to")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return f"r-{inputs['routeTableId']}{digits(call.site.run, number, 10)}"

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        super().begin(call, number, inputs, items)
        key = ("routeTableId", "destinationCidrBlock")
        for item in items:
            if item.token == self.type_name and all(inputs_of(item).get(name) == inputs[name] for name in key):
                raise TwinError(f"RouteAlreadyExists: The route identified by {inputs[key[1]]} already exists.")
        there = {item.id for item in items if item.token in (aws_view.INTERNET, aws_view.NAT)}
        for name, code in (("gatewayId", "InvalidGatewayID"), ("natGatewayId", "InvalidNatGatewayID")):
            if inputs.get(name) and inputs[name] not in there:
                raise TwinError(f"{code}.NotFound: The gateway ID {inputs[name]!r} does not exist")
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {"instanceId": "", "instanceOwnerId": "", "origin": "CreateRoute", "state": "active"}


class RouteTableAssociation(OfTable):
    """Which table a subnet's packets are routed by."""

    type_name = aws_view.ASSOCIATION
    model = "the rule by which packets of a subnet's interfaces are routed"
    force_new = frozenset({"subnetId"})
    in_place = frozenset({"routeTableId"})
    wanted = ("subnetId",)

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("rtbassoc", call.site.run, number)

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        super().begin(call, number, inputs, items)
        for item in items:
            if item.token == self.type_name and inputs_of(item)["subnetId"] == inputs["subnetId"]:
                raise TwinError(
                    f"Resource.AlreadyAssociated: the specified association for route table {inputs['routeTableId']} "
                    f"conflicts with an existing association of {inputs['subnetId']}"
                )
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {}


class VpcEndpoint(InVpc):
    """A gateway endpoint of S3."""

    type_name = aws_view.ENDPOINT
    model = "a record"
    limits = ("there is no S3: image layers reach tasks from this machine's disk, and no route leads to the endpoint",)
    force_new = frozenset({"vpcId", "serviceName", "vpcEndpointType"})
    in_place = frozenset({"routeTableIds"})
    left_out: ClassVar = {"policy": LeftOut(why="there is no S3 that a policy could keep from anybody")}
    defaults: ClassVar = {"vpcEndpointType": "Gateway"}

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of("serviceName", inputs.get("serviceName"), (f"com.amazonaws.{REGION}.s3",), "endpoint service")
        yield from one_of("vpcEndpointType", inputs.get("vpcEndpointType"), ("Gateway",), "type of endpoint")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return hex_id("vpce", call.site.run, number)

    def outputs(self, call: Call, item: Item) -> Json:
        return {
            "arn": ec2_arn("vpc-endpoint", item.id), "cidrBlocks": [], "dnsEntries": [], "networkInterfaceIds": [],
            "ownerId": ACCOUNT, "prefixListId": "pl-7ba54012", "requesterManaged": False, "state": "available",
        }  # fmt: skip

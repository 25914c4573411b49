"""A VPC as the store has it: subnets with the routes in force, interfaces with their groups, addresses. Pure.

Every item that has interfaces keeps them in its data as `enis`; tasks of ECS do as instances do.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from infra.twin.aws_base import inputs_of
from infra.twin.interface import Json, TwinError, known
from infra.twin.store import Item

VPC: Final = "aws:ec2/vpc:Vpc"
SUBNET: Final = "aws:ec2/subnet:Subnet"
INTERNET: Final = "aws:ec2/internetGateway:InternetGateway"
TABLE: Final = "aws:ec2/routeTable:RouteTable"
ROUTE: Final = "aws:ec2/route:Route"
ASSOCIATION: Final = "aws:ec2/routeTableAssociation:RouteTableAssociation"
ENDPOINT: Final = "aws:ec2/vpcEndpoint:VpcEndpoint"
EIP: Final = "aws:ec2/eip:Eip"
EIP_ASSOCIATION: Final = "aws:ec2/eipAssociation:EipAssociation"
NAT: Final = "aws:ec2/natGateway:NatGateway"
GROUP: Final = "aws:ec2/securityGroup:SecurityGroup"
INGRESS: Final = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS: Final = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
INSTANCE: Final = "aws:ec2/instance:Instance"
BALANCER: Final = "aws:lb/loadBalancer:LoadBalancer"
TARGETS: Final = "aws:lb/targetGroup:TargetGroup"
LISTENER: Final = "aws:lb/listener:Listener"
TASK: Final = "aws:ecs/task:Task"
"""Not a resource of programs: what a service of ECS starts."""

FIRST_FREE: Final = 4
"""A subnet's first four addresses and its last are AWS's own.

Source: https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html
"""
ANYWHERE: Final = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Eni:
    """An interface in a subnet.

    Attributes:
        device: its end at the VPC's router; empty for one that the router itself answers for (a load balancer's).
        groups: ids of security groups; none where the interface has none, and all passes.
        host: what is plugged in.
    """

    id: str
    subnet: str
    address: str
    device: str = ""
    host: str = ""
    groups: tuple[str, ...] | None = None

    def to_json(self) -> Json:
        """As it is kept in an item's data."""
        found = {name: getattr(self, name) for name in Eni.__slots__}
        return {**found, "groups": None if self.groups is None else list(self.groups)}


def enis_of(item: Item) -> list[Eni]:
    """The interfaces of an item."""
    return [
        Eni(**{**given, "groups": None if given["groups"] is None else tuple(given["groups"])})
        for given in item.data.get("enis", ())
    ]


def free_address(items: Iterable[Item], subnet: Item, wanted: Any = None) -> str:
    """Return a subnet's lowest free address, or the wanted one. Raises TwinError when it is taken or none is left."""
    network = IPv4Network(inputs_of(subnet)["cidrBlock"])
    taken = {eni.address for item in items for eni in enis_of(item) if eni.subnet == subnet.id}
    if known(wanted):
        if IPv4Address(wanted) not in network or wanted in taken:
            raise TwinError(f"InvalidIPAddress.InUse: {wanted} is not free in {subnet.id} ({network})")
        return str(wanted)
    for index in range(FIRST_FREE, network.num_addresses - 1):
        if (address := str(network[index])) not in taken:
            return address
    raise TwinError(f"InsufficientFreeAddressesInSubnet: {subnet.id} ({network}) has no address left")


@dataclass(frozen=True, kw_only=True, slots=True)
class Subnet:
    """A subnet with the routes of its table beside the VPC's own: destination -> gateway (igw-... or nat-...)."""

    id: str
    number: int
    network: IPv4Network
    routes: Mapping[str, str]


class View:
    """A VPC at one moment. Raises TwinError for one that is not there."""

    def __init__(self, items: list[Item], vpc_id: str) -> None:
        self.items = items
        vpc = next((item for item in items if item.token == VPC and item.id == vpc_id), None)
        if vpc is None:
            raise TwinError(f"InvalidVpcID.NotFound: The vpc ID {vpc_id!r} does not exist")
        self.vpc = vpc
        self.id = vpc_id
        self.network = IPv4Network(inputs_of(vpc)["cidrBlock"])
        self.subnets = {item.id: self._subnet(item) for item in self.of(SUBNET)}

    def of(self, token: str) -> list[Item]:
        """Items of a type in this VPC; of types without a VPC, all."""
        return [
            item
            for item in self.items
            if item.token == token and inputs_of(item).get("vpcId", self.id) == self.id
        ]  # fmt: skip

    @property
    def internet(self) -> str:
        """The internet gateway that is attached; empty without one."""
        return next((item.id for item in self.of(INTERNET) if inputs_of(item).get("vpcId") == self.id), "")

    def _subnet(self, item: Item) -> Subnet:
        table = next(
            (
                str(inputs_of(way)["routeTableId"])
                for way in self.of(ASSOCIATION)
                if inputs_of(way)["subnetId"] == item.id
            ),
            main_table(self.vpc),
        )
        routes = {
            str(inputs_of(route)["destinationCidrBlock"]): str(
                inputs_of(route).get("gatewayId") or inputs_of(route).get("natGatewayId")
            )
            for route in self.of(ROUTE)
            if inputs_of(route)["routeTableId"] == table and inputs_of(route).get("destinationCidrBlock")
        }
        return Subnet(id=item.id, number=item.number, network=IPv4Network(inputs_of(item)["cidrBlock"]), routes=routes)

    def enis(self) -> Iterator[tuple[Item, Eni]]:
        """Every interface in the VPC with the item that has it."""
        for item in self.items:
            for eni in enis_of(item):
                if eni.subnet in self.subnets:
                    yield item, eni

    def public(self) -> dict[str, str]:
        """Private address -> the elastic IP that stands for it."""
        found = {}
        for item, eni in self.enis():
            for address in self.items:
                if address.token == EIP and address.data.get("holder") in (item.id, eni.id):
                    found[eni.address] = str(address.data["address"])
        return found

    def members(self, group: str) -> list[str]:
        """Addresses of the interfaces that have a group."""
        return [eni.address for _, eni in self.enis() if eni.groups is not None and group in eni.groups]

    def rules(self, token: str, group: str) -> list[Json]:
        """The rules of a group in one direction."""
        return [
            inputs_of(item)
            for item in self.items
            if item.token == token and inputs_of(item)["securityGroupId"] == group
        ]

    def way_out(self, eni: Eni) -> str:
        """Why packets of an interface do not reach the internet by TCP 443; empty when they do."""
        subnet = self.subnets[eni.subnet]
        gateway = subnet.routes.get(str(ANYWHERE), "")
        if not gateway:
            return f"the route table of {subnet.id} has no route to 0.0.0.0/0"
        if gateway.startswith("igw-"):
            if gateway != self.internet:
                return f"{gateway} is not attached to {self.id}"
            if eni.address not in self.public():
                return f"{subnet.id} routes to an internet gateway, and the interface has no public address"
        else:
            nat = next((item for item in self.items if item.token == NAT and item.id == gateway), None)
            if nat is None:
                return f"the route of {subnet.id} to 0.0.0.0/0 is a black hole: {gateway} is not there"
            if why := self.way_out(enis_of(nat)[0]):
                return f"{gateway} has no way out: {why}"
        if eni.groups is not None and not any(
            allows(rule, "tcp", 443, ANYWHERE) for group in eni.groups for rule in self.rules(EGRESS, group)
        ):
            return f"no egress rule of {', '.join(eni.groups)} lets TCP 443 out"
        return ""


def allows(rule: Json, protocol: str, port: int, network: IPv4Network) -> bool:
    """Whether a rule with a network lets traffic with another one through."""
    if rule.get("cidrIpv4") is None or not network.subnet_of(ipaddress.IPv4Network(rule["cidrIpv4"])):
        return False
    if str(rule["ipProtocol"]) == "-1":
        return True
    return rule["ipProtocol"] == protocol and int(rule["fromPort"]) <= port <= int(rule["toPort"])


def main_table(vpc: Item) -> str:
    """The route table of a VPC's subnets that are associated with none."""
    return vpc.id.replace("vpc-", "rtb-")

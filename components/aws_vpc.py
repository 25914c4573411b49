"""The network of the AWS stack: public and private subnets, a way out for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
from pulumi_aws import ec2

from infra import naming

ANYWHERE = "0.0.0.0/0"


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsZone:
    """An availability zone by its letter's name (`us-east-2a`) and the two subnets in it."""

    name: str
    public: IPv4Network
    private: IPv4Network


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsVpcArgs:
    """What the network is given.

    Attributes:
        region: for the name of the gateway endpoint of S3.
        cidr: the VPC's network, which holds those of all zones.
        zones: one or more; the NAT gateway stands in the first.
    """

    stack: str
    run: str
    region: str
    cidr: IPv4Network
    zones: Sequence[AwsZone]


class AwsVpc(pulumi.ComponentResource):
    """A VPC whose public subnets route to the internet gateway and whose private ones to one NAT gateway.

    Children: Vpc x 1, InternetGateway x 1, Subnet x 2 per zone, Eip x 1, NatGateway x 1, RouteTable x 2, Route x 2,
    RouteTableAssociation x 2 per zone, VpcEndpoint x 1 (S3, which holds the layers of ECR's images: they do not pass
    the NAT gateway, cost nothing and start tasks sooner).

    One NAT gateway serves all zones, since each costs as much as the rest of the network: a second zone brings
    a load balancer's second address, not another way out.
    Outputs: `vpc_id`, `public_subnet_ids`, `private_subnet_ids`, `nat_address`. It makes no security group.
    """

    vpc_id: pulumi.Output[str]
    public_subnet_ids: pulumi.Output[Sequence[str]]
    private_subnet_ids: pulumi.Output[Sequence[str]]
    nat_address: pulumi.Output[str]

    def __init__(self, name: str, args: AwsVpcArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsVpc"), name, {}, opts)
        self._name = name
        self._tags = naming.tags(args.stack, args.run, name)
        child = pulumi.ResourceOptions(parent=self)
        vpc = ec2.Vpc(
            naming.child_name(name, "vpc"),
            cidr_block=str(args.cidr),
            enable_dns_support=True,
            enable_dns_hostnames=True,  # the private DNS of Cloud Map needs both
            tags=self._tagged("vpc"),
            opts=child,
        )
        self.vpc_id = vpc.id
        internet = ec2.InternetGateway(
            naming.child_name(name, "internet"), vpc_id=vpc.id, tags=self._tagged("internet"), opts=child
        )
        public = [self._subnet(zone.name, "public", zone.public) for zone in args.zones]
        private = [self._subnet(zone.name, "private", zone.private) for zone in args.zones]
        address = ec2.Eip(
            naming.child_name(name, "nat-address"), domain="vpc", tags=self._tagged("nat-address"), opts=child
        )
        nat = ec2.NatGateway(
            naming.child_name(name, "nat"),
            allocation_id=address.allocation_id,
            subnet_id=public[0].id,
            tags=self._tagged("nat"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[internet]),
        )
        outward, public_ways = self._table("public", public, args.zones)
        out = ec2.Route(
            naming.child_name(name, "public-default"),
            route_table_id=outward.id,
            destination_cidr_block=ANYWHERE,
            gateway_id=internet.id,
            opts=child,
        )
        inward, private_ways = self._table("private", private, args.zones)
        through_nat = ec2.Route(
            naming.child_name(name, "private-default"),
            route_table_id=inward.id,
            destination_cidr_block=ANYWHERE,
            nat_gateway_id=nat.id,
            opts=child,
        )
        ec2.VpcEndpoint(
            naming.child_name(name, "s3"),
            vpc_id=vpc.id,
            service_name=f"com.amazonaws.{args.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[inward.id],
            tags=self._tagged("s3"),
            opts=child,
        )
        self.public_subnet_ids = _once_routed(public, [out, *public_ways])
        self.private_subnet_ids = _once_routed(private, [through_nat, *private_ways])
        self.nat_address = address.public_ip
        self.register_outputs(
            {
                "vpc_id": self.vpc_id,
                "public_subnet_ids": self.public_subnet_ids,
                "private_subnet_ids": self.private_subnet_ids,
                "nat_address": self.nat_address,
            }
        )

    def _tagged(self, role: str) -> dict[str, str]:
        return {**self._tags, "Name": naming.child_name(self._name, role)}

    def _subnet(self, zone: str, kind: str, network: IPv4Network) -> ec2.Subnet:
        """A subnet; no host in it gets a public address of its own: the relay and the NAT have theirs."""
        role = f"{kind}-{zone}"
        return ec2.Subnet(
            naming.child_name(self._name, role),
            vpc_id=self.vpc_id,
            availability_zone=zone,
            cidr_block=str(network),
            map_public_ip_on_launch=False,
            tags=self._tagged(role),
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _table(
        self, kind: str, subnets: Sequence[ec2.Subnet], zones: Sequence[AwsZone]
    ) -> tuple[ec2.RouteTable, list[ec2.RouteTableAssociation]]:
        child = pulumi.ResourceOptions(parent=self)
        table = ec2.RouteTable(
            naming.child_name(self._name, kind), vpc_id=self.vpc_id, tags=self._tagged(kind), opts=child
        )
        ways = [
            ec2.RouteTableAssociation(
                naming.child_name(self._name, f"{kind}-{zone.name}-route"),
                route_table_id=table.id,
                subnet_id=subnet.id,
                opts=child,
            )
            for subnet, zone in zip(subnets, zones, strict=True)
        ]
        return table, ways


def _once_routed(
    subnets: Sequence[ec2.Subnet], routes: Sequence[pulumi.CustomResource]
) -> pulumi.Output[Sequence[str]]:
    """Ids of subnets, known once their routes are there: an address or a task before that would fail."""
    ids = pulumi.Output.all(*(subnet.id for subnet in subnets))
    return pulumi.Output.all(ids, *(route.id for route in routes)).apply(lambda found: list(found[0]))

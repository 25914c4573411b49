"""The security groups of the AWS stack: who may reach the relay, the connector and the backends."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

import pulumi
from pulumi_aws import ec2, vpc

from infra import naming

ANYWHERE_V4 = "0.0.0.0/0"
ANYWHERE_V6 = "::/0"
INTERMEDIATE = "intermediate"
CONNECTOR = "connector"
BACKEND = "backend"
PURPOSES = {
    INTERMEDIATE: "Relay: QUIC from anywhere, SSH from the administrators",
    CONNECTOR: "Connector: its UDP socket, and the health checks of the load balancer",
    BACKEND: "Backends: from the connector alone",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsSecurityGroupsArgs:
    """What the groups are given.

    Attributes:
        relay_port: UDP port of the relay, open to the world.
        connector_port: UDP port of the connector, open to the world.
        health_port: TCP port of the connector, open to `health_networks`.
        health_networks: the subnets of the load balancer, which checks from its own addresses.
        admin_networks: from where SSH to the relay is let in.
        backend_ports: TCP ports of the backends by name.
        backend_egress: TCP ports on which a backend may reach out: 443 to fetch its image and to log.
    """

    stack: str
    run: str
    vpc_id: pulumi.Input[str]
    relay_port: int
    connector_port: int
    health_port: int
    health_networks: Sequence[IPv4Network]
    admin_networks: Sequence[IPv4Network | IPv6Network]
    backend_ports: dict[str, int]
    backend_egress: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """One rule: traffic of a group with a network, or from another group. Protocol `-1` is all of them."""

    name: str
    group: str
    protocol: str
    port: int | None
    network: str | None = None
    from_group: str | None = None


def ingress(args: AwsSecurityGroupsArgs) -> tuple[Opening, ...]:
    """Return everything that is let in. What no rule names is refused."""
    anywhere = (("v4", ANYWHERE_V4), ("v6", ANYWHERE_V6))
    quic = [
        Opening(name=f"quic-{family}", group=INTERMEDIATE, protocol="udp", port=args.relay_port, network=network)
        for family, network in anywhere
    ]
    ssh = [
        Opening(name=f"ssh-{number}", group=INTERMEDIATE, protocol="tcp", port=22, network=str(network))
        for number, network in enumerate(args.admin_networks, 1)
    ]
    peers = [
        Opening(name=f"udp-{family}", group=CONNECTOR, protocol="udp", port=args.connector_port, network=network)
        for family, network in anywhere
    ]
    health = [
        Opening(name=f"health-{number}", group=CONNECTOR, protocol="tcp", port=args.health_port, network=str(network))
        for number, network in enumerate(args.health_networks, 1)
    ]
    backends = [
        Opening(name=backend, group=BACKEND, protocol="tcp", port=port, from_group=CONNECTOR)
        for backend, port in args.backend_ports.items()
    ]
    return (*quic, *ssh, *peers, *health, *backends)


def egress(args: AwsSecurityGroupsArgs) -> tuple[Opening, ...]:
    """Return everything that is let out."""
    free = [
        Opening(name=f"out-{family}", group=group, protocol="-1", port=None, network=network)
        for group in (INTERMEDIATE, CONNECTOR)
        for family, network in (("v4", ANYWHERE_V4), ("v6", ANYWHERE_V6))
    ]
    fetch = [
        Opening(name=f"out-{port}", group=BACKEND, protocol="tcp", port=port, network=ANYWHERE_V4)
        for port in args.backend_egress
    ]
    return (*free, *fetch)


class AwsSecurityGroups(pulumi.ComponentResource):
    """One group each for the relay, the connector and the backends, with every rule as a resource of its own.

    Children: SecurityGroup x 3 (`ztna-intermediate-sg`, `ztna-connector-sg`, `ztna-backend-sg`),
    SecurityGroupIngressRule x 1 per `ingress`, SecurityGroupEgressRule x 1 per `egress`.
    Outputs: `intermediate_id`, `connector_id`, `backend_id`. It makes no network ACL.
    """

    intermediate_id: pulumi.Output[str]
    connector_id: pulumi.Output[str]
    backend_id: pulumi.Output[str]

    def __init__(self, name: str, args: AwsSecurityGroupsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("AwsSecurityGroups"), name, {}, opts)
        tags = naming.tags(args.stack, args.run, name)
        child = pulumi.ResourceOptions(parent=self)
        groups = {
            group: ec2.SecurityGroup(
                naming.child_name(name, group),
                name=f"{naming.PROJECT}-{group}-sg",
                description=purpose,
                vpc_id=args.vpc_id,
                revoke_rules_on_delete=True,  # the backends' rules name the connector's group: it could not go
                tags={**tags, "Name": f"{naming.PROJECT}-{group}-sg"},
                opts=child,
            )
            for group, purpose in PURPOSES.items()
        }
        for opening in ingress(args):
            vpc.SecurityGroupIngressRule(
                naming.child_name(name, f"{opening.group}-{opening.name}"),
                security_group_id=groups[opening.group].id,
                ip_protocol=opening.protocol,
                from_port=opening.port,
                to_port=opening.port,
                **_peer(opening, groups),
                tags=tags,
                opts=child,
            )
        for opening in egress(args):
            vpc.SecurityGroupEgressRule(
                naming.child_name(name, f"{opening.group}-{opening.name}"),
                security_group_id=groups[opening.group].id,
                ip_protocol=opening.protocol,
                from_port=opening.port,
                to_port=opening.port,
                **_peer(opening, groups),
                tags=tags,
                opts=child,
            )
        self.intermediate_id = groups[INTERMEDIATE].id
        self.connector_id = groups[CONNECTOR].id
        self.backend_id = groups[BACKEND].id
        self.register_outputs(
            {
                "intermediate_id": self.intermediate_id,
                "connector_id": self.connector_id,
                "backend_id": self.backend_id,
            }
        )


def _peer(opening: Opening, groups: dict[str, ec2.SecurityGroup]) -> dict[str, pulumi.Input[str]]:
    """The one argument that names the other side."""
    if opening.from_group is not None:
        return {"referenced_security_group_id": groups[opening.from_group].id}
    network = str(opening.network)
    return {"cidr_ipv6" if ":" in network else "cidr_ipv4": network}

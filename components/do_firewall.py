"""The cloud firewall of the droplet: the two UDP ports for everybody, SSH for the administrators, nothing else in."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

import pulumi
import pulumi_digitalocean as digitalocean

from infra import naming, ports

ANYWHERE: Final = ("0.0.0.0/0", "::/0")
ALL_PORTS: Final = "1-65535"
SSH: Final = 22
UDP_OPEN: Final = (ports.QUIC, ports.CONNECTOR_UDP)
TCP_OUT: Final = (53, 80, 443)
"""DNS over TCP, updates of the image, the provider's monitoring agent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoFirewallArgs:
    """What is let in and out.

    Attributes:
        droplet_id: the provider's number of the droplet.
        admin_cidrs: networks that may open SSH.
        vpc_range: where backends may stand, on any TCP port.
        tcp_out: TCP ports of backends elsewhere.
    """

    droplet_id: pulumi.Input[int]
    admin_cidrs: Sequence[str]
    vpc_range: IPv4Network
    tcp_out: Sequence[int] = ()


class DoFirewall(pulumi.ComponentResource):
    """A stateful firewall before one droplet: what no rule names is dropped, of IPv4 and IPv6.

    Children: Firewall x 1. Outputs: `firewall_id`. It holds for the droplet's own addresses and the reserved one alike.
    It is bound to the droplet's number and not to a tag: a tag is the whole account's, and so would be the rules.
    It makes no firewall on the host (infra/cloudinit.py).

    Source: https://www.pulumi.com/registry/packages/digitalocean/api-docs/firewall/
    """

    firewall_id: pulumi.Output[str]

    def __init__(self, name: str, args: DoFirewallArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("DoFirewall"), name, {}, opts)
        firewall = digitalocean.Firewall(
            naming.child_name(name, "rules"),
            droplet_ids=[args.droplet_id],
            inbound_rules=_inbound(args),
            outbound_rules=_outbound(args),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.firewall_id = firewall.id
        self.register_outputs({"firewall_id": self.firewall_id})


def _inbound(args: DoFirewallArgs) -> list[digitalocean.FirewallInboundRuleArgs]:
    opened = [
        digitalocean.FirewallInboundRuleArgs(protocol="udp", port_range=str(port), source_addresses=list(ANYWHERE))
        for port in UDP_OPEN
    ]
    ssh = digitalocean.FirewallInboundRuleArgs(
        protocol="tcp", port_range=str(SSH), source_addresses=list(args.admin_cidrs)
    )
    return [*opened, ssh]


def _outbound(args: DoFirewallArgs) -> list[digitalocean.FirewallOutboundRuleArgs]:
    """Peers have any UDP port. Without outbound rules a droplet could not even answer DNS or fetch updates."""
    rules = [("udp", ALL_PORTS, ANYWHERE), ("icmp", None, ANYWHERE), ("tcp", ALL_PORTS, (str(args.vpc_range),))]
    rules += [("tcp", str(port), ANYWHERE) for port in sorted({*TCP_OUT, *args.tcp_out})]
    return [
        digitalocean.FirewallOutboundRuleArgs(
            protocol=protocol, port_range=port_range, destination_addresses=list(destinations)
        )
        for protocol, port_range, destinations in rules
    ]

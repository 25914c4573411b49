"""Rules about what the internet can reach."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from infra import ports
from infra.graph import Graph, Node
from infra.policy.model import Finding
from infra.policy.values import get, items

OVERLAY_PORTS: Final = frozenset({ports.QUIC, ports.STUN_ALTERNATE, ports.CONNECTOR_UDP})
"""UDP ports that are there to be reached by everybody; nothing of TCP is."""

SSH: Final = 22
WIDEST_V4: Final = 8
WIDEST_V6: Final = 16
"""A shorter prefix than these counts as the world: no office or home has one, and two halves make a whole."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A range of ports that a resource lets in from somewhere; `protocol` is udp, tcp, or all."""

    protocol: str
    first: int
    last: int
    sources: tuple[str, ...]
    path: str

    @property
    def from_world(self) -> bool:
        """Whether anybody can use it."""
        return any(is_world(source) for source in self.sources)

    def text(self) -> str:
        """How the opening reads in a message."""
        numbers = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        sources = ", ".join(source for source in self.sources if is_world(source))
        return f"{self.path}: {self.protocol} {numbers} from {sources}"


def is_world(source: str) -> bool:
    """Tell whether a CIDR stands for everybody. What is no CIDR (a group, an unknown) does not."""
    try:
        network = ipaddress.ip_network(source, strict=False)
    except ValueError:
        return False
    return network.prefixlen < (WIDEST_V4 if network.version == 4 else WIDEST_V6)


def no_ssh_from_the_world(graph: Graph) -> list[Finding]:
    """Port 22 is open to named networks only."""
    return [
        Finding(
            "no-ssh-from-the-world",
            node.urn,
            f"{opening.text()} lets everybody try SSH",
            "list the networks you administer from in adminCidrs",
        )
        for node in graph.nodes
        for opening in openings(node)
        if opening.from_world and opening.protocol in ("tcp", "all") and opening.first <= SSH <= opening.last
    ]


def only_public_ports(graph: Graph, allowed: frozenset[int] = frozenset()) -> list[Finding]:
    """Only the overlay's UDP ports, and those configured, are open to the world."""
    found = []
    for node in graph.nodes:
        for opening in openings(node):
            admitted = allowed | (OVERLAY_PORTS if opening.protocol == "udp" else frozenset())
            if not opening.from_world or _only_ssh(opening):
                continue
            if opening.protocol == "all" or not set(range(opening.first, opening.last + 1)) <= admitted:
                found.append(
                    Finding(
                        "only-overlay-ports-public",
                        node.urn,
                        f"{opening.text()} is open to everybody",
                        f"open udp {ports.QUIC} and {ports.STUN_ALTERNATE} alone, or name the sources; "
                        "a port meant to be public is given by --public-port",
                    )
                )
    return found


def _only_ssh(opening: Opening) -> bool:
    """SSH has a rule of its own, with its own remedy."""
    return opening.protocol == "tcp" and opening.first == opening.last == SSH


def droplets_behind_firewall(graph: Graph) -> list[Finding]:
    """A droplet without a firewall is open on every port."""
    droplets = graph.of_type("digitalocean:index/droplet:Droplet")
    firewalls = graph.of_type("digitalocean:index/firewall:Firewall")
    covered = {urn for firewall in firewalls for urn in firewall.dependencies}
    tags = {tag for firewall in firewalls for tag in get(firewall, "tags", [])}
    return [
        Finding(
            "hosts-behind-firewall",
            node.urn,
            "no firewall of the stack names this droplet, so every port of it is open",
            "give its id to dropletIds of a Firewall",
        )
        for node in droplets
        if node.urn not in covered and not tags & set(get(node, "tags", []))
    ] + [
        Finding(
            "hosts-behind-firewall",
            node.urn,
            "vpcSecurityGroupIds is not given, so the VPC's default group decides",
            "give vpcSecurityGroupIds",
        )
        for node in graph.of_type("aws:ec2/instance:Instance")
        if not (get(node, "vpcSecurityGroupIds") or get(node, "networkInterfaces"))
    ]


def openings(node: Node) -> Iterator[Opening]:
    """Yield what a resource lets in: DigitalOcean firewalls, security groups and their rules, Kubernetes Services."""
    reader = _READERS.get(node.type)
    if reader is not None:
        yield from reader(node)


def _digitalocean(node: Node) -> Iterator[Opening]:
    for index, rule in enumerate(items(node, "inboundRules")):
        if rule.get("protocol") in ("tcp", "udp"):
            first, last = _range(rule.get("portRange"))
            sources = _texts(rule.get("sourceAddresses"))
            yield Opening(rule["protocol"], first, last, sources, f"inboundRules[{index}]")


def _security_group(node: Node) -> Iterator[Opening]:
    for index, rule in enumerate(items(node, "ingress")):
        yield from _aws(rule, "protocol", f"ingress[{index}]")


def _group_rule(node: Node) -> Iterator[Opening]:
    if get(node, "type") == "ingress":
        yield from _aws(get_all(node), "protocol", "rule")


def _ingress_rule(node: Node) -> Iterator[Opening]:
    yield from _aws(get_all(node), "ipProtocol", "rule")


def get_all(node: Node) -> dict[str, Any]:
    """Return all inputs with secrets unwrapped."""
    return {key: get(node, key) for key in node.inputs}


def _aws(rule: dict[str, Any], protocol_key: str, path: str) -> Iterator[Opening]:
    protocol = {"6": "tcp", "17": "udp", "-1": "all"}.get(str(rule.get(protocol_key)), str(rule.get(protocol_key)))
    sources = (
        *_texts(rule.get("cidrBlocks")),
        *_texts(rule.get("ipv6CidrBlocks")),
        *_texts([rule.get("cidrIpv4"), rule.get("cidrIpv6")]),
    )
    if protocol == "all":
        yield Opening("all", 0, 65535, sources, path)
    elif protocol in ("tcp", "udp"):
        first, last = _number(rule.get("fromPort"), 0), _number(rule.get("toPort"), 65535)
        yield Opening(protocol, first, last, sources, path)


def _service(node: Node) -> Iterator[Opening]:
    if get(node, "spec.type", "ClusterIP") not in ("LoadBalancer", "NodePort"):
        return
    sources = _texts(get(node, "spec.loadBalancerSourceRanges")) or ("0.0.0.0/0",)
    for index, port in enumerate(items(node, "spec.ports")):
        number = _number(port.get("port"), 0)
        yield Opening(str(port.get("protocol", "TCP")).lower(), number, number, sources, f"spec.ports[{index}]")


def _range(value: Any) -> tuple[int, int]:
    """Return the ends of a DigitalOcean port range: `22`, `8000-9000`, and everything for `all` or nothing."""
    first, _, last = str(value if value is not None else "all").partition("-")
    if not first.isdigit() or first == "0":
        return 0, 65535
    return int(first), int(last) if last.isdigit() else int(first)


def _number(value: Any, default: int) -> int:
    return int(value) if isinstance(value, int | float) else default


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


_READERS: Final = {
    "digitalocean:index/firewall:Firewall": _digitalocean,
    "aws:ec2/securityGroup:SecurityGroup": _security_group,
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": _security_group,
    "aws:ec2/securityGroupRule:SecurityGroupRule": _group_rule,
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": _ingress_rule,
    "kubernetes:core/v1:Service": _service,
}

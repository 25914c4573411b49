"""Which path the packets of a service can take, told from what a stack declares: pure, before anything is deployed.

Flow: a stack program describes its connector as a `Site`; `predict` answers for every NAT a peer may sit behind; the
answers become the stack's `expected_path`. `findings` names what in the site costs a direct path, and the remedy.
`infra/traversal_graph.py` reads the same Site back from a resource graph.

NATs are described by behaviour (RFC 4787 sections 4.1 and 5). A direct path needs both: the connector's packets must
fit the hole that the peer's packets made, and the other way round. The prediction is about what the network lets
through: a session takes that path by itself (docs/paths.md). With a peer that speaks `ztna-v1` alone there is no
session, and the intermediate relays its packets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from infra import ports
from infra.outputs import PathKind, PathPrediction

if TYPE_CHECKING:
    from infra.graph import Graph

NatMapping = Literal["none", "endpoint-independent", "address-dependent", "address-and-port-dependent"]
NatFiltering = Literal["none", "endpoint-independent", "address-dependent", "address-and-port-dependent"]
Level = Literal["error", "warning", "note"]

EDM: Final = "address-and-port-dependent"
EIM: Final = "endpoint-independent"
MIN_UDP_BUFFER_BYTES: Final = 4 << 20
"""What each socket of ours asks for (`ztna.io.udp.DEFAULT_BUFFER_BYTES`); smaller ones drop packets in bursts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerNat:
    """A NAT that a peer may sit behind. `alias` is the older word for it (RFC 3489); `words` is for everybody."""

    name: str
    mapping: NatMapping
    filtering: NatFiltering
    words: str
    udp_blocked: bool = False


PEER_NATS: Final = (
    PeerNat(name="public", mapping="none", filtering="none", words="a peer with a public address"),
    PeerNat(name="full-cone", mapping=EIM, filtering=EIM, words="a peer whose NAT lets anybody answer"),
    PeerNat(
        name="address-restricted",
        mapping=EIM,
        filtering="address-dependent",
        words="a peer whose NAT lets in addresses it has sent to",
    ),
    PeerNat(
        name="port-restricted",
        mapping=EIM,
        filtering=EDM,
        words="a peer behind a home router, which lets in exactly the address and port it has sent to",
    ),
    PeerNat(name="cgnat", mapping=EIM, filtering=EDM, words="a peer behind a home router behind its carrier's NAT"),
    PeerNat(
        name="symmetric",
        mapping=EDM,
        filtering=EDM,
        words="a peer behind a cloud or office NAT, which takes a new random port for every destination",
    ),
    PeerNat(
        name="symmetric-sequential",
        mapping=EDM,
        filtering=EDM,
        words="a peer behind a NAT which takes the next port for every destination",
    ),
    PeerNat(
        name="udp-blocked", mapping=EDM, filtering=EDM, words="a peer whose network lets no UDP out", udp_blocked=True
    ),
)
"""The NATs met in the field, with the names that `ztna doctor` and the lab use for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where a connector stands, as far as a path to it depends on that.

    Args:
        connector: its name.
        services: ids of the services it serves.
        connector_nat: mapping of the NAT between it and the internet; `none` when its own address is public (also a
            1:1 address such as an elastic IP) or when its peers are on its own network.
        connector_udp_open: a datagram from an address it never wrote to reaches its UDP port, at an address that it
            can announce: the firewall admits the port, and the address is its own or a load balancer's.
        relays: intermediates that can take its sessions.
        relay_udp_open: UDP 4433 of the intermediate is open to peers.
        relay_alternate_open: UDP 4434 of the intermediate is open to peers: NAT behaviour is told apart by it.
        relay_address_fixed: a replaced intermediate comes back at the same address.
        traffic_policy: `externalTrafficPolicy` of the Kubernetes Service in front, None outside Kubernetes.
        udp_buffer_bytes: what its host's sysctls allow a socket; None where the platform decides (pods, Fargate).
        relayed_accepted: relayed sessions are what the stack means to have: its relay stands beside the connector.
    """

    connector: str
    services: tuple[str, ...]
    connector_nat: NatMapping
    connector_udp_open: bool
    relays: int = 1
    relay_udp_open: bool = True
    relay_alternate_open: bool = True
    relay_address_fixed: bool = True
    traffic_policy: str | None = None
    udp_buffer_bytes: int | None = None
    relayed_accepted: bool = False


@dataclass(frozen=True, slots=True)
class PathFinding:
    """Something in a site that costs a path. `note` is worth knowing and expected; the others want a change."""

    rule: str
    level: Level
    subject: str
    message: str
    remedy: str


def predict(site: Site) -> tuple[PathPrediction, ...]:
    """Return, per service and NAT of the peer, the best path that can come about, why, and what would change it."""
    made = []
    for service in site.services:
        for peer in PEER_NATS:
            path, reason = verdict(site, peer)
            made.append(
                PathPrediction(
                    service=service, connector=site.connector, peer_nat=peer.name, path=path, reason=f"{reason}."
                )
            )
    return tuple(made)


def verdict(site: Site, peer: PeerNat) -> tuple[PathKind, str]:
    """Return the path between a site and one peer, and the reason in plain words."""
    if peer.udp_blocked:
        return "none", (
            f"{peer.words} reaches nothing, and there is no way over TCP; "
            f"another network, or UDP {ports.QUIC} let out of this one, would change it"
        )
    if site.relays == 0 or not site.relay_udp_open:
        what = "there is no intermediate" if site.relays == 0 else f"UDP {ports.QUIC} of the intermediate is closed"
        return "none", f"{what}, and both sides find each other through it; opening it to peers would change it"
    if site.traffic_policy == "Cluster":
        return "relayed", (
            "externalTrafficPolicy Cluster rewrites source addresses, so the intermediate tells each peer the address "
            "of a node instead of its own; externalTrafficPolicy Local would change it"
        )
    if site.connector_udp_open:
        return "direct", f"the connector takes packets from anywhere on UDP {ports.CONNECTOR_UDP}"
    if site.connector_nat == EDM:
        return _behind_dependent_mapping(peer)
    return _behind_stateful_filter(site, peer)


def _behind_dependent_mapping(peer: PeerNat) -> tuple[PathKind, str]:
    remedy = (
        f"a public address for the connector, or a load balancer that brings UDP {ports.CONNECTOR_UDP} in, "
        "would change it"
    )
    if peer.mapping == EDM:
        return "relayed", (
            f"connector and peer both get a new port for every destination, so neither can know where to send; {remedy}"
        )
    if peer.filtering == EDM:
        return "relayed", (
            "the connector's NAT gateway takes a new port for every destination, and the peer's NAT lets in only the "
            f"port it has sent to, which it cannot know; {remedy}"
        )
    if peer.filtering == "address-dependent":
        return "direct", (
            "the peer's NAT lets in any port of the NAT gateway's address once the peer has sent there; "
            "it holds while the gateway keeps one address"
        )
    return "direct", "the connector sends first, and the peer answers to whatever port that came from"


def _behind_stateful_filter(site: Site, peer: PeerNat) -> tuple[PathKind, str]:
    door = "the firewall before the connector" if site.connector_nat == "none" else "the connector's NAT"
    if peer.mapping == EDM:
        return "relayed", (
            f"the peer's NAT takes a new port for every destination and {door} lets in only ports it has sent to; "
            f"UDP {ports.CONNECTOR_UDP} open to the connector would change it"
        )
    return "direct", f"both keep one port for all destinations, so sending at the same time opens {door} and the peer's"


RULES: Final[dict[str, str]] = {
    "connector-behind-nat-gateway": "a connector behind an address-and-port-dependent mapping has a way in of its own",
    "external-traffic-policy": "Kubernetes Services of relay and connector keep the source address of their peers",
    "udp-4434-closed": "UDP 4434 is open: to the connector for direct paths, to the intermediate to tell NATs apart",
    "relay-unreachable": "an intermediate is there, and UDP 4433 of it is open to peers",
    "single-relay": "losing one intermediate does not lose the service, or it comes back at the same address",
    "udp-buffers": "sysctls let UDP sockets hold 4 MiB",
}
"""Rules by name, each as the sentence that holds when the rule passes."""


def findings(site: Site) -> list[PathFinding]:
    """Return what costs this site a path, worst first."""
    made = [finding for check in _CHECKS for finding in check(site)]
    return sorted(made, key=lambda finding: ("error", "warning", "note").index(finding.level))


def _relay_unreachable(site: Site) -> list[PathFinding]:
    if site.relays > 0 and site.relay_udp_open:
        return []
    message = "the stack has no intermediate" if site.relays == 0 else f"UDP {ports.QUIC} is not open to peers"
    return [_finding("relay-unreachable", "error", site, message, f"open UDP {ports.QUIC} of the intermediate to all")]


def _behind_gateway(site: Site) -> list[PathFinding]:
    if site.connector_nat != EDM or site.connector_udp_open:
        return []
    message = (
        "the connector is behind a NAT which takes a new port for every destination: peers behind port-restricted "
        "and symmetric NATs, which is most homes and offices, are relayed for ever"
    )
    remedy = (
        f"give the connector a public address, bring UDP {ports.CONNECTOR_UDP} in by a load balancer, or in Kubernetes "
        "by hostNetwork or a LoadBalancer Service; or run the intermediate beside it"
    )
    level: Level = "note" if site.relayed_accepted else "warning"
    return [_finding("connector-behind-nat-gateway", level, site, message, remedy)]


def _traffic_policy(site: Site) -> list[PathFinding]:
    if site.traffic_policy in (None, "Local"):
        return []
    message = (
        f"externalTrafficPolicy is {site.traffic_policy!r}: the node rewrites source addresses, the observed address "
        "lies, and no direct path comes about"
    )
    return [_finding("external-traffic-policy", "error", site, message, "set externalTrafficPolicy: Local")]


def _closed_4434(site: Site) -> list[PathFinding]:
    made = []
    port = ports.CONNECTOR_UDP
    if not site.connector_udp_open and site.connector_nat != EDM:
        message = f"UDP {port} of the connector is closed: peers behind symmetric NATs are relayed for ever"
        level: Level = "note" if site.relayed_accepted else "warning"
        made.append(_finding("udp-4434-closed", level, site, message, f"open UDP {port} to the connector"))
    if not site.relay_alternate_open:
        message = (
            f"UDP {ports.STUN_ALTERNATE} of the intermediate is closed: it costs no path, but `ztna doctor` cannot "
            "tell peers how their NAT maps"
        )
        remedy = f"open UDP {ports.STUN_ALTERNATE} to the intermediate where peers should know"
        made.append(_finding("udp-4434-closed", "note", site, message, remedy))
    return made


def _single_relay(site: Site) -> list[PathFinding]:
    if site.relays != 1:
        return []
    if site.relay_address_fixed:
        message = "one intermediate: while it is away no new session begins; its address outlives it"
        return [_finding("single-relay", "note", site, message, "run a second stack where that is too little")]
    message = "one intermediate, and its address goes with it: a replacement leaves every agent without a relay"
    remedy = "give it a reserved address (reserved IP, elastic IP, LoadBalancer IP from the configuration)"
    return [_finding("single-relay", "warning", site, message, remedy)]


def _udp_buffers(site: Site) -> list[PathFinding]:
    if site.udp_buffer_bytes is None or site.udp_buffer_bytes >= MIN_UDP_BUFFER_BYTES:
        return []
    message = f"net.core.rmem_max or wmem_max is {site.udp_buffer_bytes} bytes: bursts are dropped in the kernel"
    remedy = f"set net.core.rmem_max and net.core.wmem_max to {MIN_UDP_BUFFER_BYTES}"
    return [_finding("udp-buffers", "warning", site, message, remedy)]


def _finding(rule: str, level: Level, site: Site, message: str, remedy: str) -> PathFinding:
    return PathFinding(rule=rule, level=level, subject=f"connector {site.connector}", message=message, remedy=remedy)


_CHECKS: Final[tuple[Callable[[Site], list[PathFinding]], ...]] = (
    _relay_unreachable,
    _behind_gateway,
    _traffic_policy,
    _closed_4434,
    _single_relay,
    _udp_buffers,
)


def site_of(graph: "Graph") -> Site:
    """Return the site that a resource graph declares (infra/traversal_graph.py). Raises ValueError without one."""
    from infra.traversal_graph import read_site  # it reads graphs by the policy's means, and builds on this module

    return read_site(graph)

"""Topologies of one agent and one connector around the relay's public segment, beyond the pairs of the matrix."""

from typing import Any

from infra.lab.nat import CARRIER, HOME, NatBehavior, preset
from infra.lab.topology import Host, Link, Router, Segment, Topology
from tests.lab.matrix.classes import PUBLIC, RELAY, RELAY_ADDRESS, RELAY_ALTERNATE

AGENT, CONNECTOR = "agent", "connector"
AGENT_OUTSIDE, CONNECTOR_OUTSIDE = "172.20.0.21", "172.20.0.22"
AGENT_SIX, CONNECTOR_SIX, RELAY_SIX = "fd00:20::21", "fd00:20::22", "fd00:20::2"


def world(*hosts: Host, routers: tuple[Router, ...] = (), lans: tuple[str, ...] = (), six: bool = False) -> Topology:
    """Hosts and routers around the public segment with the relay."""
    more = (f"{RELAY_SIX}/64",) if six else ()
    relay = Host(RELAY, (Link(PUBLIC, f"{RELAY_ADDRESS}/24"),), addresses=(f"{RELAY_ALTERNATE}/24", *more))
    segments = (Segment(PUBLIC, "172.20.0.0/24"), *(Segment(name, "10.0.0.0/8") for name in lans))
    return Topology(segments=segments, routers=routers, hosts=(relay, *hosts))


def nat(side: str, outside: str, network: str, *levels: NatBehavior) -> Router:
    """A router of one side."""
    return Router(f"nat-{side}", (Link(f"lan-{side}", f"{network}.1/24"),), Link(PUBLIC, f"{outside}/24"), nat=levels)


def inside(side: str, network: str, number: int = 10, **options: Any) -> Host:
    """A host in the LAN of a side."""
    name = AGENT if number == 10 and side == "a" else CONNECTOR
    return Host(name, (Link(f"lan-{side}", f"{network}.{number}/24"),), gateway=f"{network}.1", **options)


NET_A, NET_B = "172.21.0", "172.22.0"
TWO_HOMES = (nat("a", AGENT_OUTSIDE, NET_A, HOME), nat("b", CONNECTOR_OUTSIDE, NET_B, HOME))
SYMMETRIC = preset("symmetric")
HAIRPIN = {"hairpin_probe": True}


def one_lan() -> Topology:
    hosts = (inside("a", NET_A), inside("a", NET_A, 11))
    return world(*hosts, routers=TWO_HOMES[:1], lans=("lan-a",))


def two_families() -> Topology:
    """IPv4 behind symmetric NATs, which cannot be punched; IPv6 with a firewall on each host, which can."""
    links = {side: Link(PUBLIC, f"{address}/64") for side, address in (("a", AGENT_SIX), ("b", CONNECTOR_SIX))}
    hosts = [
        Host(name, (Link(f"lan-{side}", f"{network}.10/24"), links[side]), gateway=f"{network}.1", firewall=True)
        for name, side, network in ((AGENT, "a", NET_A), (CONNECTOR, "b", NET_B))
    ]
    routers = (nat("a", AGENT_OUTSIDE, NET_A, *SYMMETRIC), nat("b", CONNECTOR_OUTSIDE, NET_B, *SYMMETRIC))
    return world(*hosts, routers=routers, lans=("lan-a", "lan-b"))


def one_family_each() -> Topology:
    hosts = (
        Host(AGENT, (Link(PUBLIC, f"{AGENT_OUTSIDE}/24"),)),
        Host(CONNECTOR, (Link(PUBLIC, f"{CONNECTOR_SIX}/64"),)),
    )
    return world(*hosts, six=True)


def home_and_walled_home() -> Topology:
    hosts = (inside("a", NET_A, firewall=True), inside("b", NET_B))
    return world(*hosts, routers=TWO_HOMES, lans=("lan-a", "lan-b"))


def one_carrier(*, hairpin: bool) -> Topology:
    """Two homes behind one carrier's NAT: each sees the other only by way of the carrier's outside, or not at all."""
    carrier = NatBehavior(
        filtering=CARRIER.filtering, udp_timeout_s=300, hairpin=hairpin, port_allocation=CARRIER.port_allocation
    )
    homes = tuple(
        Router(
            f"nat-{side}", (Link(f"lan-{side}", f"{network}.1/24"),), Link("access", f"100.64.9.{number}/24"),
            nat=(HOME,), gateway="100.64.9.1",
        )
        for number, (side, network) in enumerate((("a", NET_A), ("b", NET_B)), 11)
    )  # fmt: skip
    outer = Router("carrier", (Link("access", "100.64.9.1/24"),), Link(PUBLIC, f"{AGENT_OUTSIDE}/24"), nat=(carrier,))
    hosts = (inside("a", NET_A), inside("b", NET_B))
    return world(*hosts, routers=(outer, *homes), lans=("lan-a", "lan-b", "access"))

"""Pairs that are no cell of the matrix: one LAN, IPv6, one family each, a host firewall, one carrier for two homes.

Judged like the cells, by the kernel's counters on the public segment and the relay's own.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from infra.lab.nat import CARRIER, HOME, NatBehavior, preset
from infra.lab.topology import Host, Link, Router, Segment, Topology
from infra.verify.sessions import SessionRecord
from tests.lab.matrix.classes import PUBLIC, RELAY, RELAY_ADDRESS, RELAY_ALTERNATE
from tests.lab.matrix.rig import ECHO_BYTES, ECHOES, HOLD_S, SETTLE_S
from tests.lab.matrix.witness import Reading, Witness
from tests.support.session_bed import SessionBed, SessionBedSpec, service_of, until

pytestmark = pytest.mark.lab

AGENT, CONNECTOR = "agent", "connector"
AGENT_OUTSIDE, CONNECTOR_OUTSIDE = "172.20.0.21", "172.20.0.22"
AGENT_SIX, CONNECTOR_SIX, RELAY_SIX = "fd00:20::21", "fd00:20::22", "fd00:20::2"
PAYLOAD: Final = 2 * ECHO_BYTES * ECHOES


@dataclass(frozen=True, slots=True)
class Extra:
    """A topology, the path it ends with, and between which addresses its packets then go.

    Args:
        between: the two addresses that the public segment must see talking; None where nothing may cross it.
        peer: how the agent's record of the peer's address begins.
    """

    name: str
    topology: Topology
    path: str
    between: tuple[str, str] | None = None
    peer: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    relay_config: Mapping[str, Any] = field(default_factory=dict)
    connector_config: Mapping[str, Any] = field(default_factory=dict)


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


HAIRPIN = {"hairpin_probe": True}
EXTRAS: Final = (
    Extra("same-lan", one_lan(), "direct", peer=f"{NET_A}.11:"),
    Extra("ipv6-walled", two_families(), "direct", (AGENT_SIX, CONNECTOR_SIX), peer=f"[{CONNECTOR_SIX}]:"),
    Extra(
        "one-family-each", one_family_each(), "relay",
        relay_config={"bind_addr": "::"},
        connector_config={
            "bind_addr": "::",
            "intermediate_server": {"host": RELAY_SIX, "port": 4433, "server_name": "ztna-server"},
        },
    ),
    Extra("walled-home", home_and_walled_home(), "direct", (AGENT_OUTSIDE, CONNECTOR_OUTSIDE)),
    # Hairpinned packets turn round at the carrier and never reach the public segment.
    Extra("one-carrier-hairpin", one_carrier(hairpin=True), "direct", peer=f"{AGENT_OUTSIDE}:", config=HAIRPIN),
    Extra("one-carrier", one_carrier(hairpin=False), "relay", config=HAIRPIN),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen while the echoes passed."""

    here: SessionRecord | None
    there: SessionRecord | None
    answered: int
    relay_grown: int | None
    seen: Reading


def observe(extra: Extra, directory: Path) -> Outcome:
    """Bring the pair up, let it settle, and echo."""
    spec = SessionBedSpec(
        extra.topology, (AGENT,), (CONNECTOR,), RELAY_ADDRESS, RELAY_ALTERNATE,
        agent_config=extra.config, connector_config={**extra.config, **extra.connector_config},
        relay_config=extra.relay_config,
    )  # fmt: skip
    with SessionBed(f"extra-{os.getpid()}", directory, spec) as bed:
        witness = Witness(bed.lab)
        bed.start_all([CONNECTOR])
        bed.start_all([AGENT])
        service = service_of(CONNECTOR)

        def settled() -> bool:
            bed.echoes(AGENT, [service], count=2, wait_s=0.3)
            here = bed.session(AGENT, CONNECTOR)
            return here is not None and here.path == "direct"

        until(settled, SETTLE_S if extra.path == "direct" else HOLD_S, 0.2)
        before, relayed = witness.read(), {entry.session: entry.bytes for entry in bed.relay_state().sessions}
        answered = bed.echoes(AGENT, [service], count=ECHOES, size=ECHO_BYTES, wait_s=2.0)[service]["answered"]
        seen, here = witness.read().since(before), bed.session(AGENT, CONNECTOR)
        now = {entry.session: entry.bytes for entry in bed.relay_state().sessions}
        key = here.session if here is not None else ""
        grown = now[key] - relayed[key] if key in now and key in relayed else None
        return Outcome(here, bed.session(CONNECTOR, AGENT), answered, grown, seen)


@pytest.mark.matrix
@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: extra.name)
@pytest.mark.timeout(180)
def test_extra_pairs(extra: Extra, tmp_path: Path) -> None:
    found = observe(extra, tmp_path)
    assert found.here is not None
    assert found.there is not None
    assert (found.here.path, found.there.path) == (extra.path, extra.path), found.here
    assert found.answered >= 0.99 * ECHOES
    assert found.relay_grown is not None
    assert (found.here.peer_address or "").startswith(extra.peer), found.here
    crossed = sum(found.seen.bytes_by_flow.values())
    if extra.path == "relay":
        assert found.relay_grown >= 0.99 * PAYLOAD
        return
    assert found.relay_grown < 0.01 * PAYLOAD
    if extra.between is None:
        assert crossed < 0.02 * PAYLOAD, found.seen
    else:
        assert found.seen.between(*extra.between) >= 0.99 * PAYLOAD

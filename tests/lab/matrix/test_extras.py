"""Pairs that are no cell of the matrix: one LAN, IPv6, one family each, a host firewall, one carrier for two homes.

Judged like the cells, by the kernel's counters on the public segment and the relay's own.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from infra.lab.topology import Topology
from infra.verify.sessions import SessionRecord
from tests.lab.matrix.classes import RELAY_ADDRESS, RELAY_ALTERNATE
from tests.lab.matrix.rig import ECHO_BYTES, ECHOES, HOLD_S, SETTLE_S
from tests.lab.matrix.witness import Reading, Witness
from tests.lab.matrix.worlds import (
    AGENT,
    AGENT_OUTSIDE,
    AGENT_SIX,
    CONNECTOR,
    CONNECTOR_OUTSIDE,
    CONNECTOR_SIX,
    HAIRPIN,
    NET_A,
    RELAY_SIX,
    home_and_walled_home,
    one_carrier,
    one_family_each,
    one_lan,
    two_families,
)
from tests.support.session_bed import SessionBed, SessionBedSpec, service_of, until

pytestmark = pytest.mark.lab

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

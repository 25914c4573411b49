"""The relay as part of an intermediate, on loopback: from proofs to packets, off and on, status and metrics."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from ztna.io.forward.choose import Mode
from ztna.io.forward.types import ForwardError
from ztna.io.metrics import render
from ztna.io.relay import Relay
from ztna.io.udp import Datagram, UdpSocket
from ztna.proto.identity import Identity
from ztna.proto.paths.stun_types import Endpoint
from ztna.proto.relay_addresses import RelayAddresses
from ztna.proto.relay_types import RelayLimits

AGENT = Identity("agent", "lab", "a", frozenset(), "")
CONNECTOR = Identity("connector", "lab", "c", frozenset(), "")
S, KEY = b"s" * 16, b"k" * 32
QUIC, STUN = b"\x40" + bytes(60), b"\x00\x01" + bytes(18)


class Bed:
    """A relay on 127.0.0.1 with a socket for each side, and what it told."""

    def __init__(self, mode: Mode = "auto", workers: int = 0, limits: RelayLimits | None = None) -> None:
        self.told: list[tuple[bytes, str]] = []
        self.local: list[tuple[bytes, Any]] = []
        self.udp = UdpSocket("127.0.0.1", 0)
        self.udp.start(asyncio.get_running_loop(), self._on_batch)
        self.sides = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2)]
        for side in self.sides:
            side.bind(("127.0.0.1", 0))
            side.connect(self.udp.local_address)
        self.ends = [Endpoint(*side.getsockname()) for side in self.sides]
        self.relay = Relay(
            self.udp,
            mode=mode,
            workers=workers,
            limits=limits or RelayLimits(),
            own_ports=(),
            own_host=False,
            log=structlog.get_logger(),
            clock=time.monotonic,
            on_local=lambda data, source: self.local.append((data, source)),
            on_ready=lambda session, backend: self.told.append((session, backend)),
            on_lost=lambda session, reason: self.told.append((session, reason)),
        )
        self.counter = 0

    def _on_batch(self, batch: list[Datagram]) -> None:
        self.local += batch

    def prove(self) -> None:
        """Open the session unless it is there, and prove both sides."""
        self.relay.open(S, KEY, AGENT, CONNECTOR)
        self.counter += 1
        for role, end in zip(("agent", "connector"), self.ends, strict=True):
            self.relay.prove(S, role, self.counter, end)

    async def passes(self, source: int, data: bytes = QUIC) -> bool:
        """Whether the other side gets what this one sends."""
        self.sides[source].send(data)
        try:
            got = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sides[1 - source], 2000), 0.2)
        except TimeoutError:
            return False
        return got == data

    def close(self) -> None:
        self.relay.close()
        self.udp.close()
        for side in self.sides:
            side.close()


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed()
    made.relay.start(asyncio.get_running_loop())
    yield made
    made.close()


async def test_proofs_lead_to_packets_and_closing_ends_them(bed: Bed) -> None:
    assert bed.relay.backend == "userspace"
    assert not await bed.passes(0)
    bed.prove()
    assert bed.told == [(S, "userspace")]
    assert bed.relay.key_of(S) == KEY
    bed.local.clear()
    assert await bed.passes(0)
    assert await bed.passes(1)
    assert not await bed.passes(0, STUN)
    assert bed.local == [(STUN, bed.ends[0])]
    bed.relay.close_session(S, "ended")
    assert not await bed.passes(0)
    assert bed.told == [(S, "userspace")]


async def test_off_and_on(bed: Bed) -> None:
    bed.prove()
    assert bed.relay.set_enabled(False) is None
    assert bed.told[-1] == (S, "relay-off")
    assert bed.relay.backend == "off"
    bed.prove()
    assert not await bed.passes(0)
    assert bed.relay.set_enabled(True) is None
    bed.prove()
    assert bed.told[-1] == (S, "userspace")
    assert await bed.passes(0)


async def test_status_says_who_and_how_much(bed: Bed) -> None:
    bed.relay.open(S, KEY, AGENT, CONNECTOR)
    (session,) = bed.relay.status()["sessions"]
    assert (session["ready"], session["agent_address"]) == (False, None)
    bed.prove()
    assert await bed.passes(0)
    status = bed.relay.status()
    (session,) = status["sessions"]
    assert (status["enabled"], status["backend"]) == (True, "userspace")
    assert session["idle_s"] < 5
    del session["idle_s"]
    assert session == {
        "session": S.hex(),
        "agent": AGENT.uri,
        "connector": CONNECTOR.uri,
        "ready": True,
        "agent_address": str(bed.ends[0]),
        "connector_address": str(bed.ends[1]),
        "packets": {"agent_to_connector": 1, "connector_to_agent": 0},
        "bytes": {"agent_to_connector": len(QUIC), "connector_to_agent": 0},
    }


async def test_metrics_are_totals_that_outlive_sessions(bed: Bed) -> None:
    bed.prove()
    assert await bed.passes(1)
    bed.relay.status()
    wanted = f'ztna_relay_forwarded_bytes_total{{direction="connector_to_agent"}} {float(len(QUIC))}'
    assert wanted in render(bed.relay.samples()).decode()
    bed.relay.close_session(S, "ended")
    text = render(bed.relay.samples()).decode()
    assert wanted in text
    assert "ztna_relay_sessions 0.0" in text
    assert "session=" not in text


async def test_no_room_is_told() -> None:
    bed = Bed(limits=RelayLimits(relay_sessions=1))
    bed.relay.start(asyncio.get_running_loop())
    bed.relay.open(S, KEY, AGENT, CONNECTOR)
    bed.relay.open(b"t" * 16, KEY, AGENT, CONNECTOR)
    assert bed.told == [(b"t" * 16, "sessions-full")]
    bed.close()


async def test_a_pair_that_cannot_be_forwarded_is_lost_and_never_ready(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RelayAddresses, "refusal", lambda self, endpoint: None)
    bed.ends[1] = Endpoint("2001:db8::1", 5)
    bed.prove()
    assert bed.told == [(S, "not-possible")]
    assert bed.relay.failures == 1
    bed.ends[1] = Endpoint(*bed.sides[1].getsockname())
    bed.prove()
    assert bed.told[-1] == (S, "userspace")


async def test_off_by_configuration_stays_off() -> None:
    bed = Bed(mode="off")
    bed.relay.start(asyncio.get_running_loop())
    assert bed.relay.backend == "off"
    bed.prove()
    assert bed.told == []
    assert "off" in str(bed.relay.set_enabled(True))
    assert bed.relay.set_enabled(False) is None
    bed.close()


async def test_the_kernel_may_be_demanded() -> None:
    bed = Bed(mode="kernel")
    with pytest.raises(ForwardError, match="loopback"):
        bed.relay.start(asyncio.get_running_loop())
    bed.close()


async def test_a_failed_back_end_is_replaced_in_this_process(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.prove()
    monkeypatch.setattr(bed.relay._forwarder, "tick", lambda: "workers died")
    bed.relay._tick()
    assert bed.told[-1] == (S, "relay-off")
    bed.prove()
    assert await bed.passes(0)


async def test_counters_reach_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed(limits=RelayLimits(relay_bytes_per_s=1.0))
    bed.relay.start(asyncio.get_running_loop())
    bed.prove()
    assert await bed.passes(0)
    later = time.monotonic() + 1
    bed.relay._clock = lambda: later
    bed.relay._tick()
    assert bed.told[-1] == (S, "quota")
    bed.close()


async def test_silence_ends_it(bed: Bed) -> None:
    bed.prove()
    later = time.monotonic() + 31
    bed.relay._clock = lambda: later
    bed.relay._fired()
    assert bed.told[-1] == (S, "expired")
    assert not await bed.passes(0)

"""The lifetime of idle mappings, measured on a spare socket: a STUN server on loopback, a clock of our own."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aioice import stun

from tests.support.overlay import HOST, LoopUdp, eventually
from ztna.io.session import stun_codec
from ztna.io.session.role_watch import RoleWatch
from ztna.io.udp import Address
from ztna.proto.paths.lifetime import DEFAULT_KEEPALIVE_S, FIRST_GAP_S, MAX_GAP_S, MIN_KEEPALIVE_S
from ztna.proto.paths.stun_types import Endpoint, StunResponse


class Server:
    """Answers Binding requests with a mapping that lives `lifetime_s` without traffic; None: for ever."""

    def __init__(self, rig: "Rig") -> None:
        self.lifetime_s: float | None = None
        self.silent = False
        self.sources: list[Address] = []
        self.requests = 0
        self._rig = rig
        self._port, self._last = 40_000, 0.0
        self.udp = LoopUdp(self._answer)

    def _answer(self, data: bytes, source: Address) -> None:
        message = stun.parse_message(data)
        assert "USERNAME" not in message.attributes
        self.requests += 1
        self.sources.append(source)
        if self.silent:
            return
        if self.lifetime_s is not None and self._rig.now - self._last > self.lifetime_s:
            self._port += 1
        self._last = self._rig.now
        self.udp.sock.sendto(b"junk", source)
        for transaction in (b"x" * 12, message.transaction_id):
            answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction)
            answer.attributes["XOR-MAPPED-ADDRESS"] = ("192.0.2.1", self._port)
            self.udp.sock.sendto(bytes(answer), source)


class Rig:
    """A watch of one ready session, looked at by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.keepalives: list[float] = []
        self.changed: list[str] = []
        self.server = Server(self)
        at = Endpoint(*self.server.udp.sock.getsockname())
        self.session = SimpleNamespace(
            closed=False, ready=True, settings=SimpleNamespace(relay=at),
            paths=SimpleNamespace(set_keepalive=self.keepalives.append),
            network_changed=lambda: self.changed.append("session"),
        )  # fmt: skip
        uplink: Any = SimpleNamespace(network_changed=lambda: self.changed.append("uplink"))
        self.watch = RoleWatch(
            uplink, SimpleNamespace(sessions=[self.session]),
            loop=asyncio.get_running_loop(), clock=lambda: self.now, bind_addr=HOST,
        )  # fmt: skip

    def look(self) -> None:
        if self.watch._timer is not None:
            self.watch._timer.cancel()
        self.watch._look()

    async def step(self) -> None:
        """Look as it would every 5 s, and let the answer come."""
        before, asked = self.server.requests, self.watch._transaction
        self.look()
        if self.watch._transaction != asked:
            await eventually(lambda: self.server.requests > before)
            if not self.server.silent:
                await eventually(lambda: not self.watch._transaction)
        self.now += 5.0

    async def measure(self, limit: int = 2000) -> None:
        for _ in range(limit):
            await self.step()
            if self.watch.lifetime is not None and self.watch.lifetime.done:
                return
        raise AssertionError("it never ends")


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    yield made
    made.watch.close()
    made.server.udp.close()


async def test_a_mapping_that_lasts_is_seen_to_and_the_spare_socket_is_closed(rig: Rig) -> None:
    await rig.measure()
    lifetime = rig.watch.lifetime
    assert lifetime is not None
    assert lifetime.lost_s is None
    assert lifetime.survived_s >= MAX_GAP_S * 0.99
    assert len(set(rig.server.sources)) == 1, "one socket, which nothing else uses"
    rig.look()
    assert rig.watch._spare is None
    assert set(rig.keepalives) == {DEFAULT_KEEPALIVE_S}
    status = rig.watch.status()["mapping_lifetime"]
    assert status["measuring"] is False
    assert status["lost_s"] is None


@pytest.mark.parametrize("lifetime_s", [20.0, 60.0, 180.0])
async def test_a_mapping_that_is_forgotten_is_bracketed_and_kept_alive(rig: Rig, lifetime_s: float) -> None:
    rig.server.lifetime_s = lifetime_s
    await rig.measure()
    lifetime = rig.watch.lifetime
    assert lifetime is not None
    assert lifetime.lost_s is not None
    assert lifetime.survived_s <= lifetime_s < lifetime.lost_s
    rig.look()
    assert MIN_KEEPALIVE_S <= rig.keepalives[-1] <= min(DEFAULT_KEEPALIVE_S, lifetime_s * 0.75)


async def test_a_server_that_is_silent_ends_it_after_a_few_requests(rig: Rig) -> None:
    rig.server.silent = True
    await rig.measure(20)
    assert rig.server.requests <= 3
    assert rig.watch.status()["mapping_lifetime"]["survived_s"] == 0.0


async def test_it_waits_for_a_session_and_for_its_relay(rig: Rig) -> None:
    rig.session.ready = False
    rig.look()
    rig.session.ready, rig.session.settings.relay = True, None
    rig.look()
    assert rig.watch.lifetime is None
    assert rig.watch.status() == {"network_changes": 0, "mapping_lifetime": None}


async def test_another_network_is_measured_anew_and_everybody_told(rig: Rig) -> None:
    await rig.step()
    first = rig.watch.lifetime
    assert first is not None
    rig.watch._changed()
    assert rig.changed == ["uplink", "session"]
    assert (rig.watch.lifetime, rig.watch._spare) == (None, None)
    await rig.step()
    assert rig.watch.lifetime is not first
    assert len(set(rig.server.sources)) == 2


async def test_answers_to_nobody_change_nothing(rig: Rig) -> None:
    await rig.step()
    lifetime = rig.watch.lifetime
    assert lifetime is not None
    probes, due = lifetime.probes, lifetime.next_at
    forged = stun_codec.encode(StunResponse(b"y" * 12, Endpoint("203.0.113.9", 1)), b"")
    rig.watch._answered([(("203.0.113.9", 1), [forged, b"", b"\x00" * 20])])
    assert (lifetime.probes, lifetime.next_at) == (probes, due)
    assert due is not None
    assert due - rig.now + 5.0 == pytest.approx(FIRST_GAP_S)


async def test_no_socket_for_it_is_no_failure(rig: Rig) -> None:
    rig.watch._bind_addr = "203.0.113.1"
    rig.look()
    assert rig.watch.lifetime is not None
    assert rig.watch.lifetime.done


async def test_started_it_looks_by_itself_and_closed_it_stops(rig: Rig) -> None:
    rig.watch.start()
    assert rig.watch._timer is not None
    rig.watch.close()
    assert rig.watch._timer.cancelled()

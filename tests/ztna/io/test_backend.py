"""UDP sockets and probes of the connector, against a gateway that records."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest
import pytest_asyncio

from tests.support.overlay import HOST, LoopUdp, eventually
from ztna.io.backend import BackendSockets
from ztna.io.probe import ReachabilityProbe
from ztna.io.resolve import BackendNames
from ztna.io.udp import Address
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import Backend, CloseUdp, OpenTcp, OpenUdp, PingBackend, SendUdp, SocketError


class Recorder:
    """The inputs of a gateway that these tests cause."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[int, bytes]] = []
        self.errors: list[tuple[int, SocketError]] = []
        self.alive: list[tuple[Backend, bool]] = []

    def udp_received(self, flow: int, data: bytes, now: float) -> None:
        self.datagrams.append((flow, data))

    def udp_error(self, flow: int, error: SocketError, now: float) -> None:
        self.errors.append((flow, error))

    def tcp_failed(self, session: int, error: SocketError, now: float) -> None:
        self.errors.append((session, error))

    def backend_answered(self, backend: Backend, alive: bool, now: float) -> None:
        self.alive.append((backend, alive))


class Rig:
    """Backend sockets with a recorder as gateway and one UDP backend."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.gateway = Recorder()
        self.names = BackendNames([HOST, "no-such-host.invalid"])
        self.sockets = BackendSockets(
            cast(Gateway, self.gateway), self.names, loop=loop, clock=loop.time, on_input=lambda: None
        )
        self.heard: list[tuple[bytes, Address]] = []
        self.backend = LoopUdp(lambda data, source: self.heard.append((data, source)))

    @property
    def at(self) -> Backend:
        return Backend(*self.backend.sock.getsockname())


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.sockets.close()
    rig.backend.close()


async def test_each_flow_has_a_connected_socket_of_its_own(rig: Rig) -> None:
    at = rig.at
    for flow in (1, 2):
        rig.sockets.execute(OpenUdp(flow, at))
        rig.sockets.execute(SendUdp(flow, f"flow {flow}".encode()))
    await eventually(lambda: len(rig.heard) == 2)
    assert rig.heard[0][1] != rig.heard[1][1]
    rig.backend.sock.sendto(b"for two", rig.heard[1][1])
    await eventually(lambda: rig.gateway.datagrams == [(2, b"for two")])


async def test_answers_from_another_port_of_the_backends_host_do_not_arrive(rig: Rig) -> None:
    rig.sockets.execute(OpenUdp(1, rig.at))
    rig.sockets.execute(SendUdp(1, b"hello"))
    await eventually(lambda: bool(rig.heard))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"injected", rig.heard[0][1])
    rig.backend.sock.sendto(b"true", rig.heard[0][1])
    await eventually(lambda: bool(rig.gateway.datagrams))
    assert rig.gateway.datagrams == [(1, b"true")]


async def test_backend_that_is_gone_is_told_as_refused_and_the_flow_lives_on(rig: Rig) -> None:
    at = rig.at
    rig.sockets.execute(OpenUdp(1, at))
    rig.backend.close()
    rig.sockets.execute(SendUdp(1, b"lost"))
    await eventually(lambda: rig.gateway.errors == [(1, SocketError.REFUSED)])
    rig.backend = LoopUdp(lambda data, source: rig.heard.append((data, source)), bind=(at.host, at.port))
    rig.sockets.execute(SendUdp(1, b"heard"))
    await eventually(lambda: [data for data, _ in rig.heard] == [b"heard"])


async def test_name_that_does_not_resolve_is_unreachable(rig: Rig) -> None:
    backend = Backend("no-such-host.invalid", 9)
    rig.sockets.execute(OpenUdp(1, backend))
    rig.sockets.execute(OpenTcp(2, backend))
    rig.sockets.execute(PingBackend(backend))
    assert rig.gateway.errors == []
    await eventually(lambda: len(rig.gateway.errors) == 2 and bool(rig.gateway.alive))
    assert rig.gateway.errors == [(1, SocketError.UNREACHABLE), (2, SocketError.UNREACHABLE)]
    assert rig.gateway.alive == [(backend, False)]


async def test_closed_flow_takes_nothing_more(rig: Rig) -> None:
    rig.sockets.execute(OpenUdp(1, rig.at))
    rig.sockets.execute(CloseUdp(1))
    rig.sockets.execute(CloseUdp(1))
    rig.sockets.execute(SendUdp(1, b"late"))
    assert rig.sockets.udp_open == 0
    assert rig.sockets.counters.dropped_no_socket == 1


async def test_names_are_resolved_at_start() -> None:
    names = BackendNames(["localhost", "192.0.2.7"])
    assert names.address("localhost") is None
    await names.start()
    assert names.address("localhost") == "127.0.0.1"
    assert names.address("192.0.2.7") == "192.0.2.7"
    await names.close()


async def test_host_that_is_up_answers_the_probe_even_if_the_port_refuses(rig: Rig) -> None:
    rig.sockets.execute(PingBackend(rig.at))
    await eventually(lambda: rig.gateway.alive == [(rig.at, True)])


@pytest.mark.parametrize("icmp", [True, False])
async def test_probe_by_icmp_or_by_connect(monkeypatch: pytest.MonkeyPatch, icmp: bool) -> None:
    probe = ReachabilityProbe(asyncio.get_running_loop())
    answers: list[bool] = []
    if icmp:
        monkeypatch.setattr(probe, "_connect", lambda _: None)
    else:
        monkeypatch.setattr(probe, "_icmp_socket", lambda: None)
    probe.start(HOST, 9, answers.append)
    assert answers == []
    await eventually(lambda: answers == [True])
    probe.close()


async def test_silent_host_is_dead_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztna.io.probe.PROBE_S", 0.05)
    probe = ReachabilityProbe(asyncio.get_running_loop())
    monkeypatch.setattr(probe, "_icmp_socket", lambda: None)
    monkeypatch.setattr(probe, "_connect", lambda _: None)
    answers: list[bool] = []
    probe.start("192.0.2.1", 9, answers.append)
    await eventually(lambda: answers == [False])
    probe.close()


async def test_probes_are_bounded_and_abandoned_at_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztna.io.probe.MAX_PROBES", 2)
    probe = ReachabilityProbe(asyncio.get_running_loop())
    monkeypatch.setattr(probe, "_icmp_socket", lambda: None)
    answers: list[bool] = []
    for _ in range(3):
        probe.start("192.0.2.1", 9, answers.append)
    probe.close()
    await asyncio.sleep(0)
    assert answers == [False]

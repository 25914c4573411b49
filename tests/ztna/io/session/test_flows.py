"""UDP flows at the connector: opened, kept within bounds, closed when idle or no longer granted."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from tests.support.overlay import HOST, LoopUdp, eventually
from tests.ztna.io.session.test_forwards import FakeCore
from ztna.io.session import flows as module
from ztna.io.session.flows import EARLY, IDLE_S, FlowSockets
from ztna.proto.end_to_end import CloseUdp, OpenUdp, UdpPayload, UdpResult, split_flow_datagram

PORT = 7


class Rig:
    """The flows of one session whose agent is a list, with an echo behind them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.core = FakeCore()
        self.got: list[bytes] = []
        self.echo = LoopUdp(self._echo)
        self.flows = FlowSockets(
            self.core,  # type: ignore[arg-type]
            loop=asyncio.get_running_loop(), clock=lambda: self.now, on_input=lambda: None, backends=self._backend,
        )  # fmt: skip

    def _echo(self, data: bytes, source: tuple[str, int]) -> None:
        self.got.append(data)
        self.echo.sock.sendto(data, source)

    def _backend(self, service: str, port: int) -> tuple[str, int] | str:
        return (HOST, self.echo.sock.getsockname()[1]) if port == PORT else "denied"

    def open(self, flow: int, service: str = "one", port: int = PORT) -> None:
        assert self.flows.execute(OpenUdp(flow, service, port))


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    yield made
    made.flows.close()
    with contextlib.suppress(OSError):
        made.echo.close()


async def test_what_overtook_its_opening_is_delivered_and_answered(rig: Rig) -> None:
    rig.flows.received(1, b"early")
    rig.flows.received(2, b"of another")
    rig.open(1)
    rig.flows.received(1, b"late")
    await eventually(lambda: len(rig.core.datagrams) == 2)
    assert [split_flow_datagram(data) for data in rig.core.datagrams] == [(1, b"early"), (1, b"late")]
    rig.open(2)
    await eventually(lambda: len(rig.core.datagrams) == 3)


async def test_only_so_much_waits_for_its_opening(rig: Rig) -> None:
    for _ in range(EARLY + 10):
        rig.flows.received(1, b"x")
    assert rig.flows.counters.dropped_unknown == 10


async def test_a_payload_larger_than_a_packet_goes_and_comes_by_the_stream(rig: Rig) -> None:
    rig.echo.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    rig.open(1)
    assert rig.flows.execute(UdpPayload(1, bytes(65507)))
    await eventually(lambda: rig.core.messages)
    assert rig.core.messages == [UdpPayload(1, bytes(65507))]


async def test_only_so_many_flows_and_the_agent_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FLOWS", 2)
    for flow in (1, 2, 3):
        rig.open(flow)
    rig.open(1)
    assert len(rig.flows) == 2
    assert rig.core.messages == [UdpResult(3, "limit")]


async def test_a_refused_port_and_a_backend_that_is_not_there_are_told(rig: Rig) -> None:
    rig.open(1, port=PORT + 1)
    assert rig.core.messages == [UdpResult(1, "denied")]
    rig.open(2)
    rig.echo.close()
    rig.flows.received(2, b"anybody?")
    await eventually(lambda: UdpResult(2, "refused") in rig.core.messages)


async def test_an_agent_that_reads_nothing_is_told_nothing_more(rig: Rig) -> None:
    rig.core.room = 0
    for flow in range(1000):
        rig.open(flow, port=PORT + 1)
    assert rig.core.messages == []
    assert rig.flows.counters.dropped_tell == 1000


async def test_flows_of_a_service_that_was_withdrawn_are_closed(rig: Rig) -> None:
    rig.open(1, "one")
    rig.open(2, "two")
    rig.flows.keep({"two"})
    assert rig.core.messages == [UdpResult(1, "denied")]
    rig.flows.received(1, b"no more")
    rig.flows.received(2, b"still")
    await eventually(lambda: rig.got == [b"still"])


async def test_an_idle_flow_is_closed_and_the_agent_told(rig: Rig) -> None:
    rig.open(1)
    rig.now += IDLE_S - 1
    rig.open(2)
    rig.now += 2
    rig.flows._expire()
    assert rig.core.messages == [CloseUdp(1)]
    assert (len(rig.flows), rig.flows.counters.expired) == (1, 1)
    assert rig.flows.execute(CloseUdp(2))
    assert len(rig.flows) == 0

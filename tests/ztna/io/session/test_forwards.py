"""User-mode forwards over sessions that are not there yet, come late, or are followed by another: with a fake clock."""

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Any

import pytest

from ztna.io.session import forwards as module
from ztna.io.session.flows import CONTROL_STREAM
from ztna.io.session.forwards import FLOW_IDLE_S, FLOW_WAITING, MAX_FLOWS, MAX_WAITING, WAIT_S, SessionForwards
from ztna.proto.end_to_end import CloseUdp, FrameBuffer, OpenUdp, UdpPayload, decode_message, split_flow_datagram
from ztna.proto.gateway_types import GatewayLimits

SERVICE, PORT = "echo-service", 9999


@dataclass
class FakeCore:
    """Takes what is written."""

    max_datagram_payload: int = 1200
    room: int = 1000
    datagrams: list[bytes] = field(default_factory=list)
    frames: FrameBuffer = field(default_factory=lambda: FrameBuffer(1 << 20))
    messages: list[Any] = field(default_factory=list)

    def writable(self, stream: int) -> int:
        return self.room

    def send_datagram(self, data: bytes) -> bool:
        self.datagrams.append(data)
        return True

    def write(self, stream: int, data: bytes, fin: bool = False) -> None:
        assert stream == CONTROL_STREAM
        self.frames.feed(data)
        while (body := self.frames.next_frame()) is not None:
            self.messages.append(decode_message(body))


class FakeSession:
    """A session whose packets stay here."""

    def __init__(self) -> None:
        self.core = FakeCore()
        self.ready = True

    def flush(self) -> None:
        """Nothing to send."""

    flush_soon = flush


class Sessions:
    """The agent's sessions: `session` is the ready one; it adopts sockets, or refuses to."""

    def __init__(self) -> None:
        self.session: Any = None
        self.adopted: list[socket.socket] = []
        self.full = False
        self.routes = self

    @property
    def sessions(self) -> list[Any]:
        return [self.session] if self.session is not None else []

    def session_for(self, service: str) -> Any:
        return self.session

    def streams_of(self, session: Any) -> Any:
        return self

    def __len__(self) -> int:
        return len(self.adopted)

    def adopt(self, sock: socket.socket, service: str, port: int) -> bool:
        if not self.full:
            self.adopted.append(sock)
        return not self.full

    def used(self, session: Any) -> None:
        """Flushed by nobody."""


class Rig:
    """Forwards, a fake clock, and a local UDP listener with one client."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sessions = Sessions()
        self.unreachable = 0
        self.forwards = SessionForwards(
            self.sessions,  # type: ignore[arg-type]
            loop=asyncio.get_running_loop(), clock=lambda: self.now, on_unreachable=self._count,
            limits=GatewayLimits(udp_flows=100, tcp_sessions=3),
        )  # fmt: skip
        self.sockets: list[socket.socket] = []
        self.listener, self.client = self.udp(), self.udp()
        self.at = self.client.getsockname()

    def _count(self) -> None:
        self.unreachable += 1

    def udp(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        self.sockets.append(sock)
        return sock

    def tcp(self) -> tuple[socket.socket, socket.socket]:
        """(client's end, accepted end) of a connection."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        ours.settimeout(5)
        theirs.setblocking(False)
        self.sockets += [ours, theirs]
        return ours, theirs

    def say(self, data: bytes, client: tuple[str, int] | None = None) -> None:
        self.forwards.datagram(self.listener, client or self.at, SERVICE, PORT, data)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.forwards._expire()


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    yield made
    made.forwards.close()
    for sock in made.sockets:
        sock.close()


# TCP


async def test_a_client_that_waited_is_served_when_its_session_is_ready(rig: Rig) -> None:
    _, theirs = rig.tcp()
    assert rig.forwards.adopt(theirs, SERVICE, PORT)
    assert rig.forwards.tcp_waiting == 1
    rig.forwards.sessions_changed()
    rig.tick(WAIT_S - 0.1)
    assert rig.forwards.tcp_waiting == 1
    rig.sessions.session = FakeSession()
    rig.forwards.sessions_changed()
    assert rig.sessions.adopted == [theirs]
    assert rig.forwards.tcp_waiting == 0
    assert rig.forwards.counters.tcp_waited == 1
    assert rig.forwards.counters.tcp_gave_up == 0


async def test_a_client_is_reset_after_ten_seconds_without_a_session(rig: Rig) -> None:
    ours, theirs = rig.tcp()
    assert WAIT_S == 10.0
    assert rig.forwards.adopt(theirs, SERVICE, PORT)
    rig.tick(WAIT_S)
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    assert rig.forwards.counters.tcp_gave_up == 1


async def test_a_session_that_takes_no_more_streams_resets_who_waited(rig: Rig) -> None:
    ours, theirs = rig.tcp()
    rig.forwards.adopt(theirs, SERVICE, PORT)
    rig.sessions.session, rig.sessions.full = FakeSession(), True
    rig.forwards.sessions_changed()
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    assert rig.forwards.tcp_waiting == 0


async def test_only_so_many_clients_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    assert MAX_WAITING <= 1024
    assert [rig.forwards.adopt(rig.tcp()[1], SERVICE, PORT) for _ in range(3)] == [True, True, False]
    ours, theirs = rig.tcp()
    rig.sessions.session = FakeSession()
    assert rig.forwards.adopt(theirs, SERVICE, PORT), "who need not wait is not counted"
    ours.close()


async def test_connections_are_as_many_as_configured(rig: Rig) -> None:
    rig.sessions.session = FakeSession()
    assert [rig.forwards.adopt(rig.tcp()[1], SERVICE, PORT) for _ in range(4)] == [True, True, True, False]


async def test_closing_resets_who_waits(rig: Rig) -> None:
    ours, theirs = rig.tcp()
    rig.forwards.adopt(theirs, SERVICE, PORT)
    rig.forwards.close()
    with pytest.raises(ConnectionResetError):
        ours.recv(1)


# UDP


async def test_first_datagrams_wait_for_the_session_and_follow_their_opening(rig: Rig) -> None:
    for number in range(FLOW_WAITING + 2):
        rig.say(b"%d" % number)
    assert rig.forwards.counters.dropped_waiting == 2
    rig.sessions.session = session = FakeSession()
    rig.forwards.sessions_changed()
    assert session.core.messages == [OpenUdp(1, SERVICE, PORT)]
    assert [split_flow_datagram(data) for data in session.core.datagrams] == [
        (1, b"%d" % number) for number in range(2, FLOW_WAITING + 2)
    ]


async def test_a_flow_is_opened_again_in_the_next_session_and_after_the_connector_forgot_it(rig: Rig) -> None:
    rig.sessions.session = first = FakeSession()
    rig.say(b"one")
    rig.say(b"two")
    rig.sessions.session = second = FakeSession()
    rig.say(b"three")
    assert first.core.messages == second.core.messages == [OpenUdp(1, SERVICE, PORT)]
    rig.forwards.flow_closed(second, 1)  # type: ignore[arg-type]
    rig.say(b"four")
    assert second.core.messages == [OpenUdp(1, SERVICE, PORT)] * 2
    assert len(second.core.datagrams) == 2


async def test_answers_come_from_the_flows_session_or_the_one_before_it_and_from_no_other(rig: Rig) -> None:
    sessions: list[Any] = [FakeSession(), FakeSession(), FakeSession()]
    for session in sessions[:2]:
        rig.sessions.session = session
        rig.say(b"question")
    for session, data in zip(sessions, (b"late", b"answer", b"forged"), strict=True):
        rig.forwards.flow_received(session, 1, data)
    assert [rig.client.recv(100) for _ in range(2)] == [b"late", b"answer"]
    rig.forwards.flow_failed(sessions[2], 1, "refused")
    assert (rig.forwards.counters.udp_failed, rig.unreachable) == (0, 0)
    rig.forwards.flow_closed(sessions[2], 1)
    rig.forwards.flow_closed(sessions[0], 1)
    rig.say(b"again")
    assert len(sessions[1].core.messages) == 1, "nobody closed it"
    rig.forwards.flow_received(sessions[1], 77, b"no such flow")
    assert rig.forwards.counters.dropped_unknown == 2
    rig.forwards.flow_failed(sessions[1], 1, "refused")
    assert rig.unreachable == 1


async def test_an_idle_flow_expires_and_one_that_only_receives_does_not(rig: Rig) -> None:
    rig.sessions.session = session = FakeSession()
    rig.say(b"listens")
    rig.say(b"idle", ("127.0.0.1", 1))
    rig.now += FLOW_IDLE_S - 1
    rig.forwards.flow_received(session, 1, b"news")  # type: ignore[arg-type]
    rig.tick(2)
    assert rig.forwards.udp_flows == 1
    assert session.core.messages[-1] == CloseUdp(2)
    rig.tick(FLOW_IDLE_S)
    assert rig.forwards.udp_flows == 0
    rig.forwards.flow_received(session, 1, b"too late")  # type: ignore[arg-type]
    assert rig.forwards.counters.dropped_unknown == 1


async def test_only_so_many_flows_are_open(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FLOWS", 2)
    assert MAX_FLOWS <= 65536
    for port in (1, 2, 3):
        rig.say(b"x", ("127.0.0.1", port))
    assert (rig.forwards.udp_flows, rig.forwards.counters.dropped_flow_limit) == (2, 1)


@pytest.mark.parametrize("size", [1195, 1196, 65507])
async def test_a_payload_of_any_size_finds_its_way(rig: Rig, size: int) -> None:
    rig.sessions.session = session = FakeSession()
    rig.say(bytes(size))
    if size + 5 <= session.core.max_datagram_payload:
        assert [len(data) for data in session.core.datagrams] == [size + 5]
    else:
        assert session.core.messages[-1] == UdpPayload(1, bytes(size))


async def test_a_connector_that_reads_nothing_is_told_nothing_more(rig: Rig) -> None:
    rig.sessions.session = session = FakeSession()
    session.core.room = 0
    for port in range(1, 100):
        rig.say(b"x", ("127.0.0.1", port))
    rig.tick(FLOW_IDLE_S + 1)
    assert session.core.messages == []
    assert rig.forwards.counters.dropped_queue == 99

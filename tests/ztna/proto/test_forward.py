"""The agent's user-mode stack: alone, and against the gateway as its only network."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.gateway_bed import ECHO, HTTP, make_gateway, packets, segments
from ztna.proto.forward import UserStack
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import (
    AbortTcp,
    CloseTcp,
    CloseUdp,
    Command,
    EchoReceived,
    EmitPacket,
    GatewayLimits,
    OpenTcp,
    OpenUdp,
    PauseTcp,
    PingBackend,
    ResumeTcp,
    SendUdp,
    ShutdownTcp,
    SocketError,
    TcpFailed,
    TcpOpened,
    UdpFailed,
    WriteTcp,
)
from ztna.proto.packet import (
    UNREACHABLE_HOST,
    UNREACHABLE_PORT,
    build_echo_request,
    build_udp,
    build_unreachable,
    icmp_unreachable,
    parse_echo,
    parse_ipv4,
    parse_udp,
)
from ztna.proto.tcp_segment import RST, SYN, Segment, SegmentBuilder

OURS = 0x64400101


def make_stack(limits: GatewayLimits | None = None) -> UserStack:
    return UserStack(OURS, budget_bytes=1280, random=Random(5).randbytes, limits=limits)


def commands(stack: UserStack) -> list[Command]:
    found: list[Command] = []
    while (command := stack.next_command()) is not None:
        found.append(command)
    return found


def emitted(stack: UserStack) -> list[bytes]:
    return [c.packet for c in commands(stack) if isinstance(c, EmitPacket)]


class Overlay:
    """A user-mode stack and a gateway joined by a link in virtual time; the backend echoes whatever it gets."""

    def __init__(self, loss: float = 0.0, seed: int = 1) -> None:
        self.stack = make_stack()
        self.gateway = make_gateway(GatewayLimits(tcp_buffer_bytes=60_000))
        self.now = 10.0
        self.loss = loss
        self.random = Random(seed)
        self.seen: list[Command] = []
        self.received = bytearray()
        self.refuse: SocketError | None = None

    def _carry(self, packet: bytes, to: UserStack | Gateway) -> None:
        if self.random.random() >= self.loss:
            to.packet_received(packet, self.now)

    def _client(self, command: Command) -> None:
        match command:
            case EmitPacket(packet):
                self._carry(packet, self.gateway)
            case WriteTcp(session, data):
                self.received += data
                self.stack.tcp_writable(session, len(data), self.now)
            case _:
                self.seen.append(command)

    def _backend(self, command: Command) -> None:
        gateway, now = self.gateway, self.now
        match command:
            case EmitPacket(packet):
                self._carry(packet, self.stack)
            case OpenTcp(session, _):
                if self.refuse:
                    gateway.tcp_failed(session, self.refuse, now)
                else:
                    gateway.tcp_connected(session, now)
            case WriteTcp(session, data):
                gateway.tcp_writable(session, len(data), now)
                gateway.tcp_data(session, data, now)
            case ShutdownTcp(session):
                gateway.tcp_eof(session, now)
            case SendUdp(flow, data):
                if self.refuse:
                    gateway.udp_error(flow, self.refuse, now)
                else:
                    gateway.udp_received(flow, data, now)
            case PingBackend(backend):
                gateway.backend_answered(backend, self.refuse is None, now)
            case OpenUdp() | PauseTcp() | ResumeTcp() | CloseTcp() | AbortTcp():
                pass
            case _:
                raise AssertionError(command)

    def run(self, wanted: Command, limit_s: float = 300.0) -> None:
        """Let time pass until a command is seen."""
        end = self.now + limit_s
        while wanted not in self.seen:
            assert self.now < end, self.seen
            self.now += 0.005
            for part in (self.stack, self.gateway):
                due = part.get_timer()
                if due is not None and due <= self.now:
                    part.handle_timer(self.now)
            while (command := self.stack.next_command()) is not None:
                self._client(command)
            while (command := self.gateway.next_command()) is not None:
                self._backend(command)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([0.0, 0.02, 0.1]), st.integers(0, 300_000), st.integers(0, 1000))
def test_tcp_through_the_gateway_and_back(loss: float, size: int, seed: int) -> None:
    overlay = Overlay(loss, seed)
    data = Random(seed).randbytes(size)
    session = overlay.stack.open_tcp(ECHO, 9999, overlay.now)
    assert session is not None
    overlay.stack.tcp_data(session, data, overlay.now)
    overlay.stack.tcp_eof(session, overlay.now)
    overlay.run(CloseTcp(session))
    assert overlay.received == data
    assert TcpOpened(session) in overlay.seen
    assert ShutdownTcp(session) in overlay.seen


@pytest.mark.parametrize("size", [0, 1, 1200, 5000])
def test_udp_through_the_gateway_and_back(size: int) -> None:
    overlay = Overlay()
    flow = overlay.stack.open_udp(ECHO, 9999, overlay.now)
    assert flow is not None
    overlay.stack.udp_received(flow, bytes(size), overlay.now)
    overlay.run(SendUdp(flow, bytes(size)))


def test_echo_through_the_gateway_and_back() -> None:
    overlay = Overlay()
    overlay.stack.send_echo(ECHO, 7, 3, b"data", overlay.now)
    overlay.run(EchoReceived(ECHO, 7, 3, b"data", None))


def test_errors_of_the_backend_reach_the_local_client() -> None:
    overlay = Overlay()
    overlay.refuse = SocketError.REFUSED
    session = overlay.stack.open_tcp(ECHO, 9999, overlay.now)
    assert session is not None
    overlay.run(TcpFailed(session, SocketError.REFUSED))
    flow = overlay.stack.open_udp(ECHO, 9999, overlay.now)
    assert flow is not None
    overlay.stack.udp_received(flow, b"x", overlay.now)
    overlay.run(UdpFailed(flow, SocketError.REFUSED))
    overlay.refuse = SocketError.UNREACHABLE
    overlay.now += 20
    overlay.stack.send_echo(ECHO, 7, 3, b"data", overlay.now)
    overlay.run(EchoReceived(ECHO, 7, 3, b"", SocketError.UNREACHABLE))


def test_port_that_is_not_served_is_refused() -> None:
    overlay = Overlay()
    session = overlay.stack.open_tcp(HTTP, 8081, overlay.now)
    assert session is not None
    overlay.run(TcpFailed(session, SocketError.REFUSED))
    assert overlay.stack.tcp_sessions == 0


def test_nobody_answers() -> None:
    stack = make_stack()
    session = stack.open_tcp(ECHO, 9999, 0.0)
    assert session is not None
    found = commands(stack)
    while (due := stack.get_timer()) is not None:
        stack.handle_timer(due)
        found += commands(stack)
    assert TcpFailed(session, SocketError.TIMED_OUT) in found


def test_only_the_service_of_a_flow_may_answer_it() -> None:
    stack = make_stack()
    flow = stack.open_udp(ECHO, 9999, 1.0)
    assert flow is not None
    stack.udp_received(flow, b"question", 1.0)
    (packet,) = emitted(stack)
    ip = parse_ipv4(packet)
    assert ip is not None
    datagram = parse_udp(ip.source, ip.destination, ip.payload)
    assert datagram is not None
    port = datagram.source_port
    for source, source_port in ((HTTP, 9999), (ECHO, 9998)):
        stack.packet_received(build_udp(source, source_port, OURS, port, b"forged"), 1.0)
        (error,) = emitted(stack)
        assert icmp_unreachable(error)[0] == UNREACHABLE_PORT
    assert stack.stats.dropped_udp_unknown_flow == 2
    stack.packet_received(build_udp(ECHO, 9999, OURS, port, b"answer"), 1.0)
    assert commands(stack) == [SendUdp(flow, b"answer")]


def test_packets_for_another_address_are_dropped() -> None:
    stack = make_stack()
    stack.packet_received(build_udp(ECHO, 1, OURS + 1, 2, b"x"), 1.0)
    assert commands(stack) == []
    assert stack.stats.dropped_no_service == 1


def test_connections_are_opened_only_from_inside() -> None:
    stack = make_stack()
    builder = SegmentBuilder(ECHO, 9999, OURS, 22)
    stack.packet_received(builder.build(Segment(1, 0, SYN, 1000)), 1.0)
    (reset,) = segments(commands(stack))
    assert reset.flags & RST
    assert stack.stats.dropped_no_session == 1


def test_stack_answers_echo_itself() -> None:
    stack = make_stack()
    stack.packet_received(build_echo_request(ECHO, OURS, 1, 2, b"you there"), 1.0)
    (reply,) = packets(commands(stack))
    message = parse_echo(reply.payload)
    assert message is not None
    assert message.reply
    assert (reply.source, reply.destination) == (OURS, ECHO)


def test_forged_errors_do_not_touch_connections() -> None:
    stack = make_stack()
    session = stack.open_tcp(ECHO, 9999, 1.0)
    (syn,) = emitted(stack)
    error = build_unreachable(ECHO, syn, UNREACHABLE_HOST)
    assert error is not None
    stack.packet_received(error, 1.1)
    assert commands(stack) == []
    assert session is not None
    assert stack.tcp_sessions == 1


def test_flows_expire_and_tables_are_bounded() -> None:
    stack = make_stack(GatewayLimits(udp_flows=2, tcp_sessions=2))
    assert [stack.open_udp(ECHO, 9999, 1.0) for _ in range(3)] == [1, 2, None]
    assert [stack.open_tcp(ECHO, 9999, 1.0) for _ in range(3)] == [1, 2, None]
    commands(stack)
    stack.handle_timer(61.0)
    assert {CloseUdp(1), CloseUdp(2)} <= set(commands(stack))
    assert stack.udp_flows == 0
    assert stack.stats.udp_flows_expired == 2
    assert stack.stats.dropped_session_limit == 1
    stack.udp_received(1, b"late", 62.0)
    assert stack.stats.dropped_udp_unknown_flow == 1


def test_flow_closed_by_the_shell_is_forgotten() -> None:
    stack = make_stack()
    flow = stack.open_udp(ECHO, 9999, 1.0)
    assert flow is not None
    stack.close_udp(flow)
    stack.close_udp(flow)
    assert stack.udp_flows == 0
    assert stack.get_timer() is None


def test_ports_are_unpredictable_and_distinct() -> None:
    stack = make_stack()
    for _ in range(50):
        stack.udp_received(stack.open_udp(ECHO, 9999, 1.0) or 0, b"", 1.0)
    ports = {int.from_bytes(packet[20:22], "big") for packet in emitted(stack)}
    assert len(ports) == 50
    assert min(ports) >= 49152
    assert sorted(ports) != list(range(min(ports), min(ports) + 50))


def test_new_address_breaks_what_was_open() -> None:
    stack = make_stack()
    session = stack.open_tcp(ECHO, 9999, 1.0)
    flow = stack.open_udp(ECHO, 9999, 1.0)
    assert session is not None
    assert flow is not None
    commands(stack)
    stack.set_virtual_ip(OURS)
    assert commands(stack) == []
    stack.set_virtual_ip(OURS + 1)
    found = commands(stack)
    assert CloseUdp(flow) in found
    assert TcpFailed(session, SocketError.OTHER) in found
    assert (stack.tcp_sessions, stack.udp_flows) == (0, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=20))
def test_arbitrary_packets_raise_nothing(sequence: list[bytes]) -> None:
    stack = make_stack()
    stack.open_udp(ECHO, 9999, 1.0)
    for data in sequence:
        stack.packet_received(data, 1.0)
        commands(stack)
    assert stack.stats.packets_in == len(sequence)

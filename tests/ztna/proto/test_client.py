"""What both clients share: connecting, being observed, registration, reconnecting, and distrust of input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.agent import AgentControl
from ztna.proto.client import (
    ClientCommand,
    ClientControl,
    DeliverPacket,
    Denied,
    Observed,
    ReconnectAt,
    Registered,
    SendDatagram,
)
from ztna.proto.commands import Note
from ztna.proto.connector import ConnectorControl
from ztna.proto.limits import AgentLimits, ConnectorLimits
from ztna.proto.packet import build_udp
from ztna.proto.registration import RegistrationState
from ztna.proto.signalling import PunchingResult, SocketAddress, encode_frame
from ztna.proto.wire import (
    ObservedAddress,
    RegisterAgent,
    RegisterConnector,
    RegistrationAck,
    RegistrationNack,
)

PACKET = build_udp(0x64400064, 9999, 0x64400101, 4000, b"hello")


def clients() -> list[ClientControl]:
    return [
        AgentControl({"echo": "100.64.0.100", "http": "100.64.0.101"}, "100.64.1.1", random=lambda: 0.0),
        ConnectorControl(["echo", "http"], random=lambda: 0.0),
    ]


def take(control: ClientControl, *, notes: bool = False) -> list[ClientCommand]:
    commands: list[ClientCommand] = []
    while (command := control.next_command()) is not None:
        if notes or not isinstance(command, Note):
            commands.append(command)
    return commands


@pytest.fixture(params=[0, 1], ids=["agent", "connector"])
def control(request: pytest.FixtureRequest) -> ClientControl:
    return clients()[int(request.param)]


def test_connecting_registers_every_service(control: ClientControl) -> None:
    control.connected(0.0)
    kind = RegisterAgent if isinstance(control, AgentControl) else RegisterConnector
    wanted = [SendDatagram(kind("echo").encode()), SendDatagram(kind("http").encode())]
    assert take(control) == wanted
    assert control.get_timer() == 2.0
    control.handle_timer(2.0)
    assert take(control) == wanted
    for service in ("echo", "http"):
        assert not control.ready
        control.datagram_received(RegistrationAck(service).encode(), 2.5)
    assert take(control) == [Registered("echo"), Registered("http")]
    assert (control.ready, control.is_connected, control.get_timer()) == (True, True, None)
    counters = control._counters
    assert (counters.registrations_sent, counters.registrations_accepted) == (4, 2)


def test_denial(control: ClientControl) -> None:
    control.connected(0.0)
    take(control)
    control.datagram_received(RegistrationNack("echo", 2).encode(), 0.1)
    control.datagram_received(RegistrationNack("echo", 2).encode(), 0.2)
    assert take(control) == [Denied("echo")]
    assert control.registrations == {"echo": RegistrationState.DENIED, "http": RegistrationState.PENDING}
    assert control._counters.registrations_denied == 1
    assert control._counters.drop_control == 0


def test_the_observed_address_is_told_when_it_is_news(control: ClientControl) -> None:
    control.connected(0.0)
    take(control)
    told = ObservedAddress("203.0.113.5", 54321).encode()
    control.datagram_received(told, 0.0)
    control.datagram_received(told, 0.0)
    assert take(control) == [Observed(SocketAddress("203.0.113.5", 54321))]
    assert control.observed_address == ("203.0.113.5", 54321)
    control.datagram_received(ObservedAddress("203.0.113.5", 2).encode(), 0.0)
    assert take(control) == [Observed(SocketAddress("203.0.113.5", 2))]
    control.disconnected(1.0)
    assert control.observed_address is None


def test_reconnecting_backs_off_until_a_connection_was_stable(control: ClientControl) -> None:
    waits = []
    now = 0.0
    for _ in range(3):
        control.connected(now)
        control.disconnected(now)
        waits += [command.time - now for command in take(control) if isinstance(command, ReconnectAt)]
    control.connected(now)
    control.disconnected(now + 31.0)
    waits += [command.time - now - 31.0 for command in take(control) if isinstance(command, ReconnectAt)]
    control.disconnected(now + 40.0)
    waits += [command.time - now - 40.0 for command in take(control) if isinstance(command, ReconnectAt)]
    assert waits == [1.0, 2.0, 4.0, 1.0, 2.0]
    assert (control._counters.connections, control._counters.disconnections) == (4, 4)


def test_nothing_of_an_old_connection_acts(control: ClientControl) -> None:
    control.connected(0.0)
    control.stream_received(0, encode_frame(PunchingResult(1, True))[:5], False, 0.0)
    control.disconnected(0.0)
    take(control)
    control.datagram_received(PACKET, 0.0)
    control.datagram_received(RegistrationAck("echo").encode(), 0.0)
    control.stream_received(0, b"", False, 0.0)
    assert take(control, notes=True) == []
    assert control._counters.drop_not_connected == 3
    control.connected(5.0)
    control.stream_received(0, encode_frame(PunchingResult(1, True)) * 3, False, 5.0)
    assert (control._counters.drop_signalling_unexpected, control._counters.drop_frame) == (3, 0)


@pytest.mark.parametrize(
    "data",
    [
        "01 cb 00 71 05 d4 31 00",
        "01 cb 00 71 05 d4",
        "12 00 04 65 63 68 6f 00",
        "12 00 05 6f 74 68 65 72",
        "13 02 05 6f 74 68 65 72",
        "13 01 00",
        "13 02 01 ff",
        "10 04 65 63 68 6f",
        "2f 04 65 63 68 6f 45",
        "5a 10 00 00 00 2a",
        "60 00",
        "00",
    ],
)
def test_control_messages_are_taken_only_when_exact_and_expected(control: ClientControl, data: str) -> None:
    control.connected(0.0)
    take(control)
    control.datagram_received(bytes.fromhex(data), 0.0)
    assert take(control, notes=True) == []
    assert control._counters.drop_control == 1


def test_only_whole_packets_are_delivered(control: ClientControl) -> None:
    control.connected(0.0)
    take(control)
    for data in (b"", PACKET[:-1], PACKET + b"\0", b"\x45", PACKET):
        control.datagram_received(data, 0.0)
    assert take(control) == [DeliverPacket(PACKET)]
    counters = control._counters
    assert (counters.drop_empty, counters.drop_malformed) == (1, 3)
    assert (counters.packets_delivered, counters.bytes_delivered) == (1, len(PACKET))


@pytest.mark.parametrize(
    "control",
    [
        AgentControl({"echo": "100.64.0.100"}, "100.64.1.1", random=lambda: 0.0, limits=AgentLimits(commands=2)),
        ConnectorControl(["echo"], random=lambda: 0.0, limits=ConnectorLimits(commands=2)),
    ],
)
def test_a_shell_that_takes_nothing_loses_packets_not_memory(control: ClientControl) -> None:
    control.connected(0.0)
    for _ in range(5):
        control.datagram_received(PACKET, 0.0)
    assert len(take(control)) == 2
    assert control._counters.drop_command_queue == 4


def test_streams_are_bounded_and_bad_frames_are_survived(control: ClientControl) -> None:
    control.connected(0.0)
    for stream_id in range(10):
        control.stream_received(stream_id, b"\0", False, 0.0)
    counters = control._counters
    assert counters.drop_stream == 2
    control.stream_received(3, b"", True, 0.0)
    control.stream_received(9, b"\xff" * 5, False, 0.0)
    assert counters.drop_frame == 1
    control.stream_received(9, encode_frame(PunchingResult(1, True)), False, 0.0)
    assert counters.drop_signalling_unexpected == 1


def test_the_budget_follows_the_path(control: ClientControl) -> None:
    assert control.budget_bytes == 1158
    control.set_budget(1308)
    assert control.budget_bytes == 1308


@given(st.integers(0, 1), st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=30))
def test_any_input_raises_nothing(which: int, inputs: list[tuple[bool, bytes]]) -> None:
    control = clients()[which]
    control.connected(0.0)
    for datagram, data in inputs:
        if datagram:
            control.datagram_received(data, 0.0)
        else:
            control.stream_received(len(data) % 4, data, len(data) % 9 == 0, 0.0)
    take(control)


def test_a_role_must_say_what_it_wants() -> None:
    from ztna.proto.stats import AgentStats

    bare = ClientControl(RegisterAgent, ["echo"], AgentStats(), random=lambda: 0.0, max_commands=1)
    with pytest.raises(NotImplementedError):
        bare._wants(b"")
    with pytest.raises(NotImplementedError):
        bare._signalling(PunchingResult(1, True), 0.0)

"""The agent's control part: which packets leave, in what wrapping, and which are let in."""

import struct

import pytest

from tests.ztna.proto.intermediate_bed import Bed, agent, document
from ztna.proto.agent import AgentControl
from ztna.proto.client import ClientCommand, DeliverPacket, SendDatagram
from ztna.proto.commands import Note
from ztna.proto.commands import SendDatagram as CoreSendDatagram
from ztna.proto.limits import AgentLimits
from ztna.proto.packet import TCP, build_fragmentation_needed, build_ipv4, build_udp
from ztna.proto.policy import Policy
from ztna.proto.signalling import CandidateOffer, encode_frame
from ztna.proto.wire import RegistrationAck, RegistrationNack, ServiceRouted, decode

ECHO, HTTP, OWN = 0x64400064, 0x64400065, 0x64400101


def outgoing(payload_bytes: int = 5, destination: int = ECHO, source: int = OWN) -> bytes:
    return build_udp(source, 4000, destination, 9999, bytes(payload_bytes))


def take(control: AgentControl) -> list[ClientCommand]:
    commands: list[ClientCommand] = []
    while (command := control.next_command()) is not None:
        if not isinstance(command, Note):
            commands.append(command)
    return commands


@pytest.fixture
def control() -> AgentControl:
    control = AgentControl(
        {"echo-service": "100.64.0.100", "http-app": "100.64.0.101"}, "100.64.1.1", random=lambda: 0.0
    )
    control.connected(0.0)
    take(control)
    return control


def test_a_packet_is_wrapped_for_the_service_it_is_addressed_to(control: AgentControl) -> None:
    assert control.wrap(outgoing()) == ServiceRouted("echo-service", outgoing()).encode()
    http = outgoing(destination=HTTP)
    assert control.wrap(http) == ServiceRouted("http-app", http).encode()
    assert control.stats.packets_sent == 2


def test_packets_that_go_nowhere_are_counted_by_reason(control: AgentControl) -> None:
    assert control.wrap(outgoing(destination=0x08080808)) is None
    assert control.wrap(outgoing(source=0x0A000001)) is None
    assert control.wrap(outgoing()[:-1]) is None
    assert control.wrap(b"") is None
    assert control.wrap(b"\x60" + bytes(39)) is None
    control.disconnected(0.0)
    assert control.wrap(outgoing()) is None
    stats = control.stats
    assert stats.drops() == {
        name: {"unknown_destination": 1, "source": 1, "malformed": 3, "not_connected": 1}.get(name, 0)
        for name in stats.drops()
    }


def test_denied_services_are_not_tried_until_granted(control: AgentControl) -> None:
    control.datagram_received(RegistrationNack("echo-service", 2).encode(), 0.0)
    assert control.wrap(outgoing()) is None
    assert control.stats.drop_denied == 1
    assert control.wrap(outgoing(destination=HTTP)) is not None
    control.datagram_received(RegistrationAck("echo-service").encode(), 61.0)
    assert control.wrap(outgoing()) is not None


def test_what_is_too_large_is_answered_with_the_size_that_fits(control: AgentControl) -> None:
    assert control.max_packet_bytes == 1158 - 14
    fits = outgoing(1144 - 28)
    assert control.wrap(fits) is not None
    too_large = outgoing(1144 - 27)
    assert control.wrap(too_large) is None
    error = build_fragmentation_needed(ECHO, too_large, 1144)
    assert error is not None
    assert take(control) == [DeliverPacket(error)]
    # The other service's id is shorter, and so is its wrapping.
    assert control.wrap(outgoing(1144 - 28 + 4, HTTP)) is not None
    control.set_budget(1308)
    assert control.wrap(too_large) is not None
    assert control.stats.drop_oversize == 1


def test_no_icmp_about_what_must_not_be_answered(control: AgentControl) -> None:
    error = build_fragmentation_needed(OWN, outgoing(2000), 500)
    assert error is not None
    control.set_budget(100)
    reversed_error = error[:12] + OWN.to_bytes(4, "big") + ECHO.to_bytes(4, "big") + error[20:]
    assert control.wrap(reversed_error) is None
    assert take(control) == []


def test_only_packets_of_services_to_ourselves_are_delivered(control: AgentControl) -> None:
    good = build_udp(HTTP, 80, OWN, 4000, b"")
    for packet in (good, build_udp(0x0A000001, 80, OWN, 4000, b""), build_udp(HTTP, 80, OWN + 1, 4000, b"")):
        control.datagram_received(packet, 0.0)
    assert take(control) == [DeliverPacket(good)]
    assert control.stats.drop_foreign == 2


def segment(flags: int, payload: bytes = b"", *, port: int = 4000, options: bytes = b"", to: int = ECHO) -> bytes:
    header = struct.pack("!HHIIBBHHH", port, 80, 1, 2, (20 + len(options)) << 2, flags, 65535, 0, 0)
    return build_ipv4(TCP, OWN, to, header + options + payload)


def resumed(control: AgentControl, service: str = "echo-service") -> list[bytes]:
    """Reconnect, and return the packets sent when the service is registered again."""
    control.disconnected(1.0)
    control.connected(2.0)
    take(control)
    control.datagram_received(RegistrationAck(service).encode(), 2.0)
    packets = []
    for command in take(control):
        if isinstance(command, SendDatagram):
            message = decode(command.data)
            assert isinstance(message, ServiceRouted)
            assert message.service_id == service
            packets.append(message.packet)
    return packets


SYN, PSH, FIN, RST, ACK = 0x02, 0x08, 0x01, 0x04, 0x10


def test_the_last_acknowledgments_are_repeated_after_a_reconnect(control: AgentControl) -> None:
    timestamps = b"\x01\x01\x08\x0a" + bytes(8)
    kept, other, http = segment(ACK, options=timestamps), segment(ACK, port=4001), segment(ACK, to=HTTP)
    for packet in (segment(SYN), segment(ACK), kept, other, http, segment(ACK | PSH, b"data"), outgoing()):
        assert control.wrap(packet) is not None
    assert resumed(control) == [other, kept]
    assert resumed(control, "http-app") == [http]
    assert control.stats.flows_resumed == 3


def test_only_acknowledgments_without_data_are_repeated(control: AgentControl) -> None:
    for packet in (
        segment(SYN),
        segment(SYN | ACK),
        segment(FIN | ACK),
        segment(ACK | PSH, b"data"),
        build_ipv4(TCP, OWN, ECHO, bytes(12)),
        segment(ACK, bytes(200)),
    ):
        assert control.wrap(packet) is not None
    assert resumed(control) == []


def test_a_reset_connection_is_not_resumed(control: AgentControl) -> None:
    for packet in (segment(ACK), segment(ACK, port=4001), segment(RST | ACK)):
        control.wrap(packet)
    assert resumed(control) == [segment(ACK, port=4001)]


def test_acknowledgments_kept_and_repeated_are_bounded() -> None:
    limits = AgentLimits(resumable_flows=3, resumed_flows=2)
    control = AgentControl({"echo-service": "100.64.0.100"}, "100.64.1.1", random=lambda: 0.0, limits=limits)
    control.connected(0.0)
    for port in (1, 2, 3, 4, 2):
        control.wrap(segment(ACK, port=port))
    assert resumed(control) == [segment(ACK, port=2), segment(ACK, port=4)]
    assert len(control._acknowledgments) == 3


def test_a_download_goes_on_through_a_restarted_intermediate() -> None:
    bed = Bed(policy=Policy.from_json(document()))
    own = AgentControl({"echo": "100.64.0.100"}, "100.64.1.1", random=lambda: 0.0)
    own.connected(0.0)
    own.wrap(segment(ACK))
    own.disconnected(1.0)
    bed.connector(10)
    bed.open(1, agent())
    own.connected(2.0)
    data = build_ipv4(TCP, ECHO, OWN, struct.pack("!HH", 80, 4000) + bytes(16))
    assert bed.send(10, data) == []
    for _ in range(2):
        for command in take(own):
            if isinstance(command, SendDatagram):
                for answer in bed.send(1, command.data):
                    assert isinstance(answer, CoreSendDatagram)
                    if answer.conn == 1:
                        own.datagram_received(answer.data, 2.0)
    assert bed.send(10, data) != []


def test_signalling_is_counted_only(control: AgentControl) -> None:
    control.stream_received(0, encode_frame(CandidateOffer(1, "echo-service", ())), False, 0.0)
    assert take(control) == []
    assert control.stats.drop_signalling_unexpected == 1

"""The agent's control part: which packets leave, in what wrapping, and which are let in."""

import pytest

from ztna.proto.agent import AgentControl
from ztna.proto.client import ClientCommand, DeliverPacket
from ztna.proto.commands import Note
from ztna.proto.packet import build_fragmentation_needed, build_udp
from ztna.proto.signalling import CandidateOffer, encode_frame
from ztna.proto.wire import RegistrationAck, RegistrationNack, ServiceRouted

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


def test_signalling_is_counted_only(control: AgentControl) -> None:
    control.stream_received(0, encode_frame(CandidateOffer(1, "echo-service", ())), False, 0.0)
    assert take(control) == []
    assert control.stats.drop_signalling_unexpected == 1

"""The connector's control part: answers to offers, and whom it lets check its socket."""

import pytest

from ztna.proto.client import ClientCommand, SendStream
from ztna.proto.commands import Note
from ztna.proto.connector import ConnectorControl, gather_candidates
from ztna.proto.limits import ConnectorLimits
from ztna.proto.p2p import BindingRequest
from ztna.proto.packet import build_udp
from ztna.proto.signalling import (
    Candidate,
    CandidateAnswer,
    CandidateOffer,
    CandidateType,
    FrameReader,
    PunchingResult,
    SocketAddress,
    StartPunching,
    encode_frame,
)
from ztna.proto.wire import ObservedAddress

BASE = SocketAddress("172.22.0.10", 4434)
RELAY = SocketAddress("172.20.0.2", 4433)
CHECK = BindingRequest(bytes(12), 1).encode()


def connected(services: list[str], limits: ConnectorLimits | None = None) -> ConnectorControl:
    control = ConnectorControl(services, random=lambda: 0.0, limits=limits)
    control.set_addresses(BASE, relay=RELAY)
    control.connected(0.0)
    take(control)
    return control


def take(control: ConnectorControl) -> list[ClientCommand]:
    commands: list[ClientCommand] = []
    while (command := control.next_command()) is not None:
        if not isinstance(command, Note):
            commands.append(command)
    return commands


def offer(
    control: ConnectorControl, message: CandidateOffer, stream_id: int = 1, now: float = 0.0
) -> list[CandidateAnswer]:
    control.stream_received(stream_id, encode_frame(message), False, now)
    answers = []
    for command in take(control):
        assert isinstance(command, SendStream)
        assert command.stream_id == 0
        for answer in FrameReader().receive(command.data):
            assert isinstance(answer, CandidateAnswer)
            answers.append(answer)
    return answers


def test_the_worked_answer() -> None:
    control = ConnectorControl(["test-service"], random=lambda: 0.0)
    control.set_addresses(("0.0.0.0", 24434), relay=("127.0.0.1", 24433))
    control.connected(0.0)
    control.datagram_received(ObservedAddress("127.0.0.1", 24434).encode(), 0.0)
    take(control)
    control.stream_received(1, encode_frame(CandidateOffer(5, "test-service", ())), False, 0.0)
    assert take(control) == [
        SendStream(
            0,
            bytes.fromhex(
                "000000a3 01000000 0500000000000000 0300000000000000"
                "00000000 00000000 00000000 725f 0001007e 0c00000000000000 686f73745f302e302e302e30 00"
                "01000000 00000000 7f000001 725f 00010064 0f00000000000000 7372666c785f3132372e302e302e31"
                " 01 00000000 00000000 725f"
                "03000000 00000000 7f000001 715f 00010000 0f00000000000000 72656c61795f3132372e302e302e31"
                " 01 00000000 00000000 725f"
            ),
        )
    ]


def test_candidates_and_their_priorities() -> None:
    reflexive = SocketAddress("172.20.0.22", 4434)
    host = Candidate(CandidateType.HOST, BASE, 0x7E000100, "host_172.22.0.10")
    srflx = Candidate(CandidateType.SERVER_REFLEXIVE, reflexive, 0x64000100, "srflx_172.20.0.22", BASE)
    relay = Candidate(CandidateType.RELAY, RELAY, 0x00000100, "relay_172.20.0.2", BASE)
    assert gather_candidates(BASE, reflexive, RELAY) == (host, srflx, relay)
    assert gather_candidates(BASE, BASE, RELAY) == (host, relay)
    assert gather_candidates(BASE, None, None) == (host,)


def test_a_configured_external_address_goes_before_the_observed_one() -> None:
    control = connected(["echo"])
    control.datagram_received(ObservedAddress("172.20.0.22", 61000).encode(), 0.0)
    take(control)
    (answer,) = offer(control, CandidateOffer(1, "echo", ()))
    assert answer.candidates[1].address == ("172.20.0.22", 61000)
    control.set_addresses(BASE, relay=RELAY, external=("198.51.100.9", 4434))
    (answer,) = offer(control, CandidateOffer(2, "echo", ()))
    assert answer == CandidateAnswer(2, gather_candidates(BASE, SocketAddress("198.51.100.9", 4434), RELAY))


def test_offers_arrive_on_any_stream() -> None:
    control = connected(["echo"])
    frame = encode_frame(CandidateOffer(1, "echo", ()))
    control.stream_received(1, frame[:9], False, 0.0)
    assert len(offer(control, CandidateOffer(2, "echo", ()), stream_id=0)) == 1
    control.stream_received(1, frame[9:], False, 0.0)
    assert len(take(control)) == 1
    assert control.stats.offers_answered == 2


def test_offers_for_other_services_or_before_the_addresses_are_known_get_no_answer() -> None:
    control = connected(["echo"])
    assert offer(control, CandidateOffer(1, "http", ())) == []
    bare = ConnectorControl(["echo"], random=lambda: 0.0)
    bare.connected(0.0)
    take(bare)
    assert offer(bare, CandidateOffer(1, "echo", ())) == []
    assert (control.stats.drop_offer_unknown_service, bare.stats.drop_offer_unknown_service) == (1, 1)


def test_offers_are_answered_at_a_bounded_rate() -> None:
    control = connected(["echo"], ConnectorLimits(offers_per_s=3))
    answered = [bool(offer(control, CandidateOffer(n, "echo", ()))) for n in range(5)]
    assert answered == [True, True, True, False, False]
    assert control.stats.drop_offer_rate == 2
    assert offer(control, CandidateOffer(9, "echo", ()), now=1.0) != []


def candidate(ip: str, kind: CandidateType = CandidateType.HOST) -> Candidate:
    return Candidate(kind, SocketAddress(ip, 50000), 1, "")


@pytest.mark.parametrize(
    ("named", "source", "answered"),
    [
        (candidate("203.0.113.5"), "203.0.113.5", True),
        (candidate("203.0.113.5", CandidateType.SERVER_REFLEXIVE), "203.0.113.5", True),
        (candidate("203.0.113.5"), "203.0.113.6", False),
        (candidate("203.0.113.5", CandidateType.RELAY), "203.0.113.5", False),
        (candidate("0.0.0.0"), "0.0.0.0", False),
        (candidate("224.0.0.1"), "224.0.0.1", False),
    ],
)
def test_checks_are_answered_for_the_hosts_of_an_offer(named: Candidate, source: str, answered: bool) -> None:
    for message in (CandidateOffer(1, "echo", (named,)), StartPunching(1, 100, (named,))):
        control = connected(["echo"])
        control.stream_received(1, encode_frame(message), False, 0.0)
        reply = control.p2p.datagram_received(CHECK, SocketAddress(source, 1), 0.0)
        assert (reply is not None) is answered


def test_only_the_first_candidates_of_an_offer_count() -> None:
    control = connected(["echo"], ConnectorLimits(candidates=1))
    offer(control, CandidateOffer(1, "echo", (candidate("203.0.113.5"), candidate("203.0.113.6"))))
    assert control.p2p.datagram_received(CHECK, SocketAddress("203.0.113.6", 1), 0.0) is None


def test_other_signalling_is_counted() -> None:
    control = connected(["echo"])
    control.stream_received(0, encode_frame(PunchingResult(1, True)), False, 0.0)
    assert control.stats.drop_signalling_unexpected == 1


def test_packets_of_the_gateway_go_out_bare_within_the_budget() -> None:
    control = ConnectorControl(["echo"], random=lambda: 0.0)
    packet = build_udp(1, 2, 3, 4, b"x" * 1130)
    assert len(packet) == 1158
    assert control.wrap(packet) is None
    control.connected(0.0)
    assert control.wrap(packet) == packet
    assert control.wrap(packet + b"x") is None
    control.set_budget(1308)
    assert control.wrap(packet + b"x") == packet + b"x"
    stats = control.stats
    assert (stats.drop_not_connected, stats.drop_oversize, stats.packets_sent, stats.bytes_sent) == (1, 1, 2, 2317)

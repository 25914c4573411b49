"""Relay: every packet reaches exactly the connection it belongs to, or is dropped under a counter of its own."""

import struct
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.intermediate_bed import AGENT_1, AGENT_2, ECHO, GAME, HTTP, Bed, document, from_echo, to_echo
from ztna.proto.commands import SendDatagram
from ztna.proto.limits import IntermediateLimits
from ztna.proto.packet import (
    ICMP,
    TCP,
    build_echo_reply,
    build_echo_request,
    build_fragmentation_needed,
    build_ipv4,
    build_udp,
    build_unreachable,
)
from ztna.proto.policy import Policy
from ztna.proto.wire import MessageType, ServiceRouted

LEGACY = 0x64400001  # 100.64.0.1, what every agent in the field calls itself
LEGACY_SERVICE = 0x0A640001  # 10.100.0.1


def one(data: bytes, conn: int) -> list[SendDatagram]:
    return [SendDatagram(conn, data)]


@pytest.fixture
def bed() -> Bed:
    bed = Bed()
    bed.agent(1, "agent-1", "echo", "http")
    bed.agent(2, "agent-2", "echo", "http")
    bed.connector(10, "connector", "echo", "http", "game")
    return bed


def test_udp_there_and_back(bed: Bed) -> None:
    assert bed.routed(1, to_echo()) == one(to_echo(), 10)
    assert bed.send(10, from_echo()) == one(from_echo(), 1)
    stats = bed.stats
    assert (stats.datagrams_to_connectors, stats.bytes_to_connectors) == (1, len(to_echo()))
    assert (stats.datagrams_to_agents, stats.bytes_to_agents, stats.flows_opened) == (1, len(from_echo()), 1)


def test_the_worked_example_is_relayed_for_a_legacy_agent() -> None:
    bed = Bed(allow_anonymous=True, policy=Policy.from_json(document(services={}, agents={}, connectors={})))
    bed.agent(1, None, "echo-service")
    bed.connector(10, None, "echo-service")
    packet = bytes.fromhex("45000020 0000 4000 40 01 cc37 64400001 0a640001 08 00 192d 0001 0001 70696e67")
    reply = bytes.fromhex("45000020 00004000 4001cc37 0a640001 64400001 0000 212d 0001 0001 70696e67")
    assert bed.send(1, bytes.fromhex("2f 0c 6563686f2d73657276696365") + packet) == one(packet, 10)
    assert bed.send(10, reply) == one(reply, 1)


def test_replies_of_one_service_go_to_the_agent_whose_flow_it_is(bed: Bed) -> None:
    bed.routed(1, to_echo(AGENT_1))
    bed.routed(2, to_echo(AGENT_2))
    assert bed.send(10, from_echo(AGENT_2)) == one(from_echo(AGENT_2), 2)
    assert bed.send(10, from_echo(AGENT_1)) == one(from_echo(AGENT_1), 1)


def test_one_connector_serves_many_services(bed: Bed) -> None:
    http = build_ipv4(TCP, AGENT_1, HTTP, struct.pack("!HH", 4000, 80) + bytes(16))
    assert bed.routed(1, http, "http") == one(http, 10)
    back = build_ipv4(TCP, HTTP, AGENT_1, struct.pack("!HH", 80, 4000) + bytes(16))
    assert bed.send(10, back) == one(back, 1)


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_twenty_legacy_agents_and_three_services_are_never_confused(random: Random) -> None:
    bed = Bed(allow_anonymous=True)
    services = [("echo", ECHO), ("http", HTTP), ("game", GAME)]
    for conn in range(20):
        bed.agent(conn, None, "echo", "http", "game")
    bed.connector(100, "connector", "echo", "http", "game")
    packets = []
    for conn in range(20):
        for name, address in services:
            for _ in range(3):
                port = random.randrange(1024, 1100)
                packets.append((conn, name, build_udp(LEGACY, port, address, 9999, bytes((conn,)))))
    random.shuffle(packets)
    owner: dict[bytes, int] = {}
    for conn, name, packet in packets:
        flow = packet[12:24]
        sent = bed.routed(conn, packet, name)
        assert bool(sent) == (owner.setdefault(flow, conn) == conn)
    for flow, conn in owner.items():
        source, destination, sport, dport = struct.unpack("!IIHH", flow)
        reply = build_udp(destination, dport, source, sport, b"")
        assert bed.send(100, reply) == one(reply, conn)
    assert bed.stats.drop_flow_clash == sum(owner[packet[12:24]] != conn for conn, _, packet in packets)


def test_icmp_echo_is_routed_by_its_identifier(bed: Bed) -> None:
    request = build_echo_request(AGENT_1, ECHO, 7, 1, b"ping")
    assert bed.routed(1, request) == one(request, 10)
    reply = build_echo_reply(ECHO, AGENT_1, 7, 1, b"ping")
    assert bed.send(10, reply) == one(reply, 1)
    other = build_ipv4(ICMP, ECHO, AGENT_1, struct.pack("!BBHHH", 0, 0, 0, 8, 1))
    assert bed.send(10, other) == []
    assert bed.stats.drop_no_flow == 1


@pytest.mark.parametrize("build", [build_unreachable, build_fragmentation_needed])
def test_icmp_errors_of_a_connector_follow_the_packet_they_quote(
    bed: Bed, build: Callable[[int, bytes, int], bytes | None]
) -> None:
    bed.routed(2, to_echo(AGENT_2))
    error = build(ECHO, to_echo(AGENT_2), 3)
    assert error is not None
    assert bed.send(10, error) == one(error, 2)


def test_icmp_errors_about_no_flow_or_to_another_agent_are_dropped(bed: Bed) -> None:
    bed.routed(2, to_echo(AGENT_2))
    stray = build_unreachable(ECHO, to_echo(AGENT_2, port=4001), 3)
    assert stray is not None
    assert bed.send(10, stray) == []
    about_2 = build_unreachable(ECHO, to_echo(AGENT_2), 3)
    assert about_2 is not None
    forged = build_ipv4(ICMP, ECHO, AGENT_1, about_2[20:])
    assert bed.send(10, forged) == []
    assert bed.stats.drop_no_flow == 2


def test_icmp_errors_of_an_agent_pass_only_about_its_own_flows(bed: Bed) -> None:
    bed.routed(1, to_echo(AGENT_1))
    error = build_unreachable(AGENT_1, from_echo(AGENT_1), 3)
    assert error is not None
    assert bed.routed(1, error) == one(error, 10)
    other = build_unreachable(AGENT_2, from_echo(AGENT_1), 3)
    assert other is not None
    assert bed.routed(2, build_ipv4(ICMP, AGENT_2, ECHO, other[20:])) == []
    assert bed.stats.drop_no_flow == 1
    assert bed.routed(1, build_ipv4(ICMP, AGENT_2, ECHO, error[20:])) == []
    assert bed.stats.drop_source == 1


def fragments(packet: bytes, identification: int) -> tuple[bytes, bytes]:
    source, destination = struct.unpack("!II", packet[12:20])
    first = build_ipv4(
        packet[9], source, destination, packet[20:28], identification=identification, flags_and_offset=0x2000
    )
    last = build_ipv4(packet[9], source, destination, packet[28:], identification=identification, flags_and_offset=1)
    return first, last


def test_fragments_of_both_directions_follow_their_first_one(bed: Bed) -> None:
    first, last = fragments(to_echo(), 7)
    assert bed.routed(1, first) == one(first, 10)
    assert bed.routed(1, last) == one(last, 10)
    first, last = fragments(from_echo(), 9)
    assert bed.send(10, last) == []
    assert bed.stats.drop_fragment == 1
    assert bed.send(10, first) == one(first, 1)
    assert bed.send(10, last) == one(last, 1)
    bed.at(20.0)
    assert bed.send(10, last) == []
    assert bed.stats.drop_fragment == 2


def test_a_later_fragment_with_a_foreign_source_is_dropped(bed: Bed) -> None:
    _, last = fragments(to_echo(AGENT_2), 7)
    assert bed.routed(1, last) == []
    assert bed.stats.drop_source == 1


def test_spoofed_inner_source_is_dropped(bed: Bed) -> None:
    assert bed.routed(1, to_echo(AGENT_2)) == []
    assert bed.routed(1, to_echo(ECHO)) == []
    assert bed.stats.drop_source == 2
    assert bed.core.flows == 0


def test_naming_one_service_and_addressing_another_is_dropped(bed: Bed) -> None:
    sneaky = build_udp(AGENT_1, 4000, GAME, 9999, b"")
    assert bed.routed(1, sneaky, "echo") == []
    assert bed.routed(1, build_udp(AGENT_1, 4000, LEGACY_SERVICE, 9999, b""), "echo") == []
    assert bed.stats.drop_destination == 2


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        (LEGACY, True),
        (0x0A000064, True),
        (ECHO, False),
        (AGENT_1, False),
        (0x7F000001, False),
        (0, False),
        (0xE0000001, False),
        (0xFFFFFFFF, False),
    ],
)
def test_anonymous_agents_use_any_unicast_source_that_is_nobody_elses(source: int, allowed: bool) -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1, None)
    bed.connector(10)
    assert bool(bed.routed(1, to_echo(source))) is allowed
    assert bed.stats.drop_source == (not allowed)


@pytest.mark.parametrize(
    ("destination", "allowed"),
    [(ECHO, True), (LEGACY_SERVICE, True), (HTTP, False), (AGENT_1, False), (0x7F000001, False)],
)
def test_anonymous_agents_reach_no_other_service_by_its_address(destination: int, allowed: bool) -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1, None)
    bed.connector(10)
    assert bool(bed.routed(1, build_udp(LEGACY, 1, destination, 1, b""))) is allowed
    assert bed.stats.drop_destination == (not allowed)


def test_a_flow_that_two_legacy_agents_claim_stays_with_the_first() -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1, None)
    bed.agent(2, None)
    bed.connector(10)
    assert bed.routed(1, to_echo(LEGACY)) == one(to_echo(LEGACY), 10)
    assert bed.routed(2, to_echo(LEGACY)) == []
    assert bed.stats.drop_flow_clash == 1
    assert bed.send(10, from_echo(LEGACY)) == one(from_echo(LEGACY), 1)
    bed.close(1)
    bed.take()
    assert bed.send(10, from_echo(LEGACY)) == []
    assert bed.routed(2, to_echo(LEGACY)) == one(to_echo(LEGACY), 10)


def test_a_reply_to_nothing_is_dropped(bed: Bed) -> None:
    assert bed.send(10, from_echo()) == []
    bed.routed(1, to_echo())
    assert bed.send(10, from_echo(port=4001)) == []
    assert bed.send(10, build_udp(HTTP, 9999, AGENT_1, 4000, b"")) == []
    assert bed.stats.drop_no_flow == 3


def test_a_connector_cannot_answer_for_the_flow_of_another_connector() -> None:
    bed = Bed()
    bed.agent(1)
    bed.connector(10)
    bed.connector(11, "other", "http")
    bed.routed(1, to_echo())
    assert bed.send(11, from_echo()) == []
    assert bed.stats.drop_no_flow == 1


def test_service_routed_needs_the_registration() -> None:
    bed = Bed()
    bed.agent(1, "agent-1", "echo")
    bed.connector(10, "connector", "echo", "http")
    assert bed.routed(1, build_udp(AGENT_1, 1, HTTP, 1, b""), "http") == []
    assert bed.routed(10, to_echo()) == []
    assert bed.stats.drop_not_registered == 2


def test_no_connector(bed: Bed) -> None:
    bed.close(10)
    assert bed.routed(1, to_echo()) == []
    assert bed.stats.drop_no_connector == 1


def test_raw_packets_of_agents_go_by_their_destination(bed: Bed) -> None:
    assert bed.send(1, to_echo()) == one(to_echo(), 10)
    http = build_udp(AGENT_1, 1, HTTP, 1, b"")
    assert bed.send(1, http) == one(http, 10)
    assert bed.send(1, build_udp(AGENT_1, 1, GAME, 1, b"")) == []
    assert bed.send(1, build_udp(AGENT_1, 1, LEGACY_SERVICE, 1, b"")) == []
    assert bed.stats.drop_no_service == 2


def test_raw_packets_of_an_agent_with_one_service_need_no_known_destination() -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1, None)
    bed.connector(10)
    packet = build_udp(LEGACY, 1, LEGACY_SERVICE, 1, b"")
    assert bed.send(1, packet) == one(packet, 10)


def test_a_connection_may_hold_both_roles() -> None:
    bed = Bed(allow_anonymous=True)
    bed.agent(1, None, "http")
    bed.connector(1, None, "echo")
    bed.agent(2, None, "echo")
    bed.connector(10, None, "http")
    packet = build_udp(LEGACY, 4000, ECHO, 9999, b"")
    assert bed.routed(2, packet) == one(packet, 1)
    reply = build_udp(ECHO, 9999, LEGACY, 4000, b"")
    assert bed.send(1, reply) == one(reply, 2)
    own = build_udp(LEGACY, 4000, HTTP, 80, b"")
    assert bed.send(1, own) == one(own, 10)


MALFORMED = [
    b"",
    b"\x45",
    to_echo()[:-1],
    to_echo() + b"\0",
    b"\x60" + to_echo()[1:],
    b"\x44" + to_echo()[1:],
    b"\x4f" + to_echo()[1:30],
    bytes((MessageType.OBSERVED_ADDRESS, 203, 0, 113, 5, 1, 2)),
    bytes.fromhex("5a100000002a"),
    b"\x12\x00\x04echo",
]


@pytest.mark.parametrize("packet", MALFORMED, ids=range(len(MALFORMED)))
def test_only_whole_ipv4_packets_pass_from_agents(bed: Bed, packet: bytes) -> None:
    bed.routed(1, to_echo())
    assert bed.routed(1, packet) == []
    assert bed.stats.drop_malformed == 1


@pytest.mark.parametrize("packet", [p for p in MALFORMED if p[:1] == b"\x45"] + [b"\x4f" + to_echo()[1:30]])
def test_only_whole_ipv4_packets_pass_raw(bed: Bed, packet: bytes) -> None:
    bed.routed(1, to_echo())
    assert bed.send(10, packet) == []
    assert bed.send(1, packet) == []
    assert bed.stats.drop_malformed == 2


@pytest.mark.parametrize("kind", [0x01, 0x12, 0x13, 0x5A, 0x60, 0x00, 0xFF])
def test_control_bytes_are_never_relayed_to_an_agent(bed: Bed, kind: int) -> None:
    bed.routed(1, to_echo())
    assert bed.send(10, bytes((kind,)) + from_echo()[1:]) == []


@pytest.mark.parametrize("protocol", [2, 41, 47, 132])
def test_protocols_without_flows_are_dropped(bed: Bed, protocol: int) -> None:
    assert bed.routed(1, build_ipv4(protocol, AGENT_1, ECHO, bytes(40))) == []
    assert bed.send(10, build_ipv4(protocol, ECHO, AGENT_1, bytes(40))) == []
    assert bed.stats.drop_protocol == 2


def test_packets_with_options_keep_their_flow(bed: Bed) -> None:
    plain = build_udp(AGENT_1, 4000, ECHO, 9999, b"x")
    header = bytearray(plain[:20] + b"\x01\x01\x01\x00")
    header[0] = 0x46
    header[3] += 4
    with_options = bytes(header) + plain[20:]
    assert bed.routed(1, with_options) == one(with_options, 10)
    assert bed.core.flows == 1
    bed.routed(1, plain)
    assert bed.core.flows == 1


def test_truncated_service_routed(bed: Bed) -> None:
    for data in (b"\x2f", b"\x2f\x00", b"\x2f\x04ec"):
        assert bed.send(1, data) == []
    assert bed.stats.drop_truncated == 3


def test_a_full_command_queue_drops_packets_and_counts_them() -> None:
    bed = Bed(limits=IntermediateLimits(commands=5))
    bed.agent(1)
    bed.connector(10)
    assert bed.stats.drop_command_queue == 0
    wrapped = ServiceRouted("echo", to_echo()).encode()
    for _ in range(7):
        bed.core.datagram_received(1, wrapped, 0.0)
    assert len(bed.take()) == 5
    for _ in range(7):
        bed.core.datagram_received(10, from_echo(), 0.0)
    assert len(bed.take()) == 5
    assert bed.stats.drop_command_queue == 4


def test_a_full_flow_table_refuses_an_agent_without_flows() -> None:
    bed = Bed(limits=IntermediateLimits(flows=2))
    bed.agent(1, "agent-1")
    bed.agent(2, "agent-2")
    bed.connector(10)
    for port in (1, 2, 3):
        assert bed.routed(1, to_echo(AGENT_1, port)) != []
    assert bed.routed(2, to_echo(AGENT_2, 1)) == []
    assert (bed.core.flows, bed.stats.flows_evicted, bed.stats.drop_flow_limit) == (2, 1, 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 10, 99]), st.binary(max_size=80)), max_size=30))
def test_fuzzed_datagrams_are_never_relayed_unless_well_formed(inputs: list[tuple[int, bytes]]) -> None:
    bed = Bed()
    bed.agent(1)
    bed.agent(2, "agent-2")
    bed.connector(10)
    for conn, data in inputs:
        for prefix in (b"", b"\x2f\x04echo", b"\x45\x00" + (len(data) + 4).to_bytes(2, "big")):
            for command in bed.send(conn, prefix + data):
                assert isinstance(command, SendDatagram)
                assert command.data[0] in (0x12, 0x13) or (
                    command.data[0] >> 4 == 4 and int.from_bytes(command.data[2:4], "big") == len(command.data)
                )

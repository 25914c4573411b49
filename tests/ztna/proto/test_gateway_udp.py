"""UDP through the gateway."""

import pytest

from tests.ztna.proto.gateway_bed import (
    AGENT,
    BACKEND,
    BUDGET_BYTES,
    ECHO,
    HTTP,
    commands,
    make_gateway,
    packets,
    udp,
    udp_reply,
)
from ztna.proto.gateway_types import (
    CloseUdp,
    EmitPacket,
    GatewayLimits,
    OpenUdp,
    SendUdp,
    SocketError,
)
from ztna.proto.packet import (
    UDP,
    UNREACHABLE_HOST,
    UNREACHABLE_PORT,
    embedded_flow_key,
    icmp_unreachable,
    parse_ipv4,
    parse_udp,
)
from ztna.proto.packet_fragments import Reassembler


def test_first_packet_opens_a_flow_and_the_next_use_it() -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(1000, b"one"), 1.0)
    gateway.packet_received(udp(1000, b"two"), 1.1)
    gateway.packet_received(udp(1001, b"three"), 1.2)
    assert commands(gateway) == [
        OpenUdp(1, BACKEND),
        SendUdp(1, b"one"),
        SendUdp(1, b"two"),
        OpenUdp(2, BACKEND),
        SendUdp(2, b"three"),
    ]
    assert gateway.udp_flows == 2


def test_reply_comes_from_the_virtual_address_and_goes_to_its_own_flow() -> None:
    # Peers in the field answer from the backend's address, to any flow: sockets connected to the service drop that.
    gateway = make_gateway()
    gateway.packet_received(udp(1000), 1.0)
    gateway.packet_received(udp(2000, source=AGENT + 1), 1.0)
    commands(gateway)
    gateway.udp_received(2, b"second", 1.1)
    gateway.udp_received(1, b"first", 1.1)
    second, first = commands(gateway)
    assert udp_reply(first) == (ECHO, 9999, AGENT, 1000, b"first")
    assert udp_reply(second) == (ECHO, 9999, AGENT + 1, 2000, b"second")


def test_reply_vector_with_our_differences() -> None:
    # The worked reply has the backend as its source and no checksum; ours has the virtual address and one.
    gateway = make_gateway()
    gateway.packet_received(udp(12345, b"Hello"), 1.0)
    commands(gateway)
    gateway.udp_received(1, b"Hello", 1.0)
    (command,) = commands(gateway)
    assert isinstance(command, EmitPacket)
    packet = command.packet
    assert packet[:10].hex() == "45000021000040004011"
    assert packet[12:26] == bytes.fromhex("64400064 64400101 270f 3039 000d")
    assert packet[26:28] != b"\0\0"
    assert packet[28:] == b"Hello"


def test_empty_datagrams_pass_both_ways() -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(1000, b""), 1.0)
    assert commands(gateway)[1] == SendUdp(1, b"")
    gateway.udp_received(1, b"", 1.0)
    assert udp_reply(*commands(gateway)) == (ECHO, 9999, AGENT, 1000, b"")


@pytest.mark.parametrize("size", [BUDGET_BYTES - 28, BUDGET_BYTES - 27, 9000, 65507])
def test_large_replies_are_fragmented_to_the_budget(size: int) -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(), 1.0)
    commands(gateway)
    data = bytes(index & 0xFF for index in range(size))
    gateway.udp_received(1, data, 1.0)
    found = [command.packet for command in commands(gateway) if isinstance(command, EmitPacket)]
    assert all(len(packet) <= BUDGET_BYTES for packet in found)
    assert (len(found) == 1) is (size + 28 <= BUDGET_BYTES)
    if len(found) > 1:
        # DF must be clear: a link on the agent's side may have to cut again.
        assert all(not packet[6] & 0x40 for packet in found)
        reassembler = Reassembler(1_000_000, 10)
        for packet in found:
            ip = parse_ipv4(packet)
            assert ip is not None
            whole = reassembler.add(ip, packet, 1.0)
        assert whole is not None
        datagram = parse_udp(whole.packet.source, whole.packet.destination, whole.packet.payload)
        assert datagram is not None
        assert datagram.payload == data


def test_fragmented_replies_have_different_identifications() -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(), 1.0)
    commands(gateway)
    gateway.udp_received(1, bytes(2000), 1.0)
    gateway.udp_received(1, bytes(2000), 1.0)
    assert len({packet.identification for packet in packets(commands(gateway))}) == 2


def test_smaller_budget_fragments_sooner() -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(), 1.0)
    commands(gateway)
    gateway.set_budget(1142)
    gateway.udp_received(1, bytes(1142 - 27), 1.0)
    assert len(commands(gateway)) == 2


def test_port_that_is_not_admitted_is_unreachable() -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(destination=HTTP, to=80), 1.0)
    (command,) = commands(gateway)
    assert isinstance(command, EmitPacket)
    assert icmp_unreachable(command.packet) == (UNREACHABLE_PORT, 0)
    assert gateway.stats.dropped_port_refused == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SocketError.REFUSED, UNREACHABLE_PORT),
        (SocketError.UNREACHABLE, UNREACHABLE_HOST),
        (SocketError.OTHER, UNREACHABLE_HOST),
    ],
)
def test_backend_errors_become_icmp_errors_about_the_last_packet(error: SocketError, code: int) -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(1000, b"lost"), 1.0)
    commands(gateway)
    gateway.udp_error(1, error, 1.1)
    (command,) = commands(gateway)
    assert isinstance(command, EmitPacket)
    assert icmp_unreachable(command.packet)[0] == code
    assert embedded_flow_key(command.packet) == (UDP, AGENT, 1000, ECHO, 9999)
    # One error for one packet.
    gateway.udp_error(1, error, 1.2)
    assert commands(gateway) == []
    assert gateway.udp_flows == 1


def test_flows_expire_a_minute_after_the_last_datagram_of_either_side() -> None:
    gateway = make_gateway()
    gateway.packet_received(udp(1000), 0.0)
    gateway.packet_received(udp(1001), 1.0)
    gateway.udp_received(1, b"reply", 30.0)
    commands(gateway)
    assert gateway.get_timer() == 61.0
    gateway.handle_timer(61.0)
    assert commands(gateway) == [CloseUdp(2)]
    assert gateway.get_timer() == 90.0
    gateway.handle_timer(90.0)
    assert commands(gateway) == [CloseUdp(1)]
    assert gateway.udp_flows == 0
    assert gateway.stats.udp_flows_expired == 2
    # What was flow 1 is a new flow now; numbers are not used twice.
    gateway.packet_received(udp(1000), 91.0)
    assert commands(gateway)[0] == OpenUdp(3, BACKEND)


def test_one_source_cannot_take_the_whole_table() -> None:
    gateway = make_gateway(GatewayLimits(udp_flows=100, udp_flows_per_source=10))
    for port in range(1, 50):
        gateway.packet_received(udp(port), 1.0)
    assert gateway.udp_flows == 10
    assert gateway.stats.dropped_udp_flow_limit == 39
    gateway.packet_received(udp(1, source=AGENT + 1), 1.0)
    assert gateway.udp_flows == 11


def test_full_table_drops_the_flow_silent_longest_for_a_new_one() -> None:
    gateway = make_gateway(GatewayLimits(udp_flows=3))
    for port in (1, 2, 3):
        gateway.packet_received(udp(port), float(port))
    gateway.packet_received(udp(1), 4.0)
    commands(gateway)
    gateway.packet_received(udp(9), 10.0)
    assert commands(gateway)[0] == CloseUdp(2)
    assert gateway.udp_flows == 3
    assert gateway.stats.udp_flows_evicted == 1


def test_full_table_of_active_flows_takes_no_new_one() -> None:
    gateway = make_gateway(GatewayLimits(udp_flows=3))
    for port in (1, 2, 3, 4):
        gateway.packet_received(udp(port), 1.0)
    assert gateway.udp_flows == 3
    assert gateway.stats.dropped_udp_flow_limit == 1

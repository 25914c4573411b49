"""Packet codecs against the worked vectors of `ztna-v1`, against arithmetic, and against arbitrary bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto import packet as p

AGENT, SERVICE = 0x64400001, 0x0A640001  # 100.64.0.1 and 10.100.0.1, the addresses of the vectors
UDP_PACKET = bytes.fromhex("45000021 00004000 4011cc26 64400001 0a640001 3039 270f 000d 0000 48656c6c6f")
ECHO_PACKET = bytes.fromhex("45000020 00004000 4001cc37 64400001 0a640001 0800 192d 0001 0001 70696e67")
ECHO_REPLY = bytes.fromhex("45000020 00004000 4001cc37 0a640001 64400001 0000 212d 0001 0001 70696e67")
SYN_PACKET = bytes.fromhex(
    "45000028 00004000 4006cc2a 64400001 0a640001 9c40 0050 000003e8 00000000 5002 ffff a0c4 0000"
)

ADDRESSES = st.integers(0, 0xFFFFFFFF)
PORTS = st.integers(0, 0xFFFF)


def by_the_book(data: bytes) -> int:
    """RFC 1071 s4.1 in words of 16 bits."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@given(st.binary(min_size=1, max_size=200).filter(any))
def test_checksum_is_the_one_of_rfc_1071(data: bytes) -> None:
    assert p.checksum(data) == by_the_book(data)


def test_checksum_of_a_sum_that_folds_to_all_ones_is_zero() -> None:
    assert p.checksum(b"\xff\xff") == by_the_book(b"\xff\xff") == 0
    assert p.checksum(b"\x12\x34\xed\xcb") == 0


def test_udp_vector() -> None:
    ip = p.parse_ipv4(UDP_PACKET)
    assert ip is not None
    assert (ip.source, ip.destination, ip.protocol) == (AGENT, SERVICE, p.UDP)
    assert p.parse_udp(ip.source, ip.destination, ip.payload) == p.UdpDatagram(12345, 9999, b"Hello")


def test_our_udp_differs_from_the_vector_only_in_having_a_checksum() -> None:
    built = p.build_udp(AGENT, 12345, SERVICE, 9999, b"Hello")
    assert built[:26] == UDP_PACKET[:26]
    assert built[28:] == UDP_PACKET[28:]
    check = int.from_bytes(built[26:28], "big")
    pseudo = built[12:20] + bytes([0, p.UDP]) + built[24:26]
    assert check
    assert by_the_book(pseudo + built[20:]) == 0


def test_echo_vector() -> None:
    ip = p.parse_ipv4(ECHO_PACKET)
    assert ip is not None
    message = p.parse_echo(ip.payload)
    assert message == p.EchoMessage(False, 1, 1, b"ping")
    assert p.build_echo_request(AGENT, SERVICE, 1, 1, b"ping") == ECHO_PACKET
    assert p.build_echo_reply(SERVICE, AGENT, 1, 1, b"ping") == ECHO_REPLY


@given(ADDRESSES, PORTS, ADDRESSES, PORTS, st.binary(max_size=300))
def test_udp_round_trip(source: int, source_port: int, destination: int, destination_port: int, data: bytes) -> None:
    packet = p.build_udp(source, source_port, destination, destination_port, data)
    assert p.well_formed(packet)
    assert by_the_book(packet[:20]) == 0
    ip = p.parse_ipv4(packet)
    assert ip is not None
    assert p.parse_udp(ip.source, ip.destination, ip.payload) == (source_port, destination_port, data)
    assert packet[20:] == p.udp_payload(source, source_port, destination, destination_port, data)
    assert p.flow_key(packet) == (p.UDP, source, source_port, destination, destination_port)


def test_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() -> None:
    # RFC 768: zero on the wire says that there is none.
    for word in range(0x10000):
        packet = p.build_udp(1, 2, 3, 4, word.to_bytes(2, "big"))
        if packet[26:28] == b"\xff\xff":
            break
    else:
        pytest.fail("one of all 16-bit words must give it")
    ip = p.parse_ipv4(packet)
    assert ip is not None
    assert p.parse_udp(ip.source, ip.destination, ip.payload) is not None


def test_every_single_bit_error_of_a_udp_packet_is_noticed() -> None:
    good = p.build_udp(AGENT, 12345, SERVICE, 9999, b"Hello")
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit >> 3] ^= 1 << (bit & 7)
        ip = p.parse_ipv4(bytes(bad))
        if ip is not None:
            assert p.parse_udp(ip.source, ip.destination, ip.payload) is None


@given(ADDRESSES, PORTS, ADDRESSES, PORTS, st.binary(max_size=100))
def test_short_way_agrees_with_the_long_one(
    source: int, source_port: int, destination: int, destination_port: int, data: bytes
) -> None:
    packet = p.build_udp(source, source_port, destination, destination_port, data)
    assert p.sound_udp(packet) == (source, source_port, destination, destination_port)


def test_short_way_leaves_all_but_plain_packets_to_the_long_one() -> None:
    good = p.build_udp(AGENT, 12345, SERVICE, 9999, b"Hello")
    assert p.sound_udp(UDP_PACKET) == (AGENT, 12345, SERVICE, 9999)
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit >> 3] ^= 1 << (bit & 7)
        assert p.sound_udp(bytes(bad)) is None
    for size in range(len(good)):
        assert p.sound_udp(good[:size]) is None
    fragment = p.build_ipv4(p.UDP, AGENT, SERVICE, good[20:], flags_and_offset=0x2000)
    assert p.sound_udp(fragment) is None
    assert p.sound_udp(with_options(good)) is None
    assert p.sound_udp(SYN_PACKET) is None


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (UDP_PACKET, True),
        (b"", False),
        (UDP_PACKET[:19], False),
        (UDP_PACKET[:-1], False),
        (UDP_PACKET + b"\0", False),
        (b"\x65" + UDP_PACKET[1:], False),
        (b"\x44" + UDP_PACKET[1:], False),
        (b"\x4f" + UDP_PACKET[1:], False),
        (b"\x46" + UDP_PACKET[1:], True),
        (bytes([0x10, 4]) + b"echo" + bytes(20), False),
    ],
)
def test_well_formed(packet: bytes, expected: bool) -> None:
    assert p.well_formed(packet) is expected


def with_options(packet: bytes) -> bytes:
    """The same packet with four bytes of IP options (no operation)."""
    header = bytearray(packet[:20])
    header[0] = 0x46
    header[2:4] = (len(packet) + 4).to_bytes(2, "big")
    header[10:12] = b"\0\0"
    header += b"\x01\x01\x01\x00"
    header[10:12] = by_the_book(bytes(header)).to_bytes(2, "big")
    return bytes(header) + packet[20:]


def test_options_before_the_payload_are_skipped() -> None:
    packet = with_options(UDP_PACKET)
    ip = p.parse_ipv4(packet)
    assert ip is not None
    assert ip.payload == UDP_PACKET[20:]
    assert p.flow_key(packet) == (p.UDP, AGENT, 12345, SERVICE, 9999)
    assert p.flow_key(with_options(ECHO_PACKET)) == (p.ICMP, AGENT, 1, SERVICE, 1)


def test_flow_keys() -> None:
    assert p.flow_key(SYN_PACKET) == (p.TCP, AGENT, 40000, SERVICE, 80)
    assert p.flow_key(ECHO_PACKET) == (p.ICMP, AGENT, 1, SERVICE, 1)
    assert p.flow_key(ECHO_REPLY) == (p.ICMP, SERVICE, 1, AGENT, 1)
    assert p.flow_key(UDP_PACKET[:23]) is None
    assert p.flow_key(p.build_ipv4(47, 1, 2, bytes(30))) is None


def test_later_fragments_have_no_flow_but_share_a_key_with_the_first() -> None:
    first = p.build_ipv4(p.UDP, 1, 2, bytes(64), identification=7, flags_and_offset=0x2000)
    later = p.build_ipv4(p.UDP, 1, 2, bytes(64), identification=7, flags_and_offset=8)
    assert p.flow_key(first) == (p.UDP, 1, 0, 2, 0)
    assert p.flow_key(later) is None
    assert p.fragment_key(first) == p.fragment_key(later) == (p.UDP, 1, 2, 7)
    assert p.fragment_key(UDP_PACKET) is None
    assert p.fragment_key(b"\x45") is None


def test_unreachable_quotes_the_packet_it_is_about() -> None:
    error = p.build_unreachable(SERVICE, UDP_PACKET, p.UNREACHABLE_PORT)
    assert error is not None
    ip = p.parse_ipv4(error)
    assert ip is not None
    assert (ip.source, ip.destination, ip.protocol) == (SERVICE, AGENT, p.ICMP)
    assert by_the_book(ip.payload) == 0
    assert ip.payload[:2] == bytes([3, 3])
    assert ip.payload[8:] == UDP_PACKET
    assert p.flow_key(error) is None
    assert p.embedded_flow_key(error) == (p.UDP, AGENT, 12345, SERVICE, 9999)
    assert p.icmp_unreachable(error) == (p.UNREACHABLE_PORT, 0)


def test_fragmentation_needed_carries_the_mtu() -> None:
    error = p.build_fragmentation_needed(SERVICE, p.build_udp(AGENT, 1, SERVICE, 2, bytes(1400)), 1294)
    assert error is not None
    assert p.icmp_unreachable(error) == (p.UNREACHABLE_FRAGMENTATION_NEEDED, 1294)
    assert len(error) == 576
    assert p.embedded_flow_key(error) == (p.UDP, AGENT, 1, SERVICE, 2)


@pytest.mark.parametrize(
    "original",
    [
        p.build_unreachable(SERVICE, UDP_PACKET, 1),
        p.build_ipv4(p.UDP, AGENT, SERVICE, bytes(16), flags_and_offset=3),
        p.build_udp(0x7F000001, 1, SERVICE, 2, b""),
        p.build_udp(0, 1, SERVICE, 2, b""),
        p.build_udp(0xE0000001, 1, SERVICE, 2, b""),
        p.build_udp(AGENT, 1, 0xE0000001, 2, b""),
        b"\x45\0",
    ],
    ids=["error", "later fragment", "from loopback", "from nowhere", "from multicast", "to multicast", "short"],
)
def test_no_error_about_what_must_not_cause_one(original: bytes) -> None:
    assert p.build_unreachable(SERVICE, original, 1) is None


def test_errors_that_are_none_have_no_embedded_flow() -> None:
    assert p.embedded_flow_key(ECHO_PACKET) is None
    assert p.embedded_flow_key(UDP_PACKET + bytes(40)) is None
    assert p.icmp_unreachable(ECHO_PACKET) == (-1, 0)
    assert p.icmp_unreachable(UDP_PACKET) == (-1, 0)


@given(st.binary(max_size=120))
def test_arbitrary_bytes_raise_nothing(data: bytes) -> None:
    for candidate in (data, b"\x45" + data, UDP_PACKET[:20] + data):
        p.flow_key(candidate)
        p.fragment_key(candidate)
        p.embedded_flow_key(candidate)
        p.build_unreachable(SERVICE, candidate, 1)
        if p.well_formed(candidate):
            p.icmp_unreachable(candidate)
            ip = p.parse_ipv4(candidate)
            if ip is not None:
                p.parse_udp(ip.source, ip.destination, ip.payload)
                p.parse_echo(ip.payload)


def test_truncated_udp_is_refused() -> None:
    for payload in (b"", bytes(7), bytes.fromhex("0001000200090000"), bytes.fromhex("0001000200070000")):
        assert p.parse_udp(1, 2, payload) is None


def test_address_text() -> None:
    assert p.address_text(AGENT) == "100.64.0.1"

"""TCP segments: the worked vectors of `ztna-v1`, options, and arbitrary bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.packet import TCP, build_ipv4, parse_ipv4
from ztna.proto.tcp_segment import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    Segment,
    SegmentBuilder,
    TcpOptions,
    parse_tcp,
    ports_of,
    rst_for,
    sound_tcp,
)

AGENT, SERVICE = 0x64400001, 0x0A640001
FROM_AGENT = SegmentBuilder(AGENT, 40000, SERVICE, 80)
FROM_SERVICE = SegmentBuilder(SERVICE, 80, AGENT, 40000)
ISN = 0x01020304

VECTORS = {
    "syn": (
        FROM_AGENT,
        Segment(1000, 0, SYN, 65535),
        "45000028 00004000 4006cc2a 64400001 0a640001 9c40 0050 000003e8 00000000 5002 ffff a0c4 0000",
    ),
    "syn-ack": (
        FROM_SERVICE,
        Segment(ISN, 1001, SYN | ACK, 65535),
        "45000028 00004000 4006cc2a 0a640001 64400001 0050 9c40 01020304 000003e9 5012 ffff 9cad 0000",
    ),
    "reset": (
        FROM_SERVICE,
        Segment(0, 1001, RST | ACK, 0),
        "45000028 00004000 4006cc2a 0a640001 64400001 0050 9c40 00000000 000003e9 5014 0000 a0b1 0000",
    ),
    "ack": (
        FROM_SERVICE,
        Segment(ISN + 1, 1006, ACK, 65535),
        "45000028 00004000 4006cc2a 0a640001 64400001 0050 9c40 01020305 000003ee 5010 ffff 9ca9 0000",
    ),
    "data": (
        FROM_SERVICE,
        Segment(ISN + 1, 1006, PSH | ACK, 65535, b"ping!"),
        "4500002d 00004000 4006cc25 0a640001 64400001 0050 9c40 01020305 000003ee 5018 ffff 9ccb 0000 70696e6721",
    ),
    "fin": (
        FROM_SERVICE,
        Segment(ISN + 6, 1006, FIN | ACK, 65535),
        "45000028 00004000 4006cc2a 0a640001 64400001 0050 9c40 0102030a 000003ee 5011 ffff 9ca3 0000",
    ),
}


@pytest.mark.parametrize(("builder", "segment", "text"), VECTORS.values(), ids=VECTORS)
def test_vectors_both_ways(builder: SegmentBuilder, segment: Segment, text: str) -> None:
    packet = bytes.fromhex(text)
    assert builder.build(segment) == packet
    ip = parse_ipv4(packet)
    assert ip is not None
    assert parse_tcp(ip.source, ip.destination, ip.payload) == segment
    assert set(ports_of(ip.payload)) == {40000, 80}


def test_reset_for_a_syn_is_the_vector() -> None:
    _, syn, _ = VECTORS["syn"]
    _, reset, _ = VECTORS["reset"]
    assert rst_for(syn) == reset


def test_reset_for_an_acknowledgment_takes_its_number() -> None:
    assert rst_for(Segment(5, 77, ACK, 0, b"abc")) == Segment(77, 0, RST, 0)
    assert rst_for(Segment(5, 77, RST | ACK, 0)) is None


def test_length_counts_syn_and_fin() -> None:
    assert Segment(0, 0, SYN | FIN, 0, b"abc").length == 5
    assert Segment(0, 0, ACK, 0).length == 0


OPTIONS = st.builds(
    TcpOptions,
    mss=st.none() | st.integers(0, 65535),
    window_shift=st.none() | st.integers(0, 14),
    sack_permitted=st.booleans(),
    sack_blocks=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=2).map(tuple),
)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 63),
    st.integers(0, 65535),
    st.binary(max_size=100),
    OPTIONS,
)
def test_round_trip(seq: int, ack: int, flags: int, window: int, payload: bytes, options: TcpOptions) -> None:
    segment = Segment(seq, ack, flags, window, payload, options)
    packet = FROM_AGENT.build(segment)
    ip = parse_ipv4(packet)
    assert ip is not None
    assert parse_tcp(ip.source, ip.destination, ip.payload) == segment
    assert sound_tcp(packet) == ((AGENT, 40000, SERVICE, 80), segment)


def test_kernel_syn_options_are_understood_and_unknown_ones_skipped() -> None:
    # MSS 1254, SACK permitted, timestamps, no operation, window scale 7: what Linux sends.
    options = bytes.fromhex("020404e6 0402 080a 01020304 00000000 01 030307")
    plain = FROM_AGENT.build(Segment(1, 0, SYN, 64240, options))
    raw = bytearray(plain)
    raw[32] = 5 + len(options) // 4 << 4
    raw[36:38] = b"\0\0"
    pseudo = raw[12:20] + bytes([0, 6]) + (len(raw) - 20).to_bytes(2, "big")
    raw[36:38] = (-int.from_bytes(pseudo + raw[20:], "big") % 0xFFFF).to_bytes(2, "big")
    segment = parse_tcp(AGENT, SERVICE, bytes(raw[20:]))
    assert segment is not None
    assert segment.options == TcpOptions(1254, 7, True)
    assert segment.payload == b""


def test_wrong_checksum_is_refused() -> None:
    packet = FROM_AGENT.build(Segment(1, 2, ACK, 3, b"data"))
    for at in range(20, len(packet)):
        bad = bytearray(packet)
        bad[at] ^= 0x10
        assert parse_tcp(AGENT, SERVICE, bytes(bad[20:])) is None
        assert sound_tcp(bytes(bad)) is None


def test_short_way_leaves_all_but_plain_packets_to_the_long_one() -> None:
    good = FROM_AGENT.build(Segment(1, 2, ACK, 3, b"data", TcpOptions(sack_blocks=((1, 2),))))
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit >> 3] ^= 1 << (bit & 7)
        assert sound_tcp(bytes(bad)) is None
    for size in range(len(good)):
        assert sound_tcp(good[:size]) is None
    assert sound_tcp(build_ipv4(TCP, AGENT, SERVICE, good[20:], flags_and_offset=0x2000)) is None


@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_nothing(data: bytes) -> None:
    parse_tcp(AGENT, SERVICE, data)


@given(st.binary(min_size=0, max_size=40))
def test_any_options_field_is_parsed_or_skipped(options: bytes) -> None:
    options += bytes(-len(options) % 4)
    raw = bytearray(FROM_AGENT.build(Segment(1, 0, SYN, 1, options))[20:])
    raw[12] = 5 + len(options) // 4 << 4
    raw[16:18] = b"\0\0"
    raw[16:18] = (-(int.from_bytes(raw, "big") + AGENT + SERVICE + 6 + len(raw)) % 0xFFFF).to_bytes(2, "big")
    segment = parse_tcp(AGENT, SERVICE, bytes(raw))
    assert segment is not None
    assert segment.payload == b""

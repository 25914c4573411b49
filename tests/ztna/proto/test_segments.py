"""Super-segments cut and joined; the reference is the packet module's own checks and builders."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.packet import TCP, UDP, build_ipv4, build_udp, checksum, sound_udp, udp_payload, well_formed
from ztna.proto.segments import (
    ACK,
    CWR,
    FIN,
    GSO_ECN,
    GSO_TCP4,
    GSO_UDP4,
    META_BYTES,
    NEEDS_CHECKSUM,
    PSH,
    Meta,
    finish,
    join,
    parse_meta,
    split,
)

SOURCE, DESTINATION = 0x64400101, 0x64400064
LEFT = frozenset({SOURCE.to_bytes(4, "big")})
NONE: frozenset[bytes] = frozenset()
OPTIONS = bytes.fromhex("0101080a0102030405060708")


def tcp(data: bytes, *, sequence: int = 1000, flags: int = ACK, options: bytes = OPTIONS, port: int = 40000,
        window: int = 500) -> bytes:  # fmt: skip
    """A TCP packet with a complete checksum."""
    head = struct.pack(
        "!HHIIBBHHH", port, 80, sequence, 77, (20 + len(options)) << 2, flags, window, 0, 0
    ) + options  # fmt: skip
    pseudo = SOURCE + DESTINATION + TCP + len(head) + len(data)
    value = checksum(head + data, pseudo) or 0xFFFF
    return build_ipv4(TCP, SOURCE, DESTINATION, head[:16] + struct.pack("!H", value) + head[18:] + data)


def tcp_sound(packet: bytes) -> bool:
    payload = packet[20:]
    pseudo = int.from_bytes(packet[12:20], "big") + packet[9] + len(payload)
    return well_formed(packet) and not checksum(packet[:20]) and not checksum(payload, pseudo)


def super_segment(data: bytes, flags: int = ACK, options: bytes = OPTIONS) -> bytes:
    return tcp(data, flags=flags, options=options)


def tcp_meta(size: int, kind: int = GSO_TCP4) -> Meta:
    return Meta(NEEDS_CHECKSUM, kind, 52, size, 20, 16)


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 1400), st.sampled_from([b"", OPTIONS]))
def test_tcp_is_cut_into_sound_packets_with_all_bytes_in_order(data: bytes, size: int, options: bytes) -> None:
    packets = split(tcp_meta(size), super_segment(data, options=options), unfinished=False)
    assert packets is not None
    head = 40 + len(options)
    assert all(map(tcp_sound, packets))
    assert b"".join(packet[head:] for packet in packets) == data
    assert [int.from_bytes(packet[24:28], "big") for packet in packets] == [
        1000 + size * number for number in range(len(packets))
    ]
    assert all(packet[40:head] == options for packet in packets)


def test_flags_stand_where_the_kernel_would_put_them() -> None:
    packets = split(
        tcp_meta(100, GSO_TCP4 | GSO_ECN), super_segment(bytes(250), flags=ACK | FIN | PSH | CWR), unfinished=False
    )
    assert packets is not None
    assert [packet[33] for packet in packets] == [ACK | CWR, ACK, ACK | FIN | PSH]


def test_sequence_numbers_wrap() -> None:
    packets = split(tcp_meta(100), tcp(bytes(200), sequence=0xFFFFFFFF), unfinished=False)
    assert packets is not None
    assert [int.from_bytes(packet[24:28], "big") for packet in packets] == [0xFFFFFFFF, 99]


@given(st.binary(min_size=1, max_size=3000), st.integers(1, 1400))
def test_udp_is_cut_into_sound_datagrams(data: bytes, size: int) -> None:
    packet = build_udp(SOURCE, 1234, DESTINATION, 53, data)
    packets = split(Meta(NEEDS_CHECKSUM, GSO_UDP4, 28, size, 20, 6), packet, unfinished=False)
    assert packets is not None
    assert all(well_formed(each) and sound_udp(each) for each in packets)
    assert b"".join(each[28:] for each in packets) == data
    assert all(each[20:24] == packet[20:24] for each in packets)


def test_ip_options_stay_in_every_packet() -> None:
    plain = tcp(bytes(range(200)))
    packet = b"\x46" + plain[1:20] + b"\x01\x01\x01\x00" + plain[20:]
    packets = split(tcp_meta(150), packet, unfinished=False)
    assert packets is not None
    assert [each[20:24] for each in packets] == [b"\x01\x01\x01\x00"] * 2
    assert not any(checksum(each[:24]) for each in packets)


@pytest.mark.parametrize(
    ("meta", "packet"),
    [
        (tcp_meta(0), tcp(bytes(100))),
        (tcp_meta(50), b""),
        (tcp_meta(50), tcp(b"")[:30]),
        (tcp_meta(50), build_udp(SOURCE, 1, DESTINATION, 2, bytes(100))),
        (tcp_meta(50, 4), tcp(bytes(100))),
        (tcp_meta(50), tcp(bytes(100))[:32] + b"\xf0" + bytes(7)),
        (tcp_meta(50), tcp(bytes(100))[:32] + b"\x10" + bytes(30)),
    ],
)
def test_what_the_meta_data_does_not_describe_is_refused(meta: Meta, packet: bytes) -> None:
    assert split(meta, packet, unfinished=False) is None


def test_a_checksum_that_the_kernel_left_unfinished_is_completed() -> None:
    whole = tcp(b"some data")
    pseudo = (int.from_bytes(whole[12:20], "big") + TCP + len(whole) - 20) % 0xFFFF
    unfinished = whole[:36] + struct.pack("!H", pseudo) + whole[38:]
    assert finish(unfinished, 20, 16) == whole


def test_a_field_outside_the_packet_is_refused() -> None:
    assert finish(tcp(b""), 20, 100) is None
    assert finish(tcp(b""), 8, 2) is None


def written(write: tuple[int, list[bytes]]) -> tuple[Meta, bytes]:
    whole = b"".join(write[1])
    return parse_meta(whole), whole[META_BYTES:]


@given(st.binary(min_size=1, max_size=20_000), st.integers(20, 1400), st.booleans())
def test_what_was_cut_is_joined_to_the_same(data: bytes, size: int, unfinished: bool) -> None:
    cut = split(tcp_meta(size), super_segment(data, flags=ACK | PSH), unfinished=unfinished)
    assert cut is not None
    joined = join(cut, LEFT if unfinished else NONE)
    assert [count for count, _ in joined] == [len(cut)]
    meta, packet = written(joined[0])
    assert packet[52:] == data
    assert packet[33] & PSH
    assert well_formed(packet)
    assert not checksum(packet[:20])
    if len(cut) > 1:
        assert (meta.gso_type, meta.gso_bytes, meta.header_bytes) == (GSO_TCP4, size, 52)
        again = split(meta, packet, unfinished=False)
        assert again is not None
        assert [each[52:] for each in again] == [each[52:] for each in cut]
        assert all(map(tcp_sound, again))
        whole = finish(packet, meta.checksum_start, meta.checksum_offset)
        assert whole is not None
        assert tcp_sound(whole)


def test_flows_are_joined_apart_and_stay_in_order() -> None:
    packets = [
        tcp(bytes(100), sequence=0, port=1), tcp(b"b" * 90, sequence=0, port=2), tcp(bytes(100), sequence=100, port=1),
        tcp(b"c" * 90, sequence=90, port=2), tcp(b"", sequence=180, port=2, flags=ACK | FIN),
    ]  # fmt: skip
    joined = [written(each)[1] for each in join(packets, NONE)]
    assert [len(each) for each in joined] == [52 + 200, 52 + 180, 52]


@pytest.mark.parametrize(
    "second",
    [
        tcp(bytes(100), sequence=1101),
        tcp(bytes(101), sequence=1100),
        tcp(bytes(100), sequence=1100, window=501),
        tcp(bytes(100), sequence=1100, options=OPTIONS[:-1] + b"\x00"),
        tcp(bytes(100), sequence=1100, flags=ACK | 0x02),
        tcp(bytes(100), sequence=1100, port=2),
        tcp(bytes(100), sequence=1100)[:1] + b"\x03" + tcp(bytes(100), sequence=1100)[2:],
        tcp(bytes(100), sequence=1100)[:6] + b"\x20\x00" + tcp(bytes(100), sequence=1100)[8:],
        tcp(bytes(100), sequence=1100) + b"x",
    ],
    ids=["gap", "longer", "window", "options", "syn", "flow", "tos", "fragment", "trailer"],
)
def test_packets_that_differ_are_not_joined(second: bytes) -> None:
    first = tcp(bytes(100))
    assert [b"".join(each[1])[META_BYTES:] for each in join([first, second], NONE)] == [first, second]


def test_a_shorter_packet_ends_a_run() -> None:
    packets = [tcp(bytes(100)), tcp(bytes(50), sequence=1100), tcp(bytes(50), sequence=1150)]
    assert [len(b"".join(each[1])) - META_BYTES - 52 for each in join(packets, NONE)] == [150, 50]


def test_super_segments_stay_within_one_ip_packet() -> None:
    packets = [tcp(bytes(1400), sequence=1000 + 1400 * number) for number in range(60)]
    assert all(len(b"".join(each[1])) <= 65535 + META_BYTES for each in join(packets, NONE))


def test_udp_of_one_size_is_joined_and_taken_apart_again() -> None:
    packets = [build_udp(SOURCE, 1, DESTINATION, 2, bytes([number]) * 200) for number in range(70)]
    joined = [written(each) for each in join(packets, NONE)]
    assert [len(packet) - 28 for _, packet in joined] == [64 * 200, 6 * 200]
    again = split(*joined[0], unfinished=False)
    assert again is not None
    assert [each[28:] for each in again] == [each[28:] for each in packets[:64]]
    assert all(map(sound_udp, again))
    assert len(join(packets, NONE, udp=False)) == 70


@pytest.mark.parametrize("packet", [tcp(b"x" * 11), tcp(b""), build_udp(SOURCE, 1, DESTINATION, 2, b"odd")])
def test_the_kernel_is_told_to_finish_a_single_packet_of_a_peer_that_does_not(packet: bytes) -> None:
    offset = 16 if packet[9] == TCP else 6
    left = packet[: 20 + offset] + b"\xde\xad" + packet[22 + offset :]
    meta, given = written(join([left], LEFT)[0])
    assert meta.flags == NEEDS_CHECKSUM
    assert finish(given, meta.checksum_start, meta.checksum_offset) == packet


@pytest.mark.parametrize(
    "packet",
    [
        b"", b"E", bytes(19), build_ipv4(1, SOURCE, DESTINATION, bytes(16)),
        build_ipv4(UDP, SOURCE, DESTINATION, udp_payload(SOURCE, 1, DESTINATION, 2, bytes(64)), flags_and_offset=1),
        build_ipv4(TCP, SOURCE, DESTINATION, bytes(9)),
    ],
    ids=["empty", "one", "short", "icmp", "fragment", "half a header"],
)  # fmt: skip
@pytest.mark.parametrize("unfinished", [True, False])
def test_odd_packets_are_passed_as_they_are(packet: bytes, unfinished: bool) -> None:
    meta, given = written(join([packet], LEFT if unfinished else NONE)[0])
    assert (meta, given) == (Meta(0, 0, 0, 0, 0, 0), packet)


@given(st.lists(st.binary(max_size=120), max_size=20), st.booleans())
def test_no_bytes_break_it(packets: list[bytes], unfinished: bool) -> None:
    join(packets, LEFT if unfinished else NONE)


@given(st.binary(max_size=120), st.integers(0, 65535), st.sampled_from([0, 1, 5, 0x81]), st.booleans())
def test_no_meta_data_breaks_it(packet: bytes, size: int, kind: int, unfinished: bool) -> None:
    split(Meta(1, kind, 40, size, 20, 16), packet, unfinished)


def test_datagrams_that_are_alike_are_joined_around_those_that_are_not() -> None:
    def of(port: int, size: int, count: int) -> list[bytes]:
        return [build_udp(SOURCE, port, DESTINATION, 2, bytes([number]) * size) for number in range(count)]

    packets = (
        of(1, 200, 3) + of(9, 200, 2) + of(1, 200, 4) + of(1, 100, 1) + of(1, 200, 70) + [tcp(b"x")] + of(9, 200, 2)
    )
    joined = join(packets, NONE)
    # A shorter one may only be the last of its run, and a run has 64 at most.
    assert [count for count, _ in joined] == [8, 4, 64, 6, 1]
    for port in (1, 9):
        arrived = [
            each
            for count, buffers in joined
            if b"".join(buffers)[30:32] == port.to_bytes(2, "big")
            for each in split(parse_meta(buffers[0]), b"".join(buffers[1:]), unfinished=False) or []
        ]
        assert [each[28:] for each in arrived] == [
            each[28:] for each in packets if each[20:22] == port.to_bytes(2, "big")
        ]

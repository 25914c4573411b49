"""Fragments: any packet survives being cut and put together in any order, within bounds."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ztna.proto.packet import UDP, build_ipv4, parse_ipv4, udp_payload
from ztna.proto.packet_fragments import Reassembler, Whole, fragment


def cut(data: bytes, budget_bytes: int = 600, identification: int = 9) -> list[bytes]:
    return fragment(UDP, 1, 2, udp_payload(1, 10, 2, 20, data), budget_bytes, identification)


def give(reassembler: Reassembler, packet: bytes, now: float = 0.0) -> Whole | None:
    ip = parse_ipv4(packet)
    assert ip is not None
    return reassembler.add(ip, packet, now)


@settings(deadline=None)
@given(st.integers(580, 9000), st.integers(60, 1500), st.randoms(use_true_random=False))
def test_any_order_gives_the_packet_back(size: int, budget_bytes: int, order: Random) -> None:
    data = Random(size).randbytes(size)
    packets = cut(data, budget_bytes)
    assert all(len(packet) <= budget_bytes for packet in packets)
    order.shuffle(packets)
    reassembler = Reassembler(1_000_000, 15.0)
    wholes = [whole for packet in packets if (whole := give(reassembler, packet)) is not None]
    assert len(wholes) == 1
    assert wholes[0].packet.payload == udp_payload(1, 10, 2, 20, data)
    assert wholes[0].first in packets
    assert len(reassembler) == 0
    assert reassembler.get_timer() is None


def test_duplicates_change_nothing() -> None:
    reassembler = Reassembler(1_000_000, 15.0)
    packets = cut(bytes(1500))
    for packet in packets[:-1]:
        assert give(reassembler, packet) is None
        assert give(reassembler, packet) is None
    assert give(reassembler, packets[-1]) is not None


def test_overlapping_fragments_discard_the_packet() -> None:
    reassembler = Reassembler(1_000_000, 15.0)
    give(reassembler, build_ipv4(UDP, 1, 2, bytes(64), identification=9, flags_and_offset=0x2000))
    give(reassembler, build_ipv4(UDP, 1, 2, bytes(64), identification=9, flags_and_offset=0x2000 | 4))
    assert reassembler.dropped == 1
    assert len(reassembler) == 0


def test_fragments_beyond_the_largest_packet_are_refused() -> None:
    reassembler = Reassembler(1_000_000, 15.0)
    give(reassembler, build_ipv4(UDP, 1, 2, bytes(800), identification=9, flags_and_offset=0x1FFF))
    assert reassembler.dropped == 1


def test_second_end_and_odd_middle_are_refused() -> None:
    reassembler = Reassembler(1_000_000, 15.0)
    give(reassembler, build_ipv4(UDP, 1, 2, bytes(64), identification=9, flags_and_offset=16))
    give(reassembler, build_ipv4(UDP, 1, 2, bytes(64), identification=9, flags_and_offset=64))
    assert reassembler.dropped == 1
    give(reassembler, build_ipv4(UDP, 1, 2, bytes(63), identification=8, flags_and_offset=0x2000))
    assert reassembler.dropped == 2


def test_bytes_held_are_bounded() -> None:
    reassembler = Reassembler(10_000, 15.0)
    for identification in range(1, 100):
        give(reassembler, cut(bytes(2000), identification=identification)[0])
    assert len(reassembler) <= 10_000 // 600
    assert reassembler.dropped == 99 - len(reassembler)


def test_packets_held_are_bounded() -> None:
    reassembler = Reassembler(10_000_000, 15.0)
    for identification in range(1, 1000):
        give(reassembler, build_ipv4(UDP, 1, 2, bytes(8), identification=identification, flags_and_offset=0x2000))
    assert len(reassembler) <= 256


def test_incomplete_packets_are_given_up_in_time() -> None:
    reassembler = Reassembler(10_000, 15.0)
    give(reassembler, cut(bytes(2000), identification=1)[0], now=5.0)
    give(reassembler, cut(bytes(2000), identification=2)[0], now=6.0)
    assert reassembler.get_timer() == 20.0
    reassembler.handle_timer(20.5)
    assert len(reassembler) == 1
    assert reassembler.dropped == 1
    assert reassembler.get_timer() == 21.0

"""One direction of a link in virtual time."""

import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.lab.link import Direction
from infra.lab.topology import Impairment
from tests.infra.lab.test_topology import IMPAIRMENTS

IP = b"\x02" * 12 + b"\x08\x00"
ARP = b"\x02" * 12 + b"\x08\x06"


def frame(number: int, size_bytes: int = 100) -> bytes:
    """A numbered Ethernet frame."""
    return (IP + number.to_bytes(4, "big")).ljust(size_bytes, b"\0")


def direction(impairment: Impairment, seed: int = 1) -> Direction:
    return Direction(impairment, random.Random(seed).random)


def test_nothing_to_do_passes_at_once_and_in_order() -> None:
    link = direction(Impairment())
    frames = [frame(number) for number in range(10)]
    for item in frames:
        link.offer(item, 5.0)
    assert link.due(5.0) == frames
    assert link.next_time() == float("inf")


def test_delay_holds_frames_back_until_their_time() -> None:
    link = direction(Impairment(delay_ms=10))
    link.offer(frame(1), 1.0)
    link.offer(frame(2), 1.005)
    assert link.next_time() == pytest.approx(1.01)
    assert link.due(1.0099) == []
    assert link.due(1.01) == [frame(1)]
    assert link.due(2.0) == [frame(2)]


def test_jitter_stays_within_its_bounds_and_never_before_the_arrival() -> None:
    link = direction(Impairment(delay_ms=5, jitter_ms=10))
    times = []
    for number in range(500):
        link.offer(frame(number), 0.0)
    while (at := link.next_time()) != float("inf"):
        times += [at] * len(link.due(at))
    assert len(times) == 500
    assert min(times) == 0.0
    assert 0.014 < max(times) <= 0.015


def test_rate_spaces_frames_by_their_size() -> None:
    link = direction(Impairment(rate_bps=8000, buffer_ms=60_000))
    for number in range(3):
        link.offer(frame(number, 1000), 0.0)
    assert [link.due(at) for at in (0.999, 1.0, 2.0, 3.0)] == [[], [frame(0, 1000)], [frame(1, 1000)], [frame(2, 1000)]]
    # An idle link has saved up nothing.
    link.offer(frame(9, 1000), 10.0)
    assert link.next_time() == pytest.approx(11.0)


def test_a_full_buffer_drops_what_comes_last() -> None:
    link = direction(Impairment(rate_bps=8000, buffer_ms=2000))
    for number in range(5):
        link.offer(frame(number, 1000), 0.0)
    assert link.due(100.0) == [frame(number, 1000) for number in range(3)]
    assert link.counters.buffer_full == 2


def test_the_queue_is_bounded() -> None:
    link = direction(Impairment(delay_ms=1000, queue_packets=7))
    for number in range(10):
        link.offer(frame(number), 0.0)
    assert len(link) == 7
    assert link.counters.queue_full == 3


def test_arp_is_delayed_but_never_lost_or_doubled() -> None:
    link = direction(Impairment(loss=1.0, duplicate=1.0, delay_ms=10))
    link.offer(ARP, 0.0)
    link.offer(frame(1), 0.0)
    assert link.due(0.0) == []
    assert link.due(1.0) == [ARP]
    assert link.counters.lost == 1


def test_packets_above_the_mtu_vanish_and_are_counted() -> None:
    link = direction(Impairment(mtu_bytes=1280))
    link.offer(frame(1, 1280 + 14), 0.0)
    link.offer(frame(2, 1280 + 15), 0.0)
    assert link.due(1.0) == [frame(1, 1294)]
    assert link.counters.too_big == 1


def test_a_change_spares_what_is_under_way() -> None:
    link = direction(Impairment(delay_ms=100))
    link.offer(frame(1), 0.0)
    link.change(Impairment(loss=1.0))
    link.offer(frame(2), 0.0)
    link.change(Impairment())
    link.offer(frame(3), 0.05)
    assert link.due(0.05) == [frame(3)]
    assert link.due(0.1) == [frame(1)]
    assert link.counters.lost == 1


@pytest.mark.parametrize(("loss", "burst"), [(0.12, 8.0), (0.25, 4.0), (0.4, 20.0)])
def test_losses_come_in_bursts_of_the_length_asked_for(loss: float, burst: float) -> None:
    link = direction(Impairment(loss=loss, loss_burst=burst))
    count = 60_000
    for number in range(count):
        link.offer(frame(number), 0.0)
    arrived = [int.from_bytes(item[14:18], "big") for item in link.due(0.0)]
    gaps = [after - before - 1 for before, after in itertools.pairwise(arrived) if after - before > 1]
    assert link.counters.lost / count == pytest.approx(loss, rel=0.1)
    assert sum(gaps) / len(gaps) == pytest.approx(burst, rel=0.1)


def test_damage_is_one_byte_of_the_payload_that_no_checksum_tells() -> None:
    link = direction(Impairment(corrupt=1.0))
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 128, 0, 0, 64, 17, 0, bytes(4), bytes(4))
    packet = IP + header + struct.pack("!HHHH", 1, 2, 108, 0xBEEF) + bytes(100)
    for item in (packet, ARP, IP + b"\x60" + bytes(60)):
        link.offer(item, 0.0)
    damaged, *others = link.due(0.0)
    assert others == [ARP, IP + b"\x60" + bytes(60)]
    assert damaged[:40] == packet[:40]
    assert damaged[40:42] == b"\0\0"
    assert sum(before != after for before, after in zip(packet[42:], damaged[42:], strict=True)) == 1
    assert link.counters.corrupted == 1


@given(impairment=IMPAIRMENTS, count=st.integers(0, 60), seed=st.integers(0, 1000))
def test_every_frame_is_accounted_for(impairment: Impairment, count: int, seed: int) -> None:
    link = direction(impairment, seed)
    for number in range(count):
        link.offer(frame(number), number / 1000)
    delivered = link.due(float("inf"))
    counters = link.counters
    dropped = counters.lost + counters.too_big + counters.buffer_full + counters.queue_full
    assert counters.offered == count
    assert counters.delivered == len(delivered)
    assert count + counters.duplicated == len(delivered) + dropped
    assert set(delivered) <= {frame(number) for number in range(count)}
    assert len(link) == 0

"""Retransmission time-out (RFC 6298) and congestion window (RFC 5681), by their formulas."""

import pytest

from ztna.proto.tcp_congestion import Congestion, RoundTrip

MSS = 1000


def test_first_and_next_measurements() -> None:
    trip = RoundTrip(1.0, 0.2, 30.0)
    assert trip.rto == 1.0
    trip.sample(0.4)
    assert (trip.smoothed, trip.variation) == (0.4, 0.2)
    assert trip.rto == pytest.approx(1.2)
    trip.sample(0.8)
    assert trip.variation == pytest.approx(0.75 * 0.2 + 0.25 * 0.4)
    assert trip.smoothed == pytest.approx(0.875 * 0.4 + 0.125 * 0.8)
    assert trip.minimum == 0.4


def test_time_out_has_a_floor_a_ceiling_and_doubles() -> None:
    trip = RoundTrip(1.0, 0.2, 30.0)
    for _ in range(50):
        trip.sample(0.001)
    assert trip.rto == 0.2
    waits = []
    for _ in range(10):
        waits.append(trip.rto)
        trip.back_off()
    assert waits[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert waits[-1] == 30.0
    trip.progress()
    assert trip.rto == 0.2


def test_slow_start_doubles_and_avoidance_adds_a_segment_per_round() -> None:
    control = Congestion(MSS, 10_000_000)
    assert control.window == 10 * MSS
    for _ in range(10):
        control.acknowledged(MSS, 0, True)
    assert control.window == 20 * MSS
    control.lost(20 * MSS, 100_000)
    assert control.window == 10 * MSS
    control.acknowledged(20 * MSS, 99_999, True)
    assert control.window == 10 * MSS
    control.acknowledged(1, 100_000, False)
    assert control.state == Congestion.OPEN
    for _ in range(10):
        control.acknowledged(MSS, 100_000, True)
    assert 10.9 * MSS <= control.window <= 11 * MSS


def test_one_reduction_per_window() -> None:
    control = Congestion(MSS, 10_000_000)
    control.lost(10 * MSS, 50_000)
    control.lost(10 * MSS, 60_000)
    assert control.window == 5 * MSS
    assert control.recover == 50_000


def test_window_grows_only_when_it_was_used() -> None:
    control = Congestion(MSS, 10_000_000)
    control.acknowledged(MSS, 1, False)
    assert control.window == 10 * MSS


def test_time_out_starts_over_with_one_segment() -> None:
    control = Congestion(MSS, 10_000_000)
    control.timed_out(10 * MSS, 10_000, True)
    assert control.window == MSS
    assert control.threshold == 5 * MSS
    # A second time-out of the same data does not halve again.
    control.timed_out(MSS, 10_000, False)
    assert control.threshold == 5 * MSS
    for una in range(1, 10):
        control.acknowledged(MSS, una, True)
    assert 5 * MSS <= control.window <= 6 * MSS


def test_bounds() -> None:
    control = Congestion(MSS, 12 * MSS)
    for _ in range(10):
        control.acknowledged(MSS, 0, True)
    assert control.window == 12 * MSS
    for _ in range(10):
        control.lost(MSS, 1)
        control.acknowledged(0, 1, False)
    assert control.window == 2 * MSS


def test_idle_connection_starts_again_slowly() -> None:
    control = Congestion(MSS, 10_000_000)
    for _ in range(90):
        control.acknowledged(MSS, 0, True)
    control.restart_after_idle()
    assert control.window == 10 * MSS

"""Back-off: between 1 and 30 s, jittered, growing, and reset by a stable connection only."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.backoff import Backoff


@given(st.lists(st.floats(0, 0.999), min_size=12, max_size=12))
def test_delays_grow_from_1_to_30_s(draws: list[float]) -> None:
    backoff = Backoff(iter(draws).__next__)
    delays = [backoff.next_delay_s(0.0) for _ in range(12)]
    assert all(1.0 <= delay <= 30.0 for delay in delays)
    assert all(later > earlier for earlier, later in itertools.pairwise(delays[:6]))
    assert all(delay >= 24.0 for delay in delays[5:])
    assert backoff.attempt == 12


def test_delays_are_jittered() -> None:
    low, high = Backoff(lambda: 0.0), Backoff(lambda: 0.999)
    for _ in range(8):
        assert high.next_delay_s(0.0) > low.next_delay_s(0.0) * 1.2


def test_a_connection_that_is_closed_at_once_does_not_reset() -> None:
    backoff = Backoff(lambda: 0.0)
    delays = []
    for attempt in range(4):
        backoff.connected(float(attempt))
        delays.append(backoff.next_delay_s(attempt + 0.1))
    assert delays == [1.0, 2.0, 4.0, 8.0]


def test_a_stable_connection_resets() -> None:
    backoff = Backoff(lambda: 0.0)
    for _ in range(5):
        backoff.next_delay_s(0.0)
    backoff.connected(100.0)
    assert backoff.next_delay_s(130.0) == 1.0
    # Later failures of attempts do not count the old connection again.
    assert backoff.next_delay_s(500.0) == 2.0

"""Mapping lifetimes are found on NATs of known time-outs."""

import pytest

from ztna.proto.paths.lifetime import DEFAULT_KEEPALIVE_S, MAX_PROBES, MappingLifetime
from ztna.proto.paths.stun_types import Endpoint


def measure(timeout_s: float, *, lose_every: int = 0) -> MappingLifetime:
    """Run the estimator against a NAT that gives a new port after `timeout_s` of idleness."""
    estimator = MappingLifetime()
    estimator.start(0.0)
    port, used_at, asked = 40000, 0.0, 0
    while not estimator.done:
        assert estimator.next_at is not None
        now = estimator.next_at
        asked += 1
        if now - used_at > timeout_s:
            port += 1
        used_at = now
        estimator.sent(now)
        if lose_every and asked % lose_every == 0:
            estimator.timed_out()
        else:
            estimator.answered(Endpoint("203.0.113.1", port), now + 0.05)
        assert asked < 100
    return estimator


@pytest.mark.parametrize("timeout_s", [20.0, 30.0, 60.0, 120.0, 180.0, 350.0])
def test_lifetime_is_bracketed(timeout_s: float) -> None:
    """Within a quarter, in at most 12 requests."""
    found = measure(timeout_s)
    assert found.lost_s is not None
    assert found.survived_s <= timeout_s <= found.lost_s
    assert found.lost_s <= found.survived_s * 1.25
    assert found.probes <= MAX_PROBES


def test_long_lifetime_ends_the_search() -> None:
    """Ten minutes idle are enough to know."""
    found = measure(3600.0)
    assert found.lost_s is None
    assert found.survived_s >= 594
    assert found.suggested_keepalive_s == DEFAULT_KEEPALIVE_S


@pytest.mark.parametrize(("timeout_s", "expected"), [(10.0, (5.0, 8.0)), (20.0, (11.0, 15.0)), (30.0, (18.0, 22.5))])
def test_keepalive_is_suggested_below_the_lifetime(timeout_s: float, expected: tuple[float, float]) -> None:
    """With room for one that comes late, never above the default."""
    assert expected[0] <= measure(timeout_s).suggested_keepalive_s <= expected[1]


def test_lost_answers_do_not_fake_a_result() -> None:
    """A gap whose request was repeated is not judged, since the repetition refreshed the mapping."""
    found = measure(60.0, lose_every=4)
    assert found.survived_s <= 60.0
    assert found.lost_s is None or found.lost_s >= 59.9


def test_a_silent_server_ends_it() -> None:
    """Three time-outs in a row."""
    estimator = MappingLifetime()
    estimator.start(0.0)
    for again in (True, True, False):
        estimator.sent(estimator.next_at or 0.0)
        assert estimator.timed_out() is again
    assert estimator.done
    estimator.answered(Endpoint("203.0.113.1", 1), 5.0)
    assert estimator.done

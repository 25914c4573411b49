"""Health of a path: round-trip time, misses in a row, loss."""

import pytest

from ztna.proto.paths.health import FIRST_TIMEOUT_S, MIN_TIMEOUT_S, PathHealth


def test_timeout_follows_the_round_trip_time() -> None:
    """max(3 x SRTT, 150 ms), with RFC 6298's variance where that is more."""
    health = PathHealth()
    assert health.timeout_s == FIRST_TIMEOUT_S
    for n in range(50):
        health.answered(n, n + 0.01)
    assert health.timeout_s == MIN_TIMEOUT_S
    for n in range(50, 150):
        health.answered(n, n + 0.2)
    assert health.srtt_s == pytest.approx(0.2, rel=0.01)
    assert health.timeout_s == pytest.approx(0.6, rel=0.02)
    for n in range(150, 250):
        health.answered(n, n + (0.05 if n % 2 else 0.45))
    assert health.timeout_s > 3 * (health.srtt_s or 0)


def test_misses_in_a_row_end_with_any_answer() -> None:
    """An answer to whichever check resets them."""
    health = PathHealth()
    health.answered(1.0, 1.05)
    health.missed(1.1, 1.25)
    health.missed(1.2, 1.35)
    assert (health.misses, health.first_miss_at, health.streak) == (2, 1.25, 0)
    health.answered(1.1, 1.40, was_missed=True)
    assert (health.misses, health.streak) == (0, 1)
    assert health.lossy_at == 1.40


def test_a_miss_behind_a_later_answer_is_random_loss() -> None:
    """It says nothing of silence."""
    health = PathHealth()
    health.answered(1.3, 1.35)
    health.missed(1.2, 1.36)
    assert health.misses == 0
    assert health.lossy_at == 1.36
    assert health.loss == 0.5


def test_an_outage_is_no_random_loss() -> None:
    """Probes lost while the path was given up do not make it a lossy one."""
    health = PathHealth()
    health.answered(1.0, 1.05)
    health.missed(1.1, 1.25)
    health.failed = True
    health.missed(1.2, 1.35)
    health.answered(9.0, 9.05)
    assert health.lossy_at == float("-inf")
    health.restored(9.06)
    assert not health.failed
    assert health.loss == 0.0
    health.missed(9.04, 9.2)
    assert health.lossy_at == float("-inf")
    health.answered(9.1, 9.25)
    health.missed(9.08, 9.26)
    assert health.lossy_at == 9.26


def test_suspicion_is_no_loss_either() -> None:
    """Another network: a miss that nobody saw, gone with the next answer."""
    health = PathHealth()
    health.answered(1.0, 1.05)
    health.suspect(2.0)
    assert (health.misses, health.first_miss_at) == (1, 2.0)
    health.suspect(2.5)
    assert health.first_miss_at == 2.0
    health.answered(2.0, 2.05)
    assert (health.misses, health.lossy_at) == (0, float("-inf"))


def test_loss_is_over_the_last_64() -> None:
    """Old outcomes are forgotten."""
    health = PathHealth()
    for n in range(64):
        health.missed(n, n + 0.2)
    assert health.loss == 1.0
    for n in range(100, 148):
        health.answered(n, n + 0.05)
    assert health.loss == 0.25

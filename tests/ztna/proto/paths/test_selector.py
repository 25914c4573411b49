"""The selector by itself: what it makes of answers, misses and the relay."""

import pytest

from ztna.proto.paths.candidates import CandidateType
from ztna.proto.paths.pairs import Pair, PairState
from ztna.proto.paths.path_types import PathKind
from ztna.proto.paths.relay_leg import RelayLeg
from ztna.proto.paths.selector import CONSENT_S, SILENCE_S, PathSelector
from ztna.proto.paths.stun_types import Endpoint

RELAY = Endpoint("198.51.100.1", 4433)
D, R, N = PathKind.DIRECT, PathKind.RELAY, PathKind.NONE


class Bed:
    """A selector with pairs of rising priority and a relay leg that answered at time 0."""

    def __init__(self, pairs: int = 1, *, controlling: bool = True, relay: bool = True) -> None:
        self.selector = PathSelector(controlling, 0.0)
        self.pairs = [Pair(0, Endpoint("10.0.0.1", n + 1), CandidateType.HOST, n + 1) for n in range(pairs)]
        self.relay = RelayLeg(RELAY, 0, is_ready=relay)
        self.relay.answered(0.0, Endpoint("203.0.113.1", 1), 0.0, 22.0, was_missed=False)

    def answer(self, now: float, pair: int = 0) -> None:
        self.pairs[pair].state = PairState.SUCCEEDED
        self.pairs[pair].health.answered(now - 0.05, now)
        self.evaluate(now)

    def miss(self, now: float, pair: int = 0, *, relay: bool = True) -> None:
        self.pairs[pair].health.missed(now - 0.15, now)
        if relay:
            self.relay.heard(now)
        self.evaluate(now)

    def evaluate(self, now: float) -> None:
        self.selector.evaluate(self.pairs, self.relay, now, busy=True)

    @property
    def kinds(self) -> list[PathKind]:
        return [route.kind for route in self.selector.routes]


def test_relay_first_then_direct() -> None:
    """Relay as soon as it is ready, direct with the first answer."""
    bed = Bed()
    bed.evaluate(0.0)
    assert (bed.selector.kind, bed.selector.reason, bed.kinds) == (R, "relay-ready", [R])
    bed.answer(0.1)
    assert (bed.selector.kind, bed.selector.reason, bed.kinds) == (D, "check-succeeded", [D])
    assert bed.selector.switches == 1
    assert [event.kind for event in bed.selector.events] == [R, D]


def test_direct_without_any_relay() -> None:
    """Nothing to wait for."""
    bed = Bed(relay=False)
    bed.evaluate(0.0)
    assert bed.kinds == []
    bed.answer(0.1)
    assert bed.kinds == [D]
    assert bed.selector.switches == 0


def test_first_miss_duplicates_second_switches_on_a_clean_path() -> None:
    """Test-matrix section 7, item 1."""
    bed = Bed()
    bed.answer(1.0)
    bed.miss(1.3)
    assert bed.kinds == [D, R]
    bed.miss(1.4)
    assert (bed.kinds, bed.selector.reason) == ([R], "check-missed")


def test_second_miss_waits_for_silence_where_loss_was_seen() -> None:
    """On a lossy path two misses in a row are chance; nothing for 320 ms is not."""
    bed = Bed()
    bed.answer(1.0)
    bed.miss(1.2)
    bed.answer(1.25)
    for now in (1.5, 1.6, 1.7, 1.8):
        bed.miss(now)
        assert bed.kinds == [D, R]
    at = bed.selector.silent_until(bed.pairs[0], 1.8)
    assert at == pytest.approx(1.5 + SILENCE_S)
    bed.evaluate(1.5 + SILENCE_S + 0.001)
    assert bed.kinds == [R]


def test_no_switch_to_a_relay_that_does_not_answer() -> None:
    """Both are tried until one of them does, or consent expires."""
    bed = Bed()
    bed.answer(1.0)
    for step in range(20):
        bed.miss(1.3 + step / 10, relay=False)
    assert bed.kinds == [D, R]
    bed.relay.heard(3.5)
    bed.evaluate(3.5)
    assert bed.kinds == [R]


def test_consent_expires_after_30_s() -> None:
    """RFC 7675 s5.1."""
    bed = Bed(relay=False)
    bed.answer(1.0)
    bed.miss(1.3)
    assert bed.selector.silent_until(bed.pairs[0], 2.0) == 1.0 + CONSENT_S
    bed.evaluate(1.0 + CONSENT_S - 0.1)
    assert bed.kinds == [D]
    bed.evaluate(1.0 + CONSENT_S)
    assert (bed.kinds, bed.selector.kind, bed.selector.reason) == ([], N, "consent-expired")


def test_return_needs_two_answers_and_the_dwell() -> None:
    """At least 500 ms after the last switch."""
    bed = Bed()
    bed.answer(1.0)
    bed.miss(1.3)
    bed.miss(1.4)
    bed.answer(1.5)
    bed.answer(1.6)
    assert bed.kinds == [R]
    bed.answer(1.91)
    assert (bed.kinds, bed.selector.reason) == ([D], "direct-recovered")
    assert bed.selector.switches == 2


def test_a_single_answer_does_not_bring_direct_back() -> None:
    """Two in a row, counted from the last miss."""
    bed = Bed()
    bed.answer(1.0)
    bed.miss(1.3)
    bed.miss(1.4)
    for now in (5.0, 6.0, 7.0):
        bed.answer(now)
        assert bed.kinds == [R]
        bed.miss(now + 0.5)
    bed.answer(8.0)
    bed.answer(8.1)
    assert bed.kinds == [D]


def test_dwell_and_answers_grow_with_recent_failures_up_to_10_s() -> None:
    """And are forgotten a minute later."""
    bed = Bed()
    bed.answer(1.0)
    seen, now = [], 1.0
    for _ in range(7):
        bed.miss(now + 0.2)
        bed.miss(now + 0.2 + SILENCE_S + 0.01)
        assert bed.kinds == [R]
        now += 0.6
        seen.append((bed.selector.dwell_s(now), bed.selector.wants_answers(now)))
        now += bed.selector.dwell_s(now)
        for _ in range(8):
            now += 0.1
            bed.answer(now)
        assert bed.kinds == [D]
    assert seen == [(0.5, 2), (1.0, 4), (2.0, 6), (4.0, 6), (8.0, 6), (10.0, 6), (10.0, 6)]
    assert bed.selector.dwell_s(now + 61) == 0.5


def test_forgiven_failure_leaves_no_mark() -> None:
    """The mapping moved: not the path's fault. An older failure stays."""
    bed = Bed()
    bed.answer(1.0)
    bed.miss(1.3)
    bed.miss(1.4)
    assert bed.selector.recent_failures(1.5) == 1
    bed.selector.forgive(20.0)
    assert bed.selector.recent_failures(20.0) == 1
    bed.selector.forgive(1.5)
    assert bed.selector.recent_failures(1.5) == 0


def test_failure_just_after_the_mapping_moved_is_forgiven_too() -> None:
    """The relay's answer may be here before the second miss."""
    bed = Bed()
    bed.answer(1.0)
    bed.miss(1.2)
    bed.selector.forgive(1.25)
    bed.miss(1.3)
    assert (bed.kinds, bed.selector.recent_failures(1.3)) == ([R], 0)


def test_another_pair_that_answers_is_taken_before_the_relay() -> None:
    """An alternate whose check was answered since takes over."""
    bed = Bed(2)
    bed.answer(1.0, 1)
    bed.answer(1.01, 0)
    assert bed.selector.direct is bed.pairs[1]
    bed.miss(1.3, 1)
    bed.pairs[0].health.answered(1.30, 1.34)
    bed.evaluate(1.34)
    assert (bed.selector.direct, bed.selector.reason, bed.kinds) == (bed.pairs[0], "pair-failed", [D])


def test_pair_that_failed_is_not_preferred_at_its_first_answer() -> None:
    """No flapping between two direct pairs either."""
    bed = Bed(2)
    test_pair = bed.pairs[1]
    bed.answer(1.0, 1)
    bed.answer(1.01, 0)
    bed.miss(1.3, 1)
    bed.pairs[0].health.answered(1.30, 1.34)
    bed.evaluate(1.34)
    for step in range(9):
        bed.answer(2.0 + step, 1)
        assert bed.selector.direct is bed.pairs[0]
    bed.answer(12.0, 1)
    assert bed.selector.direct is test_pair


def test_controlled_side_follows_the_nomination() -> None:
    """Even to a pair of lower priority, once its own check there succeeded; the controlling side does not."""
    for controlling in (False, True):
        bed = Bed(2, controlling=controlling)
        bed.pairs[0].nominated = True
        bed.answer(1.0, 1)
        assert bed.selector.direct is bed.pairs[1]
        bed.answer(1.1, 0)
        assert bed.selector.direct is bed.pairs[0 if not controlling else 1]


def test_relay_lost() -> None:
    """No route without a path; direct carries on."""
    bed = Bed()
    bed.evaluate(0.0)
    bed.relay.is_ready = False
    bed.evaluate(1.0)
    assert (bed.kinds, bed.selector.reason) == ([], "relay-lost")
    bed.answer(2.0)
    bed.evaluate(3.0)
    assert bed.kinds == [D]


def test_direct_is_taken_at_once_when_the_relay_is_dead() -> None:
    """Neither dwell nor a second answer where there is nothing else."""
    bed = Bed()
    bed.answer(1.0)
    bed.miss(1.3)
    bed.miss(1.4)
    for n in range(6):
        bed.relay.health.missed(1.5 + n / 10, 1.6 + n / 10)
    bed.answer(2.0)
    assert bed.kinds == [D]


def test_time_in_path_and_log() -> None:
    """Seconds by kind; the log holds 64 entries."""
    bed = Bed()
    bed.evaluate(1.0)
    bed.answer(3.0)
    times = bed.selector.snapshot_times(10.0)
    assert (times[N], times[R], times[D]) == (1.0, 2.0, 7.0)
    for n in range(200):
        bed.relay.is_ready = bool(n % 2)
        bed.selector.kind = R
        bed.pairs[0].state = PairState.FAILED
        bed.evaluate(10.0 + n)
    assert len(bed.selector.log) <= 64

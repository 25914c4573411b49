"""The leg to the relay: proof, repetition, keepalive, silence."""

from itertools import pairwise

from ztna.proto.paths.relay_leg import BUSY_KEEPALIVE_S, RelayLeg
from ztna.proto.paths.stun_types import Endpoint

RELAY, MAPPED, MOVED = Endpoint("198.51.100.1", 4433), Endpoint("203.0.113.1", 40000), Endpoint("203.0.113.1", 40999)


def series(leg: RelayLeg, count: int) -> list[float]:
    """When the next requests leave, if none is answered."""
    times = []
    for _ in range(count):
        assert leg.next_at is not None
        times.append(round(leg.next_at, 6))
        leg.request_sent(leg.next_at)
    return times


def test_repeated_until_answered() -> None:
    """50, 100, 200, 400 ms ... after the first, then every 2 s for ever."""
    leg = RelayLeg(RELAY, 0)
    leg.prove(10.0)
    assert series(leg, 11) == [10.0, 10.05, 10.1, 10.2, 10.4, 10.8, 11.6, 13.2, 15.2, 17.2, 19.2]


def test_repetition_waits_for_an_answer_that_may_be_under_way() -> None:
    """With a known round-trip time of 100 ms nothing is repeated after 50."""
    leg = RelayLeg(RELAY, 0)
    leg.prove(10.0)
    leg.request_sent(10.0)
    leg.answered(10.0, MAPPED, 10.1, 22.0, was_missed=False)
    leg.prove(20.0)
    assert series(leg, 4) == [20.0, 20.125, 20.25, 20.375]


def test_answer_gives_the_mapped_address_and_ends_the_series() -> None:
    """True for an address that is new; an older request's answer changes nothing."""
    leg = RelayLeg(RELAY, 0, is_ready=True)
    leg.prove(10.0)
    leg.request_sent(10.0)
    leg.request_sent(10.05)
    assert leg.answered(10.05, MAPPED, 10.1, 22.0, was_missed=False)
    assert not leg.answered(10.0, MOVED, 10.11, 22.0, was_missed=False)
    assert leg.mapped == MAPPED
    assert leg.next_at == 32.11
    assert not leg.answered(32.11, MAPPED, 32.16, 22.0, was_missed=False)
    assert leg.answered(54.0, MOVED, 54.05, 22.0, was_missed=False)
    assert leg.mapped == MOVED


def test_traffic_brings_the_keepalive_forward() -> None:
    """Every 5 s while packets travel on it."""
    leg = RelayLeg(RELAY, 0, is_ready=True)
    leg.request_sent(10.0)
    leg.answered(10.0, MAPPED, 10.05, 22.0, was_missed=False)
    leg.traffic(10.1)
    assert leg.next_at == 10.1 + BUSY_KEEPALIVE_S
    leg.traffic(10.2)
    assert leg.next_at == 10.1 + BUSY_KEEPALIVE_S


def test_silence_under_traffic_proves_the_address_again_ever_more_rarely() -> None:
    """Packets leave and none returns: at once after 250 ms, then after twice as long each time, up to 5 s."""
    leg = RelayLeg(RELAY, 0, is_ready=True)
    leg.request_sent(10.0)
    leg.answered(10.0, MAPPED, 10.05, 22.0, was_missed=False)
    proofs: list[float] = []
    for step in range(3000):
        now = 10.05 + step / 100
        leg.traffic(now)
        if leg.next_at is not None and leg.next_at <= now:
            proofs.append(now)
            leg.request_sent(now)
            assert not leg.answered(now, MAPPED, now, 22.0, was_missed=False)
    gaps = [round(b - a, 1) for a, b in pairwise(proofs)]
    assert proofs[0] <= 10.35
    assert gaps[:5] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert len(proofs) <= 10
    leg.heard(40.0)
    leg.traffic(40.1)
    assert leg.next_at is not None
    assert leg.next_at > 40.1


def test_prove_does_not_restart_a_series_that_has_just_begun() -> None:
    """Several hints of one event are one series."""
    leg = RelayLeg(RELAY, 0)
    leg.prove(10.0)
    leg.request_sent(10.0)
    leg.prove(10.02)
    assert leg.next_at == 10.05
    leg.prove(10.06)
    assert leg.next_at == 10.06


def test_dead_after_six_misses() -> None:
    """One lost keepalive says nothing."""
    leg = RelayLeg(RELAY, 0)
    seen = [leg.is_dead]
    leg.answered(10.0, MAPPED, 10.05, 22.0, was_missed=False)
    seen.append(leg.is_dead)
    for n in range(6):
        leg.health.missed(11.0 + n, 11.2 + n)
        seen.append(leg.is_dead)
    assert seen == [True, *[False] * 6, True]
    assert leg.has_answered_since(10.0)
    assert not leg.has_answered_since(11.0)


def test_a_relay_that_answers_but_does_not_forward_is_asked_again_soon() -> None:
    """After 1, 2, 4, 4 ... seconds: it may be switched on again; once it forwards, keepalives do."""
    leg = RelayLeg(RELAY, 0)
    now, gaps = 10.0, []
    for _ in range(5):
        leg.request_sent(now)
        leg.answered(now, MAPPED, now, 22.0, was_missed=False)
        assert leg.next_at is not None
        gaps.append(leg.next_at - now)
        now = leg.next_at
    assert gaps == [1.0, 2.0, 4.0, 4.0, 4.0]
    leg.is_ready = True
    leg.request_sent(now)
    leg.answered(now, MAPPED, now, 22.0, was_missed=False)
    assert leg.next_at == now + 22.0

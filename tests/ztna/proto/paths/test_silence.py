"""When a peer is silent: what it owes, for how long, and how often that is told."""

from dataclasses import dataclass

import pytest

from ztna.proto.paths.silence import REPEAT_S, PeerSilence, gap_s


@dataclass
class Sent:
    awaits_answer: bool = True
    rtt_s: float | None = 0.02


def told(silence: PeerSilence, packets: Sent, times: list[float]) -> list[float]:
    return [now for now in times if silence.sent(packets, now)]


def steps(begin: float, end: float, step: float = 0.02) -> list[float]:
    return [round(begin + number * step, 6) for number in range(round((end - begin) / step))]


def test_unanswered_packets_tell_after_the_gap_and_then_every_second() -> None:
    silence = PeerSilence(0.0)
    found = told(silence, Sent(), steps(10.0, 13.0))
    assert len(found) == 3
    assert found[0] == pytest.approx(10.2, abs=0.021)
    assert found[1] - found[0] >= REPEAT_S
    assert silence.is_silent
    silence.heard_at = 13.0
    assert not silence.is_silent


def test_a_peer_that_is_heard_is_not_silent() -> None:
    silence = PeerSilence(0.0)
    for now in steps(10.0, 20.0):
        assert not silence.sent(Sent(), now)
        if round(now * 50) % 9 == 0:
            silence.heard_at = now + 0.001


def test_acknowledgements_alone_owe_us_nothing() -> None:
    silence = PeerSilence(0.0)
    assert told(silence, Sent(awaits_answer=False), steps(10.0, 20.0)) == []
    # And what was sent long ago does not count for what is sent now.
    assert told(silence, Sent(), steps(30.0, 30.19)) == []


def test_few_packets_with_pauses_are_enough() -> None:
    """The probes of QUIC's loss detection, ever farther apart."""
    silence = PeerSilence(0.0)
    assert told(silence, Sent(), [10.0, 10.03, 10.09, 10.21, 10.45]) == [10.21]


def test_long_paths_get_their_round_trips() -> None:
    assert gap_s(None) == gap_s(0.001) == 0.2
    assert gap_s(0.6) == pytest.approx(2.45)
    silence = PeerSilence(0.0)
    assert told(silence, Sent(rtt_s=0.6), steps(10.0, 12.44)) == []
    assert told(silence, Sent(rtt_s=0.6), [12.46]) == [12.46]

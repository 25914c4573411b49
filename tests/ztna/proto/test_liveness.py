"""Liveness in virtual time: how soon a lost relay is noticed, and that loss or idleness is not taken for it."""

import pytest

from ztna.proto.liveness import ACTIVE_INTERVAL_S, IDLE_INTERVAL_S, Liveness, Verdict


class Connection:
    """Counters as the shell reads them, and the clock."""

    def __init__(self) -> None:
        self.live = Liveness(0.0)
        self.now = 0.0
        self.sent = self.received = self.timeouts = 0
        self.acknowledged: int | None = None
        self.rtt_s: float | None = 0.01

    def check(self) -> Verdict:
        return self.live.check(
            self.now,
            sent=self.sent,
            received=self.received,
            timeouts=self.timeouts,
            rtt_s=self.rtt_s,
            acknowledged=self.acknowledged,
        )

    def run(self, seconds: float) -> list[tuple[float, Verdict]]:
        """Check at the asked intervals; the verdicts that were not ALIVE, with their times from now."""
        start = self.now
        seen: list[tuple[float, Verdict]] = []
        while self.now - start < seconds:
            verdict = self.check()
            if verdict is not Verdict.ALIVE:
                seen.append((round(self.now - start, 3), verdict))
            if verdict is Verdict.LOST:
                break
            self.now += self.live.interval_s
        return seen


def test_idle_connection_is_left_alone() -> None:
    connection = Connection()
    assert connection.run(300) == []
    assert connection.live.interval_s == IDLE_INTERVAL_S


def test_silence_after_traffic_asks_for_a_ping_each_second_for_a_minute() -> None:
    connection = Connection()
    connection.sent = connection.received = 5
    verdicts = connection.run(120)
    assert {verdict for _, verdict in verdicts} == {Verdict.PING}
    assert 58 <= len(verdicts) <= 60
    assert verdicts[0][0] == 1.0
    assert verdicts[-1][0] <= 60
    assert connection.live.interval_s == IDLE_INTERVAL_S


def test_traffic_that_keeps_arriving_needs_no_ping() -> None:
    connection = Connection()
    for _ in range(100):
        connection.received += 1
        assert connection.check() is Verdict.ALIVE
        assert connection.live.interval_s == ACTIVE_INTERVAL_S
        connection.now += 0.25


def test_silent_relay_is_given_up_after_one_and_a_half_seconds() -> None:
    connection = Connection()
    connection.timeouts = 1
    verdicts = connection.run(10)
    assert verdicts[-1] == (1.5, Verdict.LOST)
    assert {verdict for _, verdict in verdicts[:-1]} == {Verdict.PROBE}


def test_relay_that_answers_stun_only_has_forgotten_us() -> None:
    connection = Connection()
    connection.timeouts = 1
    assert connection.check() is Verdict.PROBE
    connection.live.stun_answered()
    connection.live.stun_answered()
    assert connection.run(10)[-1] == (0.75, Verdict.LOST)


def test_stun_answers_from_before_do_not_count() -> None:
    connection = Connection()
    connection.live.stun_answered()
    connection.live.stun_answered()
    connection.timeouts = 1
    assert connection.run(10)[-1] == (1.5, Verdict.LOST)


def test_an_acknowledgement_ends_the_doubt() -> None:
    connection = Connection()
    connection.timeouts = 3
    connection.run(1.4)
    connection.timeouts = 0
    connection.check()
    connection.timeouts = 1
    assert connection.run(1.4)[-1][1] is Verdict.PROBE


@pytest.mark.parametrize(("rtt_s", "lost_after_s"), [(None, 1.5), (0.6, 3.75)])
def test_long_paths_get_more_time(rtt_s: float | None, lost_after_s: float) -> None:
    connection = Connection()
    connection.timeouts, connection.rtt_s = 1, rtt_s
    assert connection.run(10)[-1] == (lost_after_s, Verdict.LOST)


def test_steady_sending_into_the_void_is_noticed_though_no_probe_times_out() -> None:
    connection = Connection()
    connection.acknowledged, connection.received = 7, 1
    verdicts = []
    while connection.now < 10 and Verdict.LOST not in verdicts:
        connection.sent += 1
        verdicts.append(connection.check())
        connection.now += connection.live.interval_s
    assert verdicts[-1] is Verdict.LOST
    assert connection.now <= 3.25


def test_steady_sending_that_is_acknowledged_needs_no_answer() -> None:
    connection = Connection()
    connection.acknowledged = 0
    for _ in range(100):
        connection.sent += 1
        connection.acknowledged += 1
        assert connection.check() in (Verdict.ALIVE, Verdict.PING)
        connection.now += connection.live.interval_s

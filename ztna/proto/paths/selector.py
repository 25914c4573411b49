"""Which path a session's packets take, and why (design: make before break, never drop the warm relay).

Flow: relay as soon as it is ready -> direct as soon as a check succeeds -> a missed check duplicates packets onto the
relay -> silence (a second miss) moves them there -> direct again after two answered checks in a row and a dwell.

One switch each way per outage: a path that loses packets by chance, or that failed within the last minute, is left
only after `SILENCE_S` without any answer, during which the relay carries a copy of everything; and each failure within
the last minute doubles the dwell, up to 10 s, and asks for two more answers, up to six.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ztna.proto.paths.pairs import Pair, PairState
from ztna.proto.paths.path_types import PathKind, PathSelected, Route, SwitchRecord
from ztna.proto.paths.relay_leg import RelayLeg
from ztna.proto.paths.stun_types import Endpoint

MISSES_ON_A_CLEAN_PATH: Final = 2
SILENCE_S: Final = 0.32
"""With checks every 100 ms, a first miss after 150 ms and repeats every 25 ms, this ends within 600 ms of the last
packet that got through, after about nine checks in a row: 0.36^9 is one in ten thousand at 20 % loss each way."""
LOSSY_MEMORY_S: Final = 30.0
FLAP_MEMORY_S: Final = 60.0
FORGIVEN_S: Final = 10.0
EXPLAINED_S: Final = 2.0
"""A moved mapping explains failures of the 10 s before it was noticed, and of the 2 s after."""
FIRST_DWELL_S: Final = 0.5
MAX_DWELL_S: Final = 10.0
ANSWERS_TO_RETURN: Final = 2
MAX_ANSWERS_FACTOR: Final = 3
ANSWERS_TO_BE_PREFERRED: Final = 10
CONSENT_S: Final = 30.0
"""RFC 7675 s5.1: no packet is sent to a peer that has not answered for this long."""
LOG_ENTRIES: Final = 64
STARTING: Final = "starting"
"""The reason of the state before the first path; taking that one is no switch."""


@dataclass(slots=True)
class PathSelector:
    """Decides from the health of the pairs and of the relay leg; `routes` is the decision, ready to use.

    `direct` is the pair in use, or the one used last; `events` the changes not yet taken by the shell.
    """

    controlling: bool
    since: float
    kind: PathKind = PathKind.NONE
    reason: str = STARTING
    direct: Pair | None = None
    routes: tuple[Route, ...] = ()
    switches: int = 0
    log: deque[SwitchRecord] = field(default_factory=lambda: deque(maxlen=LOG_ENTRIES))
    events: deque[PathSelected] = field(default_factory=deque)
    time_in_path: dict[PathKind, float] = field(default_factory=lambda: dict.fromkeys(PathKind, 0.0))
    _failures: deque[float] = field(default_factory=lambda: deque(maxlen=8))
    _switched_at: float = float("-inf")
    _moved_at: float = float("-inf")
    _was_direct: bool = False

    def evaluate(self, pairs: Iterable[Pair], relay: RelayLeg | None, now: float, *, busy: bool) -> None:
        """Decide again after anything changed; `busy` when packets were sent within the last second."""
        if self.kind is PathKind.DIRECT:
            self._evaluate_direct(pairs, relay, now, busy=busy)
        else:
            self._evaluate_other(pairs, relay, now)
        self._set_routes(relay)

    def wants_answers(self, now: float) -> int:
        """Checks in a row that a pair must answer before it is used; two, and more the more often direct failed."""
        if not self._was_direct:
            return 1
        return ANSWERS_TO_RETURN * min(MAX_ANSWERS_FACTOR, max(1, self.recent_failures(now)))

    def dwell_s(self, now: float) -> float:
        """Seconds that must pass between leaving direct and returning to it."""
        recent = self.recent_failures(now)
        return 0.0 if not self._was_direct else min(MAX_DWELL_S, FIRST_DWELL_S * 2 ** max(0, recent - 1))

    def recent_failures(self, now: float) -> int:
        """How often direct was left within the last minute because it fell silent."""
        return sum(now - at < FLAP_MEMORY_S for at in self._failures)

    def forgive(self, now: float) -> None:
        """The mapping moved: that explains a failure just before and just after, which is no sign of a bad path."""
        self._moved_at = now
        if self._failures and now - self._failures[-1] < FORGIVEN_S:
            self._failures.pop()

    def silent_until(self, pair: Pair, now: float) -> float | None:
        """When silence on the pair in use must be judged next, or None while it answers."""
        if self.kind is not PathKind.DIRECT or not pair.health.misses:
            return None
        for at in (pair.health.first_miss_at + SILENCE_S, (pair.health.last_answer_at or now) + CONSENT_S):
            if at > now:
                return at
        return None

    def snapshot_times(self, now: float) -> dict[PathKind, float]:
        """Seconds spent in each path up to now."""
        times = dict(self.time_in_path)
        times[self.kind] += now - self.since
        return times

    def _evaluate_other(self, pairs: Iterable[Pair], relay: RelayLeg | None, now: float) -> None:
        relay_carries = relay is not None and relay.can_carry
        in_need = not relay_carries or (relay is not None and relay.is_dead)
        pair = self._best(pairs, 1 if in_need else self.wants_answers(now))
        if pair is not None and (in_need or now - self._switched_at >= self.dwell_s(now)):
            self._use_pair(pair, "direct-recovered" if self._was_direct else "check-succeeded", now)
        elif relay is None or not relay_carries:
            if self.kind is PathKind.RELAY:
                self._change(PathKind.NONE, None, 0, "relay-lost", now)
        elif self.kind is PathKind.NONE:
            self._change(PathKind.RELAY, relay.remote, relay.local, "relay-ready", now)

    def _evaluate_direct(self, pairs: Iterable[Pair], relay: RelayLeg | None, now: float, *, busy: bool) -> None:
        current = self.direct
        assert current is not None
        if current.is_usable:
            better = self._better(pairs, current)
            if better is not None:
                self._use_pair(better, "nominated" if better.nominated else "better-pair", now)
            return
        other = self._best((pair for pair in pairs if _answered_since_miss(pair, current)), 1)
        if other is not None:
            current.health.failed = True
            self._use_pair(other, "pair-failed", now)
        elif relay is not None and self._is_silent(current, now) and self._can_take_over(relay, current):
            self._fail(current, now)
            self._change(PathKind.RELAY, relay.remote, relay.local, "check-missed" if busy else "consent-lost", now)
        elif now - (current.health.last_answer_at or self.since) >= CONSENT_S:
            self._fail(current, now)
            if relay is not None and relay.can_carry:
                self._change(PathKind.RELAY, relay.remote, relay.local, "consent-expired", now)
            else:
                self._change(PathKind.NONE, None, 0, "consent-expired", now)

    def _can_take_over(self, relay: RelayLeg, silent: Pair) -> bool:
        # Its address is proved anew at the first miss. Until that is answered packets go both ways.
        return relay.can_carry and relay.has_answered_since(silent.health.first_miss_at)

    def _is_silent(self, pair: Pair, now: float) -> bool:
        health = pair.health
        if health.misses < MISSES_ON_A_CLEAN_PATH:
            return False
        if now - health.lossy_at >= LOSSY_MEMORY_S and not self.recent_failures(now):
            return True
        return now - health.first_miss_at >= SILENCE_S

    def _fail(self, pair: Pair, now: float) -> None:
        pair.health.failed = True
        if now - self._moved_at >= EXPLAINED_S:
            self._failures.append(now)

    def _best(self, pairs: Iterable[Pair], answers: int) -> Pair | None:
        usable = [pair for pair in pairs if pair.is_usable and pair.health.streak >= answers]
        return max(usable, key=self._rank, default=None)

    def _better(self, pairs: Iterable[Pair], current: Pair) -> Pair | None:
        # A pair that fell silent before must answer for a while before it is preferred again.
        steady = [pair for pair in pairs if not pair.health.failed or pair.health.streak >= ANSWERS_TO_BE_PREFERRED]
        best = self._best(steady, 1)
        return best if best is not None and self._rank(best) > self._rank(current) else None

    def _rank(self, pair: Pair) -> tuple[bool, int]:
        # The controlled side follows the nomination (RFC 8445 s8.1.1); both then send on one pair.
        return (pair.nominated and not self.controlling, pair.priority)

    def _use_pair(self, pair: Pair, reason: str, now: float) -> None:
        pair.health.restored(now)
        self.direct = pair
        self._was_direct = True
        self._change(PathKind.DIRECT, pair.remote, pair.local, reason, now)

    def _change(self, kind: PathKind, remote: Endpoint | None, local: int, reason: str, now: float) -> None:
        if kind is not self.kind:
            self.switches += self.reason != STARTING
            self._switched_at = now
            self.time_in_path[self.kind] += now - self.since
            self.since = now
        self.log.append(SwitchRecord(now, self.kind, kind, reason))
        self.kind, self.reason = kind, reason
        self.events.append(PathSelected(kind, remote, local, reason))

    def _set_routes(self, relay: RelayLeg | None) -> None:
        routes: list[Route] = []
        if self.kind is PathKind.DIRECT and self.direct is not None:
            routes.append(Route(self.direct.local, self.direct.remote, PathKind.DIRECT))
        if relay is not None and relay.can_carry and self._relay_wanted():
            routes.append(Route(relay.local, relay.remote, PathKind.RELAY))
        self.routes = tuple(routes)

    def _relay_wanted(self) -> bool:
        return self.kind is PathKind.RELAY or (
            self.kind is PathKind.DIRECT and self.direct is not None and self.direct.health.misses > 0
        )


def _answered_since_miss(pair: Pair, silent: Pair) -> bool:
    # Any answer to a check sent after the silent pair's last good one proves the alternative is not down with it.
    return (
        pair is not silent
        and pair.state is PairState.SUCCEEDED
        and pair.health.answered_sent_at > silent.health.answered_sent_at
        and (pair.health.last_answer_at or 0.0) >= silent.health.first_miss_at
    )

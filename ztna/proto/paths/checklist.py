"""When each candidate pair is checked (RFC 8445 s6.1.4, s7.3.1.4; RFC 7675): the plan, without the sending.

New pairs run a series of transmissions from the agreed start on. The pair in use is checked every 100 ms while packets
travel, every 5 s while idle, and every 25 ms right after a miss. While there is no direct path, rounds of probes look
for one: every second for 10 s, then 2, 4 ... 30 s, but within 2 s while packets travel.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ztna.proto.paths.candidates import CandidateType
from ztna.proto.paths.checks import RETRANSMIT_AT_S
from ztna.proto.paths.pairs import Pair, PairState, PairTable
from ztna.proto.paths.path_types import PathKind
from ztna.proto.paths.selector import PathSelector

BUSY_CHECK_S: Final = 0.1
CONSENT_CHECK_S: Final = 5.0
"""RFC 7675 s5.1, each interval times 0.8 to 1.2."""
CONFIRM_S: Final = 0.075
SUSPECT_CHECKS: Final = ((0.4, 0.025), (3.0, 0.1))
"""(until this long after the first miss, seconds between checks)."""
SUSPECT_LATER_S: Final = 1.0
OWED_S: Final = 0.02
OWED_CHECKS: Final = 3
RETRIGGER_S: Final = 0.02
"""A peer that floods requests draws no faster checks than this."""
ALTERNATES: Final = 2
HAIRPIN_AFTER_S: Final = 1.0
EAGER_S: Final = 10.0
MAX_PROBE_S: Final = 30.0
BUSY_PROBE_S: Final = 2.0
PROBES_PER_ROUND: Final = 8
PROBES_PER_LATER_ROUND: Final = 4
UPGRADE_PROBES: Final = 3


@dataclass(slots=True)
class ProbeSchedule:
    """When the next round of probes is due."""

    next_at: float | None = None
    began_at: float = 0.0
    interval_s: float = 1.0

    def reset(self, at: float, first_in_s: float = 1.0) -> None:
        """Be eager again from time `at` on."""
        self.began_at, self.interval_s, self.next_at = at, 1.0, at + first_in_s

    def advance(self, now: float, *, busy: bool) -> None:
        """A round is being sent: plan the next."""
        if now - self.began_at >= EAGER_S:
            self.interval_s = min(self.interval_s * 2, MAX_PROBE_S)
        self.next_at = now + (min(self.interval_s, BUSY_PROBE_S) if busy else self.interval_s)

    def is_eager(self, now: float) -> bool:
        """Whether something happened within the last 10 s that makes success likely."""
        return now - self.began_at < EAGER_S

    def hurry(self, now: float) -> None:
        """Packets began to travel: the next round is no further away than such traffic allows."""
        if self.next_at is not None and self.next_at > now + BUSY_PROBE_S:
            self.next_at = now


class Checklist:
    """Plans checks of the pairs of `pairs` by what `selector` uses.

    Args:
        pairs, selector: shared with the session's other parts.
        hairpin: check the peer's mapped address once even where it is this side's own public address.
        jitter: uniform in [0, 1).
    """

    def __init__(self, pairs: PairTable, selector: PathSelector, *, hairpin: bool, jitter: Callable[[], float]) -> None:
        self.pairs = pairs
        self.probes = ProbeSchedule()
        self.own_public_host: str | None = None
        self._selector = selector
        self._hairpin = hairpin
        self._jitter = jitter

    def begin(self, pairs: Iterable[Pair], at: float) -> None:
        """Start a series of checks on each pair at time `at`."""
        for pair in pairs:
            pair.state = PairState.WAITING if pair.state is PairState.FAILED else pair.state
            pair.attempts, pair.series_at, pair.next_at, pair.added_at = 0, at, at, at

    def restart(self, now: float) -> None:
        """Another network: everything is checked afresh, and no answer from before counts."""
        for pair in self.pairs:
            pair.owed = 0
        self.begin(self.pairs, now)
        self.probes.reset(now)

    def heard(self, pair: Pair, now: float) -> None:
        """Something of the peer arrived on a pair."""
        if pair.heard_at is None:
            # The peer's packets pass our filter; ours must reach the peer's NAT often enough to open its own.
            pair.owed = OWED_CHECKS
            pair.next_at = now
        pair.heard_at = now

    def trigger(self, pair: Pair, now: float) -> None:
        """A request of the peer arrived: check this pair at once (RFC 8445 s7.3.1.4), unless it is known to work."""
        pair.held_back = None
        if pair.is_usable:
            return
        soonest = max(now, pair.sent_at + RETRIGGER_S)
        if pair.state in (PairState.WAITING, PairState.FAILED) or pair.next_at is None:
            self.begin([pair], soonest)
        pair.next_at = min(pair.next_at or soonest, soonest)
        pair.triggered = True

    def sent(self, pair: Pair, now: float, *, busy: bool) -> None:
        """A check left on `pair`: plan its next one."""
        pair.sent += 1
        pair.sent_at = now
        pair.triggered = False
        if pair.state is PairState.WAITING:
            pair.state, pair.series_at = PairState.IN_PROGRESS, now
        pair.attempts += 1
        pair.owed = max(0, pair.owed - 1)
        pair.next_at = self._next(pair, now, busy=busy)
        if pair.owed:
            pair.next_at = now + OWED_S if pair.next_at is None else min(pair.next_at, now + OWED_S)

    def answered(self, pair: Pair, now: float, *, busy: bool) -> None:
        """A check on `pair` was answered, its health and the selector are up to date: plan the next."""
        pair.answered += 1
        if not pair.owed:
            pair.next_at = self._next(pair, now, busy=busy)

    def missed(self, pair: Pair, now: float) -> None:
        """A check on `pair` stayed unanswered."""
        if pair.state is PairState.IN_PROGRESS and pair.next_at is None and pair.attempts >= len(RETRANSMIT_AT_S):
            pair.state = PairState.FAILED
        if self._in_use(pair) and pair.health.misses == 1:
            pair.next_at = now
            for other in self._alternates(pair):
                other.next_at = now

    def traffic_started(self, now: float) -> None:
        """Packets began to travel after a pause."""
        self.probes.hurry(now)
        pair = self._selector.direct
        if pair is not None and self._in_use(pair) and pair.next_at is not None:
            pair.next_at = min(pair.next_at, now)

    def failed_over(self, now: float) -> None:
        """The direct path was given up."""
        self.probes.reset(now)

    def plan_probes(self, now: float, *, busy: bool) -> None:
        """Mark the pairs of a round of probes, when one is due."""
        if self.probes.next_at is None or now < self.probes.next_at:
            return
        if self._selector.kind is PathKind.DIRECT:
            self.probes.next_at = now + MAX_PROBE_S
            current = self._selector.direct
            floor = current.priority if current is not None else 0
            chosen = [pair for pair in self._probe_order() if pair.priority > floor and not pair.is_usable]
            limit = UPGRADE_PROBES
        else:
            limit = PROBES_PER_ROUND if self.probes.is_eager(now) else PROBES_PER_LATER_ROUND
            self.probes.advance(now, busy=busy)
            chosen = self._probe_order()
        for pair in chosen[:limit]:
            pair.next_at = now
            if pair.state is not PairState.SUCCEEDED:
                pair.attempts, pair.state = len(RETRANSMIT_AT_S), PairState.FAILED

    def next_due(self, now: float) -> tuple[float, Pair] | None:
        """Return the pair to be checked next and when: triggered ones first, then by priority among those due."""
        best: Pair | None = None
        best_key: tuple[float, bool, bool, int] | None = None
        for pair in self.pairs:
            if pair.next_at is None or self._is_held_back(pair, now):
                continue
            at = max(pair.next_at, now)
            key = (-at, pair.triggered, self._in_use(pair), pair.priority)
            if best_key is None or key > best_key:
                best, best_key = pair, key
        return None if best is None or best.next_at is None else (best.next_at, best)

    def _next(self, pair: Pair, now: float, *, busy: bool) -> float | None:
        if self._in_use(pair):
            return max(now, pair.sent_at + self._in_use_gap(pair, now, busy=busy))
        if pair.state is PairState.IN_PROGRESS:
            more = pair.attempts < len(RETRANSMIT_AT_S)
            return max(now, pair.series_at + RETRANSMIT_AT_S[pair.attempts]) if more else None
        if pair.state is not PairState.SUCCEEDED or not pair.is_usable:
            return None
        if self._selector.kind is not PathKind.DIRECT:
            # Proving that it is back: answers in a row, as soon as the dwell is over.
            if pair.health.streak < self._selector.wants_answers(now):
                return now + CONFIRM_S
            return now + (BUSY_CHECK_S if busy else 5 * BUSY_CHECK_S)
        return now + self._consent_gap() if pair in self._alternates(pair, including=True) else None

    def _in_use_gap(self, pair: Pair, now: float, *, busy: bool) -> float:
        if not pair.health.misses:
            return BUSY_CHECK_S if busy else self._consent_gap()
        silent_s = now - pair.health.first_miss_at
        return next((gap for until, gap in SUSPECT_CHECKS if silent_s < until), SUSPECT_LATER_S)

    def _consent_gap(self) -> float:
        return CONSENT_CHECK_S * (0.8 + 0.4 * self._jitter())

    def _in_use(self, pair: Pair) -> bool:
        return pair is self._selector.direct and self._selector.kind is PathKind.DIRECT

    def _alternates(self, pair: Pair, *, including: bool = False) -> list[Pair]:
        """The best other pairs that worked; they are kept alive, to take over when the one in use falls silent."""
        working = [p for p in self.pairs if p.is_usable and not self._in_use(p) and (including or p is not pair)]
        return sorted(working, key=lambda p: p.priority, reverse=True)[:ALTERNATES]

    def _probe_order(self) -> list[Pair]:
        for pair in self.pairs:
            if pair.held_back is not None and pair.remote.host != self.own_public_host:
                # This side has moved to another public address since.
                pair.held_back = None
        idle = [pair for pair in self.pairs if pair.next_at is None and pair.held_back is None]
        return sorted(idle, key=_promise, reverse=True)

    def _is_held_back(self, pair: Pair, now: float) -> bool:
        """Whether the peer's mapped address is this side's own public address, which only hairpinning would reach."""
        if (
            pair.type is not CandidateType.SRFLX
            or pair.remote.host != self.own_public_host
            or pair.heard_at is not None
        ):
            return False
        if self._hairpin and pair.attempts < len(RETRANSMIT_AT_S):
            # The single series, once pairs of host candidates had their chance.
            pair.held_back = None
            if pair.next_at is not None and pair.next_at < pair.added_at + HAIRPIN_AFTER_S and not pair.sent:
                pair.next_at = pair.added_at + HAIRPIN_AFTER_S
            return False
        if pair.state is not PairState.SUCCEEDED:
            pair.held_back, pair.next_at = "hairpin", None
            return True
        return False


def _promise(pair: Pair) -> tuple[float, float, int]:
    return (pair.health.last_answer_at or float("-inf"), pair.heard_at or float("-inf"), pair.priority)

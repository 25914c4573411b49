"""How one path answers its checks: round-trip time (RFC 6298), misses in a row, random loss.

A check is missed when it stays unanswered for `timeout_s`. Misses count only while no check sent later was answered:
loss of single checks is not silence. `lossy_at` remembers the former, since on a path that loses by chance a second
miss in a row proves nothing.
"""

from dataclasses import dataclass
from typing import Final

MIN_TIMEOUT_S: Final = 0.150
FIRST_TIMEOUT_S: Final = 0.5
"""Before the first answer."""
HISTORY: Final = 64


@dataclass(slots=True)
class PathHealth:
    """Answers and misses of one path."""

    srtt_s: float | None = None
    rttvar_s: float = 0.0
    misses: int = 0
    streak: int = 0
    first_miss_at: float = 0.0
    answered_sent_at: float = float("-inf")
    last_answer_at: float | None = None
    lossy_at: float = float("-inf")
    suspected: bool = False
    """Silence was assumed, not seen."""
    failed: bool = False
    """Given up by the selector: unanswered probes are its outage then, no random loss."""
    restored_at: float = float("-inf")
    _history: int = 0
    _outcomes: int = 0

    @property
    def timeout_s(self) -> float:
        """Seconds after which an unanswered check is a miss."""
        if self.srtt_s is None:
            return FIRST_TIMEOUT_S
        return max(3 * self.srtt_s, self.srtt_s + 4 * self.rttvar_s, MIN_TIMEOUT_S)

    @property
    def loss(self) -> float:
        """Share of the last 64 checks that stayed unanswered, 0 to 1."""
        return self._history.bit_count() / self._outcomes if self._outcomes else 0.0

    def answered(self, sent_at: float, now: float, *, was_missed: bool = False) -> None:
        """A check sent at `sent_at` was answered; `was_missed` when its time had run out before."""
        self._sample(now - sent_at)
        self.last_answer_at = now
        if sent_at > self.answered_sent_at:
            self.answered_sent_at = sent_at
        if self.misses and not self.failed and not self.suspected:
            self.lossy_at = now
        self.misses, self.suspected = 0, False
        self.streak += 1
        if not was_missed:
            self._record(0)

    def missed(self, sent_at: float, now: float) -> None:
        """A check sent at `sent_at` stayed unanswered."""
        self._record(1)
        if sent_at <= self.answered_sent_at:
            if not self.failed and sent_at > self.restored_at:
                self.lossy_at = now
            return
        self.streak = 0
        self.misses += 1
        if self.misses == 1:
            self.first_miss_at = now

    def suspect(self, now: float) -> None:
        """Something happened that may have broken the path: treat it as one that missed a check."""
        if not self.misses:
            self.misses, self.suspected, self.first_miss_at = 1, True, now

    def restored(self, now: float) -> None:
        """The path is in use again; what was lost during its outage does not count as loss."""
        self.failed, self.restored_at = False, now
        self._history = self._outcomes = 0

    def _record(self, lost: int) -> None:
        self._history = (self._history << 1 | lost) & ((1 << HISTORY) - 1)
        self._outcomes = min(HISTORY, self._outcomes + 1)

    def _sample(self, rtt_s: float) -> None:
        """RFC 6298 s2."""
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
            return
        self.rttvar_s += (abs(self.srtt_s - rtt_s) - self.rttvar_s) / 4
        self.srtt_s += (rtt_s - self.srtt_s) / 8

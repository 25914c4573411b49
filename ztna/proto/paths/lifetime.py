"""How long the NAT keeps an idle UDP mapping, found on a spare socket (RFC 5780 section 4.6, in a simpler form).

Flow: request -> answer names the mapped port -> idle for a gap -> request again: the same port means that the mapping
outlived the gap, which is doubled; another port that it did not, and the search halves between the two. At most 12
requests and gaps of 10 min, so it ends within the hour and may be stopped at any time.

A NAT that preserves ports gives the same port to a new mapping too: then only a lower bound is found.
"""

from dataclasses import dataclass
from typing import Final

from ztna.proto.paths.stun_types import Endpoint

FIRST_GAP_S: Final = 15.0
MAX_GAP_S: Final = 600.0
MAX_PROBES: Final = 12
PRECISION: Final = 1.25
ANSWER_TIMEOUT_S: Final = 1.0
MAX_TIMEOUTS: Final = 3
MIN_KEEPALIVE_S: Final = 5.0
DEFAULT_KEEPALIVE_S: Final = 22.5
SAFETY: Final = 0.75
"""Of the longest gap survived: two keepalives may not come late together."""


@dataclass(slots=True)
class MappingLifetime:
    """Estimator. Ask `next_at`; when due send a Binding request, call `sent`, then `answered` or let it time out.

    `survived_s` is the longest idle gap outlived, `lost_s` the shortest that was not (None while none was).
    """

    next_at: float | None = None
    survived_s: float = 0.0
    lost_s: float | None = None
    probes: int = 0
    _gap_s: float = FIRST_GAP_S
    _mapped: Endpoint | None = None
    _sent_at: float | None = None
    _last_at: float = 0.0
    _timeouts: int = 0

    def start(self, now: float) -> None:
        """Begin on a fresh socket."""
        self.next_at = now

    @property
    def done(self) -> bool:
        """Whether no further request will be asked for."""
        return self.next_at is None

    @property
    def suggested_keepalive_s(self) -> float:
        """Seconds between keepalives that this NAT needs; the default of 22.5 unless the mapping dies sooner."""
        if self.lost_s is None:
            return DEFAULT_KEEPALIVE_S
        safe = self.survived_s * SAFETY if self.survived_s else self.lost_s / 2
        return max(MIN_KEEPALIVE_S, min(DEFAULT_KEEPALIVE_S, safe))

    def sent(self, now: float) -> None:
        """The request that was due has left."""
        self._sent_at = now
        self.next_at = now + ANSWER_TIMEOUT_S

    def timed_out(self) -> bool:
        """The answer stayed out: ask again, at most three times in a row; returns whether to send once more."""
        self._timeouts += 1
        if self._timeouts >= MAX_TIMEOUTS:
            self.next_at = None
        return self.next_at is not None

    def answered(self, mapped: Endpoint, now: float) -> None:
        """The answer names the mapped address: judge the gap, plan the next."""
        if self._sent_at is None or self.next_at is None:
            return
        if self._mapped is not None and not self._timeouts:
            idle_s = self._sent_at - self._last_at
            if mapped == self._mapped:
                self.survived_s = max(self.survived_s, idle_s)
            else:
                self.lost_s = idle_s if self.lost_s is None else min(self.lost_s, idle_s)
        self._mapped, self._last_at, self._sent_at, self._timeouts = mapped, now, None, 0
        self.probes += 1
        self._plan(now)

    def _plan(self, now: float) -> None:
        if self.probes >= MAX_PROBES or self._is_precise():
            self.next_at = None
            return
        if self.lost_s is not None:
            self._gap_s = max(1.0, (self.survived_s + self.lost_s) / 2)
        elif self.survived_s:
            self._gap_s = min(MAX_GAP_S, self.survived_s * 2)
        self.next_at = now + self._gap_s

    def _is_precise(self) -> bool:
        if self.lost_s is None:
            return self.survived_s >= MAX_GAP_S * 0.99
        return self.lost_s <= max(self.survived_s, 1.0) * PRECISION

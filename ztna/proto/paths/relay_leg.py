"""The leg to the relay: one authenticated request is proof of this socket's address, srflx discovery and keepalive.

Flow: the first request leaves at the start, again after 50, 100, 200, 400 ms ... until one is answered -> keepalives,
every 20 to 25 s while idle and every 5 s while packets travel on it -> a new series at once when something hints that
the mapping moved: another network, a missed direct path, packets that are sent but never answered.
"""

from dataclasses import dataclass, field
from typing import Final

from ztna.proto.paths.checks import RETRANSMIT_AT_S
from ztna.proto.paths.health import PathHealth
from ztna.proto.paths.stun_types import Endpoint

BUSY_KEEPALIVE_S: Final = 5.0
UNANSWERED_EVERY_S: Final = 2.0
"""Between requests of a series that got no answer at all: a relay that comes back is found within this."""
DEAD_AFTER_MISSES: Final = 6
UNREADY_AFTER_S: Final = (1.0, 2.0, 4.0)
"""Between proofs that were answered while the relay does not forward: it may have been switched off, and comes back."""
SILENCE_S: Final = 0.25
"""Packets leave on this leg and nothing has come back for this long: the mapping may have moved."""
SILENCE_PROBE_MAX_S: Final = 5.0


@dataclass(slots=True)
class RelayLeg:
    """State of the leg on one local socket.

    `mapped` is where the relay sees the socket. `is_ready` says that the intermediate forwards between both sides.
    """

    remote: Endpoint
    local: int
    is_ready: bool = False
    mapped: Endpoint | None = None
    next_at: float | None = None
    health: PathHealth = field(default_factory=PathHealth)
    sent: int = 0
    answers: int = 0
    heard_at: float = float("-inf")
    _unready: int = 0
    _series_at: float = 0.0
    _attempts: int = 0
    _silence_gap_s: float = SILENCE_S

    def has_answered_since(self, at: float) -> bool:
        """Whether anything came from the relay since a time: then it is there now, not only at the last keepalive."""
        return self.heard_at >= at

    @property
    def is_dead(self) -> bool:
        """Its silence is no accident."""
        return self.health.last_answer_at is None or self.health.misses >= DEAD_AFTER_MISSES

    @property
    def can_carry(self) -> bool:
        """Whether packets may be sent on it."""
        return self.is_ready

    def prove(self, now: float) -> None:
        """Send a request now and repeat it until it is answered, unless such a series has just begun."""
        if self._attempts and now - self._series_at < RETRANSMIT_AT_S[1]:
            return
        self._series_at, self._attempts, self.next_at = now, 0, now

    def request_sent(self, now: float) -> None:
        """A request left: plan the next of the series."""
        self.sent += 1
        self._attempts += 1
        if self._attempts == 1:
            self._series_at = now
        if self._attempts < len(RETRANSMIT_AT_S):
            # Not before an answer could be here.
            soonest_s = self._attempts * 1.25 * (self.health.srtt_s or 0.0)
            self.next_at = self._series_at + max(RETRANSMIT_AT_S[self._attempts], soonest_s)
        else:
            self.next_at = now + UNANSWERED_EVERY_S

    def answered(self, sent_at: float, mapped: Endpoint, now: float, keepalive_s: float, *, was_missed: bool) -> bool:
        """An answer was accepted; returns whether the mapped address is new.

        Args:
            sent_at, now: when the request left, when its answer came; a later request's answer outranks it.
            mapped: where the relay saw that request come from.
            keepalive_s: seconds until the next request.
            was_missed: the request had been counted as missed.
        """
        is_newest = sent_at > self.health.answered_sent_at
        self.health.answered(sent_at, now, was_missed=was_missed)
        self.answers += 1
        self.heard_at = now
        self._attempts = 0
        if self.is_ready:
            self._unready = 0
            self.next_at = now + keepalive_s
        else:
            self.next_at = now + min(keepalive_s, UNREADY_AFTER_S[min(self._unready, len(UNREADY_AFTER_S) - 1)])
            self._unready += 1
        if not is_newest or mapped == self.mapped:
            return False
        self.mapped = mapped
        return True

    def heard(self, now: float) -> None:
        """A packet of the peer came through the relay."""
        self.heard_at = now
        self._silence_gap_s = SILENCE_S

    def traffic(self, now: float) -> None:
        """Packets are being sent on this leg: bring the keepalive forward, and notice when nothing ever comes back."""
        if self._attempts:
            return
        if self.next_at is None or self.next_at > now + BUSY_KEEPALIVE_S:
            self.next_at = now + BUSY_KEEPALIVE_S
        if now - self.heard_at > max(self._silence_gap_s, 4 * (self.health.srtt_s or 0.0)):
            self._silence_gap_s = min(self._silence_gap_s * 2, SILENCE_PROBE_MAX_S)
            self.prove(now)

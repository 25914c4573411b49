"""Does the relay still know this connection? Decided from what is unanswered, not from keepalives alone.

Flow, every `interval_s`: the shell reports packets heard and probe time-outs of QUIC (RFC 9002 section 6.2) to `check`
and obeys: PING asks for an acknowledgement, PROBE asks for a PING and a STUN request as well, LOST ends the connection.

A relay that was restarted has lost its connections but answers STUN: two STUN answers and no acknowledgement are proof
sooner than silence alone is.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

ACTIVE_INTERVAL_S: Final = 0.25
IDLE_INTERVAL_S: Final = 1.0
STUN_PROOF: Final = 2
SILENT_RTTS: Final = 6
FORGOTTEN_RTTS: Final = 3


class Verdict(Enum):
    """What the shell is to do now."""

    ALIVE = "alive"
    PING = "ping"
    PROBE = "probe"
    LOST = "lost"


@dataclass(slots=True)
class Liveness:
    """State of one connection.

    Args:
        now: when the connection was established (monotonic seconds).
        active_s: how long after traffic silence is suspicious.
        quiet_s: silence after traffic that asks for a PING; an unanswered PING is what reveals a lost relay.
        silent_s: time without an acknowledgement, after the first probe time-out, that proves the connection lost.
        forgotten_s: the same when the relay meanwhile answers STUN.
    """

    now: float
    active_s: float = 60.0
    quiet_s: float = 1.0
    silent_s: float = 1.5
    forgotten_s: float = 0.75
    _traffic_at: float = float("-inf")
    _heard_at: float = float("-inf")
    _pinged_at: float = float("-inf")
    _sent: int = 0
    _received: int = 0
    _acknowledged: int | None = None
    _acknowledged_at: float = float("-inf")
    _unanswered_since: float | None = None
    _stun_answers: int = 0

    @property
    def interval_s(self) -> float:
        """When to check again: soon while there is traffic or doubt, else once a second."""
        busy = self.now - self._traffic_at < self.active_s or self._unanswered_since is not None
        return ACTIVE_INTERVAL_S if busy else IDLE_INTERVAL_S

    def stun_answered(self) -> None:
        """The relay answered a STUN request sent since the last verdict PROBE."""
        self._stun_answers += 1

    def check(
        self,
        now: float,
        *,
        sent: int,
        received: int,
        timeouts: int,
        rtt_s: float | None,
        acknowledged: int | None = None,
    ) -> Verdict:
        """Judge the connection.

        Args:
            now: monotonic seconds.
            sent: DATAGRAM frames sent on it so far.
            received: DATAGRAM frames received on it so far.
            timeouts: QUIC's probe time-outs in a row; 0 means everything sent was acknowledged or is still in time.
            rtt_s: smoothed round-trip time, if known.
            acknowledged: the largest packet number acknowledged so far. Each packet sent puts the probe time-out off
                (RFC 9002 section 6.2.1), so under steady sending only this shows that nothing is answered any more.
        """
        self.now = now
        if sent != self._sent or received != self._received:
            self._traffic_at = now
        if received != self._received:
            self._heard_at = now
        self._sent, self._received = sent, received
        if acknowledged != self._acknowledged:
            self._acknowledged, self._acknowledged_at = acknowledged, now
        if timeouts or (acknowledged is not None and self._ping_is_overdue(now, rtt_s or 0.0)):
            return self._judge_silence(now, rtt_s or 0.0)
        self._unanswered_since = None
        recent = now - self._traffic_at < self.active_s
        if recent and now - max(self._heard_at, self._pinged_at) >= self.quiet_s:
            self._pinged_at = now
            return Verdict.PING
        return Verdict.ALIVE

    def _ping_is_overdue(self, now: float, rtt_s: float) -> bool:
        """Whether the last PING asked for has had time to be acknowledged, and nothing was since."""
        waited_s = now - self._pinged_at
        return self._acknowledged_at < self._pinged_at and waited_s >= max(ACTIVE_INTERVAL_S, SILENT_RTTS * rtt_s)

    def _judge_silence(self, now: float, rtt_s: float) -> Verdict:
        if self._unanswered_since is None:
            self._unanswered_since = now
            self._stun_answers = 0
        silent_s = now - self._unanswered_since
        if silent_s >= max(self.silent_s, SILENT_RTTS * rtt_s):
            return Verdict.LOST
        if self._stun_answers >= STUN_PROOF and silent_s >= max(self.forgotten_s, FORGOTTEN_RTTS * rtt_s):
            return Verdict.LOST
        return Verdict.PROBE

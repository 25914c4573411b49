"""Is the peer still there? Decided from what it leaves unacknowledged, whatever the path.

A path's own checks tell whether that path works; by the relay they are answered by the relay itself, whose answer says
nothing of the peer behind it. Flow: a packet that must be acknowledged leaves -> nothing of the peer arrives for
`gap_s` -> the peer is silent, and again every second while it stays so.
"""

from dataclasses import dataclass
from typing import Final, Protocol

MIN_GAP_S: Final = 0.2
MARGIN_S: Final = 0.05
"""The peer may hold an acknowledgement back for 25 ms (RFC 9000 s18.2), and its host be busy."""
GAP_RTTS: Final = 4
REPEAT_S: Final = 1.0
SUSPICIOUS_S: Final = 0.05
"""Before that nothing is looked at: this is asked for each batch."""


class Unanswered(Protocol):
    """What is known of the packets sent: whether one that the peer must acknowledge is not, and the RTT in seconds."""

    @property
    def awaits_answer(self) -> bool: ...

    @property
    def rtt_s(self) -> float | None: ...


def gap_s(rtt_s: float | None) -> float:
    """Seconds without an acknowledgement after which a peer is silent."""
    return max(MIN_GAP_S, GAP_RTTS * (rtt_s or 0.0) + MARGIN_S)


@dataclass(slots=True)
class PeerSilence:
    """Args: heard_at: when something of the peer arrived last (monotonic seconds); its owner keeps it up to date."""

    heard_at: float
    _waiting_since: float | None = None
    _told_at: float = float("-inf")

    @property
    def is_silent(self) -> bool:
        """Whether its silence was told, and nothing of it came since."""
        return self._told_at > self.heard_at

    def sent(self, packets: Unanswered, now: float) -> bool:
        """Packets left; returns whether the peer's silence is to be told now."""
        if now - self.heard_at <= SUSPICIOUS_S:
            return False
        since, awaits = self._waiting_since, packets.awaits_answer
        if not awaits or since is None or self.heard_at >= since:
            self._waiting_since = now if awaits else None
            return False
        if now - since < gap_s(packets.rtt_s) or now - self._told_at < REPEAT_S:
            return False
        self._told_at = now
        return True

"""Whether a path swallows the large packets of the native core (RFC 8899 s4.3), told by its counts."""

from typing import Any, Final

from ztna.io.quic_parts import MIN_UDP_PAYLOAD

LOSSES: Final = 4
BLACK_HOLE_VERDICTS: Final = 2


class LargePackets:
    """What became of packets beyond 1200 bytes, told by counts alone: the native core tells no more."""

    def __init__(self) -> None:
        self.sent = 0
        self.suspicion = 0
        self._mark = (0, 0, 0, 0.0)

    def judge(self, core: Any, now: float, interval_s: float) -> bool:
        """Whether, two intervals in a row, as many packets were lost as large ones were settled."""
        sent, flying, lost, at = self._mark
        if now - at < interval_s:
            return False
        out = sum(size > MIN_UDP_PAYLOAD for _, size, _ in core.outstanding_application_packets)
        self._mark = (self.sent, out, core.loss_total, now)
        settled, losses = self.sent - sent + flying - out, core.loss_total - lost
        self.suspicion = self.suspicion + 1 if LOSSES <= settled <= losses else 0
        return self.suspicion >= BLACK_HOLE_VERDICTS

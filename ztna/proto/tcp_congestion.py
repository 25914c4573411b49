"""Round-trip time, retransmission time-out and congestion window of one TCP connection.

RFC 6298 for the time-out, RFC 5681 for slow start, congestion avoidance and the response to loss, RFC 6582 for the
bounds of one recovery, RFC 6928 for the initial window.
"""

from typing import Final

__all__ = ["Congestion", "RoundTrip"]

_INITIAL_WINDOW_SEGMENTS: Final = 10
_GRANULARITY_S: Final = 0.001


class RoundTrip:
    """Smoothed round-trip time and the time-out drawn from it; all in seconds."""

    __slots__ = ("_backoff", "_max_rto", "_min_rto", "_rto", "minimum", "smoothed", "variation")

    def __init__(self, initial_rto_s: float, min_rto_s: float, max_rto_s: float) -> None:
        self._rto = initial_rto_s
        self._min_rto = min_rto_s
        self._max_rto = max_rto_s
        self._backoff = 1
        self.smoothed: float | None = None
        self.variation = 0.0
        self.minimum = float("inf")

    @property
    def rto(self) -> float:
        """The retransmission time-out now, back-off included (RFC 6298 s2, s5.5)."""
        rto = self._rto * self._backoff
        return rto if rto < self._max_rto else self._max_rto

    def back_off(self) -> None:
        """Double the time-out (RFC 6298 s5.5)."""
        if self._rto * self._backoff < self._max_rto:
            self._backoff *= 2

    def progress(self) -> None:
        """Take back the doubling: new data was acknowledged (RFC 6298 s5.7)."""
        self._backoff = 1

    def sample(self, measured_s: float) -> None:
        """Take one measurement of a segment sent only once (Karn's rule; RFC 6298 s2 and s3)."""
        if measured_s < self.minimum:
            self.minimum = measured_s
        if self.smoothed is None:
            self.smoothed = measured_s
            self.variation = measured_s / 2
        else:
            self.variation += (abs(self.smoothed - measured_s) - self.variation) / 4
            self.smoothed += (measured_s - self.smoothed) / 8
        margin = 4 * self.variation
        rto = self.smoothed + (margin if margin > _GRANULARITY_S else _GRANULARITY_S)
        self._rto = rto if rto > self._min_rto else self._min_rto


class Congestion:
    """The congestion window, in bytes."""

    __slots__ = ("_max_window", "_mss", "recover", "state", "threshold", "window")

    OPEN: Final = 0
    RECOVERY: Final = 1
    LOSS: Final = 2

    def __init__(self, mss_bytes: int, max_window_bytes: int) -> None:
        self._mss = mss_bytes
        self._max_window = max_window_bytes
        self.window = self._initial_window()
        self.threshold = float("inf")
        self.state = self.OPEN
        # Losses below this position belong to a reduction already made (RFC 6582 s3.2).
        self.recover = 0

    def _initial_window(self) -> int:
        return min(_INITIAL_WINDOW_SEGMENTS * self._mss, max(2 * self._mss, 14600))

    def set_mss(self, mss_bytes: int) -> None:
        """Set the segment size the window counts in."""
        self._mss = mss_bytes

    def restart_after_idle(self) -> None:
        """Forget a window that no acknowledgment has confirmed for a time-out (RFC 5681 s4.1)."""
        if self.state == self.OPEN:
            self.window = min(self.window, self._initial_window())

    def acknowledged(self, count: int, una: int, was_limited: bool) -> None:
        """Take `count` newly acknowledged bytes up to position `una`; end a recovery that is complete."""
        if self.state != self.OPEN and una >= self.recover:
            self.state = self.OPEN
        if self.state == self.RECOVERY or not was_limited:
            return
        if self.window < self.threshold:
            # Counted in bytes, for one acknowledgment may stand for many segments; after a time-out with RFC 3465's
            # limit, for such an acknowledgment may then cover segments that were never lost.
            self.window += min(count, 2 * self._mss) if self.state == self.LOSS else count
        else:
            self.window += max(1, self._mss * min(count, self.window) // self.window)
        self.window = min(self.window, self._max_window)

    def lost(self, flight_size: int, next_position: int) -> None:
        """Segments were found lost: halve once per window (RFC 5681 s3.2, RFC 6582 s3.2).

        `flight_size` is everything sent and not cumulatively acknowledged, selectively acknowledged or not.
        """
        if self.state != self.OPEN:
            return
        self.threshold = max(min(flight_size, self.window) // 2, 2 * self._mss)
        self.window = int(self.threshold)
        self.state = self.RECOVERY
        self.recover = next_position

    def timed_out(self, flight_size: int, next_position: int, first_time: bool) -> None:
        """The retransmission timer fired: one segment, then slow start again (RFC 5681 s3.1)."""
        if first_time:
            self.threshold = max(min(flight_size, self.window) // 2, 2 * self._mss)
        self.window = self._mss
        self.state = self.LOSS
        self.recover = next_position

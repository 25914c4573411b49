"""How long a client waits before it connects again."""

from collections.abc import Callable
from typing import Final

__all__ = ["Backoff"]

FIRST_S: Final = 1.0
CAP_S: Final = 30.0
STABLE_S: Final = 30.0


class Backoff:
    """Delays before reconnecting: 1 s doubling to 30 s, stretched by up to a half at random.

    Attempt n waits between 2^n and 1.5 * 2^n seconds, so each wait is longer than the one before, and clients that
    lost the same relay do not return in step. From the cap on waits lie between 24 and 30 s. Only a connection that
    stayed up for `stable_s` starts the series again: one that is accepted and then closed does not.
    """

    __slots__ = ("_attempt", "_connected_at", "_random", "stable_s")

    def __init__(self, random: Callable[[], float], *, stable_s: float = STABLE_S) -> None:
        """Args: random: uniform in [0, 1); stable_s: seconds after which a connection counts as stable."""
        self._random = random
        self._attempt = 0
        self._connected_at: float | None = None
        self.stable_s = stable_s

    @property
    def attempt(self) -> int:
        """Number of delays given out since the last stable connection."""
        return self._attempt

    def connected(self, now: float) -> None:
        """Note that a connection was established."""
        self._connected_at = now

    def next_delay_s(self, now: float) -> float:
        """Return the seconds to wait from `now`, when a connection or an attempt has just failed."""
        if self._connected_at is not None and now - self._connected_at >= self.stable_s:
            self._attempt = 0
        self._connected_at = None
        # 2^5 s is above the cap: further doubling changes nothing, and the exponent stays small.
        base = FIRST_S * (1 << min(self._attempt, 5))
        self._attempt += 1
        stretch = self._random() / 2
        if base >= CAP_S:
            return CAP_S * (0.8 + 0.4 * stretch)
        return base * (1 + stretch)

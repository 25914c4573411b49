"""Token buckets: how much one sender may ask of us, with a bound on the senders remembered."""

from dataclasses import dataclass, field


class TokenBucket:
    """`burst` tokens at first and at most, `rate_per_s` regained per second."""

    __slots__ = ("_burst", "_rate_per_s", "_tokens", "_updated")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._updated = float("-inf")

    def take(self, now: float) -> bool:
        """Take one token; False when there is none."""
        if now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate_per_s)
            self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True)
class SourceLimiter:
    """One token bucket per source and one for all sources together.

    Args:
        rate_per_s: tokens each source regains per second.
        burst: tokens a source starts with, and the most it can hold.
        total_rate_per_s: tokens regained per second by the bucket all sources share.
        max_sources: sources remembered; beyond that the one longest unseen is forgotten, so that forged sources cost
            bounded memory. The shared bucket bounds what they can draw.
    """

    rate_per_s: float
    burst: float
    total_rate_per_s: float = 2000.0
    max_sources: int = 4096
    refused: int = 0
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    _total: tuple[float, float] | None = None

    def allow(self, source: str, now: float) -> bool:
        """Take one token of `source` and one of the shared bucket; False (counted) when either has none."""
        tokens, updated = self._buckets.pop(source, (self.burst, now))
        tokens = min(self.burst, tokens + (now - updated) * self.rate_per_s)
        total, total_updated = self._total or (self.total_rate_per_s, now)
        total = min(self.total_rate_per_s, total + (now - total_updated) * self.total_rate_per_s)
        allowed = tokens >= 1 and total >= 1
        if allowed:
            tokens, total = tokens - 1, total - 1
        else:
            self.refused += 1
        # Re-inserted at the end: a dict keeps insertion order, so its first key is the source longest unseen.
        self._buckets[source] = (tokens, now)
        if len(self._buckets) > self.max_sources:
            del self._buckets[next(iter(self._buckets))]
        self._total = (total, now)
        return allowed

    def __len__(self) -> int:
        return len(self._buckets)

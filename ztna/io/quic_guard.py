"""Admission control in front of QUIC: token buckets per source, half-open bookkeeping, used Retry tokens.

Every table here is bounded; when one is full the oldest entry goes, so that a flood cannot grow memory.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds of what strangers can make us do. Rates are per source address (/64 for IPv6) and second."""

    half_open: int = 512
    half_open_per_source: int = 128
    handshake_timeout_s: float = 5.0
    retry_rate: float = 500.0
    retry_burst: float = 1000.0
    handshake_rate: float = 200.0
    handshake_burst: float = 512.0
    version_negotiation_rate: float = 20.0
    version_negotiation_burst: float = 20.0
    sources: int = 8192
    used_tokens: int = 16_384
    max_connections: int = 20_000


class TokenBuckets:
    """One token bucket per source in a bounded table."""

    def __init__(self, rate: float, burst: float, sources: int) -> None:
        self._rate = rate
        self._burst = burst
        self._sources = sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, source: str, now: float) -> bool:
        """Take one token of `source`; False if there is none."""
        buckets = self._buckets
        entry = buckets.pop(source, None)
        if entry is None:
            tokens = self._burst
            if len(buckets) >= self._sources:
                buckets.popitem(last=False)
        else:
            tokens = min(self._burst, entry[0] + (now - entry[1]) * self._rate)
        allowed = tokens >= 1.0
        buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        return allowed


class UsedTokens:
    """Remembers for a while which Retry tokens were spent, by the connection ID they are bound to (single use)."""

    def __init__(self, lifetime_s: float, capacity: int) -> None:
        self._lifetime_s = lifetime_s
        self._capacity = capacity
        self._spent: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._spent)

    def spend(self, cid: bytes, now: float) -> bool:
        """Mark as spent; False if it was spent before."""
        spent = self._spent
        while spent:
            oldest = next(iter(spent))
            if len(spent) < self._capacity and spent[oldest] > now - self._lifetime_s:
                break
            del spent[oldest]
        if cid in spent:
            return False
        spent[cid] = now
        return True


def source_key(host: str) -> str:
    """The unit of rate limiting: an IPv4 address, or the /64 an IPv6 host can hop around in."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))

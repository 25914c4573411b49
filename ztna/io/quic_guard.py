"""Admission control in front of QUIC: token buckets per source, half-open bookkeeping, used Retry tokens.

Every table here is bounded; when one is full the oldest entry goes, so that a flood cannot grow memory.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds of what strangers can make us do. Rates are per second and per source address (/64 for IPv6).

    `stateless_*` bounds Retry and Version Negotiation for all sources together: under a flood from forged addresses
    the rest is dropped before it is parsed, while handshakes that carry a token go on.
    """

    half_open: int = 512
    half_open_per_source: int = 128
    handshake_timeout_s: float = 5.0
    retry_rate: float = 500.0
    retry_burst: float = 1000.0
    stateless_rate: float = 4000.0
    stateless_burst: float = 4000.0
    handshake_rate: float = 200.0
    handshake_burst: float = 512.0
    version_negotiation_rate: float = 20.0
    version_negotiation_burst: float = 20.0
    sources: int = 8192
    used_tokens: int = 16_384
    max_connections: int = 20_000


class TokenBucket:
    """One token bucket, for what all sources together may cost us."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


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


def carries_no_token(data: bytes) -> bool:
    """Whether a long-header datagram is no QUIC v1 Initial with a token; reads four bytes, parses nothing."""
    try:
        at = 6 + data[5]
        at += 1 + data[at]
        return data[0] & 0x30 != 0 or data[1:5] != b"\0\0\0\1" or data[at] == 0
    except IndexError:
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

"""Requests in flight and the pace at which they leave (RFC 8445 s14, RFC 8489 s6.2.1).

Every transmission is a transaction of its own, so that an answer names the very packet it answers: round-trip times
need no guess, and a request heard twice is a replay.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ztna.proto.paths.pairs import Pair
from ztna.proto.paths.stun_types import COUNTER_BYTES, TRANSACTION_BYTES, Endpoint

RETRANSMIT_AT_S: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Transmissions of a series of checks, from its first; a lost first one costs little, a dead address few packets."""
SERIES_END_S: Final = 4.8
"""When the last of them has had its time."""
MAX_TRANSACTIONS: Final = 2048
KEPT_S: Final = 10.0
REPLAY_WINDOW: Final = 1024


class Purpose(Enum):
    """What a request is for."""

    CHECK = auto()
    RELAY = auto()
    CORNER = auto()
    GUESS = auto()
    """A check to an address nobody named: a predicted or a random port."""


@dataclass(slots=True, eq=False)
class Transaction:
    """One request in flight. `due_at` is when it counts as missed."""

    id: bytes
    purpose: Purpose
    local: int
    remote: Endpoint
    sent_at: float
    due_at: float
    pair: Pair | None = None
    was_missed: bool = False


class TransactionTable:
    """Requests in flight: at most 2048, each kept for 10 s."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._counter = 0
        self._open: dict[bytes, Transaction] = {}
        self._due: list[tuple[float, int, Transaction]] = []

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self, purpose: Purpose, local: int, remote: Endpoint, now: float, timeout_s: float, pair: Pair | None = None
    ) -> Transaction | None:
        """Start a transaction; None when too many are open."""
        self._expire(now)
        if len(self._open) >= MAX_TRANSACTIONS:
            return None
        self._counter += 1
        id_ = self._counter.to_bytes(COUNTER_BYTES, "big") + self._random(TRANSACTION_BYTES - COUNTER_BYTES)
        transaction = Transaction(id_, purpose, local, remote, now, now + timeout_s, pair)
        self._open[id_] = transaction
        heapq.heappush(self._due, (transaction.due_at, self._counter, transaction))
        return transaction

    def find(self, id_: bytes) -> Transaction | None:
        """Return the open transaction of an answer, leaving it open."""
        return self._open.get(id_)

    def close(self, transaction: Transaction) -> None:
        """An answer was accepted."""
        self._open.pop(transaction.id, None)

    def missed(self, now: float) -> Iterator[Transaction]:
        """Yield each transaction whose time ran out, once; a late answer is still taken until it is forgotten."""
        while self._due and self._due[0][0] <= now:
            transaction = heapq.heappop(self._due)[2]
            if transaction.id in self._open:
                transaction.was_missed = True
                yield transaction

    def next_due(self) -> float | None:
        """When the next transaction counts as missed."""
        while self._due and self._due[0][2].id not in self._open:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def _expire(self, now: float) -> None:
        # In the order of sending, so the oldest come first.
        while self._open:
            oldest = next(iter(self._open.values()))
            if now - oldest.sent_at < KEPT_S:
                break
            del self._open[oldest.id]


@dataclass(slots=True)
class Pacer:
    """Keeps requests `interval_s` apart (Ta of RFC 8445 s14.2)."""

    interval_s: float
    _free_at: float = float("-inf")

    @property
    def free_at(self) -> float:
        """When the next request may leave."""
        return self._free_at

    def take(self, now: float) -> bool:
        """Whether a request may leave now; then the next one waits."""
        if now < self._free_at:
            return False
        self._free_at = now + self.interval_s
        return True


class ReplayWindow:
    """Counters of the peer's requests: each is taken once, and none before the last 1024 (RFC 4303 s3.4.3)."""

    __slots__ = ("_highest", "_seen")

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0

    def accept(self, transaction: bytes) -> bool:
        """Whether a request's counter is new."""
        counter = int.from_bytes(transaction[:COUNTER_BYTES], "big")
        ahead = counter - self._highest
        if ahead > 0:
            self._seen = 1 if ahead >= REPLAY_WINDOW else (self._seen << ahead | 1) & ((1 << REPLAY_WINDOW) - 1)
            self._highest = counter
            return True
        if -ahead >= REPLAY_WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


@dataclass(slots=True)
class TokenBucket:
    """At most `rate_per_s` events in the long run, `burst` at once."""

    rate_per_s: float
    burst: float
    _tokens: float = -1.0
    _updated: float = 0.0

    def allow(self, now: float) -> bool:
        """Take one token; False when there is none."""
        if self._tokens < 0:
            self._tokens = self.burst
        else:
            self._tokens = min(self.burst, self._tokens + (now - self._updated) * self.rate_per_s)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

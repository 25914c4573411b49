"""Candidate pairs of a session: forming, priorities, pruning, bounds (RFC 8445 s6.1.2).

A pair is (local socket, remote endpoint). Local candidates that share a socket would be sent from the same base, so
pruning (RFC 8445 s6.1.2.4) leaves one pair per socket and remote endpoint, with the priority of the best of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ztna.proto.paths.candidates import Candidate, CandidateType, is_v6
from ztna.proto.paths.health import PathHealth
from ztna.proto.paths.path_types import PathStats
from ztna.proto.paths.stun_types import Endpoint

MAX_PAIRS: Final = 100
"""RFC 8445 s6.1.2.5."""
MAX_REMOTE_CANDIDATES: Final = 32


class PairState(StrEnum):
    """States of RFC 8445 s6.1.2.6; nothing is frozen here, since all pairs are of one component."""

    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Pair:
    """One candidate pair and what is going on with it.

    `next_at` is when the next check is due (None: none planned), `attempts` the checks of the running series, `owed`
    the checks still to be sent because packets arrived here (they open the peer's filter), `held_back` a reason for
    which the pair is not checked at all.
    """

    local: int
    remote: Endpoint
    type: CandidateType
    priority: int
    state: PairState = PairState.WAITING
    next_at: float | None = None
    attempts: int = 0
    series_at: float = 0.0
    owed: int = 0
    triggered: bool = False
    nominated: bool = False
    held_back: str | None = None
    added_at: float = 0.0
    sent_at: float = float("-inf")
    heard_at: float | None = None
    sent: int = 0
    answered: int = 0
    requests: int = 0
    health: PathHealth = field(default_factory=PathHealth)

    @property
    def is_usable(self) -> bool:
        """A check of ours was answered, and none has been missed since: both directions work."""
        return self.state is PairState.SUCCEEDED and not self.health.misses


def pair_priority(controlling: int, controlled: int) -> int:
    """Return the pair priority of RFC 8445 s6.1.2.3 from the priorities of both sides' candidates."""
    low, high = sorted((controlling, controlled))
    return (low << 32) + 2 * high + (controlling > controlled)


class PairTable:
    """All pairs and remote candidates, bounded: at most 100 pairs and 32 remote candidates.

    When full, a remote candidate whose pairs all failed makes room, the oldest first, then a peer-reflexive one that
    never succeeded; what cannot be placed is refused.
    """

    def __init__(self, *, controlling: bool, stats: PathStats | None = None) -> None:
        self._controlling = controlling
        self._stats = stats if stats is not None else PathStats()
        self._by_local: dict[int, dict[Endpoint, Pair]] = {}
        self._remotes: dict[Endpoint, Candidate] = {}
        self._locals: dict[int, tuple[bool, int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Pair]:
        for pairs in self._by_local.values():
            yield from pairs.values()

    @property
    def remotes(self) -> dict[Endpoint, Candidate]:
        """Remote candidates by endpoint, oldest first."""
        return self._remotes

    def get(self, local: int, remote: Endpoint) -> Pair | None:
        """Return the pair a packet belongs to; O(1)."""
        pairs = self._by_local.get(local)
        return None if pairs is None else pairs.get(remote)

    def add_local(self, local: int, *, v6: bool, priority: int) -> list[Pair]:
        """Add a socket, or raise its candidates' best priority; returns the pairs that this formed.

        Extra sockets (2 and up) form none: they exist for one search, and are paired with what answers them.
        """
        known = self._locals.get(local)
        if known is not None and known[1] >= priority:
            return []
        self._locals[local] = (v6, priority)
        self._by_local.setdefault(local, {})
        for pair in self._by_local[local].values():
            pair.priority = self._priority(priority, self._remotes[pair.remote].priority)
        return [] if known is not None or local >= 2 else self._form([local], self._remotes.values())

    def remove_local(self, local: int) -> None:
        """Forget a socket and its pairs."""
        self._locals.pop(local, None)
        self._count -= len(self._by_local.pop(local, {}))

    def add_remote(
        self, candidate: Candidate, *, only_local: int | None = None, spare: Pair | None = None
    ) -> list[Pair]:
        """Add a remote candidate and return the pairs it forms; none when it is redundant or there is no room.

        Args:
            candidate: with a usable endpoint.
            only_local: for a peer-reflexive candidate: the socket on which it was learned.
            spare: a pair whose candidate must not make room.
        """
        known = self._remotes.get(candidate.endpoint)
        if known is None and len(self._remotes) >= MAX_REMOTE_CANDIDATES and not self._make_room(spare):
            return []
        if known is None:
            self._remotes[candidate.endpoint] = candidate
        elif known.type is CandidateType.PRFLX and candidate.type is not CandidateType.PRFLX:
            # RFC 8445 s7.3.1.3: the peer's own word on a candidate replaces what was guessed from its packets.
            self._remotes[candidate.endpoint] = candidate
            self._retype(candidate)
        locals_ = [index for index in self._locals if index < 2] if only_local is None else [only_local]
        return self._form(locals_, [self._remotes[candidate.endpoint]])

    def _form(self, locals_: Iterable[int], remotes: Iterable[Candidate]) -> list[Pair]:
        formed = []
        for local in locals_:
            v6, priority = self._locals.get(local, (False, 0))
            pairs = self._by_local.setdefault(local, {})
            for remote in list(remotes):
                if is_v6(remote.endpoint.host) != v6 or remote.endpoint in pairs:
                    continue
                if self._count >= MAX_PAIRS and not self._drop_failed_pair():
                    self._stats.drop_pair_limit += 1
                    continue
                pair = Pair(local, remote.endpoint, remote.type, self._priority(priority, remote.priority))
                pairs[remote.endpoint] = pair
                self._count += 1
                formed.append(pair)
        return formed

    def _priority(self, local: int, remote: int) -> int:
        return pair_priority(local, remote) if self._controlling else pair_priority(remote, local)

    def _retype(self, candidate: Candidate) -> None:
        for local, pairs in self._by_local.items():
            pair = pairs.get(candidate.endpoint)
            if pair is not None:
                pair.type = candidate.type
                pair.priority = self._priority(self._locals.get(local, (False, 0))[1], candidate.priority)

    def _pairs_of(self, remote: Endpoint) -> list[Pair]:
        return [pairs[remote] for pairs in self._by_local.values() if remote in pairs]

    def _make_room(self, spare: Pair | None) -> bool:
        for wanted in (_all_failed, _unproven_prflx):
            for remote in self._remotes:
                pairs = self._pairs_of(remote)
                if spare in pairs or not wanted(pairs):
                    continue
                del self._remotes[remote]
                for table in self._by_local.values():
                    self._count -= table.pop(remote, None) is not None
                return True
        return False

    def _drop_failed_pair(self) -> bool:
        for pairs in self._by_local.values():
            for remote, pair in pairs.items():
                if pair.state is PairState.FAILED:
                    del pairs[remote]
                    self._count -= 1
                    return True
        return False


def _all_failed(pairs: list[Pair]) -> bool:
    return all(pair.state is PairState.FAILED for pair in pairs)


def _unproven_prflx(pairs: list[Pair]) -> bool:
    return all(pair.type is CandidateType.PRFLX and pair.state is not PairState.SUCCEEDED for pair in pairs)

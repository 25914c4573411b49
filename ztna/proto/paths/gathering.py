"""Local candidates of a session: interface addresses, and what STUN servers report (RFC 8445 s5.1.1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ztna.proto.paths.candidates import Candidate, host_candidate, is_v6, signalled_hosts, srflx_candidate
from ztna.proto.paths.stun_types import Endpoint

GATHERING_ENDS_S: Final = 2.0
"""A server that has not answered by then is not waited for."""
MAX_HOSTS: Final = 512
LISTENER_RANK: Final = 64
"""Interface number that a listener's addresses count from: a session's own socket comes first."""
MAX_LISTENED: Final = 4
EXTRA: Final = 2
"""Socket indices from here on are extra sockets."""


@dataclass(slots=True)
class Gathering:
    """Own endpoints by socket, and which candidates the peer has been told.

    `listened` are the addresses from outside of the socket `listener`, and `listener_proven` whether anybody ever came
    by it, in this session or another.
    """

    hosts: dict[int, list[Endpoint]] = field(default_factory=dict)
    mapped: dict[int, Endpoint] = field(default_factory=dict)
    ends_at: float | None = None
    ended: bool = False
    listener: int | None = None
    listened: tuple[Endpoint, ...] = ()
    listener_proven: bool = False
    _stale: bool = False
    _told: set[tuple[int, Endpoint]] = field(default_factory=set)

    @property
    def own(self) -> set[Endpoint]:
        """Every own host endpoint."""
        return {endpoint for endpoints in self.hosts.values() for endpoint in endpoints}

    def moved(self) -> None:
        """The network changed: the next `add` replaces all addresses, and the peer is told everything again."""
        self._stale = True
        self.mapped.clear()
        self._told.clear()

    def add(self, hosts: Sequence[tuple[int, Endpoint]], now: float) -> list[Candidate]:
        """Take interface addresses and return the host candidates that the peer does not know."""
        if self._stale:
            self.hosts = {local: found for local, found in self.hosts.items() if local >= EXTRA}
            self._stale = False
        for local, endpoint in hosts[:MAX_HOSTS]:
            known = self.hosts.setdefault(local, [])
            if endpoint not in known:
                known.append(endpoint)
        if self.ends_at is None:
            self.ends_at = now + GATHERING_ENDS_S
        usual = [(local, endpoint) for local, found in self.hosts.items() if local < EXTRA for endpoint in found]
        told = [host_candidate(local, endpoint, rank) for rank, (local, endpoint) in enumerate(signalled_hosts(usual))]
        return self._untold(told)

    def add_listener(self, local: int, hosts: Sequence[Endpoint], reflexive: Sequence[Endpoint]) -> list[Candidate]:
        """Take a socket that is reachable as it is; returns its candidates that the peer does not know."""
        self.listener, self.listened = local, tuple(reflexive[:MAX_LISTENED])
        told = [host_candidate(local, host, LISTENER_RANK + rank) for rank, host in enumerate(hosts[:MAX_LISTENED])]
        base = hosts[0] if hosts else None
        known = {candidate.endpoint for candidate in told}
        told += [srflx_candidate(local, each, base, each) for each in self.listened if each not in known]
        return self._untold(told)

    def add_mapped(self, local: int, mapped: Endpoint, server: Endpoint) -> list[Candidate]:
        """A server sees socket `local` as `mapped`: return the candidate, if the peer does not know it.

        Redundant with a host candidate where there is no NAT (RFC 8445 s5.1.3).
        """
        self.mapped[local] = mapped
        base = next((host for host in self.hosts.get(local, []) if is_v6(host.host) == is_v6(mapped.host)), None)
        if mapped in self.own:
            return []
        return self._untold([srflx_candidate(local, mapped, base, server)])

    def _untold(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        new = [candidate for candidate in candidates if (candidate.local, candidate.endpoint) not in self._told]
        if len(self._told) > MAX_HOSTS:
            self._told.clear()
        self._told.update((candidate.local, candidate.endpoint) for candidate in new)
        return new

"""A connector's own UDP port, shared by its sessions: agents whose NAT maps by destination reach them there.

The port is open in the connector's firewall, or brought in by a load balancer, so nothing has to be punched from this
side. A check names its session; once it proved itself, its source is that session's, and its packets go there.

    batch of the socket -> divert -> a session's packets | what is left: the connection to the intermediate
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ztna.io.session.session import QUIC_BITS, Session
from ztna.io.session.sockets import ANY, interface_addresses
from ztna.io.session.stun_codec import session_of
from ztna.io.udp import Address, Datagram, Run, UdpSocket
from ztna.proto.paths.stun_types import Endpoint

LISTENER: Final = 1 << 16
"""Index of the shared socket in every session: beyond any that birthday probing opens."""
MAX_SOURCES: Final = 1024


@dataclass(slots=True)
class ListenerCounters:
    """What came by the shared port for sessions; each datagram that no session takes is left to others."""

    diverted: int = 0
    sources_learned: int = 0
    sources_evicted: int = 0


class Listener:
    """See the module.

    Args:
        udp: the socket; its owner reads and closes it.
        relay: the address that belongs to the connection to the intermediate.
        external: address of this port as seen from outside, if it is configured.
    """

    def __init__(self, udp: UdpSocket, *, relay: Callable[[], Address | None], external: str | None) -> None:
        self.counters = ListenerCounters()
        self._udp = udp
        self._relay = relay
        self._external = external
        self._observed: Endpoint | None = None
        self._sessions: dict[bytes, Session] = {}
        self._sources: OrderedDict[Address, Session] = OrderedDict()

    def attach(self, session: Session) -> None:
        """Let a session be reached here."""
        self._sessions[session.id] = session
        if self.counters.sources_learned:
            session.paths.listener_proven()
        session.listen(LISTENER, self._udp, self._hosts(), self._reflexive())

    def detach(self, session: Session) -> None:
        """The session is over."""
        self._sessions.pop(session.id, None)
        for source in [source for source, owner in self._sources.items() if owner is session]:
            del self._sources[source]

    def observed(self, host: str, port: int) -> None:
        """The intermediate sees this socket at an address; without a NAT that moves ports others see it there, too."""
        seen = Endpoint(host, port)
        if seen == self._observed:
            return
        self._observed = seen
        for session in self._sessions.values():
            session.listen(LISTENER, self._udp, self._hosts(), self._reflexive())

    def _hosts(self) -> list[Endpoint]:
        bound, port = self._udp.local_address
        return [Endpoint(host, port) for host in (interface_addresses(False) if bound in ANY else [bound])]

    def _reflexive(self) -> list[Endpoint]:
        port = self._udp.local_address[1]
        if self._external is not None:
            return [Endpoint(self._external, port)]
        seen = self._observed
        # A port that a NAT has changed is this one destination's alone, as far as anybody knows.
        return [seen] if seen is not None and seen.port == port else []

    def divert(self, batch: list[Datagram]) -> list[Datagram]:
        """Give sessions what is theirs; returns the rest."""
        if not self._sessions:
            return batch
        relay = self._relay()
        rest: list[Datagram] = []
        taken: dict[Session, list[Run]] = {}
        for data, source in batch:
            session = None if source == relay else self._owner(data, source)
            if session is None:
                rest.append((data, source))
                continue
            self.counters.diverted += 1
            runs = taken.setdefault(session, [])
            if runs and runs[-1][0] == source:
                runs[-1][1].append(data)
            else:
                runs.append((source, [data]))
        for session, runs in taken.items():
            session.received(LISTENER, runs)
            self._learn(session, (source for source, _ in runs))
        return rest

    def _owner(self, data: bytes, source: Address) -> Session | None:
        known = self._sources.get(source)
        if known is not None or not data or data[0] & QUIC_BITS:
            return known
        named = session_of(data)
        return None if named is None else self._sessions.get(named)

    def _learn(self, session: Session, sources: Iterable[Address]) -> None:
        """Remember the sources that the session takes packets from."""
        for source in set(sources):
            if source in self._sources or session.closed or not session.paths.has_pair(LISTENER, Endpoint(*source)):
                continue
            if len(self._sources) >= MAX_SOURCES:
                self._sources.popitem(last=False)
                self.counters.sources_evicted += 1
            self._sources[source] = session
            self.counters.sources_learned += 1
            if self.counters.sources_learned == 1:
                for each in self._sessions.values():
                    each.paths.listener_proven()

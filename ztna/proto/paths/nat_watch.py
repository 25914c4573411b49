"""What this side's NAT does, observed on the session's own sockets (RFC 4787, RFC 5780 section 4.3).

Mapping and port allocation come from plain Binding requests to the relay's other STUN corners, compared with the
mapped address that the relay itself reports. A corner on a second address tells an address-dependent mapping apart; a
second port alone finds a mapping that depends on address and port. Filtering is not asked for, since a request to a
corner opens the filter under test; it shows itself when a peer's request arrives from where nothing was sent to. That
is a lower bound: a filter may let in more than has arrived.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from ztna.proto.natclass import Behavior, PortAllocation, port_allocation
from ztna.proto.paths.candidates import is_private, is_v6
from ztna.proto.paths.path_types import NatSeen
from ztna.proto.paths.stun_types import Endpoint

MAX_CORNERS: Final = 6
CORNER_AT_S: Final = (0.0, 0.1, 0.3, 0.7, 1.5)
"""Transmissions to a corner that does not answer; a corner may well not exist."""
MAX_CONTACTED: Final = 512


@dataclass(slots=True)
class Corner:
    """One STUN corner asked from one local socket."""

    remote: Endpoint
    local: int
    next_at: float | None = None
    attempts: int = 0
    began_at: float = 0.0
    mapped: Endpoint | None = None

    def request_sent(self, now: float) -> None:
        """A request left: plan the next, or give up."""
        if not self.attempts:
            self.began_at = now
        self.attempts += 1
        more = self.attempts < len(CORNER_AT_S)
        self.next_at = self.began_at + CORNER_AT_S[self.attempts] if more else None


@dataclass(slots=True)
class NatWatch:
    """Compares mapped addresses of socket `local`. `hosts` are that socket's own endpoints."""

    relay: Endpoint | None
    stun_corners: Collection[Endpoint]
    local: int = 0
    hosts: tuple[Endpoint, ...] = ()
    base: Endpoint | None = None
    corners: list[Corner] = field(default_factory=list)
    filtering: Behavior = Behavior.UNKNOWN
    _contacted: set[Endpoint] = field(default_factory=set)
    _contacted_hosts: set[str] = field(default_factory=set)

    def start(self, locals_: Collection[tuple[int, bool]], now: float) -> None:
        """Ask every corner of a fitting family from the sockets `(index, is IPv6)`, afresh."""
        self.corners = [
            Corner(remote, local, now)
            for local, v6 in locals_
            for remote in dict.fromkeys(self.stun_corners)
            if remote != self.relay and is_v6(remote.host) == v6
        ][:MAX_CORNERS]

    def sent_to(self, remote: Endpoint) -> None:
        """A request left for `remote`, which opens this side's filter for it."""
        if len(self._contacted) < MAX_CONTACTED:
            self._contacted.add(remote)
            self._contacted_hosts.add(remote.host)

    def heard_from(self, source: Endpoint) -> None:
        """An authenticated request of the peer arrived from `source`: what let it in tells the filtering."""
        if is_private(source.host) and self.base is not None and not is_private(self.base.host):
            # It came from the local network and passed no NAT.
            return
        if source in self._contacted or len(self._contacted) >= MAX_CONTACTED:
            return
        if source.host not in self._contacted_hosts:
            self.filtering = Behavior.ENDPOINT_INDEPENDENT
        elif self.filtering is not Behavior.ENDPOINT_INDEPENDENT:
            self.filtering = Behavior.ADDRESS_DEPENDENT

    def moved(self) -> None:
        """The network changed: nothing seen so far holds."""
        self.base = None
        self.filtering = Behavior.UNKNOWN
        self._contacted.clear()
        self._contacted_hosts.clear()

    @property
    def seen(self) -> NatSeen:
        """The classification so far."""
        if self.base is None:
            return NatSeen(Behavior.UNKNOWN, self.filtering, PortAllocation.UNKNOWN)
        if self.base in self.hosts:
            return NatSeen(Behavior.NONE, self.filtering, PortAllocation.PRESERVING)
        return NatSeen(self._mapping(), self.filtering, self._allocation())

    def _answers(self) -> list[Corner]:
        return [corner for corner in self.corners if corner.mapped is not None and corner.local == self.local]

    def _mapping(self) -> Behavior:
        answers = self._answers()
        if not answers or self.relay is None:
            return Behavior.UNKNOWN
        here = [corner for corner in answers if corner.remote.host == self.relay.host]
        if any(corner.mapped != self.base for corner in here):
            return Behavior.ADDRESS_AND_PORT_DEPENDENT
        away = [corner for corner in answers if corner.remote.host != self.relay.host]
        if all(corner.mapped == self.base for corner in away):
            return Behavior.ENDPOINT_INDEPENDENT
        mapped = {corner.mapped for corner in away}
        same_elsewhere = len(mapped) == 1 and (len(away) > 1 or bool(here))
        return Behavior.ADDRESS_DEPENDENT if same_elsewhere else Behavior.ADDRESS_AND_PORT_DEPENDENT

    def _allocation(self) -> PortAllocation:
        assert self.base is not None
        if any(host.port == self.base.port for host in self.hosts):
            return PortAllocation.PRESERVING
        return port_allocation([self.base.port, *(corner.mapped.port for corner in self._answers() if corner.mapped)])

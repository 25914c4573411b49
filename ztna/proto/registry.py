"""Who is connected to the intermediate, and in which role for which service.

A service has at most one connector and any number of agents. It belongs to the identity that serves it: another
identity is refused and the holder loses nothing, while a newer connection of the same identity takes over (a client
that reconnects before its old connection is noticed dead). Anonymous connectors have no identity: they replace each
other, as everywhere in the field, and never an authenticated one.

Connectors of `ztna-v2` say when their process started. Of one identity the process that started last has the service,
and two that go on claiming it take turns no faster than every few seconds. Whoever may serve but does not is kept
as standby and follows at once when the holder leaves.
"""

from collections import OrderedDict
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from ztna.proto.commands import ConnId
from ztna.proto.identity import Identity
from ztna.proto.packet import FlowKey
from ztna.proto.signalling import FrameReader

if TYPE_CHECKING:
    from ztna.proto.flows import Flow

__all__ = ["V2", "Claim", "Peer", "Registry", "Service"]

V2: Final = 2


class Claim(Enum):
    """What becomes of the wish to be a service's connector."""

    TAKE = auto()
    STANDBY = auto()
    REFUSED = auto()


class Peer:
    """One open connection.

    `epoch` grows with every connection, so of two connections of one identity the larger epoch is the newer.
    """

    __slots__ = (
        "address",
        "claimed",
        "conn",
        "denied",
        "epoch",
        "flows",
        "has_stream_zero",
        "heard",
        "identity",
        "inbound",
        "outbound",
        "owner",
        "protocol",
        "punched",
        "punchers",
        "reach",
        "readers",
        "serving",
        "silent",
        "standing_by",
        "successor",
        "virtual_ip",
    )

    def __init__(
        self, conn: ConnId, epoch: int, identity: Identity | None, address: tuple[str, int], protocol: int = 1
    ) -> None:
        self.conn = conn
        self.epoch = epoch
        self.protocol = protocol
        """1 or 2: which `ztna-v...` it speaks."""
        self.claimed = 0
        """When its process started (Unix ms), as it says; 0 for `ztna-v1`."""
        self.identity = identity
        self.owner = None if identity is None else identity.uri
        self.address = address
        self.heard = 0.0
        """When it last sent a DATAGRAM."""
        self.successor: Peer | None = None
        """As agent: a newer connection of its identity, if there is one."""
        self.virtual_ip: int | None = None
        """Inner source address that an authenticated agent must use."""
        self.reach: dict[bytes, Service] = {}
        """Services it is registered for as agent, by id as on the wire."""
        self.serving: dict[bytes, Service] = {}
        """Services it is the connector of."""
        self.standing_by: dict[bytes, Service] = {}
        """Services it serves as soon as their connector leaves."""
        self.silent = False
        """As connector: it does not answer, and takes nothing over until it does."""
        self.flows: OrderedDict[Flow, None] = OrderedDict()
        """As agent: its flows, least recently examined first."""
        self.outbound: dict[FlowKey, Flow] = {}
        """As connector: flows by the key of packets to the service."""
        self.inbound: dict[FlowKey, Flow] = {}
        """As connector: the same flows by the key of replies."""
        self.punched: dict[str | None, dict[ConnId, Peer]] = {}
        """As connector: agents with which StartPunching was exchanged, by name, None for the anonymous ones."""
        self.punchers: dict[ConnId, Peer] = {}
        """As agent: the connectors of which it is in `punched`."""
        self.readers: dict[int, FrameReader] = {}
        """Streams that hold an incomplete frame."""
        self.has_stream_zero = False
        """Whether the client opened its first stream."""
        self.denied: set[bytes] = set()
        """Service ids whose refusal was already noted."""


class Service:
    """A service that somebody is registered for."""

    __slots__ = ("address", "agents", "connector", "id", "key", "parked", "parked_owner", "standbys", "switched_at")

    def __init__(self, key: bytes, service_id: str, address: int | None) -> None:
        self.key = key
        self.id = service_id
        self.address = address
        """Virtual address by policy, if the policy names the service."""
        self.connector: Peer | None = None
        self.agents: dict[ConnId, Peer] = {}
        self.parked: dict[Flow, None] = {}
        """Flows that wait for their connector to reconnect."""
        self.parked_owner: str | None = None
        self.standbys: dict[ConnId, Peer] = {}
        """Who serves it next, first come first."""
        self.switched_at = float("-inf")
        """When a process last took it from another one of the same identity."""


class Registry:
    """The open connections and their registrations."""

    __slots__ = ("_epoch", "peers", "services")

    def __init__(self) -> None:
        self.peers: dict[ConnId, Peer] = {}
        self.services: dict[bytes, Service] = {}
        self._epoch = 0

    def add(self, conn: ConnId, identity: Identity | None, address: tuple[str, int], protocol: int = 1) -> Peer:
        """Record a new connection."""
        self._epoch += 1
        peer = self.peers[conn] = Peer(conn, self._epoch, identity, address, protocol)
        return peer

    def service(self, key: bytes, service_id: str, address: int | None) -> Service:
        """Return the service with this id, made if nobody was registered for it."""
        service = self.services.get(key)
        if service is None:
            service = self.services[key] = Service(key, service_id, address)
        return service

    def may_take(self, peer: Peer, key: bytes) -> bool:
        """Say whether `peer` may become, or stay, the connector of a service with regard to who holds it now."""
        service = self.services.get(key)
        holder = None if service is None else service.connector
        if holder is None or holder is peer or holder.owner is None:
            return True
        return holder.owner == peer.owner and _supersedes(peer, holder)

    def claim(self, peer: Peer, key: bytes, now: float, switch_s: float) -> Claim:
        """Say what becomes of an authorised claim. `switch_s`: least time between takeovers by living processes."""
        if not self.may_take(peer, key):
            return Claim.STANDBY if peer.protocol == V2 else Claim.REFUSED
        due = self.takeover_due(peer, key, switch_s)
        return Claim.STANDBY if due is not None and due > now else Claim.TAKE

    def takeover_due(self, peer: Peer, key: bytes, switch_s: float) -> float | None:
        """Return when `peer` may take a service from another living process of its identity; None if it is not so."""
        service = self.services.get(key)
        if service is None or not _another_process(peer, service.connector):
            return None
        return service.switched_at + switch_s

    def stand_by(self, peer: Peer, service: Service) -> None:
        """Keep `peer` for when the connector of a service leaves."""
        service.standbys[peer.conn] = peer
        peer.standing_by[service.key] = service

    def stand_down(self, peer: Peer, service: Service) -> None:
        """Undo `stand_by`."""
        service.standbys.pop(peer.conn, None)
        peer.standing_by.pop(service.key, None)
        self._forget_if_unused(service)

    def take(self, peer: Peer, service: Service, now: float = 0.0) -> Peer | None:
        """Make `peer` the connector of a service; return the connection it displaced, if any."""
        previous = service.connector
        if _another_process(peer, previous):
            service.switched_at = now
        service.standbys.pop(peer.conn, None)
        peer.standing_by.pop(service.key, None)
        if previous is peer:
            return None
        if previous is not None:
            del previous.serving[service.key]
        service.connector = peer
        peer.serving[service.key] = service
        return previous

    def join(self, peer: Peer, service: Service) -> None:
        """Register `peer` as agent of a service; it succeeds the older connections of its identity there."""
        if peer.owner is not None:
            for other in service.agents.values():
                if other.owner == peer.owner and other is not peer:
                    older, newer = sorted((peer, other), key=lambda each: each.epoch)
                    older.successor = newer
        service.agents[peer.conn] = peer
        peer.reach[service.key] = service

    def leave(self, peer: Peer, service: Service) -> None:
        """Undo `join`."""
        service.agents.pop(peer.conn, None)
        for other in service.agents.values():
            if other.successor is peer:
                other.successor = None
        peer.reach.pop(service.key, None)
        self._forget_if_unused(service)

    def release(self, peer: Peer, service: Service) -> None:
        """Undo `take`."""
        if service.connector is peer:
            service.connector = None
        peer.serving.pop(service.key, None)
        self._forget_if_unused(service)

    def note_punching(self, agent: Peer, connector: Peer) -> None:
        """Remember, as long as both connections live, that the two were told to send to each other directly."""
        connector.punched.setdefault(_name(agent), {})[agent.conn] = agent
        agent.punchers[connector.conn] = connector

    def _forget_punching(self, agent: Peer, connector: Peer) -> None:
        agent.punchers.pop(connector.conn, None)
        agents = connector.punched.get(_name(agent), {})
        agents.pop(agent.conn, None)
        if not agents:
            connector.punched.pop(_name(agent), None)

    def remove(self, peer: Peer) -> None:
        """Forget a connection and all its registrations."""
        del self.peers[peer.conn]
        for connector in list(peer.punchers.values()):
            self._forget_punching(peer, connector)
        for agent in [agent for agents in peer.punched.values() for agent in agents.values()]:
            self._forget_punching(agent, peer)
        for service in list(peer.reach.values()):
            self.leave(peer, service)
        for service in list(peer.standing_by.values()):
            self.stand_down(peer, service)
        for service in list(peer.serving.values()):
            self.release(peer, service)

    def _forget_if_unused(self, service: Service) -> None:
        if service.connector is None and not service.agents and not service.standbys:
            self.services.pop(service.key, None)


def _name(agent: Peer) -> str | None:
    return None if agent.identity is None else agent.identity.name


def _supersedes(peer: Peer, holder: Peer) -> bool:
    """Say which of two connections of one identity is the newer; who started last is, where both said when."""
    if peer.protocol == V2 == holder.protocol:
        return (peer.claimed, peer.epoch) > (holder.claimed, holder.epoch)
    return peer.epoch > holder.epoch


def _another_process(peer: Peer, holder: Peer | None) -> bool:
    """Say whether two connections of one identity are of two processes; one that reconnected is the same."""
    if holder is None or holder is peer or holder.owner is None or holder.owner != peer.owner:
        return False
    return peer.protocol == V2 == holder.protocol and peer.claimed != holder.claimed

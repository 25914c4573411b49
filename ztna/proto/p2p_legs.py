"""Direct connections ("legs") of `ztna-v1` agents to a connector: who may have one, and which packets it carries.

Flow: handshake complete, certificate judged -> `open` (default deny) -> each DATAGRAM is judged by `admits` -> `close`.
Only packets towards the connector pass: agents in the field discard what reaches them on such a leg, so every answer
goes by the intermediate.

A leg carries packets from one inner address. The policy's where there is one; else that of its first packet, unless
another agent's leg has it. Without certificates agents cannot be told apart: the intermediate delivers answers only
while there is one of them, so a second anonymous leg is refused and ends the first, and both use the relay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final

from ztna.proto.identity import Identity
from ztna.proto.limits import ConnectorLimits
from ztna.proto.p2p import P2pResponder
from ztna.proto.packet import well_formed
from ztna.proto.policy import Policy, is_unicast
from ztna.proto.stats import Stats

__all__ = ["Leg", "LegRefused", "LegStats", "LegTable"]

_ADDRESSES: Final = Struct("!II")


class LegRefused(Exception):
    """The connection is to be closed at once; the text is the reason for the wire."""


@dataclass(slots=True)
class LegStats(Stats):
    """What came of connections of agents, and of the packets on them."""

    opened: int = 0
    packets: int = 0
    bytes: int = 0
    observed_addresses_sent: int = 0

    refused_certificate: int = 0
    """None where one is needed, or not one of the stack's."""
    refused_role: int = 0
    """The certificate is not an agent's."""
    refused_grant: int = 0
    """Certificate or policy grants none of our services, or revokes it."""
    refused_host: int = 0
    """Without a certificate, from a host that no offer named."""
    refused_ambiguous: int = 0
    """A second one without a certificate."""
    refused_limit: int = 0
    ended_ambiguous: int = 0
    ended_moved: int = 0
    """Without a certificate, now from a host that no offer named."""

    drop_control: int = 0
    """No IPv4 packet by its first byte: service-routed packets and control messages have no meaning here."""
    drop_malformed: int = 0
    drop_source: int = 0
    """The inner source is not the leg's."""
    drop_destination: int = 0
    """Not the address of a service that the agent may reach."""
    drop_stream: int = 0


class Leg:
    """One connection that may send packets."""

    __slots__ = ("alive", "destinations", "owner", "source")

    def __init__(self, owner: str | None, destinations: frozenset[int] | None, source: int | None) -> None:
        self.owner = owner
        """SPIFFE ID, None without a certificate."""
        self.destinations = destinations
        """Inner addresses it may send to, None for any: there is one service, and it has no address."""
        self.source = source
        """The inner address it sends from, None before its first packet."""
        self.alive = True


class LegTable:
    """All legs of one connector; see the module.

    Args:
        services: our services' inner addresses by id; None is allowed for a single service, which gets every packet.
        responder: knows which hosts offers named.
        policy: our own copy; None leaves it to the certificates' grants.
        anonymous: let an agent without a certificate in, from a host that an offer named.
    """

    __slots__ = ("_anonymous", "_legs", "_limits", "_policy", "_responder", "_services", "stats")

    def __init__(
        self,
        services: Mapping[str, int | None],
        *,
        responder: P2pResponder,
        policy: Policy | None,
        anonymous: bool,
        limits: ConnectorLimits | None = None,
    ) -> None:
        self.stats = LegStats()
        self._services = dict(services)
        self._responder = responder
        self._policy = policy
        self._anonymous = anonymous
        self._limits = limits or ConnectorLimits()
        self._legs: dict[Leg, None] = {}

    def __len__(self) -> int:
        return len(self._legs)

    def open(self, identity: Identity | None, host: str, now: float) -> Leg:
        """Let a connection in whose certificate was judged (`identity` None: it has none).

        An anonymous leg that this ends has `alive` False from then on, also when LegRefused is raised.

        Raises:
            LegRefused: close the connection at once.
        """
        services = self._of_host(host, now) if identity is None else self._of_identity(identity)
        mine = sum(leg.owner == identity.uri for leg in self._legs) if identity is not None else 0
        if len(self._legs) >= self._limits.p2p_connections or mine >= self._limits.p2p_connections_per_agent:
            self.stats.refused_limit += 1
            raise LegRefused("too many connections")
        addresses = [self._services[service] for service in services]
        destinations = None if None in addresses else frozenset(at for at in addresses if at is not None)
        source = None if identity is None or self._policy is None else self._policy.agent_address(identity.name)
        leg = Leg(None if identity is None else identity.uri, destinations, source)
        self._legs[leg] = None
        self.stats.opened += 1
        return leg

    def close(self, leg: Leg) -> None:
        """The connection is over; idempotent."""
        leg.alive = False
        self._legs.pop(leg, None)

    def moved(self, leg: Leg, host: str, now: float) -> None:
        """The connection's validated address changed: a leg that only its host speaks for may end by that."""
        if leg.owner is None and leg.alive and not self._responder.offered(host, now):
            self.stats.ended_moved += 1
            self.close(leg)

    def admits(self, leg: Leg, data: bytes) -> bool:
        """Say whether the payload of a DATAGRAM is a packet for the gateway; everything else is counted."""
        stats = self.stats
        if not leg.alive or not data or data[0] >> 4 != 4:
            stats.drop_control += 1
            return False
        if not well_formed(data):
            stats.drop_malformed += 1
            return False
        source, destination = _ADDRESSES.unpack_from(data, 12)
        if leg.destinations is not None and destination not in leg.destinations:
            stats.drop_destination += 1
            return False
        if source != leg.source:
            if leg.source is not None or not self._free(leg, source):
                stats.drop_source += 1
                return False
            leg.source = source
        stats.packets += 1
        stats.bytes += len(data)
        return True

    def _of_identity(self, identity: Identity) -> list[str]:
        if identity.role != "agent":
            self.stats.refused_role += 1
            raise LegRefused("invalid client cert")
        policy = self._policy
        services = [
            service
            for service in self._services
            if (identity.grants_service("agent", service) if policy is None else policy.may_reach(identity, service))
        ]
        if not services:
            self.stats.refused_grant += 1
            raise LegRefused("no service is granted")
        return services

    def _of_host(self, host: str, now: float) -> list[str]:
        if not self._anonymous:
            self.stats.refused_certificate += 1
            raise LegRefused("client cert required")
        offered = self._responder.offered(host, now)
        services = [service for service in self._services if service in offered]
        if not services:
            self.stats.refused_host += 1
            raise LegRefused("client cert required")
        others = [leg for leg in self._legs if leg.owner is None]
        if others:
            for leg in others:
                self.stats.ended_ambiguous += 1
                self.close(leg)
            self.stats.refused_ambiguous += 1
            raise LegRefused("client cert required")
        return services

    def _free(self, leg: Leg, source: int) -> bool:
        """Say whether a leg may take an inner address that no policy gave it."""
        policy = self._policy
        if not is_unicast(source) or source in self._services.values():
            return False
        if policy is not None and (source in policy.services_by_address or source in policy.agents_by_address):
            return False
        return all(other.source != source or other.owner == leg.owner for other in self._legs if other is not leg)

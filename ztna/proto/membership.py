"""Who is agent and who is connector of which service: one set of rules for `ztna-v1` and `ztna-v2`.

Flow: a connection claims a role for a service -> the policy and the registry judge -> it joins, takes, waits as
standby, or is refused -> flows follow. When a connector leaves, or loses the right, the first standby that may serve
takes the service at once; so it is when a connector does not answer, which is a standby itself until it does. What a
connection is told is up to whoever speaks its protocol (`tell`).
"""

from collections.abc import Callable
from typing import Final, Protocol

from ztna.proto.flows import FlowTable
from ztna.proto.limits import ControlLimits, IntermediateLimits
from ztna.proto.policy import Policy
from ztna.proto.registry import V2, Claim, Peer, Registry, Service
from ztna.proto.stats import IntermediateStats

__all__ = ["DENIED", "LIMIT", "STANDBY", "Membership", "Tell", "peer_name"]

DENIED: Final = "denied"
LIMIT: Final = "limit"
STANDBY: Final = "standby"


class Tell(Protocol):
    """How connections learn what became of their registrations."""

    def registration(self, peer: Peer, role: str, service_id: str, refusal: str | None) -> None:
        """Unasked: `peer` is `role` of a service now (`refusal` None), or is not any more."""

    def service_changed(self, service: Service) -> None:
        """Another connection serves it now, or none."""


class Membership:
    """The registrations of all connections. `policy` may be replaced; `apply_policy` then withdraws rights."""

    def __init__(
        self,
        registry: Registry,
        flows: FlowTable,
        policy: Policy,
        *,
        allow_anonymous: bool,
        limits: IntermediateLimits,
        stats: IntermediateStats,
        tell: Tell,
        note: Callable[..., None],
        switch_s: float = ControlLimits().switch_s,
    ) -> None:
        self.policy = policy
        self._registry = registry
        self._flows = flows
        self._allow_anonymous = allow_anonymous
        self._limits = limits
        self._stats = stats
        self._tell = tell
        self._note = note
        self._switch_s = switch_s
        # Services with a standby that may take over from a living process of its identity, and when.
        self._takeovers: dict[bytes, float] = {}

    def register(self, peer: Peer, role: str, service_id: str, now: float) -> str | None:
        """Make `peer` agent or connector of a service.

        Returns:
            None if it is that now (or was before), else why not: DENIED, LIMIT or STANDBY.
        """
        key = service_id.encode()
        mine = peer.reach if role == "agent" else peer.serving
        held = key in mine or key in peer.standing_by
        if not held and len(mine) + len(peer.standing_by) >= self._limits.services_per_connection:
            return self._refused(peer, role, service_id, LIMIT)
        if not self._allowed(peer, role, service_id):
            return self._refused(peer, role, service_id, DENIED)
        if key not in mine:
            if role == "agent":
                self._join(peer, key, service_id, now)
            elif (claim := self._registry.claim(peer, key, now, self._switch_s)) is Claim.REFUSED:
                return self._refused(peer, role, service_id, DENIED)
            elif claim is Claim.STANDBY:
                return self._wait(peer, key, service_id)
            else:
                self._take(peer, self._service(key, service_id), now)
        self._stats.registrations += 1
        return None

    def left(self, peer: Peer, now: float) -> None:
        """A connection is gone: its flows wait for its return, its services go to their standbys."""
        served = list(peer.serving.values())
        for service in served:
            self._flows.connector_left(peer, service, now, park=True)
        self._flows.agent_left(peer, now)
        self._registry.remove(peer)
        for service in served:
            self._follow(service, now)

    def stand_aside(self, peer: Peer, now: float, *, to_standbys: bool) -> None:
        """A connector does not answer: who can takes its services; it stays a standby, which takes nothing meanwhile.

        Args:
            to_standbys: leave it the services that nobody else can serve now.
        """
        peer.silent = True
        for service in list(peer.serving.values()):
            if to_standbys and self._next_of(service) is None:
                continue
            self._flows.connector_left(peer, service, now, park=True)
            self._registry.stand_by(peer, service)
            self._registry.release(peer, service)
            # Two processes of one identity take turns no faster for it.
            service.switched_at = now
            self._stats.connectors_displaced += 1
            self._tell.registration(peer, "connector", service.id, STANDBY)
            self._follow(service, now)

    def return_of(self, peer: Peer, now: float) -> None:
        """It answers again: it serves what nobody else serves, and what another process of it may not keep."""
        peer.silent = False
        for service in list(peer.standing_by.values()):
            if self.register(peer, "connector", service.id, now) is None:
                self._tell.registration(peer, "connector", service.id, None)

    def apply_policy(self, policy: Policy, now: float) -> None:
        """Withdraw what a new policy does not grant any more, and follow changed addresses of services."""
        self.policy = policy
        registry = self._registry
        for peer in list(registry.peers.values()):
            for service in list(peer.reach.values()):
                if not self._allowed(peer, "agent", service.id):
                    self._flows.agent_withdrawn(peer, service)
                    registry.leave(peer, service)
                    self._withdrawn(peer, "agent", service.id)
            for service in list(peer.standing_by.values()):
                if not self._allowed(peer, "connector", service.id):
                    registry.stand_down(peer, service)
                    self._withdrawn(peer, "connector", service.id)
            for service in list(peer.serving.values()):
                if not self._allowed(peer, "connector", service.id):
                    self._flows.connector_left(peer, service, now, park=False)
                    registry.release(peer, service)
                    self._withdrawn(peer, "connector", service.id)
                    self._follow(service, now)
        for service in registry.services.values():
            service.address = policy.service_address(service.id)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return min(self._takeovers.values(), default=None)

    def handle_timer(self, now: float) -> None:
        """Let processes that had to wait for their turn take over."""
        for key in [key for key, due in self._takeovers.items() if due <= now]:
            del self._takeovers[key]
            service = self._registry.services.get(key)
            for peer in [] if service is None else list(service.standbys.values()):
                if not peer.silent and self._registry.claim(peer, key, now, self._switch_s) is Claim.TAKE:
                    assert service is not None
                    self._take(peer, service, now)
                    self._tell.registration(peer, "connector", service.id, None)

    def _allowed(self, peer: Peer, role: str, service_id: str) -> bool:
        if peer.identity is None:
            return self._allow_anonymous
        judge = self.policy.may_reach if role == "agent" else self.policy.may_serve
        return judge(peer.identity, service_id)

    def _service(self, key: bytes, service_id: str) -> Service:
        return self._registry.service(key, service_id, self.policy.service_address(service_id))

    def _refused(self, peer: Peer, role: str, service_id: str, code: str) -> str:
        self._stats.registrations_refused += 1
        key = service_id.encode()
        if key not in peer.denied and len(peer.denied) < self._limits.services_per_connection:
            peer.denied.add(key)
            self._note("info", "registration refused", peer=peer_name(peer), role=role, service=service_id)
        return code

    def _wait(self, peer: Peer, key: bytes, service_id: str) -> str:
        """Keep an authorised claim that cannot be met now."""
        service = self._service(key, service_id)
        if key not in peer.standing_by:
            self._note("info", "standing by", peer=peer_name(peer), service=service_id)
        self._registry.stand_by(peer, service)
        due = self._registry.takeover_due(peer, key, self._switch_s)
        if due is not None and self._registry.may_take(peer, key):
            self._takeovers[key] = due
        return STANDBY

    def _join(self, peer: Peer, key: bytes, service_id: str, now: float) -> None:
        service = self._service(key, service_id)
        self._registry.join(peer, service)
        self._flows.agent_registered(peer, service, now)
        self._note("info", "registered", peer=peer_name(peer), role="agent", service=service_id)

    def _take(self, peer: Peer, service: Service, now: float) -> None:
        holder = self._registry.take(peer, service, now)
        if holder is not None:
            self._stats.connectors_displaced += 1
            self._flows.connector_left(holder, service, now, park=True)
            if holder.owner is not None:
                # A second process with the same certificate must not believe that it still serves.
                if holder.protocol == V2:
                    self._registry.stand_by(holder, service)
                self._tell.registration(holder, "connector", service.id, STANDBY)
            self._note("info", "connector displaced", peer=peer_name(holder), by=peer_name(peer), service=service.id)
        self._flows.connector_registered(peer, service, now)
        self._note("info", "registered", peer=peer_name(peer), role="connector", service=service.id)
        self._tell.service_changed(service)

    def _follow(self, service: Service, now: float) -> None:
        """A service lost its connector: the first standby that may serve takes it."""
        peer = self._next_of(service)
        if peer is None:
            self._tell.service_changed(service)
        else:
            self._take(peer, service, now)
            self._tell.registration(peer, "connector", service.id, None)

    def _next_of(self, service: Service) -> Peer | None:
        """Return the standby that serves it next."""
        standbys = service.standbys.values()
        return next((p for p in standbys if not p.silent and self._allowed(p, "connector", service.id)), None)

    def _withdrawn(self, peer: Peer, role: str, service_id: str) -> None:
        self._stats.registrations_withdrawn += 1
        self._tell.registration(peer, role, service_id, DENIED)
        self._note("info", "registration withdrawn", peer=peer_name(peer), role=role, service=service_id)


def peer_name(peer: Peer) -> str:
    """Return what a peer is called in logs and status."""
    return "anonymous" if peer.identity is None else peer.identity.name

"""The paths of one session: candidates, checks, consent, relay leg, and which of them carries the packets.

Sans-IO. The shell calls a method with what happened and the time, takes commands until there are none, sends QUIC
packets to `routes()`, and calls `handle_timer` when `get_timer` says. In order: own addresses go in by `add_local` ->
candidates come out and are signalled -> the peer's go in by `remote_candidates` with the common start T0 -> checks
(RFC 8445) -> a path (`PathSelected`), watched by consent checks (RFC 7675) and duplicated, switched and restored as
`ztna.proto.paths.selector` says.

Nomination: each side sends on the best pair on which a check of its own was answered, which proves both directions.
The agent is controlling and marks its checks on the pair it uses with USE-CANDIDATE; the connector follows once its
own check there succeeded.
"""

from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Final, TypeVar

from ztna.proto.natclass import Behavior, PortAllocation
from ztna.proto.paths.candidates import (
    Candidate,
    CandidateType,
    host_candidate,
    is_v6,
    local_preference,
    priority,
)
from ztna.proto.paths.checks import SERIES_END_S
from ztna.proto.paths.gathering import EXTRA, LISTENER_RANK
from ztna.proto.paths.inbound import Inbound
from ztna.proto.paths.outbound import Outbound
from ztna.proto.paths.parts import BUSY_S, Parts, Role
from ztna.proto.paths.path_types import (
    BlockedBy,
    CloseSockets,
    Diagnosis,
    LocalCandidates,
    NatSeen,
    OpenSockets,
    PairSummary,
    PathCommand,
    PathConfig,
    PathKind,
    PathSelected,
    PathSnapshot,
    PathStats,
    Route,
    SendStun,
    SwitchRecord,
)
from ztna.proto.paths.relay_leg import RelayLeg
from ztna.proto.paths.report import snapshot
from ztna.proto.paths.search import plan_search
from ztna.proto.paths.stun_types import Endpoint, StunError, StunMessage, StunRequest, StunResponse

__all__ = [
    "BlockedBy",
    "Candidate",
    "CandidateType",
    "CloseSockets",
    "Diagnosis",
    "Endpoint",
    "LocalCandidates",
    "NatSeen",
    "OpenSockets",
    "PairSummary",
    "PathCommand",
    "PathConfig",
    "PathKind",
    "PathSelected",
    "PathSnapshot",
    "PathStats",
    "Route",
    "SendStun",
    "SessionPaths",
    "StunError",
    "StunMessage",
    "StunRequest",
    "StunResponse",
    "SwitchRecord",
]

MAX_START_IN_S: Final = 5.0
MAX_SIGNALLED: Final = 64
"""Candidates looked at per message."""
SAME_SOURCE_S: Final = 0.02
"""Packets come in trains from one source: only the first of each such stretch is looked up."""
DEFAULT_CONFIG: Final = PathConfig()
Enumerated = TypeVar("Enumerated", bound=StrEnum)


class SessionPaths:
    """Path machinery of one side of a session.

    Args:
        session_id: 16 bytes.
        role: "agent" (controlling) or "connector".
        relay: the intermediate's STUN and relay endpoint; None where there is none.
        random: returns that many random bytes.
        config: tunables.
        stun_corners: all STUN corners of the intermediate (the relay's own may be among them), for NAT observation.
        now: monotonic seconds.
    """

    def __init__(
        self,
        session_id: bytes,
        role: Role,
        *,
        relay: Endpoint | None,
        random: Callable[[int], bytes],
        config: PathConfig = DEFAULT_CONFIG,
        stun_corners: Collection[Endpoint] = (),
        now: float,
    ) -> None:
        self._parts = Parts(
            session_id, role, relay=relay, stun_corners=stun_corners, random=random, config=config, now=now
        )
        self._in = Inbound(self._parts)
        self._out = Outbound(self._parts)
        self._timer: float | None = None
        self._timer_is_known = False
        self._known_source: Endpoint | None = None
        self._known_local = 0
        self._known_until = float("-inf")

    @property
    def stats(self) -> PathStats:
        """Counters."""
        return self._parts.stats

    @property
    def kind(self) -> PathKind:
        """The path in use."""
        return self._parts.selector.kind

    # Inputs

    def add_local(self, hosts: Sequence[tuple[int, Endpoint]], now: float) -> None:
        """Tell own endpoints: (socket index, interface address with that socket's port).

        Index 0 is the IPv4 socket, 1 the IPv6 one, 2 and up are extra sockets that `OpenSockets` asked for. The first
        call after `network_changed` replaces all earlier addresses.
        """
        parts = self._enter(now)
        fresh = parts.gathering.add(hosts, now)
        extra = sorted({local for local, _ in hosts if local >= EXTRA})
        for rank, (local, endpoint) in enumerate(hosts):
            best = host_candidate(local, endpoint, rank).priority
            if local >= EXTRA:
                best = priority(CandidateType.SRFLX, local_preference(endpoint.host, rank))
            parts.checklist.begin(
                parts.pairs.add_local(local, v6=is_v6(endpoint.host), priority=best), self._start_at(now)
            )
        parts.tell(fresh)
        if extra:
            parts.extra_sockets.update(extra)
            parts.birthday.add_sockets(extra, now)
        self._start_gathering(now)
        self._leave(now)

    def add_listener(self, local: int, hosts: Sequence[Endpoint], reflexive: Sequence[Endpoint], now: float) -> None:
        """Tell a socket that others may reach without having been written to, since its port is open.

        It is shared between sessions, so it asks no server; it sends nothing but answers and checks of who came by it.

        Args:
            local: its index, 2 or more.
            hosts: addresses of this host with its port.
            reflexive: where it is reachable from outside, as configured or as the intermediate sees it.
        """
        parts = self._enter(now)
        parts.tell(parts.gathering.add_listener(local, hosts, reflexive))
        best = priority(CandidateType.SRFLX, local_preference("", LISTENER_RANK))
        parts.pairs.add_local(local, v6=False, priority=best)
        self._leave(now)

    def listener_proven(self) -> None:
        """Somebody came by that socket, in another session perhaps, so its addresses are right; for diagnosis."""
        self._parts.gathering.listener_proven = True

    def has_pair(self, local: int, remote: Endpoint) -> bool:
        """Whether packets from an endpoint are taken on a socket."""
        return self._parts.pairs.get(local, remote) is not None

    def remote_candidates(self, candidates: Sequence[Candidate], start_in_s: float, now: float) -> None:
        """Take candidates that the peer signalled; checks of new ones begin `start_in_s` from now (0 to 5 s)."""
        parts = self._enter(now)
        start = now + min(max(start_in_s, 0.0), MAX_START_IN_S) if start_in_s == start_in_s else now
        if parts.checks_begin_at is None:
            parts.checks_begin_at = start
            parts.checklist.probes.reset(start, SERIES_END_S)
        for candidate in candidates[:MAX_SIGNALLED]:
            self._in.candidate(candidate, start)
        plan_search(parts, now)
        self._leave(now)

    def stun_received(self, message: StunMessage, source: Endpoint, local: int, now: float) -> None:
        """A STUN message arrived whose integrity the shell has verified (or an unauthenticated answer)."""
        parts = self._enter(now)
        if not parts.closed:
            self._in.received(message, Endpoint(*source), local, now)
            plan_search(parts, now)
        self._leave(now)

    def packet_received(self, source: Endpoint, local: int, now: float) -> bool:
        """A QUIC packet arrived; False (counted) when nothing of this session is expected from there."""
        if now < self._known_until and source == self._known_source and local == self._known_local:
            return True
        parts = self._parts
        parts.now = max(parts.now, now)
        relay = parts.relay
        if relay is not None and source == relay.remote and local == relay.local:
            relay.heard(now)
            self._remember(source, local, now)
            return True
        pair = parts.pairs.get(local, source)
        if pair is None or parts.closed:
            parts.stats.drop_unknown_source += 1
            return False
        if pair.heard_at is None:
            parts.checklist.heard(pair, now)
            self._leave(now)
        self._remember(source, local, now)
        return True

    def packets_sent(self, now: float) -> None:
        """A batch of packets was sent to `routes()`."""
        parts = self._parts
        was_busy = now - parts.last_sent_at <= BUSY_S
        parts.last_sent_at = now
        parts.now = max(parts.now, now)
        if not was_busy:
            parts.checklist.traffic_started(now)
            self._leave(now)
        relay = parts.relay
        if relay is not None and parts.selector.kind is PathKind.RELAY:
            before = relay.next_at
            relay.traffic(now)
            if relay.next_at != before:
                self._leave(now)

    def relay_ready(self, now: float) -> None:
        """The intermediate forwards between both sides from now on."""
        parts = self._enter(now)
        if parts.relay is None and parts.relay_endpoint is not None:
            parts.relay = RelayLeg(parts.relay_endpoint, parts.local_for(parts.relay_endpoint))
        if parts.relay is not None:
            parts.relay.is_ready = True
        parts.relay_lost_reason = ""
        self._leave(now)

    def relay_lost(self, reason: str, now: float) -> None:
        """The intermediate no longer forwards for this session; the leg proves itself again for when it does."""
        parts = self._enter(now)
        if parts.relay is not None:
            parts.relay.is_ready = False
            parts.relay.prove(now)
        parts.relay_lost_reason = reason[:64]
        self._leave(now)

    def network_changed(self, now: float) -> None:
        """Addresses or routes of this host changed; `add_local` with the new ones follows, where they are known."""
        parts = self._enter(now)
        parts.gathering.moved()
        parts.nat.moved()
        if parts.relay is not None:
            parts.relay.mapped = None
            parts.relay.prove(now)
        parts.checklist.restart(now)
        current = parts.selector.direct
        if current is not None and parts.selector.kind is PathKind.DIRECT:
            # Not silence yet, but reason enough to duplicate.
            current.health.suspect(now)
        self._leave(now)

    def peer_nat(self, mapping: str, filtering: str, allocation: str) -> None:
        """The peer reports its NAT (names of `ztna.proto.natclass`; anything else counts as unknown)."""
        parts = self._parts
        parts.peer_nat = NatSeen(
            _member(Behavior, mapping, Behavior.UNKNOWN),
            _member(Behavior, filtering, Behavior.UNKNOWN),
            _member(PortAllocation, allocation, PortAllocation.UNKNOWN),
        )
        plan_search(parts, parts.now)
        self._timer_is_known = False

    def set_keepalive(self, seconds: float) -> None:
        """Keep idle mappings alive at this interval from now on (5 to 60 s), as `MappingLifetime` suggests."""
        self._parts.keepalive_middle_s = min(max(seconds, 5.0), 60.0)

    def control_observed(self, host: str) -> None:
        """The intermediate sees the control connection at this address, for diagnosis."""
        self._parts.observed_host = host

    def close(self, now: float) -> None:
        """The session ended: nothing is sent any more."""
        parts = self._enter(now)
        parts.closed = True
        parts.commands.clear()
        parts.selector.routes = ()
        self._known_until = float("-inf")
        self._timer, self._timer_is_known = None, True

    # Outputs

    def next_command(self) -> PathCommand | None:
        """Return the next command for the shell, or None."""
        return self._parts.commands.popleft() if self._parts.commands else None

    def routes(self) -> tuple[Route, ...]:
        """Where the next packets go: nowhere, one way, or direct and relay at once. O(1)."""
        return self._parts.selector.routes

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds, or None."""
        if not self._timer_is_known:
            self._timer = self._next_timer()
            self._timer_is_known = True
        return self._timer

    def handle_timer(self, now: float) -> None:
        """Time passed."""
        parts = self._enter(now)
        if parts.closed:
            return
        for transaction in parts.transactions.missed(now):
            self._in.missed(transaction, now)
        self._end_gathering(now)
        parts.checklist.plan_probes(now, busy=parts.is_busy(now))
        plan_search(parts, now)
        self._leave(now)

    def snapshot(self, now: float) -> PathSnapshot:
        """Return the state for status output."""
        return snapshot(self._parts, now)

    # Inside

    def _remember(self, source: Endpoint, local: int, now: float) -> None:
        self._known_source, self._known_local, self._known_until = source, local, now + SAME_SOURCE_S

    def _enter(self, now: float) -> Parts:
        self._parts.now = max(self._parts.now, now)
        return self._parts

    def _leave(self, now: float) -> None:
        parts = self._parts
        if parts.closed:
            return
        parts.evaluate(now)
        self._out.send_due(now)
        parts.tell_nat()
        self._timer_is_known = False

    def _start_at(self, now: float) -> float:
        return max(now, self._parts.checks_begin_at or now)

    def _start_gathering(self, now: float) -> None:
        parts = self._parts
        relay = parts.relay_endpoint
        usual = parts.usual_locals
        if relay is not None and parts.relay is None and any(v6 == is_v6(relay.host) for _, v6 in usual):
            parts.relay = RelayLeg(relay, parts.local_for(relay))
        if parts.relay is not None and not parts.relay.sent:
            parts.relay.prove(now)
        if parts.relay is not None and parts.relay.mapped is not None:
            parts.nat.hosts = tuple(parts.gathering.hosts.get(parts.relay.local, ()))
        elif parts.relay is None and not parts.nat.corners:
            parts.nat.start(usual, now)

    def _end_gathering(self, now: float) -> None:
        gathering = self._parts.gathering
        if gathering.ends_at is None or now < gathering.ends_at:
            return
        gathering.ends_at = float("inf")
        if not gathering.ended and self._parts.config.direct:
            gathering.ended = True
            self._parts.emit(LocalCandidates((), True))

    def _next_timer(self) -> float | None:
        parts = self._parts
        now = parts.now
        selector = parts.selector
        times = [
            self._out.next_at(now),
            parts.transactions.next_due(),
            parts.checklist.probes.next_at if parts.config.direct else None,
            parts.gathering.ends_at,
            parts.search_at,
            None if selector.direct is None else selector.silent_until(selector.direct, now),
        ]
        at = min((at for at in times if at is not None), default=None)
        return None if at is None or at == float("inf") else at


def _member(kind: type[Enumerated], text: str, otherwise: Enumerated) -> Enumerated:
    try:
        return kind(text)
    except ValueError:
        return otherwise

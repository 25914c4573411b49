"""The sessions that the intermediate has brokered: who they are between, and until when they live.

A session belongs to two members, each named by its identity and by when its process started, and is attached to the
control connections that they have now. A side without one is away: it may take the session up again within a bounded
time. The table is bounded in all and per identity, and everything that waits has a deadline.
"""

from collections.abc import Iterator
from enum import Enum
from heapq import heapify, heappop, heappush
from ipaddress import IPv4Address
from typing import Any, Final, TypeVar

from ztna.proto.commands import ConnId
from ztna.proto.control.messages import Granted, Invite, PathReport
from ztna.proto.identity import Identity
from ztna.proto.limits import ControlLimits
from ztna.proto.ratelimit import TokenBucket
from ztna.proto.registry import Peer

__all__ = [
    "Session",
    "SessionState",
    "SessionTable",
    "Side",
    "granted_of",
    "invite_of",
    "row_of",
    "shared_services",
]

# Stale heap entries tolerated beyond one per session.
HEAP_SLACK: Final = 256
_K = TypeVar("_K")


class SessionState(Enum):
    """How far a session has come."""

    INVITED = "invited"
    GRANTED = "granted"


class Side:
    """One member of a session."""

    __slots__ = ("bucket", "epoch", "identity", "path", "peer", "role")

    def __init__(self, role: str, peer: Peer, limits: ControlLimits) -> None:
        assert peer.identity is not None
        self.role = role
        self.identity: Identity = peer.identity
        self.epoch = peer.claimed
        """When its process started, 0 if it did not say: only the same process takes the session up again."""
        self.peer: Peer | None = peer
        """Its control connection, None while it is away."""
        self.bucket = TokenBucket(limits.e2e_messages_per_s, limits.e2e_messages_burst)
        self.path: PathReport | None = None
        """What it last said about its path."""


class Session:
    """One session; see the module."""

    __slots__ = (
        "agent",
        "connector",
        "dark",
        "deadline",
        "id",
        "key",
        "nonce",
        "opened_at",
        "relay",
        "requests",
        "resume",
        "services",
        "start_at",
        "state",
    )

    def __init__(self, session_id: bytes, key: bytes, agent: Side, connector: Side, now: float) -> None:
        self.id = session_id
        self.key = key
        self.agent = agent
        self.connector = connector
        self.state = SessionState.INVITED
        self.opened_at = now
        self.nonce = b""
        """The connector's, for the agent's proof."""
        self.services: tuple[str, ...] = ()
        self.requests: list[int] = []
        """Requests of the agent that wait for the connector's answer."""
        self.resume = False
        """Whether the connector was asked if it has this session already."""
        self.relay: str | None = None
        """The back end that forwards its packets, None while nothing does."""
        self.dark = False
        """Whether its connector does not answer, so that the relay's path leads nowhere."""
        self.start_at: float | None = None
        """When both sides may begin their checks."""
        self.deadline: float | None = None

    def side_of(self, peer: Peer) -> Side | None:
        """Return the side that this connection is, None if it is neither."""
        if self.agent.peer is peer:
            return self.agent
        return self.connector if self.connector.peer is peer else None

    def other(self, side: Side) -> Side:
        """Return the other side."""
        return self.connector if side is self.agent else self.agent


class SessionTable:
    """All sessions by id, by member and by connection."""

    __slots__ = ("_by_conn", "_by_uri", "_heap", "_limits", "_order", "_sessions")

    def __init__(self, limits: ControlLimits) -> None:
        self._limits = limits
        self._sessions: dict[bytes, Session] = {}
        self._by_uri: dict[str, dict[bytes, Session]] = {}
        self._by_conn: dict[ConnId, dict[bytes, Session]] = {}
        self._heap: list[tuple[float, int, Session]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, session_id: bytes) -> Session | None:
        """Return a session by its id."""
        return self._sessions.get(session_id)

    def of_member(self, uri: str) -> list[Session]:
        """Return the sessions of an identity, also those it is away from."""
        return list(self._by_uri.get(uri, {}).values())

    def of_connection(self, peer: Peer) -> list[Session]:
        """Return the sessions attached to a connection."""
        return list(self._by_conn.get(peer.conn, {}).values())

    def between(self, agent: Peer, connector: Peer) -> Session | None:
        """Return the session between two connections, if there is one."""
        attached = self._by_conn.get(agent.conn, {}).values()
        return next((each for each in attached if each.agent.peer is agent and each.connector.peer is connector), None)

    def room_for(self, agent: Identity, connector: Identity) -> bool:
        """Say whether one more session of these two is within the bounds."""
        limits = self._limits
        return (
            len(self._sessions) < limits.e2e_sessions
            and len(self._by_uri.get(agent.uri, ())) < limits.e2e_sessions_per_agent
            and len(self._by_uri.get(connector.uri, ())) < limits.e2e_sessions_per_connector
        )

    def add(self, session: Session) -> None:
        """Enter a session whose sides are both present."""
        self._sessions[session.id] = session
        for side in (session.agent, session.connector):
            self._by_uri.setdefault(side.identity.uri, {})[session.id] = session
            if side.peer is not None:
                self._by_conn.setdefault(side.peer.conn, {})[session.id] = session

    def remove(self, session: Session) -> None:
        """Forget a session."""
        del self._sessions[session.id]
        session.deadline = None
        for side in (session.agent, session.connector):
            self._detach(session, side)
            _discard(self._by_uri, side.identity.uri, session.id)

    def attach(self, session: Session, side: Side, peer: Peer) -> None:
        """Make `peer` the control connection of a side that was away, or had an older one."""
        self._detach(session, side)
        side.peer = peer
        self._by_conn.setdefault(peer.conn, {})[session.id] = session

    def leave(self, session: Session, side: Side) -> None:
        """A side has no control connection any more."""
        self._detach(session, side)
        side.peer = None

    def set_deadline(self, session: Session, deadline: float | None) -> None:
        """Say when a session ends unless something happens before; an earlier entry in the heap is then void."""
        session.deadline = deadline
        if deadline is None:
            return
        self._order += 1
        heappush(self._heap, (deadline, self._order, session))
        if len(self._heap) > 2 * len(self._sessions) + HEAP_SLACK:
            self._heap = [entry for entry in self._heap if entry[2].deadline == entry[0]]
            heapify(self._heap)

    def get_timer(self) -> float | None:
        """Return when the next session is due."""
        heap = self._heap
        while heap and heap[0][2].deadline != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def expired(self, now: float) -> list[Session]:
        """Return the sessions that are due; the caller removes them."""
        due = []
        while (at := self.get_timer()) is not None and at <= now:
            session = heappop(self._heap)[2]
            session.deadline = None
            due.append(session)
        return due

    def _detach(self, session: Session, side: Side) -> None:
        if side.peer is not None:
            _discard(self._by_conn, side.peer.conn, session.id)


def shared_services(agent: Peer, connector: Peer) -> tuple[str, ...]:
    """Return the services of `connector` that `agent` is registered for, which policy allows both."""
    return tuple(sorted(agent.reach[key].id for key in agent.reach.keys() & connector.serving.keys()))


def invite_of(session: Session) -> Invite:
    """Return what the connector is told of a session."""
    agent = session.agent
    address = None if agent.peer is None else agent.peer.virtual_ip
    return Invite(
        session=session.id,
        key=session.key,
        agent=agent.identity.uri,
        agent_ip="" if address is None else str(IPv4Address(address)),
        services=session.services,
        resume=session.resume and session.state is SessionState.INVITED,
    )


def granted_of(session: Session, request: int) -> Granted:
    """Return what the agent is told of a session."""
    return Granted(
        request=request,
        session=session.id,
        key=session.key,
        connector=session.connector.identity.uri,
        nonce=session.nonce,
        services=session.services,
    )


def row_of(session: Session, now: float) -> dict[str, Any]:
    """Return what a status page says of a session."""
    sides = (session.agent, session.connector)
    return {
        "session": session.id.hex(),
        "agent": session.agent.identity.uri,
        "connector": session.connector.identity.uri,
        "services": list(session.services),
        "state": session.state.value,
        "away": [side.role for side in sides if side.peer is None],
        "relay": session.relay,
        "dark": session.dark,
        "age_s": round(now - session.opened_at, 3),
        "paths": {
            side.role: {"path": side.path.path, "reason": side.path.reason, "rtt_ms": side.path.rtt_ms}
            for side in sides
            if side.path is not None
        },
    }


def _discard(index: dict[_K, dict[bytes, Session]], key: _K, session_id: bytes) -> None:
    """Take a session out of an index, and the entry with the last one."""
    entries = index.get(key)
    if entries is not None:
        entries.pop(session_id, None)
        if not entries:
            del index[key]

"""Brokering of sessions at the intermediate: agent and connector get an id, a key and each other's candidates.

Flow: Connect (agent) -> Invite (connector) -> Accept with its nonce -> Granted (agent) -> Candidates, NatReport and
PathReport, each passed on to the other side or noted -> EndSession from either side. One agent connection and one
connector connection have at most one session, which serves all services of that connector the agent registered for;
another Connect gets the same one with the list as it is then, and the connector an Invite that says so too.

What outlives a control connection:

- The intermediate still knows the session: a member whose connection was lost is away for at most `e2e_away_s`. When
  the same process (identity and start time) registers again, its sessions are attached to the new connection. If it
  does not come, the other side is told that the session ends: nobody holds a session that a revocation cannot reach.
- The intermediate was restarted and knows nothing: the agent sends Connect with the id and the key of its live session.
  Neither is believed: the connector gets an Invite with `resume` and accepts only if it has a session with exactly
  this id, key and agent. Otherwise it declines with `unknown-session`, and the agent gets a new session as if it had
  named none. So an agent can choose an id and a key only if they were given to it before, and packets on the direct
  path never notice.
- To begin anew (another end-to-end connection, another nonce) the agent ends the session and connects again.

Both sides should begin their checks at one moment. It is set by the first candidates of a session, as the earliest at
which both can know the other's: they need one way to the receiver, whose own need a whole round trip there and back.
"""

from collections.abc import Callable
from typing import Final

from ztna.proto.commands import CloseRelay, ConnId, IntermediateCommand, OpenRelay
from ztna.proto.control.messages import (
    KEY_BYTES,
    SESSION_BYTES,
    Accept,
    Candidates,
    Connect,
    ControlMessage,
    EndSession,
    Error,
    NatReport,
    PathReport,
    Silence,
)
from ztna.proto.control.relay_news import RelayNews
from ztna.proto.control.sessions import (
    Session,
    SessionState,
    SessionTable,
    Side,
    granted_of,
    invite_of,
    shared_services,
)
from ztna.proto.control.stats import ControlServerStats
from ztna.proto.limits import ControlLimits
from ztna.proto.policy import Policy
from ztna.proto.registry import V2, Peer

__all__ = ["SessionBroker"]

MAX_REQUESTS: Final = 16
START_MARGIN_S: Final = 0.005
MAX_RTT_S: Final = 2.0


class SessionBroker:
    """All sessions, and what members may say about them.

    Args:
        send: puts a message on a connection's control stream.
        command: queues a command for the shell.
        note: queues a log line.
        random: bytes nobody can guess.
        rtt_s: smoothed round-trip time of a control connection, None before it is known.
    """

    def __init__(
        self,
        limits: ControlLimits,
        stats: ControlServerStats,
        *,
        send: Callable[[Peer, ControlMessage], None],
        command: Callable[[IntermediateCommand], None],
        note: Callable[..., None],
        random: Callable[[int], bytes],
        rtt_s: Callable[[ConnId], float | None],
    ) -> None:
        self.table = SessionTable(limits)
        self.relay = RelayNews(self.table, send, self._log)
        self._limits = limits
        self._stats = stats
        self._send = send
        self._command = command
        self._note = note
        self._random = random
        self._rtt_s = rtt_s

    # Opening

    def connect(self, agent: Peer, message: Connect, now: float) -> None:
        """An agent wants a session with the connector of a service."""
        service = agent.reach.get(message.service.encode())
        if service is None:
            # A service one may not reach and one that does not exist look the same.
            self._refuse(agent, message.request, "unknown-service", "not registered as agent of it")
        elif service.connector is None:
            self._refuse(agent, message.request, "no-connector", "nobody serves it now")
        elif service.connector.protocol != V2:
            self._refuse(agent, message.request, "legacy-peer", "its connector speaks ztna-v1: use the DATAGRAM relay")
        elif (session := self.table.between(agent, service.connector)) is not None:
            self._again(session, message.request)
        else:
            named = message.session is not None and self.table.get(message.session) is None
            resumed = (message.session, message.key) if named else (None, None)
            self._invite(agent, service.connector, [message.request], now, *resumed)

    def _invite(
        self,
        agent: Peer,
        connector: Peer,
        requests: list[int],
        now: float,
        session_id: bytes | None = None,
        key: bytes | None = None,
    ) -> None:
        assert agent.identity is not None
        assert connector.identity is not None
        if not self.table.room_for(agent.identity, connector.identity):
            self._stats.drop_session_limit += 1
            for request in requests:
                self._refuse(agent, request, "limit", "too many sessions")
            return
        resume = session_id is not None and key is not None
        session = Session(
            session_id if resume and session_id is not None else self._random(SESSION_BYTES),
            key if resume and key is not None else self._random(KEY_BYTES),
            Side("agent", agent, self._limits),
            Side("connector", connector, self._limits),
            now,
        )
        session.resume = resume
        session.requests = requests
        session.services = shared_services(agent, connector)
        self.table.add(session)
        self.table.set_deadline(session, now + self._limits.e2e_invite_s)
        self._stats.sessions_invited += 1
        # Before anybody answers: the connector's first proof of address may overtake its Accept.
        self._command(OpenRelay(session.id, session.key, agent.identity, connector.identity))
        self._send_invite(session)

    def _again(self, session: Session, request: int) -> None:
        """Another Connect between the same two."""
        agent, connector = session.agent.peer, session.connector.peer
        assert agent is not None
        assert connector is not None
        if session.state is SessionState.INVITED:
            if len(session.requests) < MAX_REQUESTS:
                session.requests.append(request)
            else:
                self._refuse(agent, request, "limit", "too many requests wait for the connector")
            return
        services = shared_services(agent, connector)
        if services != session.services:
            session.services = services
            self._send_invite(session)
        self._send_granted(session, request)

    def accept(self, connector: Peer, message: Accept, now: float) -> None:
        """The connector agrees; the agent gets the session."""
        session = self.table.get(message.session)
        if session is None or session.connector.peer is not connector:
            self._unknown(connector, message.session)
            return
        if session.state is SessionState.GRANTED:
            return  # the answer to an Invite that only changed the services
        session.state = SessionState.GRANTED
        session.nonce = message.nonce
        self._stats.sessions_granted += 1
        self._stats.sessions_resumed += session.resume
        self.table.set_deadline(session, None)
        requests, session.requests = session.requests, []
        for request in requests:
            self._send_granted(session, request)
        self._log(session, "session granted", resumed=session.resume, services=session.services)

    def error(self, peer: Peer, message: Error, now: float) -> None:
        """A member refuses a session: a connector declines, or either side does not know it (any more)."""
        session = None if message.session is None else self.table.get(message.session)
        side = None if session is None else session.side_of(peer)
        if session is None or side is None:
            self._stats.drop_session_unknown += 1
        elif session.state is SessionState.GRANTED:
            self.end(session, message.code, but=side)
        elif side is session.connector:
            agent, requests = session.agent.peer, session.requests
            self._remove(session, "declined")
            if agent is None:
                return
            if session.resume and message.code == "unknown-session":
                self._invite(agent, peer, requests, now)
                return
            for request in requests:
                self._refuse(agent, request, "declined", message.text)

    # Between the sides

    def forward(self, peer: Peer, message: Candidates | NatReport | PathReport, now: float) -> None:
        """Pass candidates and NAT reports on to the other side; keep path reports."""
        session = self.table.get(message.session)
        side = None if session is None else session.side_of(peer)
        if session is None or side is None or session.state is not SessionState.GRANTED:
            self._unknown(peer, message.session)
            return
        if not side.bucket.take(now):
            self._stats.drop_session_rate += 1
            return
        if isinstance(message, PathReport):
            self._stats.paths_reported += 1
            changed = side.path is None or side.path.path != message.path
            side.path = message
            if changed:
                self._log(session, "session path", role=side.role, path=message.path, reason=message.reason)
            return
        other = session.other(side).peer
        if other is None:
            self._stats.drop_peer_away += 1
        elif isinstance(message, NatReport):
            self._send(other, message)
        else:
            start_in_ms = self._start_in_s(session, peer, other, bool(message.candidates), now) * 1000
            self._stats.candidates_forwarded += len(message.candidates)
            self._send(other, Candidates(session.id, message.candidates, message.end, round(start_in_ms, 3)))

    def _start_in_s(self, session: Session, sender: Peer, receiver: Peer, any_candidates: bool, now: float) -> float:
        """Return how long after this message arrives the receiver begins its checks; see the module."""
        there, here = self._round_trip_s(receiver), self._round_trip_s(sender)
        if session.start_at is None and any_candidates:
            session.start_at = now + there + here / 2 + START_MARGIN_S
        return max(0.0, (session.start_at or now) - now - there / 2)

    def _round_trip_s(self, peer: Peer) -> float:
        return min(self._rtt_s(peer.conn) or 0.0, MAX_RTT_S)

    def silent_connector(self, agent: Peer, message: Silence) -> Peer | None:
        """Return whom an agent hears nothing of; None where it is in no position to say so, or the other is away."""
        session = self.table.get(message.session)
        if session is None or session.agent.peer is not agent or session.state is not SessionState.GRANTED:
            self._stats.drop_session_unknown += 1
            return None
        return session.connector.peer

    # Connections, policy, time

    def registered(self, peer: Peer) -> None:
        """A member registered: attach the sessions of the same process that an earlier connection of it had."""
        if peer.owner is None or not peer.claimed:
            return
        for session in self.table.of_member(peer.owner):
            side = session.agent if session.agent.identity.uri == peer.owner else session.connector
            if side.peer is peer or side.epoch != peer.claimed or session.state is SessionState.INVITED:
                continue
            self.table.attach(session, side, peer)
            self._stats.sessions_attached += 1
            if session.other(side).peer is not None:
                self.table.set_deadline(session, None)
            self.relay.attached(session, peer)

    def peer_left(self, peer: Peer, now: float) -> None:
        """A control connection is gone."""
        for session in self.table.of_connection(peer):
            side = session.side_of(peer)
            if side is None:
                continue
            self.table.leave(session, side)
            if session.state is SessionState.GRANTED:
                self.table.set_deadline(session, now + self._limits.e2e_away_s)
                continue
            if side is session.connector:
                self._refuse_all(session, "no-connector", "its connection was lost")
            self.end(session, f"{side.role} left")

    def apply_policy(self, policy: Policy) -> None:
        """End sessions that a new policy does not allow, and tell the sides of others what is left of them."""
        for session in self.table:
            agent, connector = session.agent, session.connector
            if policy.revoked(agent.identity) or policy.revoked(connector.identity):
                self._refuse_all(session, "no-connector", "")
                self.end(session, "revoked")
                continue
            services = tuple(
                service
                for service in session.services
                if policy.may_reach(agent.identity, service) and policy.may_serve(connector.identity, service)
            )
            if not services:
                self._refuse_all(session, "denied", "")
                self.end(session, "denied")
            elif services != session.services:
                session.services = services
                self._send_invite(session)
                if session.state is SessionState.GRANTED:
                    self._send_granted(session, 0)

    def end_by(self, peer: Peer, message: EndSession) -> None:
        """A member ends a session."""
        session = self.table.get(message.session)
        side = None if session is None else session.side_of(peer)
        if session is None or side is None:
            self._stats.drop_session_unknown += 1
            return
        if side is session.connector:
            self._refuse_all(session, "declined", message.reason)
        self.end(session, message.reason, but=side)

    def end(self, session: Session, reason: str, *, but: Side | None = None) -> None:
        """End a session and tell its sides, except the one that knows."""
        for side in (session.agent, session.connector):
            # An agent that waits for the connector's answer knows of no session yet.
            knows = side is session.connector or session.state is SessionState.GRANTED
            if side is not but and side.peer is not None and knows:
                self._send(side.peer, EndSession(session.id, reason[:256]))
        self._remove(session, reason)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return self.table.get_timer()

    def handle_timer(self, now: float) -> None:
        """End sessions whose connector did not answer, or one of whose sides did not come back."""
        for session in self.table.expired(now):
            if session.state is SessionState.INVITED:
                self._refuse_all(session, "declined", "the connector did not answer")
                self.end(session, "not answered")
            else:
                away = [side.role for side in (session.agent, session.connector) if side.peer is None]
                self.end(session, f"{' and '.join(away)} left")

    def key_of(self, session_id: bytes) -> bytes | None:
        """Return the key of a session, for STUN."""
        session = self.table.get(session_id)
        return None if session is None else session.key

    # Sending

    def _send_invite(self, session: Session) -> None:
        if session.connector.peer is not None:
            self._send(session.connector.peer, invite_of(session))

    def _send_granted(self, session: Session, request: int) -> None:
        if session.agent.peer is not None:
            self._send(session.agent.peer, granted_of(session, request))

    def _refuse(self, agent: Peer, request: int, code: str, text: str) -> None:
        self._stats.errors_sent += 1
        self._send(agent, Error(code, text[:256], request=request))

    def _refuse_all(self, session: Session, code: str, text: str) -> None:
        """Answer the requests that wait for a connector."""
        requests, session.requests = session.requests, []
        if session.agent.peer is not None:
            for request in requests:
                self._refuse(session.agent.peer, request, code, text)

    def _unknown(self, peer: Peer, session_id: bytes) -> None:
        self._stats.drop_session_unknown += 1
        self._stats.errors_sent += 1
        self._send(peer, Error("unknown-session", session=session_id))

    def _remove(self, session: Session, reason: str) -> None:
        self._stats.sessions_ended += 1
        self.table.remove(session)
        self._command(CloseRelay(session.id, reason))
        if session.state is SessionState.GRANTED:
            self._log(session, "session ended", reason=reason)

    def _log(self, session: Session, event: str, **fields: object) -> None:
        names = {"agent": session.agent.identity.name, "connector": session.connector.identity.name}
        self._note("info", event, session=session.id.hex(), **names, **fields)

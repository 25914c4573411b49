"""Signalling sessions at the intermediate: two peers exchange candidates through it.

Flow: offer (agent) -> forwarded to the service's connector -> answer (connector) -> StartPunching to both, with the
other's candidates -> PunchingResult and Error pass to the other side -> the session ends 5 s after its last offer.

A session is known to its agent and to its connector by (connection, id): nobody else can answer, end or reuse it.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ztna.proto.commands import ConnId
from ztna.proto.limits import IntermediateLimits
from ztna.proto.registry import Peer, Registry
from ztna.proto.signalling import (
    Candidate,
    CandidateAnswer,
    CandidateOffer,
    ErrorCode,
    PunchingResult,
    SignallingError,
    SignallingMessage,
    StartPunching,
)
from ztna.proto.stats import IntermediateStats
from ztna.proto.wire import MAX_SERVICE_ID_BYTES

__all__ = ["START_DELAY_MS", "SignallingSessions"]

START_DELAY_MS: Final = 100


class _Session:
    """One exchange between an agent and the connector that was chosen for it."""

    __slots__ = ("agent", "candidates", "connector", "expires", "id", "messages")

    def __init__(self, session_id: int, agent: Peer, connector: Peer) -> None:
        self.id = session_id
        self.agent = agent
        self.connector = connector
        self.candidates: tuple[Candidate, ...] = ()
        self.expires = 0.0
        self.messages = 0


class SignallingSessions:
    """All open sessions; `send` puts a message on a peer's signalling stream."""

    __slots__ = ("_by_agent", "_by_connector", "_limits", "_registry", "_send", "_stats")

    def __init__(
        self,
        registry: Registry,
        limits: IntermediateLimits,
        stats: IntermediateStats,
        send: Callable[[Peer, SignallingMessage], None],
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._stats = stats
        self._send = send
        # Ordered by expiry: every session lives equally long, and a repeated offer moves it to the end.
        self._by_agent: OrderedDict[tuple[ConnId, int], _Session] = OrderedDict()
        self._by_connector: dict[tuple[ConnId, int], _Session] = {}

    def __len__(self) -> int:
        return len(self._by_agent)

    def receive(self, peer: Peer, message: SignallingMessage, now: float) -> None:
        """Act on a message of an open connection."""
        if (
            isinstance(message, CandidateOffer | CandidateAnswer)
            and len(message.candidates) > self._limits.session_candidates
        ):
            self._stats.drop_session_limit += 1
        elif isinstance(message, CandidateOffer):
            self._offer(peer, message, now)
        elif isinstance(message, CandidateAnswer):
            self._answer(peer, message, now)
        elif isinstance(message, PunchingResult):
            self._pass_on(peer, message.session_id, message, now)
        elif isinstance(message, SignallingError) and message.session_id is not None:
            session = self._pass_on(peer, message.session_id, message, now)
            if session is not None:
                self._remove(session)
        else:
            self._stats.drop_signalling_unexpected += 1

    def connection_closed(self, peer: Peer) -> None:
        """End the sessions of a connection."""
        for session in [s for s in self._by_agent.values() if peer is s.agent or peer is s.connector]:
            self._remove(session)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return next(iter(self._by_agent.values())).expires if self._by_agent else None

    def handle_timer(self, now: float) -> None:
        """End what is too old."""
        while self._by_agent:
            session = next(iter(self._by_agent.values()))
            if session.expires > now:
                return
            self._stats.sessions_expired += 1
            self._remove(session)

    def _offer(self, agent: Peer, offer: CandidateOffer, now: float) -> None:
        key = offer.service_id.encode()
        service = agent.reach.get(key)
        if service is None or service.connector is None:
            # The answer does not tell a service that one may not reach from one that nobody serves.
            self._stats.drop_offer_refused += service is None
            self._error(
                agent,
                offer.session_id,
                ErrorCode.NO_CONNECTOR_AVAILABLE,
                f"No Connector available for service '{_shown(offer.service_id)}'",
            )
            return
        session = self._find(agent, offer.session_id, now)
        if session is None or session.connector is not service.connector or session.agent is not agent:
            session = self._open(agent, service.connector, offer.session_id, now)
        if session is None or not self._count_message(session):
            return
        session.candidates = offer.candidates
        session.expires = now + self._limits.session_s
        self._by_agent.move_to_end((agent.conn, session.id))
        self._relay(service.connector, offer)

    def _open(self, agent: Peer, connector: Peer, session_id: int, now: float) -> _Session | None:
        self.handle_timer(now)
        own = self._by_agent.get((agent.conn, session_id))
        if own is not None:
            self._remove(own)
        if (connector.conn, session_id) in self._by_connector:
            self._stats.drop_session_clash += 1
            self._error(agent, session_id, ErrorCode.INVALID_MESSAGE, f"Session {session_id} is in use")
            return None
        mine = sum(conn == agent.conn for conn, _ in self._by_agent)
        if len(self._by_agent) >= self._limits.sessions or mine >= self._limits.sessions_per_connection:
            self._stats.drop_session_limit += 1
            return None
        session = _Session(session_id, agent, connector)
        self._by_agent[agent.conn, session_id] = session
        self._by_connector[connector.conn, session_id] = session
        self._stats.sessions_opened += 1
        return session

    def _answer(self, connector: Peer, answer: CandidateAnswer, now: float) -> None:
        session = self._by_connector.get((connector.conn, answer.session_id))
        if session is None or session.expires <= now:
            self._stats.drop_session_unknown += 1
            text = f"Session {answer.session_id} not found"
            self._error(connector, answer.session_id, ErrorCode.SESSION_NOT_FOUND, text)
            return
        if not self._count_message(session):
            return
        self._registry.note_punching(session.agent, connector)
        # The answer itself is not forwarded: agents in the field learn the candidates from StartPunching.
        self._relay(session.agent, StartPunching(session.id, START_DELAY_MS, answer.candidates))
        self._relay(connector, StartPunching(session.id, START_DELAY_MS, session.candidates))

    def _pass_on(self, peer: Peer, session_id: int, message: SignallingMessage, now: float) -> _Session | None:
        """Forward to the other side of a session that `peer` belongs to."""
        session = self._find(peer, session_id, now)
        if session is None:
            self._stats.drop_session_unknown += 1
            return None
        if self._count_message(session):
            self._relay(session.connector if peer is session.agent else session.agent, message)
        return session

    def _find(self, peer: Peer, session_id: int, now: float) -> _Session | None:
        key = (peer.conn, session_id)
        session = self._by_agent.get(key) or self._by_connector.get(key)
        return None if session is None or session.expires <= now else session

    def _count_message(self, session: _Session) -> bool:
        session.messages += 1
        if session.messages > self._limits.session_messages:
            self._stats.drop_session_limit += 1
            return False
        return True

    def _relay(self, peer: Peer, message: SignallingMessage) -> None:
        self._stats.signalling_relayed += 1
        self._send(peer, message)

    def _error(self, peer: Peer, session_id: int, code: ErrorCode, text: str) -> None:
        self._stats.signalling_errors_sent += 1
        self._send(peer, SignallingError(session_id, code, text))

    def _remove(self, session: _Session) -> None:
        del self._by_agent[session.agent.conn, session.id]
        del self._by_connector[session.connector.conn, session.id]


def _shown(service_id: str) -> str:
    """Return a service id as it may stand in an error text: whole, if a registration could have named it."""
    return service_id if len(service_id) <= MAX_SERVICE_ID_BYTES else service_id[:MAX_SERVICE_ID_BYTES] + "…"

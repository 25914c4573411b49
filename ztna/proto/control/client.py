"""The client's side of `ztna-v2`, on agents and connectors alike: proof, registration, and messages about sessions.

Flow: `connected` -> Challenge -> Hello with the proof -> Welcome: the connection may be used (ControlUp) -> Register,
and what the role sends -> `disconnected`. What is registered and where we are seen is reported to the role's
`ClientControl`, which also says when to register again and when to reconnect.

Every input gives commands (`next_command`) and events (`next_event`); the shell takes both until there are none.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from msgspec.structs import replace

from ztna.proto.client import ClientControl, SendStream
from ztna.proto.control import messages
from ztna.proto.control.events import (
    ControlDown,
    ControlError,
    ControlEvent,
    ControlUp,
    Denied,
    Draining,
    Observed,
    PeerCandidates,
    PeerNat,
    Registered,
    Registering,
    RelayIsLost,
    RelayIsReady,
    ServiceStateChanged,
    SessionEnded,
    SessionGranted,
    SessionInvited,
)
from ztna.proto.control.fields import MAX_CANDIDATES, MAX_NUMBER, SILENCE, PathName, Role
from ztna.proto.control.messages import (
    Candidate,
    ControlMessage,
    FrameReader,
    UnknownMessageError,
    decode,
    encode_frame,
)
from ztna.proto.control.stats import ControlClientStats
from ztna.proto.errors import LocalProtocolError, WireError
from ztna.proto.signalling import SocketAddress

__all__ = [
    "Abandon",
    "ControlClient",
    "ControlDown",
    "ControlError",
    "ControlEvent",
    "ControlUp",
    "Denied",
    "Draining",
    "Observed",
    "PeerCandidates",
    "PeerNat",
    "Registered",
    "Registering",
    "RelayIsLost",
    "RelayIsReady",
    "ServiceStateChanged",
    "SessionEnded",
    "SessionGranted",
    "SessionInvited",
    "Sign",
]

CONTROL_STREAM: Final = 0
CHALLENGE_STREAM: Final = 1
WELCOME_S: Final = 5.0
MAX_QUEUE: Final = 4096
STANDBY: Final = "standby"

Sign = Callable[[bytes, bytes], tuple[Sequence[bytes], bytes]]
"""Makes the proof, given the server's nonce and the SHA-256 of its leaf: our certificates in DER, leaf first, and the
signature. LocalProtocolError if it cannot."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Close the connection: it cannot be used, and the reason is worth telling."""

    reason: str


class ControlClient:
    """One role's control connection, again and again; see the module.

    Args:
        core: the role's control core.
        role: "agent" or "connector".
        epoch: when this process started, Unix ms: of two connectors with our identity the later one serves.
        software: name and version for the intermediate's log.
    """

    def __init__(self, core: ClientControl, *, role: Role, epoch: int, software: str = "") -> None:
        self.stats = ControlClientStats()
        self.core = core
        self.role = role
        self._epoch = epoch
        self._software = software[:64]
        self._commands: deque[SendStream | Abandon] = deque()
        self._events: deque[ControlEvent] = deque()
        self._request = 0
        self._sign: Sign | None = None
        self._leaf_sha256 = b""
        self._relay = ("", 0)
        self._readers: dict[int, FrameReader] = {}
        self._deadline: float | None = None
        self._up = False
        self._server_can: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether the intermediate accepted our proof on the present connection."""
        return self._up

    def connected(self, leaf_sha256: bytes, relay: tuple[str, int], sign: Sign, now: float) -> None:
        """A handshake with ALPN `ztna-v2` is complete.

        Args:
            leaf_sha256: of the certificate that the server showed.
            relay: the address that was dialled.
            sign: makes the proof.
        """
        self._sign = sign
        self._leaf_sha256 = leaf_sha256
        self._relay = relay
        self._readers = {CHALLENGE_STREAM: FrameReader(), CONTROL_STREAM: FrameReader()}
        self._deadline = now + WELCOME_S

    def disconnected(self) -> None:
        """The connection is gone. Call before the core's `disconnected`."""
        self._sign = None
        self._readers = {}
        self._deadline = None
        self._commands.clear()
        if self._up:
            self._up = False
            self._event(ControlDown())

    def stream_received(self, stream_id: int, data: bytes, fin: bool, now: float) -> None:
        """Bytes of a stream arrived in order; whatever they hold, nothing is raised."""
        reader = self._readers.get(stream_id)
        if reader is None:
            self.stats.drop_stream += 1
            return
        for body in reader.receive(data):
            self.stats.messages_received += 1
            try:
                message = decode(body)
            except UnknownMessageError:
                self.stats.drop_unknown += 1
            except WireError:
                self.stats.drop_malformed += 1
            else:
                if not self._act(stream_id, message, now):
                    self.stats.drop_unexpected += 1
        if reader.broken or (fin and stream_id == CONTROL_STREAM):
            self._abandon("the relay broke the control stream")

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due (monotonic seconds), None if nothing waits."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """Give up a connection on which the intermediate does not accept our proof."""
        if self._deadline is not None and now >= self._deadline:
            self._abandon("the relay did not answer the proof")

    def next_command(self) -> SendStream | Abandon | None:
        """Return the next thing to do, None if there is nothing more."""
        return self._commands.popleft() if self._commands else None

    def next_event(self) -> ControlEvent | None:
        """Return the next event for the role, None if there is none more."""
        return self._events.popleft() if self._events else None

    # What a role says

    def connect(self, service: str, now: float, *, session: bytes | None = None, key: bytes | None = None) -> int:
        """Ask for a session with the connector of a service; the answer is SessionGranted or ControlError.

        Args:
            session, key: of a live session with that connector, to attach it again.

        Returns:
            the request's number, 0 if there is no connection.
        """
        if not self._up:
            self.stats.drop_not_connected += 1
            return 0
        self._request = self._request % MAX_NUMBER + 1
        self._send(messages.Connect(self._request, service, session, key))
        return self._request

    def accept(self, session: bytes, nonce: bytes, now: float) -> None:
        """Agree to a session; the agent proves itself by signing `nonce` (32 bytes)."""
        self._send(messages.Accept(session, nonce))

    def decline(self, session: bytes, code: str, text: str, now: float) -> None:
        """Refuse a session, or say that it is not known here (`unknown-session`)."""
        self._send(messages.Error(code, text[:256], session=session))

    def send_candidates(self, session: bytes, candidates: Sequence[Candidate], end: bool, now: float) -> None:
        """Tell the other side candidates of ours; `end`: these were the last."""
        chunks = [candidates[at : at + MAX_CANDIDATES] for at in range(0, len(candidates), MAX_CANDIDATES)] or [()]
        for index, chunk in enumerate(chunks):
            self._send(messages.Candidates(session, tuple(chunk), end and index == len(chunks) - 1))

    def nat_report(self, session: bytes, mapping: str, filtering: str, allocation: str, now: float) -> None:
        """Tell the other side how our NAT behaves."""
        self._send(messages.NatReport(session, mapping[:64], filtering[:64], allocation[:64]))

    def path_report(
        self, session: bytes, path: PathName, peer: str, reason: str, rtt_ms: float | None, loss: float, now: float
    ) -> None:
        """Tell the intermediate which path packets take; `loss` is a share of 1."""
        self._send(messages.PathReport(session, path, peer[:64], reason[:256], rtt_ms, loss))

    def silence(self, session: bytes, now: float) -> None:
        """Tell an intermediate that knows what to do then: nothing of the session's connector arrives any more."""
        if SILENCE in self._server_can:
            self._send(messages.Silence(session))

    def end_session(self, session: bytes, reason: str, now: float) -> None:
        """End a session."""
        self._send(messages.EndSession(session, reason[:256]))

    # What the intermediate says

    def _act(self, stream_id: int, message: ControlMessage, now: float) -> bool:
        """Act on a message; False if it was not expected."""
        if isinstance(message, messages.Challenge):
            return stream_id == CHALLENGE_STREAM and self._prove(message)
        if stream_id != CONTROL_STREAM:
            return False
        if isinstance(message, messages.Welcome):
            return self._welcome(message, now)
        if isinstance(message, messages.Error):
            self.stats.errors_received += 1
            about = next((each for each in (message.request, message.session) if each is not None), message.about)
            self._event(ControlError(message.code, message.text, about))
            return True
        if not self._up:
            return False
        if isinstance(message, messages.Registered):
            return self._registered(message, now)
        if isinstance(message, messages.Observed):
            self.core.observe(SocketAddress(str(ip_address(message.host)), message.port))
            return True
        event = self._session_event(message)
        if event is not None:
            self._event(event)
        return event is not None

    def _session_event(self, message: ControlMessage) -> ControlEvent | None:
        """Return the event that a message is for the role, None if it is none for this one."""
        match message:
            case messages.ServiceState(service, connector, protocol) if self.role == "agent":
                return ServiceStateChanged(service, connector, protocol)
            case messages.Invite(session, key, agent, agent_ip, services, relay, resume) if self.role == "connector":
                place = self._place(relay)
                return SessionInvited(session, key, agent, agent_ip, services, place, resume)
            case messages.Granted(request, session, key, connector, nonce, services, relay) if self.role == "agent":
                place = self._place(relay)
                return SessionGranted(request, session, key, connector, nonce, services, place)
            case messages.Candidates(session, candidates, end, start_in_ms):
                return PeerCandidates(session, tuple(map(_canonical, candidates)), end, start_in_ms / 1000)
            case messages.NatReport(session, mapping, filtering, allocation):
                return PeerNat(session, mapping, filtering, allocation)
            case messages.RelayReady(session, backend):
                return RelayIsReady(session, backend)
            case messages.RelayLost(session, reason):
                return RelayIsLost(session, reason)
            case messages.EndSession(session, reason):
                return SessionEnded(session, reason)
            case messages.Draining(deadline_s):
                return Draining(deadline_s)
            case _:
                return None

    def _prove(self, challenge: messages.Challenge) -> bool:
        sign, self._sign = self._sign, None
        if sign is None:
            return False
        try:
            chain, signature = sign(challenge.nonce, self._leaf_sha256)
        except LocalProtocolError as error:
            self._abandon(f"cannot prove who we are: {error}")
            return True
        self.stats.proofs_sent += 1
        hello = messages.Hello(tuple(chain), signature, software=self._software)
        self._commands.append(SendStream(CONTROL_STREAM, encode_frame(hello)))
        return True

    def _welcome(self, message: messages.Welcome, now: float) -> bool:
        if self._up or self._deadline is None or self._sign is not None:
            return False
        self._up = True
        self._server_can = message.capabilities
        self._deadline = None
        self.stats.welcomed += 1
        self._event(ControlUp(messages.PROTOCOL, message.identity, tuple(map(self._place, message.stun))))
        self.core.connected(now, register=self._register)
        return True

    def _register(self, services: list[str], now: float) -> None:
        self.stats.registers_sent += 1
        self._send(messages.Register(self.role, tuple(services), self._epoch))
        if self.role == "agent":
            self._event(Registering(tuple(services)))

    def _registered(self, message: messages.Registered, now: float) -> bool:
        if message.role != self.role:
            return False
        expected = True
        for service in message.accepted:
            expected &= self.core.accepted(service)
        for refusal in message.refused:
            if refusal.code == STANDBY:
                expected &= self.core.standby(refusal.service, now)
            else:
                expected &= self.core.refused(refusal.service, now)
        return expected

    def _place(self, place: tuple[str, int]) -> tuple[str, int]:
        """Return a place with what stands for the dialled address filled in."""
        return place[0] or self._relay[0], place[1] or self._relay[1]

    def _event(self, event: ControlEvent) -> None:
        if len(self._events) >= MAX_QUEUE:
            self.stats.drop_event_queue += 1
            return
        self._events.append(event)

    def _abandon(self, reason: str) -> None:
        self._deadline = None
        self._readers = {}
        self._commands.append(Abandon(reason))

    def _send(self, message: ControlMessage) -> None:
        if not self._up or len(self._commands) >= MAX_QUEUE:
            self.stats.drop_not_connected += 1
            return
        self.stats.messages_sent += 1
        self._commands.append(SendStream(CONTROL_STREAM, encode_frame(message)))


def _canonical(candidate: Candidate) -> Candidate:
    """Return a candidate with its address in its one canonical form."""
    host = str(ip_address(candidate.host))
    return candidate if host == candidate.host else replace(candidate, host=host)

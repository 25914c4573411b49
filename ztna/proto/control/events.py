"""What a role is told by its control connection; hosts are resolved, so that none is empty."""

from dataclasses import dataclass

from ztna.proto.client import Denied, Observed, Registered
from ztna.proto.control.messages import Candidate

__all__ = [
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
]

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ControlUp:
    """A connection to the intermediate may be used. With protocol 1 there are no sessions, and no other event."""

    protocol: int
    identity: str = ""
    """Our SPIFFE ID as the intermediate read it."""
    stun: tuple[Place, ...] = ()
    """Where it answers STUN; the first is the one that also relays."""


@dataclass(frozen=True, slots=True)
class ControlDown:
    """The connection was lost. Sessions need not be; after the next ControlUp they are connected again."""


@dataclass(frozen=True, slots=True)
class Registering:
    """To an agent: these services are asked for with what leaves next; what is said now leaves with it.

    A `connect` for one of them is acted on as soon as the registration is, one round trip before its answer is here.
    """

    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceStateChanged:
    """To an agent: who serves a service. `protocol` 0: nobody; 1: a connector that knows no sessions."""

    service: str
    connector: str | None
    protocol: int


@dataclass(frozen=True, slots=True)
class SessionInvited:
    """To a connector: answer by `accept` or `decline`.

    The same session again, already accepted, has other `services` now and needs no answer. With `resume` accept only
    if there is a live session of exactly this id, key and agent, with its present nonce; else decline with
    `unknown-session`.
    """

    session: bytes
    key: bytes
    agent: str
    agent_ip: str
    services: tuple[str, ...]
    relay: Place
    resume: bool = False


@dataclass(frozen=True, slots=True)
class SessionGranted:
    """To an agent: the answer to `connect`; request 0 when only the services changed.

    A session that is live already (same id and nonce) is only attached again.
    """

    request: int
    session: bytes
    key: bytes
    connector: str
    nonce: bytes
    services: tuple[str, ...]
    relay: Place


@dataclass(frozen=True, slots=True)
class PeerCandidates:
    """Candidates of the other side; checks begin in `start_in_s` seconds."""

    session: bytes
    candidates: tuple[Candidate, ...]
    end: bool
    start_in_s: float


@dataclass(frozen=True, slots=True)
class PeerNat:
    """The other side's NAT, in words of RFC 4787."""

    session: bytes
    mapping: str
    filtering: str
    allocation: str


@dataclass(frozen=True, slots=True)
class RelayIsReady:
    """The intermediate forwards packets of the session."""

    session: bytes
    backend: str


@dataclass(frozen=True, slots=True)
class RelayIsLost:
    """The intermediate does not forward packets of the session any more."""

    session: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is over: the other side, the policy (`revoked`, `denied`) or its absence (`... left`) ended it."""

    session: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Draining:
    """The intermediate stops within this time; the connection is then made again by itself."""

    deadline_s: float


@dataclass(frozen=True, slots=True)
class ControlError:
    """The intermediate refused something: `about` is a request number, a session id, or what the text is about."""

    code: str
    text: str
    about: int | bytes | str | None


ControlEvent = (
    ControlUp
    | ControlDown
    | Registered
    | Registering
    | Denied
    | Observed
    | ServiceStateChanged
    | SessionInvited
    | SessionGranted
    | PeerCandidates
    | PeerNat
    | RelayIsReady
    | RelayIsLost
    | SessionEnded
    | Draining
    | ControlError
)

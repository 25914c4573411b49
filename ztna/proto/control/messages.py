"""Messages of the `ztna-v2` control connection: frames of a u32 big-endian length and a msgpack map.

    Challenge (server, stream 1) -> Hello (client, stream 0) -> Welcome, and from then on everything on stream 0

The key `type` of the map names the message, in snake case; every other key is a field. Unknown keys are ignored, so a
field can be added. A message of an unknown type is told apart from a broken one (`UnknownMessageError`): it is answered
and the connection stays. Hosts are IP addresses in text; an empty host, and a port 0, stand for the address that the
client dialled.
"""

from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta

from ztna.proto.control.fields import (
    KEY_BYTES,
    MAX_CANDIDATES,
    MAX_SERVICES,
    NONCE_BYTES,
    SESSION_BYTES,
    Candidate,
    Capabilities,
    Certificate,
    Epoch,
    Milliseconds,
    Name,
    Nonce,
    Number,
    PathName,
    Place,
    Port,
    Refusal,
    Role,
    Seconds,
    Service,
    Services,
    SessionId,
    SessionKey,
    Share,
    Signature,
    Text,
    check_address,
    check_finite,
)
from ztna.proto.control.frames import MAX_FRAME_BYTES, FrameReader, frame
from ztna.proto.errors import LocalProtocolError, WireError

__all__ = [
    "KEY_BYTES",
    "MAX_FRAME_BYTES",
    "NONCE_BYTES",
    "PROTOCOL",
    "SESSION_BYTES",
    "Accept",
    "Candidate",
    "Candidates",
    "Challenge",
    "Connect",
    "ControlMessage",
    "Draining",
    "EndSession",
    "Error",
    "FrameReader",
    "Granted",
    "Hello",
    "Invite",
    "NatReport",
    "Observed",
    "PathReport",
    "Refusal",
    "Register",
    "Registered",
    "RelayLost",
    "RelayReady",
    "ServiceState",
    "Silence",
    "UnknownMessageError",
    "Welcome",
    "decode",
    "encode_frame",
]

PROTOCOL: Final = 2


class UnknownMessageError(WireError):
    """A well-formed message of a type that this version does not know."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind[:64]!r} is not a message of ztna-v2")
        self.kind = kind[:64]


def _tag(name: str) -> str:
    """Return a class name in snake case."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")


class Message(msgspec.Struct, frozen=True, tag=_tag):
    """Base of all messages."""


class Challenge(Message, frozen=True):
    """Server to client, first and only message on the server's first stream (1).

    `nonce` is fresh and serves this connection alone.
    """

    nonce: Nonce
    capabilities: Capabilities = ()


class Hello(Message, frozen=True):
    """Client to server, its first message: who it is and the proof (`ztna.proto.control.proof`).

    `chain` holds DER certificates, leaf first; `software` is for logs.
    """

    chain: Annotated[tuple[Certificate, ...], Meta(min_length=1, max_length=4)]
    signature: Signature
    protocol: int = PROTOCOL
    capabilities: Capabilities = ()
    software: Name = ""


class Welcome(Message, frozen=True):
    """Server to client: the proof holds.

    `identity` is the SPIFFE ID the server read, `stun` all places where it answers STUN (the first is the one dialled),
    `epoch` the number of this connection at the server.
    """

    identity: Text
    capabilities: Capabilities = ()
    keepalive_s: Seconds = 10.0
    epoch: Epoch = 0
    stun: Annotated[tuple[Place, ...], Meta(max_length=16)] = ()

    def __post_init__(self) -> None:
        check_finite(self.keepalive_s)
        for host, _ in self.stun:
            check_address(host, empty=True)


class Register(Message, frozen=True):
    """Client to server: be `role` for these services.

    `epoch` is when the client's process started (Unix ms): of two connections of one identity that claim a service the
    higher epoch has it, and the same epoch means the same process.
    """

    role: Role
    services: Services
    epoch: Epoch = 0


class Registered(Message, frozen=True):
    """Server to client: the outcome of `Register`, and unasked each time it changes.

    `lease_s` is how long a registration outlives the last packet of its connection.
    """

    role: Role
    accepted: Services = ()
    refused: Annotated[tuple[Refusal, ...], Meta(max_length=MAX_SERVICES)] = ()
    lease_s: Seconds = 30.0

    def __post_init__(self) -> None:
        check_finite(self.lease_s)


class ServiceState(Message, frozen=True):
    """Server to agents registered for a service: who serves it now.

    `protocol` 2 or 1 is the connector's, 0 means nobody serves it; an anonymous connector has no `connector`.
    """

    service: Service
    connector: Text | None = None
    protocol: Annotated[int, Meta(ge=0, le=255)] = 0


class Observed(Message, frozen=True):
    """Server to client: where it sees this connection; IPv4 or IPv6."""

    host: Name
    port: Port

    def __post_init__(self) -> None:
        check_address(self.host, empty=False)


class Connect(Message, frozen=True):
    """Agent to server: a session with the connector of `service`.

    An agent that still has a live session with it gives its id and key: the session is re-attached, see
    `ztna.proto.control.broker`.
    """

    request: Number
    service: Service
    session: SessionId | None = None
    key: SessionKey | None = None


class Invite(Message, frozen=True):
    """Server to connector: an agent wants a session; repeated with other `services` when they change.

    `resume` asks whether the connector has a live session of exactly this id, key and agent.
    """

    session: SessionId
    key: SessionKey
    agent: Text
    agent_ip: Name
    services: Services
    relay: Place = ("", 0)
    resume: bool = False

    def __post_init__(self) -> None:
        check_address(self.agent_ip, empty=True)
        check_address(self.relay[0], empty=True)


class Accept(Message, frozen=True):
    """Connector to server: yes to an `Invite`; the agent signs `nonce` when it opens the session.

    No is an `Error` with the session.
    """

    session: SessionId
    nonce: Nonce


class Granted(Message, frozen=True):
    """Server to agent: the answer to `Connect`; repeated with request 0 when `services` change."""

    request: Number
    session: SessionId
    key: SessionKey
    connector: Text
    nonce: Nonce
    services: Services
    relay: Place = ("", 0)

    def __post_init__(self) -> None:
        check_address(self.relay[0], empty=True)


class Candidates(Message, frozen=True):
    """Either side of a session to the other (RFC 8838): candidates as they are found; `end` says these were the last.

    The server fills `start_in_ms`: both sides begin their checks that long after this message arrived.
    """

    session: SessionId
    candidates: Annotated[tuple[Candidate, ...], Meta(max_length=MAX_CANDIDATES)] = ()
    end: bool = False
    start_in_ms: Milliseconds = 0.0

    def __post_init__(self) -> None:
        check_finite(self.start_in_ms)


class NatReport(Message, frozen=True):
    """Either side to the other: the behaviour of its NAT, seen on the session's socket (words of RFC 4787)."""

    session: SessionId
    mapping: Name
    filtering: Name
    allocation: Name = ""


class RelayReady(Message, frozen=True):
    """Server to both: both have proved their address, packets of the session are forwarded."""

    session: SessionId
    backend: Name


class RelayLost(Message, frozen=True):
    """Server to both: nothing is forwarded any more."""

    session: SessionId
    reason: Text


class PathReport(Message, frozen=True):
    """Client to server: the path its packets take now, for witness and metrics. `loss` is a share of 1."""

    session: SessionId
    path: PathName
    peer: Name = ""
    reason: Text = ""
    rtt_ms: Milliseconds | None = None
    loss: Share = 0.0

    def __post_init__(self) -> None:
        check_finite(self.rtt_ms, self.loss)


class Silence(Message, frozen=True):
    """Agent to a server that can `silence`: what was sent in the session goes unacknowledged, on whatever path."""

    session: SessionId


class EndSession(Message, frozen=True):
    """Either way: the session is over."""

    session: SessionId
    reason: Text = ""


class Draining(Message, frozen=True):
    """Server to all: it stops within `deadline_s`; sessions on direct paths need not notice."""

    deadline_s: Seconds

    def __post_init__(self) -> None:
        check_finite(self.deadline_s)


class Error(Message, frozen=True):
    """Either way: something was refused. At most one of `session`, `request`, `about` says what.

    Codes: not-proven, bad-proof, denied, unknown-service, no-connector, legacy-peer, unknown-session, limit,
    unknown-message, malformed, declined, revoked.
    """

    code: Name
    text: Text = ""
    session: SessionId | None = None
    request: Number | None = None
    about: Text | None = None


ControlMessage = (
    Challenge
    | Hello
    | Welcome
    | Register
    | Registered
    | ServiceState
    | Observed
    | Connect
    | Invite
    | Accept
    | Granted
    | Candidates
    | NatReport
    | RelayReady
    | RelayLost
    | PathReport
    | Silence
    | EndSession
    | Draining
    | Error
)


class _Envelope(msgspec.Struct):
    type: str


_ENVELOPE: Final = msgspec.msgpack.Decoder(_Envelope)
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    _tag(kind.__name__): msgspec.msgpack.Decoder(kind) for kind in get_args(ControlMessage)
}


def decode(body: bytes) -> ControlMessage:
    """Decode the body of one frame.

    Raises:
        UnknownMessageError: a map whose `type` names no message.
        WireError: everything else that is no message.
    """
    try:
        decoder = _DECODERS.get(kind := _ENVELOPE.decode(body).type)
        if decoder is not None:
            message: ControlMessage = decoder.decode(body)
            return message
    except Exception as error:
        # Nesting raises RecursionError, extension types what they like: whatever it is, the bytes are to blame.
        raise WireError(f"not a control message: {type(error).__name__}: {error}"[:256]) from None
    raise UnknownMessageError(kind)


def encode_frame(message: ControlMessage) -> bytes:
    """Return a message with its length in front; LocalProtocolError above 65536 bytes."""
    body = _ENCODER.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"{type(message).__name__} of {len(body)} bytes; at most {MAX_FRAME_BYTES} fit")
    return frame(body)

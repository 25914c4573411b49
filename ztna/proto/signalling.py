"""Signalling messages of `ztna-v1`, carried as frames on QUIC streams.

A frame is a u32 big-endian payload length (at most 65536) and the payload in bincode 1.3: little-endian integers of
fixed width, u32 enum tags, u64 counts before strings and lists, one byte before an optional value.

==== ================ ====================================================================
tag  message          fields after the tag
==== ================ ====================================================================
0    CandidateOffer   session u64, service string, candidates list
1    CandidateAnswer  session u64, candidates list
2    StartPunching    session u64, start delay in ms u64, peer candidates list
3    PunchingResult   session u64, success bool, working address (optional)
4    SignallingError  session u64 (optional), code u32, message string
==== ================ ====================================================================

An address is a u32 tag (0 IPv4, 1 IPv6), 4 or 16 octets and a little-endian port; a candidate is a u32 type, an
address, a u32 priority, a foundation string and an optional related address.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import Final, NamedTuple, TypeVar

from ztna.proto.errors import LocalProtocolError, WireError

__all__ = [
    "MAX_FRAME_BYTES",
    "Candidate",
    "CandidateAnswer",
    "CandidateOffer",
    "CandidateType",
    "ErrorCode",
    "FrameReader",
    "PunchingResult",
    "SignallingError",
    "SignallingMessage",
    "SocketAddress",
    "StartPunching",
    "decode",
    "decode_optional_address",
    "encode_frame",
    "encode_optional_address",
]

MAX_FRAME_BYTES: Final = 65536
# type, IPv4 address, priority, empty foundation, no related address
_SMALLEST_CANDIDATE_BYTES: Final = 4 + 10 + 4 + 8 + 1

_U32 = Struct("<I")
_U64 = Struct("<Q")
_PORT = Struct("<H")
_LENGTH = Struct(">I")

T = TypeVar("T")


class SocketAddress(NamedTuple):
    """An IP address as text and a port; usable wherever a (host, port) tuple is."""

    ip: str
    port: int


class CandidateType(IntEnum):
    """Candidate types (RFC 8445 s5.1.1) with their tags on this wire."""

    HOST = 0
    SERVER_REFLEXIVE = 1
    PEER_REFLEXIVE = 2
    RELAY = 3


class ErrorCode(IntEnum):
    """Codes of SignallingError."""

    UNKNOWN = 0
    SERVICE_NOT_FOUND = 1
    NO_CONNECTOR_AVAILABLE = 2
    SESSION_NOT_FOUND = 3
    SESSION_TIMEOUT = 4
    INVALID_MESSAGE = 5
    PEER_REJECTED = 6


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport address at which a peer may be reachable (RFC 8445 s5)."""

    type: CandidateType
    address: SocketAddress
    priority: int
    foundation: str
    related: SocketAddress | None = None


@dataclass(frozen=True, slots=True)
class CandidateOffer:
    """Agent to connector, through the intermediate: these are my candidates."""

    session_id: int
    service_id: str
    candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """Return the bincode body, without the frame's length."""
        head = _U32.pack(0) + _u64(self.session_id) + _string(self.service_id)
        return head + _vector(self.candidates)


@dataclass(frozen=True, slots=True)
class CandidateAnswer:
    """Connector to intermediate: these are mine; the agent learns them from StartPunching."""

    session_id: int
    candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """Return the bincode body, without the frame's length."""
        return _U32.pack(1) + _u64(self.session_id) + _vector(self.candidates)


@dataclass(frozen=True, slots=True)
class StartPunching:
    """Intermediate to both sides: begin the connectivity checks in `start_delay_ms`."""

    session_id: int
    start_delay_ms: int
    peer_candidates: tuple[Candidate, ...]

    def encode(self) -> bytes:
        """Return the bincode body, without the frame's length."""
        return _U32.pack(2) + _u64(self.session_id) + _u64(self.start_delay_ms) + _vector(self.peer_candidates)


@dataclass(frozen=True, slots=True)
class PunchingResult:
    """One side to the other, through the intermediate: whether and where checks succeeded."""

    session_id: int
    success: bool
    working: SocketAddress | None = None

    def encode(self) -> bytes:
        """Return the bincode body, without the frame's length."""
        return _U32.pack(3) + _u64(self.session_id) + bytes((self.success,)) + encode_optional_address(self.working)


@dataclass(frozen=True, slots=True)
class SignallingError:
    """Something failed; without a session it concerns the whole connection. It is a message, not an exception."""

    session_id: int | None
    code: ErrorCode
    message: str

    def encode(self) -> bytes:
        """Return the bincode body, without the frame's length."""
        session = b"\0" if self.session_id is None else b"\1" + _u64(self.session_id)
        return _U32.pack(4) + session + _U32.pack(self.code) + _string(self.message)


SignallingMessage = CandidateOffer | CandidateAnswer | StartPunching | PunchingResult | SignallingError


def _u64(value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise LocalProtocolError(f"{value} does not fit 64 bits")
    return _U64.pack(value)


def _string(text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"{text!r} cannot be written as UTF-8") from error
    return _U64.pack(len(encoded)) + encoded


def _address(address: SocketAddress) -> bytes:
    try:
        ip = ip_address(address.ip)
    except ValueError as error:
        raise LocalProtocolError(f"{address.ip!r} is not an IP address") from error
    if not 0 <= address.port <= 0xFFFF:
        raise LocalProtocolError(f"port {address.port} is not 16 bits")
    return _U32.pack(0 if ip.version == 4 else 1) + ip.packed + _PORT.pack(address.port)


def encode_optional_address(address: SocketAddress | None) -> bytes:
    """Encode an Option<SocketAddr>: one byte for none, 11 for IPv4, 23 for IPv6."""
    return b"\0" if address is None else b"\1" + _address(address)


def _candidate(candidate: Candidate) -> bytes:
    if not 0 <= candidate.priority < 1 << 32:
        raise LocalProtocolError(f"priority {candidate.priority} does not fit 32 bits")
    return (
        _U32.pack(candidate.type)
        + _address(candidate.address)
        + _U32.pack(candidate.priority)
        + _string(candidate.foundation)
        + encode_optional_address(candidate.related)
    )


def _vector(candidates: tuple[Candidate, ...]) -> bytes:
    return _U64.pack(len(candidates)) + b"".join(map(_candidate, candidates))


class _Reader:
    """Cursor over one bincode body; every read is checked against the end."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self.data):
            raise WireError(f"body of {len(self.data)} bytes ends inside a field at {self.offset}")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def boolean(self) -> bool:
        value = self.take(1)[0]
        if value > 1:
            raise WireError(f"{value} is not a bool")
        return value == 1

    def string(self) -> str:
        try:
            return self.take(self.u64()).decode()
        except UnicodeDecodeError as error:
            raise WireError("string is not UTF-8") from error

    def optional(self, read: Callable[[], T]) -> T | None:
        return read() if self.boolean() else None

    def address(self) -> SocketAddress:
        tag = self.u32()
        if tag > 1:
            raise WireError(f"{tag} is not an address family")
        ip = str(IPv4Address(self.take(4))) if tag == 0 else str(IPv6Address(self.take(16)))
        return SocketAddress(ip, int.from_bytes(self.take(2), "little"))

    def candidate(self) -> Candidate:
        tag = self.u32()
        if tag > CandidateType.RELAY:
            raise WireError(f"{tag} is not a candidate type")
        return Candidate(CandidateType(tag), self.address(), self.u32(), self.string(), self.optional(self.address))

    def candidates(self) -> tuple[Candidate, ...]:
        count = self.u64()
        if count * _SMALLEST_CANDIDATE_BYTES > len(self.data) - self.offset:
            raise WireError(f"list of {count} candidates does not fit the body")
        return tuple(self.candidate() for _ in range(count))


def decode(body: bytes) -> SignallingMessage:
    """Decode one bincode body; bytes left over are skipped. WireError if it is no message."""
    reader = _Reader(body)
    tag = reader.u32()
    if tag == 0:
        return CandidateOffer(reader.u64(), reader.string(), reader.candidates())
    if tag == 1:
        return CandidateAnswer(reader.u64(), reader.candidates())
    if tag == 2:
        return StartPunching(reader.u64(), reader.u64(), reader.candidates())
    if tag == 3:
        return PunchingResult(reader.u64(), reader.boolean(), reader.optional(reader.address))
    if tag == 4:
        session_id, code = reader.optional(reader.u64), reader.u32()
        if code > ErrorCode.PEER_REJECTED:
            raise WireError(f"{code} is not an error code")
        return SignallingError(session_id, ErrorCode(code), reader.string())
    raise WireError(f"{tag} is not a signalling message")


def decode_optional_address(data: bytes) -> SocketAddress | None:
    """Decode an Option<SocketAddr> at the start of `data`; WireError if truncated."""
    reader = _Reader(data)
    return reader.optional(reader.address)


def encode_frame(message: SignallingMessage) -> bytes:
    """Return the message with its length in front, ready for a stream; LocalProtocolError above 65536 bytes."""
    body = message.encode()
    if len(body) > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"signalling body of {len(body)} bytes; at most {MAX_FRAME_BYTES} fit")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Reassembles the frames of one stream.

    A frame whose body is no message is skipped alone: frames pipelined around it are delivered. After a length above
    65536 nothing can be told apart any more, so what is buffered is wiped and the next bytes begin a new frame.
    At most one incomplete frame (65540 bytes) is held.
    """

    __slots__ = ("_buffer", "bad_frames")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.bad_frames = 0

    @property
    def buffered_bytes(self) -> int:
        """Size of the incomplete frame held."""
        return len(self._buffer)

    def clear(self) -> None:
        """Forget the incomplete frame (the stream ended, or it took too long)."""
        self._buffer.clear()

    def receive(self, data: bytes) -> list[SignallingMessage]:
        """Take bytes of the stream and return the messages that are now complete; bad frames are only counted."""
        buffer = self._buffer
        buffer += data
        messages: list[SignallingMessage] = []
        start = 0
        while len(buffer) - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                self.bad_frames += 1
                buffer.clear()
                return messages
            end = start + 4 + length
            if end > len(buffer):
                break
            try:
                messages.append(decode(bytes(buffer[start + 4 : end])))
            except WireError:
                self.bad_frames += 1
            start = end
        del buffer[:start]
        return messages

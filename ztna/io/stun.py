"""STUN on the relay's UDP ports (RFC 8489, RFC 5780, codec `aioice.stun`).

The responder answers Binding requests on the relay's own socket, where the first byte tells STUN from QUIC (RFC 9443),
and on an alternate port. With an alternate address too, all four corners of RFC 5780 section 3 answer, so a client can
classify its NAT. Requests without the magic cookie are answered in the form of RFC 3489, which older clients need.

Requests of a session's member carry `<session id in hex>:<role>` as USERNAME and a MESSAGE-INTEGRITY under the key of
the session (RFC 8489 section 9.1): they tell a member how its session socket is seen, prove that address to the relay,
and keep the way to it open. They are answered with integrity too, or not at all.

Nothing here can be used to amplify: an answer is at most three times the request (attributes beyond that are left
out, the mapped address first of all kept), each source has a token bucket, and responses are never answered.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aioice import stun

from ztna.io.udp import Address, UdpSocket, bind_error, is_bad_source
from ztna.proto.ratelimit import SourceLimiter

HEADER_BYTES: Final = 20
MAGIC_COOKIE: Final = struct.pack("!I", stun.COOKIE)
MAX_REQUEST_BYTES: Final = 2048
AMPLIFICATION_LIMIT: Final = 3
CHANGE_ADDRESS: Final = 0x4
CHANGE_PORT: Final = 0x2
UNKNOWN_ATTRIBUTE: Final = 420
COMPREHENSION_OPTIONAL: Final = 0x8000
CHANGE_REQUEST_TYPE: Final = 0x0003
UNKNOWN_ATTRIBUTES_TYPE: Final = 0x000A
PADDING_TYPE: Final = 0x0026
RESPONSE_PORT_TYPE: Final = 0x0027
USERNAME_TYPE: Final = 0x0006
SESSION_HEX_BYTES: Final = 32
SESSION_ROLES: Final = ("agent", "connector")
COUNTER_BYTES: Final = 6
SESSION_RATE_PER_S: Final = 200.0
SESSION_BURST: Final = 400.0
BATCH_READS: Final = 64

Corner = tuple[int, int]
"""(0 primary or 1 alternate address, 0 primary or 1 alternate port)."""


@dataclass(slots=True)
class StunCounters:
    """What became of each datagram that looked like STUN; all but the first two are drops."""

    answered: int = 0
    refused_attributes: int = 0
    dropped_malformed: int = 0
    dropped_not_request: int = 0
    dropped_rate: int = 0
    dropped_amplification: int = 0
    dropped_no_such_corner: int = 0
    dropped_bad_source: int = 0
    session_answered: int = 0
    dropped_session_unknown: int = 0
    dropped_session_integrity: int = 0
    send_errors: int = 0


def looks_like_stun(data: bytes) -> bool:
    """Whether a datagram is a whole STUN message by its fixed part, so that it cannot be QUIC (RFC 9443 section 3)."""
    return (
        len(data) >= HEADER_BYTES
        and data[0] < 4
        and not len(data) & 3
        and (data[2] << 8 | data[3]) == len(data) - HEADER_BYTES
    )


class StunResponder:
    """Answers Binding requests. `handle` is the hook for datagrams of the primary socket.

    Args:
        primary: the relay's own socket; answers leave through it.
        alternate_port: UDP port of the second socket; 0 asks for an ephemeral one, None for none: then clients learn
            their own address and nothing else.
        alternate_addr: second local address, or None: then only the port part of RFC 5780 can be offered.
        external_ip: address by which clients know the primary one, where a 1:1 NAT hides it.
        clock: monotonic seconds.
        rate_per_s, burst: token bucket per source address; requests of sessions have one of their own, since many
            members may share an address.
        session_binding: gives the key of a session (id, role), None if it is not known.
        session_proven: told of each authentic request on the primary socket: session, role, the counter that begins
            its transaction id, and where it came from.

    Raises:
        UdpBindError: from `start`, when an alternate port or address cannot be bound.
    """

    def __init__(
        self,
        primary: UdpSocket,
        *,
        alternate_port: int | None,
        clock: Callable[[], float],
        alternate_addr: str | None = None,
        external_ip: str | None = None,
        rate_per_s: float = 20.0,
        burst: float = 40.0,
        session_binding: Callable[[bytes, str], bytes | None] | None = None,
        session_proven: Callable[[bytes, str, int, Address], object] = lambda *_: None,
    ) -> None:
        self.counters = StunCounters()
        self._primary = primary
        self._alternate_port = alternate_port
        self._alternate_addr = alternate_addr
        self._external_ip = external_ip
        self._clock = clock
        self._limiter = SourceLimiter(rate_per_s=rate_per_s, burst=burst)
        self._session_limiter = SourceLimiter(rate_per_s=SESSION_RATE_PER_S, burst=SESSION_BURST)
        self._session_binding = session_binding
        self._session_proven = session_proven
        self._sockets: dict[Corner, socket.socket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._route_source: dict[str, str] = {}

    @property
    def corners(self) -> dict[Corner, Address]:
        """Where this responder listens, as bound (an unspecified address is shown as such)."""
        bound = {corner: sock.getsockname()[:2] for corner, sock in self._sockets.items()}
        return {(0, 0): self._primary.local_address, **bound}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the alternate sockets and answer on them."""
        self._loop = loop
        if self._alternate_port is None:
            return
        host, port = self._primary.local_address
        try:
            self._open((0, 1), host, self._alternate_port, "alternate_port")
            if self._alternate_addr is not None:
                alternate_port = self.corners[0, 1][1]
                with _shared_with_wildcard(self._primary.fileno()), _shared_with_wildcard(self._sockets[0, 1].fileno()):
                    self._open((1, 0), self._alternate_addr, port, "alternate_addr")
                    self._open((1, 1), self._alternate_addr, alternate_port, "alternate_addr")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the alternate sockets; the primary one belongs to the caller. Idempotent."""
        for sock in self._sockets.values():
            if self._loop is not None:
                self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def handle(self, data: bytes, source: Address) -> bool:
        """Take a datagram of the primary socket; False leaves it to QUIC."""
        if not looks_like_stun(data):
            return False
        self._answer((0, 0), data, source)
        return True

    def _open(self, corner: Corner, host: str, port: int, purpose: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            if corner[0]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            if corner[0]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as exc:
            sock.close()
            raise bind_error(exc, host, port, purpose) from exc
        self._sockets[corner] = sock
        assert self._loop is not None
        self._loop.add_reader(sock.fileno(), self._readable, corner, sock)

    def _readable(self, corner: Corner, sock: socket.socket) -> None:
        for _ in range(BATCH_READS):
            try:
                data, source = sock.recvfrom(MAX_REQUEST_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # An ICMP error queued by an earlier answer; the next read is about something else.
                continue
            if looks_like_stun(data):
                self._answer(corner, data, (source[0], source[1]))
            else:
                self.counters.dropped_malformed += 1

    def _answer(self, corner: Corner, data: bytes, source: Address) -> None:
        counters = self.counters
        if source[1] == 0 or is_bad_source(source[0]):
            counters.dropped_bad_source += 1
            return
        if data[:2] != b"\x00\x01":
            counters.dropped_not_request += 1
            return
        if len(data) > MAX_REQUEST_BYTES:
            counters.dropped_malformed += 1
            return
        member = None if self._session_binding is None else session_member(data)
        limiter = self._limiter if member is None else self._session_limiter
        if not limiter.allow(source[0], self._clock()):
            counters.dropped_rate += 1
            return
        try:
            request = stun.parse_message(data)
            unknown, response_port = foreign_attributes(data)
        except (ValueError, struct.error, IndexError):
            counters.dropped_malformed += 1
            return
        if member is not None:
            self._answer_member(corner, request, source, *member)
            return
        change = request.attributes.get("CHANGE-REQUEST", 0)
        reply_from = (corner[0] ^ bool(change & CHANGE_ADDRESS), corner[1] ^ bool(change & CHANGE_PORT))
        if reply_from != (0, 0) and reply_from not in self._sockets:
            # RFC 5780 section 6.1: a server without the other address treats CHANGE-REQUEST as unknown.
            unknown.append(CHANGE_REQUEST_TYPE)
        classic = data[4:8] != MAGIC_COOKIE
        if unknown:
            self._refuse(corner, data, source, unknown, classic)
            return
        answer = self._binding_response(request, data, source, corner, reply_from, classic)
        if len(answer) > AMPLIFICATION_LIMIT * len(data):
            counters.dropped_amplification += 1
            return
        counters.answered += 1
        self._send(reply_from, answer, (source[0], response_port or source[1]))

    def _answer_member(self, corner: Corner, request: Any, source: Address, session: bytes, role: str) -> None:
        """Answer a request of a session's member, if it is authentic."""
        assert self._session_binding is not None
        key = self._session_binding(session, role)
        if key is None:
            self.counters.dropped_session_unknown += 1
            return
        if not request.check_message_integrity(key):
            self.counters.dropped_session_integrity += 1
            return
        if corner == (0, 0):
            # Only this port relays: behind some NATs the others see another address.
            self._session_proven(session, role, int.from_bytes(request.transaction_id[:COUNTER_BYTES], "big"), source)
        response = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
        response.attributes["XOR-MAPPED-ADDRESS"] = source
        response.add_message_integrity(key)
        self.counters.session_answered += 1
        self._send(corner, bytes(response), source)

    def _refuse(self, corner: Corner, data: bytes, source: Address, unknown: list[int], classic: bool) -> None:
        """Answer 420, naming the attributes. Clients of RFC 3489 get silence: some repeat for ever on an error."""
        if classic:
            self.counters.dropped_no_such_corner += 1
            return
        error = stun.Message(stun.Method.BINDING, stun.Class.ERROR, data[8:20])
        error.attributes["ERROR-CODE"] = (UNKNOWN_ATTRIBUTE, "")
        body = bytes(error)[HEADER_BYTES:]
        listed = struct.pack(f"!{len(unknown)}H", *unknown)
        body += struct.pack("!HH", UNKNOWN_ATTRIBUTES_TYPE, len(listed)) + listed + bytes(-len(listed) % 4)
        answer = struct.pack("!HH", 0x0111, len(body)) + data[4:20] + body
        if len(answer) > AMPLIFICATION_LIMIT * len(data):
            self.counters.dropped_amplification += 1
            return
        self.counters.refused_attributes += 1
        self._send(corner, answer, source)

    def _binding_response(
        self, request: Any, data: bytes, source: Address, at: Corner, reply_from: Corner, classic: bool
    ) -> bytes:
        origin = self._address_of(reply_from, source[0])
        other: Address | None = None
        if (at[0] ^ 1, at[1] ^ 1) in self.corners:
            other = self._address_of((at[0] ^ 1, at[1] ^ 1), source[0])
        elif (at[0], at[1] ^ 1) in self.corners:
            other = self._address_of((at[0], at[1] ^ 1), source[0])
        names = ("MAPPED-ADDRESS", "CHANGED-ADDRESS", "SOURCE-ADDRESS")
        if not classic:
            names = ("XOR-MAPPED-ADDRESS", "OTHER-ADDRESS", "RESPONSE-ORIGIN")
        response = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
        room = AMPLIFICATION_LIMIT * len(data) - HEADER_BYTES
        if "FINGERPRINT" in request.attributes:
            room -= stun.FINGERPRINT_LENGTH
        for name, value in zip(names, (source, other, origin), strict=True):
            size = 0 if value is None else 24 if ":" in value[0] else 12
            if value is not None and (name == names[0] or size <= room):
                response.attributes[name] = value
                room -= size
        if "FINGERPRINT" in request.attributes:
            response.add_fingerprint()
        encoded = bytes(response)
        # The codec always writes the cookie; RFC 3489 wants the first four bytes of the 128-bit id back instead.
        return encoded[:4] + data[4:8] + encoded[8:] if classic else encoded

    def _address_of(self, corner: Corner, client: str) -> Address:
        """The address of a corner as the client knows it."""
        host, port = self.corners[corner]
        if corner[0] == 0 and self._external_ip is not None:
            return self._external_ip, port
        if host in ("0.0.0.0", "::"):
            return self._source_towards(client, host), port
        return host, port

    def _source_towards(self, client: str, wildcard: str) -> str:
        """The address a wildcard socket's answers to `client` leave with: the routing table knows."""
        known = self._route_source.get(client)
        if known is not None:
            return known
        if len(self._route_source) >= 1024:
            self._route_source.clear()
        family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((client, 9))
                found = str(probe.getsockname()[0])
            except OSError:
                return wildcard
        self._route_source[client] = found
        return found

    def _send(self, corner: Corner, answer: bytes, to: Address) -> None:
        if corner == (0, 0):
            self.counters.send_errors += not self._primary.send(answer, to)
            return
        try:
            self._sockets[corner].sendto(answer, to)
        except OSError:
            self.counters.send_errors += 1


def foreign_attributes(data: bytes) -> tuple[list[int], int]:
    """What the codec does not know: types that must not be ignored (RFC 8489 section 6.3.1), and RESPONSE-PORT.

    PADDING is accepted and not returned: the test of fragments it serves needs answers larger than we give.

    Returns:
        The types below 0x8000 that are unknown here too, and the port answers should go to, 0 for the request's own.

    Raises:
        ValueError: an attribute reaches beyond the message.
    """
    unknown = []
    response_port = 0
    at = HEADER_BYTES
    while at + 4 <= len(data):
        kind, size = struct.unpack_from("!HH", data, at)
        if at + 4 + size > len(data):
            raise ValueError("STUN attribute is truncated")
        if kind == RESPONSE_PORT_TYPE and size >= 2:
            # Same host as the request came from, so it reaches nobody the sender could not reach itself (RFC 5780 7.5).
            response_port = data[at + 4] << 8 | data[at + 5]
        elif kind < COMPREHENSION_OPTIONAL and kind != PADDING_TYPE and kind not in stun.ATTRIBUTES_BY_TYPE:
            unknown.append(kind)
        at += 4 + size + (-size % 4)
    return unknown, response_port


def session_member(data: bytes) -> tuple[bytes, str] | None:
    """Read session id and role from the USERNAME of a Binding request, None if it names no member of a session."""
    if data[4:8] != MAGIC_COOKIE:
        return None
    at = HEADER_BYTES
    while at + 4 <= len(data):
        kind, size = struct.unpack_from("!HH", data, at)
        if kind == USERNAME_TYPE:
            name = data[at + 4 : at + 4 + size]
            try:
                session, role = bytes.fromhex(name[:SESSION_HEX_BYTES].decode()), name[SESSION_HEX_BYTES + 1 :].decode()
            except ValueError:
                return None
            whole = len(session) * 2 == SESSION_HEX_BYTES and name[SESSION_HEX_BYTES : SESSION_HEX_BYTES + 1] == b":"
            return (session, role) if whole and role in SESSION_ROLES else None
        at += 4 + size + (-size % 4)
    return None


@contextlib.contextmanager
def _shared_with_wildcard(fd: int) -> Iterator[None]:
    """Let a more specific address be bound beside a wildcard socket on the same port, for this moment only.

    Linux wants SO_REUSEADDR on both; left on, any process of this user could take the port over later.
    """
    sock = socket.socket(fileno=fd)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    finally:
        sock.detach()

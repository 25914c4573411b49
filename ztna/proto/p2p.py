"""Raw UDP control messages of `ztna-v1` on the connector's socket: they begin with 0x5A and are not inside QUIC.

==================  =========================================================================================
keepalive request   5A 10, sequence u32 BE: 6 bytes exactly
keepalive response  5A 11, the same sequence: 6 bytes exactly
binding request     5A, u32 LE 0, transaction id (12), priority u64 LE, use-candidate u8: 26 bytes, more is skipped
binding response    5A, u32 LE 1, transaction id (12), success u8, Option<SocketAddr>: 19 bytes and the address
==================  =========================================================================================

An agent checks a pair with a binding request, and keeps the path alive with keepalive requests; the responder answers
from the same socket.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from ztna.proto.errors import LocalProtocolError, WireError
from ztna.proto.limits import ConnectorLimits
from ztna.proto.ratelimit import SourceLimiter
from ztna.proto.signalling import SocketAddress, decode_optional_address, encode_optional_address
from ztna.proto.stats import ConnectorStats

__all__ = [
    "BindingRequest",
    "BindingResponse",
    "KeepaliveRequest",
    "KeepaliveResponse",
    "P2pMessage",
    "P2pResponder",
    "decode",
    "is_control",
]

PREFIX: Final = 0x5A
TRANSACTION_ID_BYTES: Final = 12
_KEEPALIVE = Struct(">BBI")
_REQUEST = Struct("<BI12sQB")
_RESPONSE = Struct("<BI12sB")
# How long an offer lets the agent's addresses send binding requests, and how long a path lives without keepalives:
# four of the agent's 15 s intervals.
OFFER_LIFETIME_S: Final = 30.0
PATH_LIFETIME_S: Final = 60.0


class KeepaliveType(IntEnum):
    """Second byte of a keepalive."""

    REQUEST = 0x10
    RESPONSE = 0x11


class BindingType(IntEnum):
    """The u32 after the prefix of a binding message."""

    REQUEST = 0
    RESPONSE = 1


def _sequence(value: int) -> int:
    if not 0 <= value < 1 << 32:
        raise LocalProtocolError(f"keepalive sequence {value} does not fit 32 bits")
    return value


def _transaction(value: bytes) -> bytes:
    if len(value) != TRANSACTION_ID_BYTES:
        raise LocalProtocolError(f"transaction id of {len(value)} bytes instead of {TRANSACTION_ID_BYTES}")
    return value


@dataclass(frozen=True, slots=True)
class KeepaliveRequest:
    """Is the direct path alive?"""

    sequence: int

    def encode(self) -> bytes:
        """Return the 6 bytes."""
        return _KEEPALIVE.pack(PREFIX, KeepaliveType.REQUEST, _sequence(self.sequence))


@dataclass(frozen=True, slots=True)
class KeepaliveResponse:
    """It is; `sequence` is that of the request."""

    sequence: int

    def encode(self) -> bytes:
        """Return the 6 bytes."""
        return _KEEPALIVE.pack(PREFIX, KeepaliveType.RESPONSE, _sequence(self.sequence))


@dataclass(frozen=True, slots=True)
class BindingRequest:
    """A connectivity check; `priority` is that of the pair, 64 bits."""

    transaction_id: bytes
    priority: int
    use_candidate: bool = False

    def encode(self) -> bytes:
        """Return the 26 bytes."""
        if not 0 <= self.priority < 1 << 64:
            raise LocalProtocolError(f"priority {self.priority} does not fit 64 bits")
        transaction_id = _transaction(self.transaction_id)
        return _REQUEST.pack(PREFIX, BindingType.REQUEST, transaction_id, self.priority, self.use_candidate)


@dataclass(frozen=True, slots=True)
class BindingResponse:
    """The answer to a check: `mapped` is the source address of the request as it arrived."""

    transaction_id: bytes
    success: bool
    mapped: SocketAddress | None

    def encode(self) -> bytes:
        """Return 19 bytes without an address, 29 with IPv4, 41 with IPv6."""
        head = _RESPONSE.pack(PREFIX, BindingType.RESPONSE, _transaction(self.transaction_id), self.success)
        return head + encode_optional_address(self.mapped)


P2pMessage = KeepaliveRequest | KeepaliveResponse | BindingRequest | BindingResponse


def is_control(data: bytes) -> bool:
    """Tell these messages from QUIC packets on the same socket.

    A keepalive is 6 bytes, shorter than any QUIC packet. A binding message has three zero bytes after its type,
    where a QUIC short header has a connection ID: ours begin with a byte of at least 0x40, so none is taken for one.
    """
    if len(data) < 6 or data[0] != PREFIX:
        return False
    if len(data) == 6:
        return data[1] in (KeepaliveType.REQUEST, KeepaliveType.RESPONSE)
    return data[1] <= BindingType.RESPONSE and data[2:5] == b"\0\0\0"


def decode(data: bytes) -> P2pMessage:
    """Decode one UDP payload; WireError if it is none of the four messages."""
    if not is_control(data):
        raise WireError("not a control message")
    if len(data) == 6:
        _, kind, sequence = _KEEPALIVE.unpack(data)
        return KeepaliveRequest(sequence) if kind == KeepaliveType.REQUEST else KeepaliveResponse(sequence)
    if data[1] == BindingType.REQUEST:
        if len(data) < _REQUEST.size:
            raise WireError(f"binding request of {len(data)} bytes is truncated")
        _, _, transaction_id, priority, use_candidate = _REQUEST.unpack_from(data)
        if use_candidate > 1:
            raise WireError(f"{use_candidate} is not a bool")
        return BindingRequest(transaction_id, priority, use_candidate == 1)
    if len(data) <= _RESPONSE.size:
        raise WireError(f"binding response of {len(data)} bytes is truncated")
    _, _, transaction_id, success = _RESPONSE.unpack_from(data)
    if success > 1:
        raise WireError(f"{success} is not a bool")
    return BindingResponse(transaction_id, success == 1, decode_optional_address(data[_RESPONSE.size :]))


class P2pResponder:
    """Answers the checks and keepalives of agents whose offer arrived, and of nobody else.

    Flow: an offer names the agent's addresses; checks from their hosts are answered for 30 s; each answered message
    keeps its host known for another 60 s. Every source host has a token bucket, and the table of hosts is bounded.
    """

    __slots__ = ("_known_until", "_limiter", "_limits", "_services", "_stats", "answer_unknown")

    def __init__(self, limits: ConnectorLimits, stats: ConnectorStats, *, answer_unknown: bool = False) -> None:
        self._limits = limits
        self._stats = stats
        self._known_until: dict[str, float] = {}
        self._services: dict[str, frozenset[str]] = {}
        self._limiter = SourceLimiter(limits.p2p_rate_per_s, limits.p2p_burst, max_sources=limits.p2p_hosts)
        self.answer_unknown = answer_unknown

    def expect(self, host: str, now: float, service: str | None = None) -> None:
        """Let `host` (an IP address as text) send checks; the offer for `service` that names it arrived at `now`."""
        known, services = self._known_until, self._services
        if known.get(host, now) <= now:
            services.pop(host, None)
        if host not in known and len(known) >= self._limits.p2p_hosts:
            for stale in [other for other, until in known.items() if until <= now]:
                del known[stale]
                services.pop(stale, None)
            if len(known) >= self._limits.p2p_hosts:
                self._stats.drop_p2p_table_full += 1
                return
        known[host] = max(known.get(host, now), now + OFFER_LIFETIME_S)
        if service is not None:
            services[host] = services.get(host, frozenset()) | {service}

    def offered(self, host: str, now: float) -> frozenset[str]:
        """Return the services for which an offer that still counts named `host`."""
        return self._services.get(host, frozenset()) if self._known_until.get(host, now) > now else frozenset()

    def datagram_received(self, data: bytes, source: SocketAddress, now: float) -> bytes | None:
        """Return what to send back to `source` from the same socket, or None."""
        try:
            message = decode(data)
        except WireError:
            self._stats.drop_p2p_malformed += 1
            return None
        if not isinstance(message, KeepaliveRequest | BindingRequest):
            self._stats.drop_p2p_unexpected += 1
            return None
        known = self._known_until
        known_until = known.get(source.ip)
        if not self.answer_unknown and (known_until is None or known_until <= now):
            self._stats.drop_p2p_unknown += 1
            return None
        if not self._limiter.allow(source.ip, now):
            self._stats.drop_p2p_rate += 1
            return None
        if known_until is not None:
            known[source.ip] = max(known_until, now + PATH_LIFETIME_S)
        self._stats.p2p_answers += 1
        if isinstance(message, KeepaliveRequest):
            return KeepaliveResponse(message.sequence).encode()
        return BindingResponse(message.transaction_id, True, source).encode()

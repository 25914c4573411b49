"""The end-to-end session's QUIC connection as its shell sees it: one interface, two cores, no socket and no clock.

Both cores speak QUIC v1 (RFC 9000) with DATAGRAM frames (RFC 9221) under the ALPN `ztna-e2e`, to one peer whose address
they never learn: which way packets go is decided beneath them, and `path_changed` tells when that has changed.

`aioquic` is the reference; `qh3` has the same protocol in native code and several times the throughput. They speak with
each other in both roles. Both sit behind the same guards (`ztna.io.session.core_base`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from ztna.io.quic_types import Credentials

ALPN: Final = "ztna-e2e"

CoreName = Literal["auto", "aioquic", "qh3"]


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one session's connection.

    `stream_window_bytes` is the most one stream may hold that the application has not consumed; windows start at 64 KiB
    and grow with use. `connection_window_bytes` bounds what sparse STREAM offsets can make us hold,
    `datagram_queue_*` what waits for the congestion window, `datagrams_received` what waits for `take_datagrams`,
    `stream_send_bytes` the unsent data of one stream. `max_udp_payload_bytes` is the most sent in one UDP payload.
    """

    stream_window_bytes: int = 2_097_152
    connection_window_bytes: int = 4_194_304
    max_streams_bidi: int = 512
    datagram_queue_packets: int = 128
    datagram_queue_bytes: int = 196_608
    datagrams_received: int = 4096
    stream_send_bytes: int = 524_288
    max_udp_payload_bytes: int = 1452


@dataclass(frozen=True, slots=True)
class SessionTls:
    """How one side of a session proves itself and judges the other.

    Args:
        ca_pem: the stack's CA; a client accepts no server whose chain ends elsewhere. The system's store is not used.
        credentials: certificate and key of the server; None on clients, which prove themselves inside the connection.
        server_name: checked against the certificate where given; else the caller judges the names of `peer_chain`.
        verify_peer: whether a client judges the server's chain. Off only in tests.
        handshake_timeout_s: a handshake that takes longer ends the connection.
        idle_timeout_s: silence of this length ends the connection (RFC 9000 s10.1).
    """

    ca_pem: bytes
    credentials: Credentials | None = None
    server_name: str | None = None
    verify_peer: bool = True
    alpn: str = ALPN
    handshake_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    limits: SessionLimits = field(default_factory=SessionLimits)


@dataclass(slots=True)
class HandshakeDone:
    """The handshake is complete; at a client, the server's chain ends at the stack's CA and is within its dates."""

    alpn: str


@dataclass(slots=True)
class StreamReceived:
    """In-order bytes of one stream; `fin` with the last. `consumed` must be told once the application took them."""

    stream_id: int
    data: bytes
    fin: bool


@dataclass(slots=True)
class StreamReset:
    """The peer abandoned sending on the stream, or asked us to (then writing to it has no effect any more)."""

    stream_id: int
    code: int


@dataclass(slots=True)
class StreamWritable:
    """`writable` of the stream grew again after it had been 0."""

    stream_id: int


@dataclass(slots=True)
class PayloadLimit:
    """`max_datagram_payload` is another one now."""

    max_bytes: int


@dataclass(slots=True)
class Closed:
    """The connection is over; nothing follows. `code` is the wire's error code, 0 for a time-out."""

    code: int
    reason: str
    by_peer: bool


CoreEvent = HandshakeDone | StreamReceived | StreamReset | StreamWritable | PayloadLimit | Closed


@dataclass(slots=True)
class CoreStats:
    """What one core did. A DATAGRAM that was not sent is in one `datagrams_dropped_*`."""

    packets_received: int = 0
    packets_sent: int = 0
    datagrams_received: int = 0
    datagrams_sent: int = 0
    datagrams_dropped_full: int = 0
    datagrams_dropped_size: int = 0
    datagrams_dropped_closed: int = 0
    datagrams_dropped_unread: int = 0
    stream_bytes_received: int = 0
    stream_bytes_sent: int = 0
    stream_bytes_refused: int = 0
    packet_errors: int = 0
    size_probes_acknowledged: int = 0
    size_probes_lost: int = 0
    payload_shrunk: int = 0
    path_changes: int = 0
    handshake_timeouts: int = 0
    credit_violations: int = 0


class SessionCore(Protocol):
    """One QUIC connection of a session. `now` is monotonic seconds; nothing here raises for the peer's doing.

    After any call that may have produced packets or events (`receive`, `handle_timer`, writes), the owner drains
    `take_datagrams` and `next_event`, sends what `packets` returns and arms `get_timer`.
    """

    name: str
    stats: CoreStats

    @property
    def established(self) -> bool:
        """Handshake complete, the server's chain accepted, not closing."""
        ...

    @property
    def closed(self) -> bool:
        """Closing or over. The CONNECTION_CLOSE still leaves by `packets`."""
        ...

    @property
    def peer_chain(self) -> list[bytes]:
        """DER of the server's certificate and what came with it, leaf first; empty at a server."""
        ...

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time in seconds, None before the first sample."""
        ...

    @property
    def loss(self) -> float:
        """Share of our packets lost lately, 0 to 1."""
        ...

    @property
    def max_datagram_payload(self) -> int:
        """Largest DATAGRAM payload in bytes that fits one packet now; 0 before the handshake is complete."""
        ...

    @property
    def quiet(self) -> bool:
        """Whether nothing but acknowledgements may be waiting, which the shell may hold back for a while."""
        ...

    @property
    def awaits_answer(self) -> bool:
        """Whether something that the peer must acknowledge is unacknowledged."""
        ...

    @property
    def room(self) -> int:
        """DATAGRAMs that may be queued before one is dropped."""
        ...

    def start(self, now: float) -> None:
        """Begin the handshake (clients)."""
        ...

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """Take UDP payloads of the peer, in the order of their arrival."""
        ...

    def packets(self, now: float) -> list[bytes]:
        """UDP payloads to send now."""
        ...

    def get_timer(self) -> float | None:
        """When to call `handle_timer`; None when the connection is over."""
        ...

    def handle_timer(self, now: float) -> None:
        """The time has come."""
        ...

    def take_datagrams(self) -> list[bytes]:
        """Payloads of DATAGRAM frames received since the last call."""
        ...

    def next_event(self) -> CoreEvent | None:
        """The next event, None when there is none."""
        ...

    def send_datagram(self, data: bytes) -> bool:
        """Queue one DATAGRAM, dropping the oldest of a full queue; False if over the limit or closed (counted)."""
        ...

    def send_datagrams(self, packets: Sequence[bytes]) -> None:
        """`send_datagram` for several at once, in order; one over the limit is counted and dropped."""
        ...

    def open_stream(self) -> int:
        """Open a bidirectional stream and return its id, or -1 if the peer takes no more now."""
        ...

    def write(self, stream_id: int, data: bytes, fin: bool = False) -> None:
        """Write to a stream; what a finished, reset or unknown stream is given is counted and dropped.

        Raises:
            BufferError: the caller wrote four times what `writable` allows.
        """
        ...

    def writable(self, stream_id: int) -> int:
        """Bytes the stream takes before the caller must wait for `StreamWritable`; 0 for streams that take none."""
        ...

    def consumed(self, stream_id: int, count: int) -> None:
        """The application took this many bytes of `StreamReceived`: the peer may send as many more."""
        ...

    def reset(self, stream_id: int, code: int) -> None:
        """Abandon both directions of a stream (RESET_STREAM and STOP_SENDING)."""
        ...

    def ping(self) -> None:
        """Send a PING with the next packets."""
        ...

    def path_changed(self, now: float) -> None:
        """Packets go another way from now on: probe at once and blame the new way for no earlier loss."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Close with an application error code (RFC 9000 s10.2)."""
        ...


def available(name: str) -> bool:
    """Whether the core of this name can be used here."""
    if name == "qh3":
        try:
            import ztna.io.session.core_qh3  # noqa: F401
        except ImportError:
            return False
    return name in ("aioquic", "qh3")


def client_core(name: CoreName | str, settings: SessionTls, now: float) -> SessionCore:
    """Make the agent's side.

    Args:
        name: `aioquic`, `qh3`, or `auto`: qh3 where it is installed.

    Raises:
        ValueError: no such core, or it is not installed.
    """
    return _core(name, settings, now, is_client=True)


def server_core(name: CoreName | str, settings: SessionTls, now: float) -> SessionCore:
    """Make the connector's side; it needs `settings.credentials`. Raises as `client_core` does."""
    if settings.credentials is None:
        raise ValueError("a server needs credentials")
    return _core(name, settings, now, is_client=False)


def _core(name: str, settings: SessionTls, now: float, *, is_client: bool) -> SessionCore:
    if name == "auto":
        name = "qh3" if available("qh3") else "aioquic"
    if not available(name):
        raise ValueError(f"no QUIC core named {name!r} here: use auto, aioquic or qh3")
    if name == "qh3":
        from ztna.io.session.core_qh3 import Qh3Core

        return Qh3Core(settings, now, is_client=is_client)
    from ztna.io.session.core_aioquic import AioquicCore

    return AioquicCore(settings, now, is_client=is_client)

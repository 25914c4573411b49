"""One QUIC connection as the roles see it: send, close, and read what it is worth."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from ztna.io.quic_timer import Entry
from ztna.io.quic_types import PeerCounters, PeerRejected, QuicCounters
from ztna.io.udp import Address

if TYPE_CHECKING:
    from ztna.io.quic_connection import GuardedConnection


class Owner(Protocol):
    """What a peer needs from its endpoint."""

    def mark_dirty(self, peer: "Peer") -> None:
        """The peer has something to send at the end of this batch."""

    def flush_peer(self, peer: "Peer") -> None:
        """Build the peer's packets now, before its queue overflows within one batch."""

    def end_peer(self, peer: "Peer") -> None:
        """Close began: report it and send the close frame with this batch."""


class Peer:
    """One connection. Made by the endpoint only; stays valid (and inert) after `Closed`.

    Once it is established, `alpn` is the protocol negotiated, `certificates` the peer's chain (DER, leaf first), and on
    a server `leaf_sha256` the SHA-256 of the DER of the leaf that it showed to this peer.
    """

    __slots__ = (
        "_owner",
        "address",
        "alpn",
        "certificates",
        "cids",
        "close_datagrams",
        "closed",
        "conn_id",
        "connection",
        "datagram_bytes_received",
        "datagram_bytes_sent",
        "datagrams_received",
        "datagrams_sent",
        "dirty",
        "errors",
        "established",
        "half_open_source",
        "handshake_deadline",
        "identity",
        "is_client",
        "judge",
        "judges",
        "keepalive_at",
        "keepalive_s",
        "leaf_sha256",
        "probe_at",
        "probes_failed",
        "received_while_closed",
        "timer_at",
        "timer_entries",
        "trimmed",
    )

    def __init__(self, owner: Owner, connection: "GuardedConnection", conn_id: int, address: Address) -> None:
        self.conn_id = conn_id
        self.address = address
        self.identity: object = None
        self.certificates: list[bytes] = []
        self.is_client = False
        self.judge: Callable[[list[bytes]], object] | None = None
        self.judges: Mapping[str, Callable[[list[bytes]], object]] = {}
        self.alpn = ""
        self.leaf_sha256 = b""
        self.established = False
        self.closed = False
        self.timer_at = math.inf
        self.timer_entries: list[Entry] = []
        self.handshake_deadline = math.inf
        self.keepalive_at = math.inf
        self.keepalive_s: float | None = None
        self.probe_at = math.inf
        self.probes_failed = 0
        self.trimmed = False
        self.dirty = False
        self.errors = 0
        self.half_open_source: str | None = None
        self.cids: list[bytes] = []
        self.close_datagrams: list[bytes] = []
        self.received_while_closed = 0
        self.connection = connection
        self.datagrams_received = 0
        self.datagram_bytes_received = 0
        self.datagrams_sent = 0
        self.datagram_bytes_sent = 0
        self._owner = owner

    def __repr__(self) -> str:
        state = "closed" if self.closed else "established" if self.established else "handshake"
        return f"Peer({self.conn_id}, {state})"

    def authenticate(self, counters: QuicCounters, problem: Callable[[str, Exception], None]) -> bool:
        """Judge the certificates of a complete handshake, once; False if the connection is closed for them."""
        self.certificates = self.connection.peer_certificate_chain()
        judge, self.judge = self.judges.get(self.alpn, self.judge), None
        try:
            self.identity = judge(self.certificates) if judge is not None else None
        except PeerRejected as exc:
            counters.rejected_certificates += 1
            problem("certificate", exc)
            self.close(exc.code, exc.reason, transport=True)
            return False
        except Exception as exc:
            counters.handler_errors += 1
            problem("authenticate", exc)
            self.close(0x01, "certificate not judged", transport=True)
            return False
        return True

    def send_datagram(self, data: bytes) -> bool:
        """Queue one DATAGRAM for the end of the batch. False if over `max_datagram_payload` or closing (counted)."""
        connection = self.connection
        if not connection.queue_datagram(data):
            return False
        self.datagrams_sent += 1
        self.datagram_bytes_sent += len(data)
        if not self.dirty:
            self._owner.mark_dirty(self)
        if connection.datagrams_waiting >= 32:
            self._owner.flush_peer(self)
        return True

    def send_stream(self, stream_id: int | None, data: bytes, *, fin: bool = False) -> int:
        """Write `data` whole to a stream, opening a bidirectional one of ours for None.

        Returns:
            the stream id, or -1 if nothing was written (closing, not ours, finished, or the peer does not take data).
        """
        used = self.connection.queue_stream(stream_id, data, fin)
        if used >= 0 and not self.dirty:
            self._owner.mark_dirty(self)
        return used

    def has_stream(self, stream_id: int) -> bool:
        """Whether that stream is open (the peer opened it, or we did)."""
        return self.connection.has_stream(stream_id)

    def ping(self) -> None:
        """Send a PING frame with this batch."""
        if not self.closed:
            self.connection.ping()
            self._owner.mark_dirty(self)

    def close(self, code: int = 0, reason: str = "", *, transport: bool = False) -> None:
        """Close with an application error code (or a transport one). Idempotent; `Closed` is delivered at once."""
        if not self.closed:
            self.connection.close(error_code=code, frame_type=0 if transport else None, reason_phrase=reason)
            self._owner.end_peer(self)

    def repeated_close(self) -> list[bytes]:
        """The close frame's packets again for a peer that missed them, ever more rarely (RFC 9000 s10.2.1)."""
        self.received_while_closed += 1
        return [] if self.received_while_closed & (self.received_while_closed - 1) else self.close_datagrams

    @property
    def max_datagram_payload(self) -> int:
        """Largest DATAGRAM payload in bytes that can be sent to this peer now; 0 before the handshake told us."""
        return self.connection.max_datagram_payload

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time in seconds, None before the first sample."""
        return self.connection.rtt_s

    @property
    def probe_timeouts(self) -> int:
        """QUIC's probe time-outs in a row; 0 while everything sent was acknowledged or is still in time."""
        return self.connection.pto_count

    @property
    def largest_acknowledged(self) -> int:
        """The largest packet number that the peer has acknowledged so far."""
        return self.connection.largest_acknowledged

    @property
    def next_packet_number(self) -> int:
        """The number that the next packet gets, of those that `largest_acknowledged` counts."""
        return self.connection.next_packet_number

    @property
    def datagrams_waiting(self) -> int:
        """DATAGRAMs that wait for the congestion window."""
        return self.connection.datagrams_waiting

    @property
    def stats(self) -> PeerCounters:
        """A snapshot of this connection's counters."""
        connection = self.connection
        return PeerCounters(
            datagrams_received=self.datagrams_received,
            datagram_bytes_received=self.datagram_bytes_received,
            datagrams_sent=self.datagrams_sent,
            datagram_bytes_sent=self.datagram_bytes_sent,
            dropped_queue_full=connection.datagrams_dropped_full,
            dropped_size=connection.datagrams_dropped_size,
            dropped_closed=connection.datagrams_dropped_closed,
            stream_bytes_refused=connection.stream_bytes_refused,
        )

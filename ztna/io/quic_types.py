"""What the users of the QUIC endpoint see: settings, events, counters. No aioquic here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from ztna.io.quic_guard import AdmissionLimits
from ztna.io.udp import Address

ALPN = "ztna-v1"
ALPN_V2 = "ztna-v2"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one connection.

    `stream_window_bytes` and `connection_window_bytes` bound what a peer can make us hold by sparse STREAM offsets,
    `datagram_queue_*` what waits for the congestion window, `stream_send_bytes` unacknowledged stream data.
    `max_udp_payload_bytes` is the most sent in one UDP datagram: peers in the field read into 1350-byte buffers.
    """

    stream_window_bytes: int = 131_072
    connection_window_bytes: int = 262_144
    max_streams_bidi: int = 16
    max_streams_uni: int = 0
    datagram_queue_packets: int = 64
    datagram_queue_bytes: int = 65_536
    stream_send_bytes: int = 262_144
    max_udp_payload_bytes: int = 1350


@dataclass(frozen=True, slots=True)
class Credentials:
    """Our own certificate: leaf, the intermediates sent with it, and the leaf's private key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    private_key: Any


class PeerRejected(Exception):
    """Raised by `authenticate` of settings: close with this transport error code and reason, deliver nothing."""

    def __init__(self, reason: str, *, code: int = 0x01, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to accept connections.

    `authenticate(chain)` gets the DER certificates of the client, leaf first, or [] for none; what it returns becomes
    `Peer.identity`. It runs before any event of the connection is delivered and raises PeerRejected to refuse.
    `authenticate_alpn` holds another judge for the connections of some ALPN. The first of `alpn` that a client offers
    too is taken.
    """

    credentials: Credentials
    authenticate: Callable[[list[bytes]], object]
    request_client_certificate: bool = True
    retry: bool = True
    alpn: tuple[str, ...] = (ALPN,)
    authenticate_alpn: Mapping[str, Callable[[list[bytes]], object]] = field(default_factory=dict)
    idle_timeout_s: float = 30.0
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How to open a connection. The server's chain is verified against `ca_pem` only, never the system's store.

    `server_name` is checked against the certificate and sent as SNI; None checks the chain alone. `authenticate` may
    judge the server's chain (DER, leaf first) further, as on servers; what it returns becomes `Peer.identity`.
    """

    ca_pem: bytes
    server_name: str | None = None
    verify_peer: bool = True
    credentials: Credentials | None = None
    authenticate: Callable[[list[bytes]], object] | None = None
    alpn: tuple[str, ...] = (ALPN,)
    idle_timeout_s: float = 30.0
    keepalive_s: float | None = 10.0
    handshake_timeout_s: float = 10.0
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)


@dataclass(slots=True)
class Connected:
    """The handshake is complete and the peer is authenticated."""

    alpn: str


@dataclass(slots=True)
class DatagramReceived:
    """One DATAGRAM payload (only when the endpoint has no `on_datagram`)."""

    data: bytes


@dataclass(slots=True)
class StreamReceived:
    """In-order bytes of one stream; `fin` when the peer ended or reset it."""

    stream_id: int
    data: bytes
    fin: bool


@dataclass(slots=True)
class AddressChanged:
    """The peer's validated address is another one now (NAT rebinding or migration)."""

    address: Address


@dataclass(slots=True)
class PayloadLimit:
    """`Peer.max_datagram_payload` changed: a size probe came through, or a black hole was suspected."""

    max_bytes: int


@dataclass(slots=True)
class Closed:
    """The connection is over; nothing follows. `code` is the wire's error code (0 for an idle time-out)."""

    code: int
    reason: str
    by_peer: bool


PeerEvent = Connected | DatagramReceived | StreamReceived | AddressChanged | PayloadLimit | Closed


@dataclass(slots=True)
class QuicCounters:
    """What the endpoint did. A dropped UDP datagram is in one `dropped_*`, a frame in one `dropped_frame_*`."""

    accepted: int = 0
    established: int = 0
    rejected_certificates: int = 0
    retries_sent: int = 0
    retry_tokens_validated: int = 0
    retry_token_failures: int = 0
    version_negotiations_sent: int = 0
    handshake_timeouts: int = 0
    half_open_evicted: int = 0
    closed: int = 0
    size_probes_acknowledged: int = 0
    size_probes_lost: int = 0
    payload_shrunk: int = 0
    connection_errors: int = 0
    handler_errors: int = 0
    dropped_empty: int = 0
    dropped_header: int = 0
    dropped_initial_small: int = 0
    dropped_no_server: int = 0
    dropped_unknown_cid: int = 0
    dropped_rate: int = 0
    dropped_flood: int = 0
    dropped_half_open: int = 0
    dropped_connections_full: int = 0
    dropped_error: int = 0
    dropped_closed: int = 0
    dropped_frame_queue_full: int = 0
    dropped_frame_size: int = 0
    dropped_frame_closed: int = 0
    stream_bytes_refused: int = 0


@dataclass(slots=True)
class PeerCounters:
    """DATAGRAM frames and bytes of one connection, and why some were not sent."""

    datagrams_received: int = 0
    datagram_bytes_received: int = 0
    datagrams_sent: int = 0
    datagram_bytes_sent: int = 0
    dropped_queue_full: int = 0
    dropped_size: int = 0
    dropped_closed: int = 0
    stream_bytes_refused: int = 0

"""What happens to a datagram no connection knows: Version Negotiation, Retry, or a new half-open connection.

Everything before a valid Retry token is stateless but for the token buckets. Order of checks is by cost.
"""

from collections import OrderedDict
from collections.abc import Callable

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import TOKEN_LIFETIME, QuicRetryTokenHandler
from cryptography.hazmat.primitives.hashes import SHA256

from ztna.io.quic_config import SUPPORTED_VERSIONS, server_configuration
from ztna.io.quic_connection import GuardedConnection
from ztna.io.quic_guard import AdmissionLimits, TokenBucket, TokenBuckets, UsedTokens, carries_no_token, source_key
from ztna.io.quic_parts import CID_BYTES, MIN_UDP_PAYLOAD, random_cid
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import QuicCounters, ServerSettings
from ztna.io.udp import Address

MIN_INITIAL_CID_BYTES = 8

Accepted = tuple[GuardedConnection, list[bytes], str, float]
"""The new connection, the CIDs it is addressed by, its source key, its handshake deadline."""


class Acceptor:
    """Stateless answers and admission of new connections; keeps the half-open table."""

    def __init__(
        self, counters: QuicCounters, send: Callable[[bytes, Address], None], abandon: Callable[[Peer, str], None]
    ) -> None:
        self._counters = counters
        self._send = send
        self._abandon = abandon
        self._settings: ServerSettings | None = None
        self._configuration: QuicConfiguration | None = None
        self._leaf_sha256 = b""
        self._tokens = QuicRetryTokenHandler()
        self._half_open: OrderedDict[int, Peer] = OrderedDict()
        self._half_open_by_source: dict[str, int] = {}
        self._set_limits(AdmissionLimits())

    def _set_limits(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._stateless = TokenBucket(limits.stateless_rate, limits.stateless_burst)
        self._retry_buckets = TokenBuckets(limits.retry_rate, limits.retry_burst, limits.sources)
        self._handshake_buckets = TokenBuckets(limits.handshake_rate, limits.handshake_burst, limits.sources)
        self._version_buckets = TokenBuckets(
            limits.version_negotiation_rate, limits.version_negotiation_burst, limits.sources
        )
        self._used_tokens = UsedTokens(TOKEN_LIFETIME, limits.used_tokens)

    @property
    def half_open_count(self) -> int:
        """Connections whose handshake is not complete."""
        return len(self._half_open)

    def set_server(self, settings: ServerSettings | None) -> None:
        """Use these settings for connections accepted from now on; None refuses all."""
        self._settings = settings
        if settings is None:
            self._configuration = None
            return
        if settings.admission != self._limits:
            self._set_limits(settings.admission)
        # One configuration object is shared by all connections accepted under it.
        self._configuration = server_configuration(settings)
        self._leaf_sha256 = settings.credentials.certificate.fingerprint(SHA256())

    def accept(self, data: bytes, address: Address, now: float, connections: int) -> Accepted | None:
        """Answer statelessly or make a new connection. None if nothing is to be delivered."""
        settings, configuration, counters = self._settings, self._configuration, self._counters
        if settings is None or configuration is None:
            counters.dropped_no_server += 1
            return None
        if len(data) < MIN_UDP_PAYLOAD:
            counters.dropped_initial_small += 1
            return None
        if settings.retry and carries_no_token(data) and not self._stateless.take(now):
            counters.dropped_flood += 1
            return None
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CID_BYTES)
        except ValueError:
            counters.dropped_header += 1
            return None
        source = source_key(address[0])
        if header.packet_type == QuicPacketType.VERSION_NEGOTIATION:
            counters.dropped_header += 1
            return None
        if header.version not in SUPPORTED_VERSIONS:
            if not self._version_buckets.take(source, now):
                counters.dropped_rate += 1
                return None
            counters.version_negotiations_sent += 1
            answer = encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=list(SUPPORTED_VERSIONS),
            )
            self._send(answer, address)
            return None
        if header.packet_type != QuicPacketType.INITIAL or len(header.destination_cid) < MIN_INITIAL_CID_BYTES:
            counters.dropped_unknown_cid += 1
            return None
        if not settings.retry:
            return self._open(header.destination_cid, None, source, now, connections)
        if not header.token:
            self._retry(header, address, source, now)
            return None
        try:
            original = self._tokens.validate_token(
                address=address, destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            counters.retry_token_failures += 1
            return None
        if not self._used_tokens.spend(header.destination_cid, now):
            counters.retry_token_failures += 1
            return None
        counters.retry_tokens_validated += 1
        return self._open(original, header.destination_cid, source, now, connections)

    def _retry(self, header: QuicHeader, address: Address, source: str, now: float) -> None:
        assert header.version is not None
        original = header.destination_cid
        if not self._retry_buckets.take(source, now):
            self._counters.dropped_rate += 1
            return
        cid = random_cid()
        token = self._tokens.create_token(
            address=address, original_destination_connection_id=original, retry_source_connection_id=cid, now=now
        )
        self._counters.retries_sent += 1
        packet = encode_quic_retry(
            version=header.version,
            source_cid=cid,
            destination_cid=header.source_cid,
            original_destination_cid=original,
            retry_token=token,
        )
        self._send(packet, address)

    def _open(
        self, original: bytes, retry_cid: bytes | None, source: str, now: float, connections: int
    ) -> Accepted | None:
        settings, configuration = self._settings, self._configuration
        counters, limits = self._counters, self._limits
        assert settings is not None
        assert configuration is not None
        if connections >= limits.max_connections:
            counters.dropped_connections_full += 1
            return None
        if not self._handshake_buckets.take(source, now):
            counters.dropped_rate += 1
            return None
        if self._half_open_by_source.get(source, 0) >= limits.half_open_per_source:
            counters.dropped_half_open += 1
            return None
        if len(self._half_open) >= limits.half_open:
            # The oldest has had the longest chance; honest handshakes need milliseconds.
            counters.half_open_evicted += 1
            self._abandon(next(iter(self._half_open.values())), "too many half-open connections")
        counters.accepted += 1
        connection = GuardedConnection(
            configuration=configuration,
            limits=settings.limits,
            totals=counters,
            request_client_certificate=settings.request_client_certificate,
            original_destination_connection_id=original,
            retry_source_connection_id=retry_cid,
            host_cid=retry_cid,
        )
        cids = [connection.host_cid] if retry_cid is not None else [connection.host_cid, original]
        return connection, cids, source, now + limits.handshake_timeout_s

    def opened(self, peer: Peer) -> None:
        """Enter a connection just made by `accept` into the half-open table."""
        source = peer.half_open_source
        assert source is not None
        self._half_open[peer.conn_id] = peer
        self._half_open_by_source[source] = self._half_open_by_source.get(source, 0) + 1
        if self._settings is not None:
            peer.judge, peer.judges = self._settings.authenticate, self._settings.authenticate_alpn
            peer.leaf_sha256 = self._leaf_sha256

    def settled(self, peer: Peer) -> None:
        """The handshake completed or the connection is gone; idempotent."""
        if self._half_open.pop(peer.conn_id, None) is None:
            return
        source = peer.half_open_source
        peer.half_open_source = None
        if source is not None:
            left = self._half_open_by_source.get(source, 0) - 1
            if left > 0:
                self._half_open_by_source[source] = left
            else:
                self._half_open_by_source.pop(source, None)

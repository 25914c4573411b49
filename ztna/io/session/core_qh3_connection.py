"""One connection on qh3's native packet core, driven directly.

qh3's own `QuicConnection` says fixed limits, normalises addresses and logs packet by packet; what a session needs of it
is the packet core (`QuicConnectionCore`) and the TLS engine, joined here. Both names are private to qh3: pyproject.toml
pins its minor version, and tests/ztna/io/session fails if a new one behaves otherwise.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from qh3 import tls
from qh3._hazmat import QuicConnectionCore, pull_quic_header
from qh3.quic.crypto import CIPHER_SUITES
from qh3.quic.packet import QuicPacketType
from qh3.quic.tls_bridge import QuicTlsBridgeError

from ztna.io.quic_config import MAX_DATAGRAM_FRAME_BYTES
from ztna.io.quic_parts import MIN_UDP_PAYLOAD
from ztna.io.session.core import SessionTls
from ztna.io.session.core_qh3_audit import FrameAudit
from ztna.io.session.core_qh3_tls import (
    ACK_DELAY_EXPONENT,
    ACTIVE_CONNECTION_IDS,
    MAX_ACK_DELAY_MS,
    RECORDS_UNI,
    VERSION,
    SessionTlsBridge,
)

CID_BYTES: Final = 8
CRYPTO_PIECE: Final = 900
MIN_INITIAL_CID_BYTES: Final = 8
INITIAL_RTT_S: Final = 0.1
"""As aioquic has it: a first time-out after 200 ms, so that a lossy handshake does not wait for seconds."""

PEER: Final = ("fd00::1", 1)
"""What the native core takes for the peer's address; it sizes probes for IPv6 by it."""

HERE: Final = ("fd00::2", 1)
MAX_DATAGRAM_BYTES: Final = 65_527


class Qh3Connection:
    """Packet core and TLS of one connection. May raise anything; the core above is the barrier."""

    def __init__(self, settings: SessionTls, now: float, *, original: bytes | None = None) -> None:
        self._settings = settings
        self._is_client = original is None
        self.cid = os.urandom(CID_BYTES)
        self.destination = os.urandom(CID_BYTES) if original is None else original
        self.core = self._make_core(now)
        self.tls: SessionTlsBridge | None = SessionTlsBridge(
            settings,
            is_client=self._is_client,
            local_initial_source_connection_id=self.cid,
            original_destination_connection_id=self.destination,
        )
        self.alpn = ""
        self.chain: list[bytes] = []
        self.complete = False
        self.peer_cid_bytes = CID_BYTES
        self.peer_udp_payload = MAX_DATAGRAM_BYTES
        self.peer_datagram_frame = 0
        self.failure: tuple[int, str] | None = None
        self.audit: FrameAudit | None = None
        self.now = now
        self.ready: list[bytes] = []
        self._peer_limits: tuple[Any, ...] | None = None

    def _make_core(self, now: float) -> QuicConnectionCore:
        limits = self._settings.limits
        # A server cannot raise its size later, a client starts small and probes.
        size = MIN_UDP_PAYLOAD if self._is_client else limits.max_udp_payload_bytes
        stream = limits.stream_window_bytes
        return QuicConnectionCore(
            is_client=self._is_client,
            version=VERSION,
            local_addr=HERE,
            remote_addr=PEER,
            source_cid=self.cid,
            destination_cid=self.destination,
            # The peer proved that it receives at its address before it was let in: no amplification limit.
            peer_address_validated=True,
            active_connection_id_limit=ACTIVE_CONNECTION_IDS,
            max_datagram_size=size,
            probe_datagram_size=limits.max_udp_payload_bytes > MIN_UDP_PAYLOAD,
            idle_timeout=self._settings.idle_timeout_s,
            ack_delay_exponent=ACK_DELAY_EXPONENT,
            max_datagram_frame_size=MAX_DATAGRAM_FRAME_BYTES,
            peer_max_datagram_frame_size=None,
            connection_receive_window=limits.connection_window_bytes,
            connection_send_limit=0,
            stream_receive_window=stream,
            stream_send_limit_bidi_local=0,
            stream_send_limit_bidi_remote=0,
            stream_send_limit_uni=0,
            max_stream_reassembly=stream,
            local_max_streams_bidi=limits.max_streams_bidi,
            local_max_streams_uni=RECORDS_UNI,
            peer_max_streams_bidi=0,
            peer_max_streams_uni=0,
            initial_rtt=INITIAL_RTT_S,
            max_ack_delay=MAX_ACK_DELAY_MS / 1000,
            initial_time=now,
        )

    @staticmethod
    def original_of(packet: bytes) -> bytes | None:
        """Destination connection ID of a client's first Initial; None if the packet is none."""
        try:
            version, kind, _, destination, *_ = pull_quic_header(packet, 0, CID_BYTES)
        except ValueError:
            return None
        fits = len(packet) >= MIN_UDP_PAYLOAD and len(destination) >= MIN_INITIAL_CID_BYTES
        return destination if fits and version == VERSION and kind == int(QuicPacketType.INITIAL) else None

    def start(self) -> None:
        """Begin the client's handshake."""
        assert self.tls is not None
        self.tls.start()
        self.drain_tls()

    def receive_handshake(self, packet: bytes, now: float) -> list[tuple[Any, ...]]:
        """Take one UDP payload while the handshake lasts: TLS gives keys between packets that share a payload."""
        self.now = now
        events: list[tuple[Any, ...]] = []
        offset = 0
        while offset < len(packet):
            end, source = _packet_end(packet, offset)
            piece = packet[offset:end]
            report = self.core.receive_datagram(piece, PEER, now, len(packet))
            if report[2] and source and self.tls is not None:
                self.tls.remote_initial_source_connection_id = source
                self.peer_cid_bytes = len(source)
            events += self.take_events()
            offset = end
        return events

    def receive(self, packets: Sequence[bytes], now: float) -> int:
        """Take UDP payloads after the handshake; returns how many packets of them were new and authentic."""
        return int(self.core.receive_many_datagrams(list(packets), PEER, now)[2])

    def take_events(self) -> list[tuple[Any, ...]]:
        """Events for the core above; CRYPTO data goes to TLS."""
        found: list[tuple[Any, ...]] = []
        take = self.core.next_event
        while (event := take()) is not None:
            if event[0] == "crypto_data":
                self._crypto(event)
            else:
                found.append(event)
        return found

    def _crypto(self, event: tuple[Any, ...]) -> None:
        if self.complete or self.tls is None:
            return  # session tickets, which nobody here uses
        try:
            self.tls.receive_crypto(tls.Epoch(event[1]), event[3], event[2], version=VERSION)
            self.drain_tls()
        except QuicTlsBridgeError as exc:
            self.failure = (int(exc.error_code), exc.reason_phrase)
            self.core.close(int(exc.error_code), int(exc.frame_type), exc.reason_phrase.encode()[:128])

    def drain_tls(self) -> None:
        """Give the packet core what TLS has: keys, CRYPTO data, the peer's transport parameters."""
        bridge, core = self.tls, self.core
        assert bridge is not None
        while (secret := bridge.next_traffic_secret()) is not None:
            protection, aead = CIPHER_SUITES[secret.cipher_suite]
            core.install_packet_key(
                "send" if secret.direction == tls.Direction.ENCRYPT else "receive",
                int(secret.epoch),
                (aead.decode(), protection.decode()),
                secret.key,
                secret.iv,
                secret.hp,
                0,
                secret.secret,
                secret.version,
            )
            if secret.direction == tls.Direction.DECRYPT and secret.epoch == tls.Epoch.ONE_RTT:
                self.audit = FrameAudit(int(secret.cipher_suite), secret.secret, CID_BYTES)
        while (crypto := bridge.next_crypto_data()) is not None:
            self._send_crypto(int(crypto.epoch), crypto.offset, crypto.data)
        if self._peer_limits is None and bridge.remote_transport_parameters is not None:
            self._apply(bridge.remote_transport_parameters)
        while bridge.next_event() is not None:
            pass
        if bridge.handshake_complete and not self.complete:
            self._complete(bridge)

    def _send_crypto(self, epoch: int, offset: int, data: bytes) -> None:
        if self._is_client:
            self.core.send_crypto(epoch, offset, data)
            return
        # The native core fills packets of a server up to a size that the path may not carry: one piece, one packet.
        for at in range(0, len(data), CRYPTO_PIECE):
            self.core.send_crypto(epoch, offset + at, data[at : at + CRYPTO_PIECE])
            self.poll_ready()

    def poll_ready(self) -> None:
        """Build what can be sent now, before more is queued; `ready` is to be sent first."""
        while (transmit := self.core.poll_transmit(self.now)) is not None:
            self.ready.append(transmit[0])

    def _complete(self, bridge: SessionTlsBridge) -> None:
        self.complete = True
        self.alpn = bridge.tls.alpn_negotiated or ""
        if self._is_client and bridge.peer_certificate is not None:
            self.chain = [
                bytes(each.public_bytes()) for each in (bridge.peer_certificate, *bridge.peer_certificate_chain)
            ]
            self.core.discard_keys(int(tls.Epoch.ZERO_RTT))
        self.core.handshake_complete()
        self.tls = None

    def _apply(self, peer: Any) -> None:
        self.peer_datagram_frame = peer.max_datagram_frame_size or 0
        self.peer_udp_payload = peer.max_udp_payload_size or MAX_DATAGRAM_BYTES
        self._peer_limits = (
            peer.initial_max_data or 0,
            peer.initial_max_stream_data_bidi_local or 0,
            peer.initial_max_stream_data_bidi_remote or 0,
            peer.initial_max_stream_data_uni or 0,
            peer.initial_max_streams_bidi or 0,
            peer.initial_max_streams_uni or 0,
            ACK_DELAY_EXPONENT if peer.ack_delay_exponent is None else peer.ack_delay_exponent,
            (MAX_ACK_DELAY_MS if peer.max_ack_delay is None else peer.max_ack_delay) / 1000,
            peer.max_idle_timeout / 1000 if peer.max_idle_timeout else None,
            peer.max_datagram_frame_size,
        )
        self._limit(self.peer_udp_payload, peer.stateless_reset_token)

    def _limit(self, udp_payload: int, reset_token: bytes | None) -> None:
        assert self._peer_limits is not None
        apply: Callable[..., None] = self.core.apply_peer_transport_parameters
        apply(
            *self._peer_limits,
            stateless_reset_token=reset_token,
            active_connection_id_limit=ACTIVE_CONNECTION_IDS,
            max_udp_payload_size=min(udp_payload, self._settings.limits.max_udp_payload_bytes),
        )

    def cap_payload(self, size: int) -> bool:
        """Never send larger UDP payloads again, once the peer's limits are known; the size cannot be raised anew."""
        if self._peer_limits is None:
            return False
        self._limit(size, None)
        return True

    @property
    def udp_payload_bytes(self) -> int:
        """Size of the UDP payloads that were found to pass."""
        return int(self.core.active_path[5])


def _packet_end(packet: bytes, offset: int) -> tuple[int, bytes]:
    """Where the QUIC packet at an offset ends in its UDP payload, and its source connection ID."""
    try:
        header = pull_quic_header(packet, offset, CID_BYTES)
    except ValueError:
        return len(packet), b""
    end = header[9]
    return (end if end > offset else len(packet)), header[4]

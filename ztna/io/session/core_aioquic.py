"""The reference core of sessions: aioquic behind our guards."""

import math
import ssl
from collections.abc import Sequence
from typing import Final

from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from ztna.io.quic_config import MAX_DATAGRAM_FRAME_BYTES, SUPPORTED_VERSIONS
from ztna.io.quic_parts import CID_BYTES, MIN_UDP_PAYLOAD
from ztna.io.quic_types import ConnectionLimits
from ztna.io.session.core import SessionTls
from ztna.io.session.core_aioquic_connection import CONGESTION_CONTROL, PEER, SessionConnection, Windows
from ztna.io.session.core_base import CoreBase
from ztna.io.session.core_streams import INITIAL_CREDIT

SIZES: Final = (1350, 1452)
PROBE_RETRY_S: Final = (0.3, 1.0, 10.0, 60.0)
RECORDS_UNI: Final = 1
TICK_S: Final = 1e-6
"""aioquic compares times that it reckons in two ways; a moment later what is due is due by both."""


class AioquicCore(CoreBase):
    """See `ztna.io.session.core.SessionCore`."""

    name = "aioquic"

    def __init__(self, settings: SessionTls, now: float, *, is_client: bool) -> None:
        super().__init__(settings, now, is_client=is_client)
        limits = settings.limits
        self._configuration = _configuration(settings, is_client)
        self._connection_limits = ConnectionLimits(
            stream_window_bytes=limits.stream_window_bytes,
            connection_window_bytes=limits.connection_window_bytes,
            max_streams_bidi=limits.max_streams_bidi,
            max_streams_uni=RECORDS_UNI,
            max_udp_payload_bytes=limits.max_udp_payload_bytes,
        )
        self._connection: SessionConnection | None = self._make(None) if is_client else None
        self._confirmed = False
        self._probe_at = math.inf
        self._probes_failed = 0

    def _make(self, original: bytes | None) -> SessionConnection:
        connection = SessionConnection(
            configuration=self._configuration,
            limits=self._connection_limits,
            windows=Windows(self._streams.granted, self._connection_limits.connection_window_bytes),
            original_destination_connection_id=original,
        )
        # One queue: what the guards admit is what aioquic sends.
        connection._datagrams_pending = self._queue
        return connection

    def start(self, now: float) -> None:
        """See `SessionCore`."""
        self._now = now
        self._deadline = now + self.settings.handshake_timeout_s
        if self._connection is not None:
            self._connection.connect(PEER, now)

    def _feed(self, packet: bytes, now: float) -> None:
        connection = self._connection
        if connection is None:
            connection = self._accept(packet)
            if connection is None:
                return
        frames = connection.receive(packet, PEER, now)
        if not self._is_client and connection.is_blank:
            # Its keys come from the packet itself: this one was broken, or is none, and must not stand in the way.
            self._connection = None
            self._deadline = math.inf
            return
        if frames:
            self._datagrams(frames)
            connection.pace_acknowledgements(now, 1)
        elif frames is None:
            # A keepalive, a size probe, a handshake: no answer will come for it, and its sender waits.
            connection.acknowledge_now(now)
            self._drain(connection, now)

    def _feed_all(self, packets: Sequence[bytes], now: float) -> None:
        connection = self._connection
        if connection is None or not connection.is_plain:
            super()._feed_all(packets, now)
        else:
            self._feed_plain(connection, packets, now)
        connection = self._connection
        if connection is not None and connection.has_events:
            # Stream data, taken the short way: one acknowledgement for the batch.
            connection.acknowledge_now(now)
            self._drain(connection, now)

    def _feed_plain(self, connection: SessionConnection, packets: Sequence[bytes], now: float) -> None:
        """`_feed` for many: what they bring is counted once."""
        found: list[bytes] = []
        plain = 0
        for packet in packets:
            if not packet:
                continue
            try:
                frames = connection.receive(packet, PEER, now)
            except BaseException as exc:
                self._failed(exc)
                continue
            self._errors = 0
            if frames:
                found += frames
                plain += 1
            elif frames is None:
                # As in `_feed`.
                connection.acknowledge_now(now)
                self._drain(connection, now)
        if plain:
            self._datagrams(found)
            connection.pace_acknowledgements(now, plain)

    def _accept(self, packet: bytes) -> SessionConnection | None:
        """A server's connection begins with the first Initial, whose destination connection ID its keys come from."""
        try:
            header = pull_quic_header(Buffer(data=packet), host_cid_length=CID_BYTES)
        except ValueError:
            return None
        if header.packet_type != QuicPacketType.INITIAL or header.version not in SUPPORTED_VERSIONS:
            return None
        if len(packet) < MIN_UDP_PAYLOAD or len(header.destination_cid) < 8:
            return None
        self._connection = self._make(header.destination_cid)
        return self._connection

    def _drain(self, connection: SessionConnection, now: float) -> None:
        run: list[bytes] = []
        run_id, run_fin = -1, False
        while (event := connection.next_event()) is not None:
            if isinstance(event, events.StreamDataReceived):
                if event.stream_id != run_id:
                    self._stream_run(connection, run_id, run, run_fin)
                    run, run_id = [], event.stream_id
                run.append(event.data)
                run_fin = event.end_stream
                continue
            self._stream_run(connection, run_id, run, run_fin)
            run, run_id = [], -1
            if isinstance(event, events.DatagramFrameReceived):
                self._datagrams((event.data,))
            elif isinstance(event, events.StreamReset):
                self._stream_reset(event.stream_id, event.error_code)
            elif isinstance(event, events.StopSendingReceived):
                self._stream_stopped(event.stream_id, event.error_code)
            elif isinstance(event, events.HandshakeCompleted):
                self._handshake_done(event.alpn_protocol or "", connection.peer_certificate_chain())
        self._stream_run(connection, run_id, run, run_fin)
        if connection.is_ended:
            self._ended(connection)
        elif not self._confirmed and connection.is_confirmed and self.established:
            self._confirmed = True
            connection.trim()
            self._probe_at = now

    def _stream_run(self, connection: SessionConnection, stream_id: int, run: list[bytes], fin: bool) -> None:
        """Data of one stream that came in one batch, as one event."""
        if run:
            data = b"".join(run)
            connection.consumed(len(data))
            self._stream_data(stream_id, data, fin)

    def _ended(self, connection: SessionConnection) -> None:
        event = connection.close_event
        code, reason = (int(event.error_code), event.reason_phrase) if event is not None else (0, "")
        if reason == "Idle timeout":
            code, reason = 0, "idle timeout"
        self._report_closed(code, reason, by_peer=connection.closed_by_peer)

    def _build(self, now: float) -> list[bytes]:
        connection = self._connection
        if connection is None or not connection._network_paths or connection._version is None:
            return []
        packets = [data for data, _ in connection.datagrams_to_send(now + TICK_S)]
        self._queue_bytes = sum(map(len, self._queue)) if self._queue else 0
        if now >= self._probe_at and not self.closed:
            packets += [data for data, _ in self._probe(connection, now)]
        if connection.has_events or (connection.is_ended and not self.closed):
            self._drain(connection, now)
        return packets

    def _timer(self) -> float:
        connection = self._connection
        if connection is None or connection._close_at is None:
            return math.inf
        if connection.has_events:
            return self._now
        due = connection.get_timer()
        if due is None or connection._state.name == "TERMINATED":
            return math.inf
        return due if self.closed else min(due, self._probe_at, connection.black_hole_at)

    def _fire(self, now: float) -> None:
        connection = self._connection
        if connection is None:
            return
        due = connection.get_timer()
        if due is not None and now >= due:
            connection.handle_timer(now + TICK_S)
        if not self.closed and now >= connection.black_hole_at:
            self._shrink(connection, now)
        self._drain(connection, now)

    # size of UDP payloads (RFC 8899)

    def _probe(self, connection: SessionConnection, now: float) -> list[tuple[bytes, object]]:
        self._probe_at = math.inf
        limit = self.settings.limits.max_udp_payload_bytes
        size = next((each for each in SIZES if connection.udp_payload_bytes < each <= limit), None)
        if size is None:
            return []
        connection.aim_for(size)
        if not connection.wants_size_probe():
            return []
        return connection.size_probe(now, lambda acknowledged: self._probed(acknowledged))

    def _probed(self, acknowledged: bool) -> None:
        if acknowledged:
            self.stats.size_probes_acknowledged += 1
            self._probes_failed = 0
            self._probe_at = self._now
            return
        self.stats.size_probes_lost += 1
        self._probe_at = self._now + PROBE_RETRY_S[min(self._probes_failed, len(PROBE_RETRY_S) - 1)]
        self._probes_failed += 1

    def _shrink(self, connection: SessionConnection, now: float) -> None:
        """The path swallows large packets: 1200 bytes always pass."""
        if connection.udp_payload_bytes > MIN_UDP_PAYLOAD:
            connection._set_udp_payload(MIN_UDP_PAYLOAD)
            self.stats.payload_shrunk += 1
            self._drop_oversize()
            self._probe_at = now + PROBE_RETRY_S[min(self._probes_failed + 1, len(PROBE_RETRY_S) - 1)]

    def _forgive(self, now: float) -> None:
        if self._connection is not None:
            self._connection.forgive(now)
            self._probes_failed = 0
            self._probe_at = min(self._probe_at, now)

    # streams (core_streams.Engine)

    def push(self, stream_id: int, data: bytes, fin: bool) -> bool:
        """Give data to a stream's send buffer."""
        assert self._connection is not None
        try:
            self._connection.send_stream_data(stream_id, data, fin)
        except (ValueError, RuntimeError):
            return False
        return True

    def unsent(self, stream_id: int) -> int:
        """Bytes of the stream that were never sent."""
        return self._connection.unsent(stream_id) if self._connection is not None else 0

    def open(self, unidirectional: bool) -> int:
        """Open a stream of ours, or return -1."""
        connection = self._connection
        if connection is None or not connection.may_open(unidirectional):
            return -1
        stream_id = connection.get_next_available_stream_id(unidirectional)
        connection.send_stream_data(stream_id, b"")
        return stream_id

    def _abandon_stream(self, stream_id: int, code: int) -> None:
        connection = self._connection
        if connection is None:
            return
        for action in (connection.reset_stream, connection.stop_stream):
            try:
                action(stream_id, code)
            except (ValueError, AssertionError):
                continue

    # connection

    @property
    def awaits_answer(self) -> bool:
        """See `SessionCore`."""
        return self._connection is not None and self._connection.awaits_answer

    def ping(self) -> None:
        """See `SessionCore`."""
        if self._connection is not None and not self.closed:
            self._connection.ping()

    def _abandon(self) -> None:
        if self._connection is not None:
            self._connection.abandon("abandoned")

    def _close_wire(self, code: int, reason: str, *, application: bool) -> None:
        if self._connection is not None:
            self._connection.close(error_code=code, frame_type=None if application else 0, reason_phrase=reason)

    def _update_keys(self) -> None:
        if self._connection is not None:
            self._connection.request_key_update()

    def _lost_and_sent(self) -> tuple[int, int]:
        connection = self._connection
        return (connection.reno.lost, connection.next_packet_number) if connection is not None else (0, 0)

    @property
    def rtt_s(self) -> float | None:
        """See `SessionCore`."""
        return self._connection.rtt_s if self._connection is not None else None

    @property
    def max_datagram_payload(self) -> int:
        """See `SessionCore`."""
        return self._connection.max_datagram_payload if self._connection is not None and self.established else 0


def _configuration(settings: SessionTls, is_client: bool) -> QuicConfiguration:
    credentials = settings.credentials
    return QuicConfiguration(
        alpn_protocols=[settings.alpn],
        cadata=settings.ca_pem.strip() + b"\n",
        certificate=credentials.certificate if credentials is not None else None,
        certificate_chain=list(credentials.chain) if credentials is not None else [],
        congestion_control_algorithm=CONGESTION_CONTROL,
        connection_id_length=CID_BYTES,
        idle_timeout=settings.idle_timeout_s,
        is_client=is_client,
        max_data=settings.limits.connection_window_bytes,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME_BYTES,
        max_datagram_size=MIN_UDP_PAYLOAD,
        max_stream_data=INITIAL_CREDIT,
        private_key=credentials.private_key if credentials is not None else None,
        server_name=settings.server_name,
        supported_versions=list(SUPPORTED_VERSIONS),
        # The signature of the server is checked in any case; its chain is judged by ztna.io.certs for both cores.
        verify_mode=ssl.CERT_NONE,
    )

"""aioquic's connection with the holes closed that matter to a server on the open Internet.

Different from `aioquic.quic.connection.QuicConnection` (checked against 1.7.2; tests fail if a private name goes):

- connection IDs are 20 bytes and never begin below 0x40, so that they cannot be taken for our raw control messages;
- the server may ask for a client certificate (aioquic has only a private switch for that, and verifies no chain);
- receive windows slide by what was consumed instead of doubling for ever with the highest offset seen;
- data with very many gaps, which costs aioquic time with their square, ends the connection;
- what only the handshake needs is dropped once it is confirmed: an idle connection costs a third of what it did;
- DATAGRAM frames are checked against the peer's limits and wait in a bounded queue that drops the oldest;
- UDP payloads start at 1200 bytes and grow only after a padded probe was acknowledged (RFC 8899).
"""

import os
from typing import Any, Final

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, pull_quic_transport_parameters
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography.hazmat.primitives.serialization import Encoding

from ztna.io.quic_parts import (
    DEAD_CRYPTO,
    DEAD_SPACE,
    MIN_UDP_PAYLOAD,
    NO_BUFFERS,
    SILENT,
    BatchPacer,
    FrameHandlers,
    SpentTls,
    random_cid,
)
from ztna.io.quic_payload import SizedConnection
from ztna.io.quic_types import ConnectionLimits, QuicCounters

ACK_DELAY_S: Final = 0.005
"""Later than most answers: with aioquic's 1 ms the acknowledgement is built while the answer waits for the CPU."""

ACK_EVERY: Final = 4

MAX_CRYPTO_GAPS: Final = 64
MAX_STREAM_GAPS: Final = 1024
"""More than loss can make in the largest window used here: 2 MiB in packets of 1200 bytes, every other one lost."""


class GuardedConnection(SizedConnection):
    """One QUIC connection behind our guards. The five sans-IO verbs are aioquic's own."""

    ack_every = ACK_EVERY
    """Packets of the peer that are acknowledged together at most."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        limits: ConnectionLimits,
        totals: QuicCounters | None = None,
        request_client_certificate: bool = False,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        host_cid: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.limits = limits
        self._totals = totals if totals is not None else QuicCounters()
        self._request_client_certificate = request_client_certificate
        self._consumed_stream_bytes = 0
        self._remote_max_udp_payload = 65527
        self._probing_size = False
        self.datagrams_dropped_full = 0
        self.datagrams_dropped_size = 0
        self.datagrams_dropped_closed = 0
        self.stream_bytes_refused = 0
        self._ack_delay = ACK_DELAY_S
        self._unacknowledged = 0
        self._logger = SILENT  # type: ignore[assignment]
        self._loss._logger = None
        self._loss._pacer = BatchPacer(max_datagram_size=MIN_UDP_PAYLOAD)
        self._QuicConnection__frame_handlers = FrameHandlers(self)
        cid = host_cid if host_cid is not None else random_cid()
        self._host_cids[0].cid = cid
        self.host_cid = cid
        self._local_initial_source_connection_id = cid
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = limits.max_streams_bidi
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = limits.max_streams_uni

    # state

    @property
    def close_event(self) -> events.ConnectionTerminated | None:
        """Why the connection closes, as soon as that is known (aioquic reports it only after the draining period)."""
        return self._close_event

    @property
    def closed_by_peer(self) -> bool:
        """Whether the peer sent the CONNECTION_CLOSE."""
        return self._state == QuicConnectionState.DRAINING

    @property
    def has_events(self) -> bool:
        """Whether `next_event` would return something."""
        return bool(self._events)

    def ping(self) -> None:
        """Queue one PING unless one is queued."""
        if not self._ping_pending:
            self.send_ping(0)

    @property
    def is_confirmed(self) -> bool:
        """Whether the handshake is confirmed (RFC 9001 s4.1.2)."""
        return self._handshake_confirmed

    @property
    def validated_address(self) -> Any | None:
        """The peer's address if its path is validated, else None."""
        path = self._network_paths[0] if self._network_paths else None
        return path.addr if path is not None and path.is_validated else None

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time in seconds, None before the first sample."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    @property
    def host_cids(self) -> list[bytes]:
        """Our connection IDs the peer may address."""
        return [cid.cid for cid in self._host_cids]

    @property
    def pto_count(self) -> int:
        """Probe time-outs in a row without an acknowledgement (RFC 9002 s6.2); tells clients whether a relay lives."""
        return self._loss._pto_count

    @property
    def largest_acknowledged(self) -> int:
        """The largest 1-RTT packet number that the peer has acknowledged so far."""
        return int(self._spaces[tls.Epoch.ONE_RTT].largest_acked_packet)

    @property
    def next_packet_number(self) -> int:
        """The number of the next packet sent: acknowledged, it proves that the peer was there after this moment."""
        return int(self._packet_number)

    def peer_certificate_chain(self) -> list[bytes]:
        """DER of the peer's certificate and what came with it, leaf first; empty if none. Gone after `trim`."""
        context = self.tls
        leaf = getattr(context, "_peer_certificate", None)
        if leaf is None:
            return []
        return [certificate.public_bytes(Encoding.DER) for certificate in (leaf, *context._peer_certificate_chain)]

    def abandon(self, reason: str) -> None:
        """Forget the connection without telling the peer (half-open and over its deadline or its cap)."""
        if self._state not in END_STATES and self._close_event is None:
            self._close_event = events.ConnectionTerminated(QuicErrorCode.NO_ERROR, 0, reason)
            self._close_end()

    def pace_acknowledgements(self, now: float, count: int = 1) -> None:
        """After packets were received: a bulk sender's window must not wait for the timer (RFC 9000 s13.2.2)."""
        if self._spaces[tls.Epoch.ONE_RTT].ack_at is None:
            self._unacknowledged = 0
            return
        self._unacknowledged += count
        if self._unacknowledged >= self.ack_every:
            self._unacknowledged = 0
            self.acknowledge_now(now)

    def acknowledge_now(self, now: float) -> None:
        """Send the acknowledgement that is due with the next packets, not by a timer of its own."""
        space = self._spaces.get(tls.Epoch.ONE_RTT)
        if space is not None and space.ack_at is not None:
            space.ack_at = now

    # DATAGRAM frames

    @property
    def datagrams_waiting(self) -> int:
        """DATAGRAM frames queued and not yet sent."""
        return len(self._datagrams_pending)

    def queue_datagram(self, data: bytes) -> bool:
        """Queue one DATAGRAM. False if it was refused for its size or because the connection is closing (counted)."""
        if self.is_ended:
            self.datagrams_dropped_closed += 1
            self._totals.dropped_frame_closed += 1
            return False
        if len(data) > self.max_datagram_payload:
            # aioquic would keep it at the head of its queue for ever and block every later one.
            self.datagrams_dropped_size += 1
            self._totals.dropped_frame_size += 1
            return False
        queue = self._datagrams_pending
        queue.append(data)
        limits = self.limits
        if len(queue) > limits.datagram_queue_packets // 2:
            while len(queue) > limits.datagram_queue_packets or sum(map(len, queue)) > limits.datagram_queue_bytes:
                queue.popleft()
                self.datagrams_dropped_full += 1
                self._totals.dropped_frame_queue_full += 1
        return True

    # streams

    def queue_stream(self, stream_id: int | None, data: bytes, end_stream: bool = False) -> int:
        """Write to a stream, opening one of ours for None. Returns its id, or -1 if it cannot take the data."""
        if self.is_ended:
            return -1
        if stream_id is None:
            stream_id = self.get_next_available_stream_id()
        stream = self._streams.get(stream_id)
        held = len(stream.sender._buffer) if stream is not None else 0
        if held + len(data) > self.limits.stream_send_bytes:
            self.stream_bytes_refused += len(data)
            self._totals.stream_bytes_refused += len(data)
            return -1
        try:
            self.send_stream_data(stream_id, data, end_stream)
        except (ValueError, RuntimeError):
            # Not ours to open, finished, or reset by the peer meanwhile.
            self.stream_bytes_refused += len(data)
            self._totals.stream_bytes_refused += len(data)
            return -1
        return stream_id

    def has_stream(self, stream_id: int) -> bool:
        """Whether the stream is open in some direction."""
        return stream_id in self._streams

    def consumed(self, size: int) -> None:
        """Count stream bytes handed to the application; the connection window slides by them."""
        self._settled = False
        self._consumed_stream_bytes += size

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        limit, streams = self._local_max_data, self._local_max_streams_bidi
        wanted = self._consumed_stream_bytes + self.limits.connection_window_bytes
        if wanted - limit.value >= self.limits.connection_window_bytes // 2:
            limit.value = wanted
        elif limit.value == limit.sent and streams.value == streams.sent:
            return
        # Zero keeps aioquic from doubling the limit each time half of it was seen.
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.max_stream_data_local:
            window = self.limits.stream_window_bytes
            wanted = stream.receiver.starting_offset() + window
            if wanted - stream.max_stream_data_local >= window // 2:
                stream.max_stream_data_local = wanted
            elif stream.max_stream_data_local_sent == stream.max_stream_data_local:
                return
        highest, stream.receiver.highest_offset = stream.receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            stream.receiver.highest_offset = highest

    # gaps

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_crypto_frame(context, frame_type, buf)
        stream = self._crypto_streams.get(context.epoch)
        if stream is not None and len(stream.receiver._ranges) > MAX_CRYPTO_GAPS:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "Too many gaps")

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_stream_frame(context, frame_type, buf)
        self._check_gaps(self._streams.get(stream_id))

    @staticmethod
    def _check_gaps(stream: QuicStream | None) -> None:
        """aioquic walks all gaps for each frame: a peer must not make it walk for ever."""
        if stream is not None and len(stream.receiver._ranges) > MAX_STREAM_GAPS:
            raise QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.STREAM_BASE, "Too many gaps")

    # connection IDs, TLS

    def _replenish_connection_ids(self) -> None:
        # One spare is what peers in the field get and expect; the peer's limit may ask for less.
        while len(self._host_cids) < min(2, self._remote_active_connection_id_limit):
            self._host_cids.append(
                QuicConnectionId(
                    cid=random_cid(), sequence_number=self._host_cid_seq, stateless_reset_token=os.urandom(16)
                )
            )
            self._host_cid_seq += 1

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._is_client:
            # Two key shares instead of four keep the ClientHello in one packet and save half a millisecond.
            self.tls._supported_groups = [tls.Group.X25519, tls.Group.SECP256R1]
        else:
            self.tls._request_client_certificate = self._request_client_certificate

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        # aioquic reads but does not honour max_udp_payload_size (RFC 9000 s18.2).
        limit = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
        if limit is not None:
            self._remote_max_udp_payload = limit

    def trim(self) -> None:
        """Drop what only the handshake needed; call once it is confirmed and the peer's certificate was judged."""
        if not self._handshake_confirmed or isinstance(self.tls, SpentTls):
            return
        self.tls = SpentTls(self.tls.state, self.tls.alpn_negotiated)  # type: ignore[assignment]
        self._crypto_buffers = NO_BUFFERS
        one_rtt = tls.Epoch.ONE_RTT
        self._crypto_streams = {one_rtt: self._crypto_streams[one_rtt]}
        live = self._spaces[one_rtt]
        self._spaces = {tls.Epoch.INITIAL: DEAD_SPACE, tls.Epoch.HANDSHAKE: DEAD_SPACE, one_rtt: live}
        self._loss.spaces = [live]
        dead = {tls.Epoch.INITIAL: DEAD_CRYPTO, tls.Epoch.ZERO_RTT: DEAD_CRYPTO, tls.Epoch.HANDSHAKE: DEAD_CRYPTO}
        self._cryptos = {**dead, one_rtt: self._cryptos[one_rtt]}
        self._cryptos_initial = dict.fromkeys(self._cryptos_initial, DEAD_CRYPTO)
        self._peer_token = b""
        self._remote_version_information = None
        self._plain = True

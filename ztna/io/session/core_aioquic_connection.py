"""aioquic's connection as a session uses it: one peer, one path, receive windows that follow credit (core_streams)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.connection import QuicConnectionState, QuicNetworkPath
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from ztna.io.quic_parts import MIN_UDP_PAYLOAD, SizeAwareReno
from ztna.io.quic_types import ConnectionLimits
from ztna.io.session.core_aioquic_bulk import BulkConnection
from ztna.io.session.core_base import MAX_WINDOW_BYTES

PEER: Final = ("peer", 0)
"""What aioquic takes for the peer's address. Packets come and go by whatever path there is; it never learns which."""

CONGESTION_CONTROL: Final = "session-reno"

ACK_EVERY: Final = 16
"""Each acknowledgement costs either side as much as several packets of data; who sends so few waits ACK_DELAY_S."""


class SessionReno(SizeAwareReno):
    """NewReno that blames no path for packets that were sent on another one, and counts what was lost."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.forgiven_until = -1.0
        self.lost = 0

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """What the base classes do, in one call, up to a window that no path here fills."""
        size = packet.sent_bytes
        if size > MIN_UDP_PAYLOAD:
            self.large_lost = 0
        elif self.large_lost:
            self.small_passed = True
        self.bytes_in_flight -= size
        window = self.congestion_window
        if (packet.sent_time or 0.0) <= self._congestion_recovery_start_time or window >= MAX_WINDOW_BYTES:
            return
        if self.ssthresh is None or window < self.ssthresh:
            self.congestion_window = window + size
            return
        self._congestion_stash += size
        if self._congestion_stash >= window:
            self._congestion_stash -= window
            self.congestion_window = window + self._max_datagram_size

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """A congestion event, if some of the packets were sent on the present path."""
        packets = list(packets)
        self.lost += len(packets)
        old = [packet for packet in packets if (packet.sent_time or 0.0) <= self.forgiven_until]
        if old:
            self.on_packets_expired(packets=old)
            packets = [packet for packet in packets if (packet.sent_time or 0.0) > self.forgiven_until]
        if packets:
            super().on_packets_lost(now=now, packets=packets)


register_congestion_control(CONGESTION_CONTROL, SessionReno)


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the receive windows of streams come from: stream id -> offset up to which the peer may send."""

    granted: Callable[[int], int]
    connection_bytes: int


class SessionConnection(BulkConnection):
    """One session's connection on aioquic."""

    ack_every = ACK_EVERY

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        limits: ConnectionLimits,
        windows: Windows,
        original_destination_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            limits=limits,
            original_destination_connection_id=original_destination_connection_id,
        )
        self._windows = windows
        if not configuration.is_client:
            # The peer proved that it receives at its address before it was let in: no amplification limit.
            self._network_paths = [QuicNetworkPath(PEER, is_validated=True)]

    @property
    def reno(self) -> SessionReno:
        """The congestion controller."""
        assert isinstance(self._loss._cc, SessionReno)
        return self._loss._cc

    @property
    def is_blank(self) -> bool:
        """Whether no packet could be decrypted yet."""
        return self._state is QuicConnectionState.FIRSTFLIGHT

    @property
    def awaits_answer(self) -> bool:
        """Whether a packet that asks for an acknowledgement has none."""
        return any(space.ack_eliciting_in_flight for space in self._loss.spaces)

    def unsent(self, stream_id: int) -> int:
        """Bytes of the stream's send buffer that were never sent."""
        stream = self._streams.get(stream_id)
        return stream.sender._buffer_stop - stream.sender.highest_offset if stream is not None else 0

    def may_open(self, unidirectional: bool) -> bool:
        """Whether the peer lets us open one more stream."""
        limit = self._remote_max_streams_uni if unidirectional else self._remote_max_streams_bidi
        return self.get_next_available_stream_id(unidirectional) // 4 < limit

    def forgive(self, now: float) -> None:
        """The path is another one: its probe time-outs start afresh and it is not charged for what was sent before."""
        loss = self._loss
        self.reno.forgiven_until = now
        loss._pto_count = 0
        loss._rtt_first_sample_time = now
        loss._rtt_min = max(loss._rtt_latest, 0.001)
        space = self._spaces[tls.Epoch.ONE_RTT]
        outstanding = [packet for packet in space.sent_packets.values() if packet.is_ack_eliciting]
        if outstanding and loss._time_of_last_sent_ack_eliciting_packet + loss.get_probe_timeout() < now:
            # Overdue already: it went into the old path. Nothing waits for a time-out of the new one.
            loss._on_packets_lost(congestion_event=False, now=now, packets=outstanding, space=space)
        self._settled = False

    def aim_for(self, size: int) -> None:
        """The size that the next size probe is to have, in bytes of UDP payload."""
        self.limits = replace(self.limits, max_udp_payload_bytes=size)

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        local = stream.max_stream_data_local
        if not local:
            return
        if not stream.stream_id or not stream.stream_id & 2:
            stream.max_stream_data_local = max(local, self._windows.granted(stream.stream_id or 0))
            if stream.max_stream_data_local_sent == stream.max_stream_data_local:
                return
        super()._write_stream_limits(builder, space, stream)

    def _find_network_path(self, addr: Any) -> QuicNetworkPath:
        return self._network_paths[0]

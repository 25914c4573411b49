"""Parts that replace pieces of aioquic's connection: cheaper in memory and time, or silent."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.connection import EPOCHS
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace

# Members are singletons, so identity hashes them as well as the name does, without a Python call; aioquic looks epochs
# up in dictionaries ten times per packet. This must precede every set or dictionary that holds one.
tls.Epoch.__hash__ = object.__hash__  # type: ignore[method-assign]

CID_BYTES: Final = 20
MIN_UDP_PAYLOAD: Final = 1200
INITIAL_WINDOW_PACKETS: Final = 10
PACER_TICK_S: Final = 0.001

FRAME_TABLE: Final[Mapping[int, tuple[str, frozenset[tls.Epoch]]]] = {
    frame_type: (handler, EPOCHS(epochs))
    for frame_types, handler, epochs in (
        ((0x00,), "_handle_padding_frame", "IH01"),
        ((0x01,), "_handle_ping_frame", "IH01"),
        ((0x02, 0x03), "_handle_ack_frame", "IH1"),
        ((0x04,), "_handle_reset_stream_frame", "01"),
        ((0x05,), "_handle_stop_sending_frame", "01"),
        ((0x06,), "_handle_crypto_frame", "IH1"),
        ((0x07,), "_handle_new_token_frame", "1"),
        (tuple(range(0x08, 0x10)), "_handle_stream_frame", "01"),
        ((0x10,), "_handle_max_data_frame", "01"),
        ((0x11,), "_handle_max_stream_data_frame", "01"),
        ((0x12,), "_handle_max_streams_bidi_frame", "01"),
        ((0x13,), "_handle_max_streams_uni_frame", "01"),
        ((0x14,), "_handle_data_blocked_frame", "01"),
        ((0x15,), "_handle_stream_data_blocked_frame", "01"),
        ((0x16, 0x17), "_handle_streams_blocked_frame", "01"),
        ((0x18,), "_handle_new_connection_id_frame", "01"),
        ((0x19,), "_handle_retire_connection_id_frame", "01"),
        ((0x1A,), "_handle_path_challenge_frame", "01"),
        ((0x1B,), "_handle_path_response_frame", "01"),
        ((0x1C,), "_handle_connection_close_frame", "IH01"),
        ((0x1D,), "_handle_connection_close_frame", "01"),
        ((0x1E,), "_handle_handshake_done_frame", "1"),
        ((0x30, 0x31), "_handle_datagram_frame", "01"),
    )
    for frame_type in frame_types
}


class FrameHandlers(dict[int, tuple[Callable[..., None], frozenset[tls.Epoch]]]):
    """Frame handlers bound on first use: most connections ever need five of the thirty, and thirty cost 12 KiB."""

    __slots__ = ("_connection",)

    def __init__(self, connection: object) -> None:
        self._connection = connection

    def __missing__(self, frame_type: int) -> tuple[Callable[..., None], frozenset[tls.Epoch]]:
        name, epochs = FRAME_TABLE[frame_type]
        entry = self[frame_type] = (getattr(self._connection, name), epochs)
        return entry


class Silent:
    """Stands in for the per-connection logger adapter: peers must not be able to write log lines, and it costs time."""

    def debug(self, *_: object) -> None:
        """Nothing."""

    info = warning = error = debug


class SpentTls:
    """What is left of the TLS engine after the handshake: refuse (server) or ignore (client) late messages."""

    __slots__ = ("alpn_negotiated", "state")

    def __init__(self, state: tls.State, alpn: str | None) -> None:
        self.state = state
        self.alpn_negotiated = alpn

    def handle_message(self, _data: bytes, _buffers: object) -> None:
        """A server gets no TLS message any more (RFC 9001 s8.3); a client may get session tickets, unused here."""
        if self.state == tls.State.SERVER_POST_HANDSHAKE:
            raise tls.AlertUnexpectedMessage


SILENT: Final = Silent()
DEAD_CRYPTO: Final = CryptoPair()
DEAD_SPACE: Final = QuicPacketSpace()
DEAD_SPACE.discarded = True
NO_BUFFERS: Final[dict[tls.Epoch, Buffer]] = {}


class SizeAwareReno(RenoCongestionControl):
    """NewReno that takes no lost size probe for congestion (RFC 8899 s3) and counts large packets lost in a row."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.large_lost = 0
        self.large_lost_since = 0.0
        self.small_passed = False

    def set_payload(self, size: int) -> None:
        """The size of UDP payloads from now on, in bytes."""
        self._max_datagram_size = size
        self.large_lost = 0

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Note whether large packets pass, or only small ones."""
        if packet.sent_bytes > MIN_UDP_PAYLOAD:
            self.large_lost = 0
        elif self.large_lost:
            self.small_passed = True
        super().on_packet_acked(now=now, packet=packet)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Packets given up without a congestion event."""
        packets = list(packets)
        self._count_large(packets)
        super().on_packets_expired(packets=packets)

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """A congestion event, unless only a size probe was lost."""
        packets = list(packets)
        probes = [packet for packet in packets if packet.sent_bytes > self._max_datagram_size]
        if probes:
            super().on_packets_expired(packets=probes)
            packets = [packet for packet in packets if packet.sent_bytes <= self._max_datagram_size]
        self._count_large(packets)
        if packets:
            super().on_packets_lost(now=now, packets=packets)

    def _count_large(self, packets: list[QuicSentPacket]) -> None:
        for packet in packets:
            if packet.sent_bytes > MIN_UDP_PAYLOAD:
                if not self.large_lost:
                    self.large_lost_since = packet.sent_time or 0.0
                    self.small_passed = False
                self.large_lost += 1


class BatchPacer(QuicPacketPacer):
    """Pacing a timer of 1 ms keeps up with: bursts of the initial window (RFC 9002 s7.7), or of one tick if more."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Set the rate to one congestion window in bytes per smoothed round trip in seconds."""
        super().update_rate(congestion_window, smoothed_rtt)
        assert self.packet_time is not None
        self.bucket_max = max(self.bucket_max, INITIAL_WINDOW_PACKETS * self.packet_time, PACER_TICK_S)


CONGESTION_CONTROL: Final = "size-aware-reno"
register_congestion_control(CONGESTION_CONTROL, SizeAwareReno)


def random_cid() -> bytes:
    """A fresh 20-byte connection ID whose first byte is at least 0x40."""
    cid = bytearray(os.urandom(CID_BYTES))
    if cid[0] < 0x40:
        cid[0] |= 0x40
    return bytes(cid)

"""The short way for bulk data on aioquic: 1-RTT packets that carry one STREAM frame, out and in.

What `ztna.io.quic_fast` is for DATAGRAM frames. aioquic first says what else there is to say, with stream data held
back; then packets are filled here with stream data alone. A packet that came and holds one STREAM frame is taken here;
anything else is aioquic's. The state that is changed is aioquic's own (checked against 1.7.2).
"""

from collections import deque
from typing import Any, Final

from aioquic import tls
from aioquic.quic.connection import (
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, QuicStreamFrame
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import FinalSizeError, QuicStream, StreamFinishedError

from ztna.io.quic_connection import GuardedConnection
from ztna.io.quic_protection import PACKET_NUMBER_BYTES, TAG_BYTES, seal

FEW_DATAGRAMS: Final = 2
"""So many go out with the acknowledgement that is due, in one packet; more get packets of their own, cheaper."""

STREAM: Final = 0x08
STREAM_END: Final = 0x10
OFFSET_BIT: Final = 0x04
LENGTH_BIT: Final = 0x02
FIN_BIT: Final = 0x01
VARINT_MASK: Final = (0x3F, 0x3FFF, 0x3FFF_FFFF, 0x3FFF_FFFF_FFFF_FFFF)

NOTHING: Final[list[bytes]] = []

_ONE_RTT: Final = tls.Epoch.ONE_RTT


class BulkConnection(GuardedConnection):
    """GuardedConnection with a short way for stream data."""

    _hold_streams = False
    _idle_rtt = -1.0
    _idle_s = 0.0

    # send

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """UDP payloads to send, each with its address (aioquic's verb)."""
        waiting = len(self._datagrams_pending)
        streams = self._plain and self._has_stream_data()
        if not self._plain or not (streams or waiting > FEW_DATAGRAMS) or self._close_pending:
            return super().datagrams_to_send(now)
        if self._state is not QuicConnectionState.CONNECTED:
            return super().datagrams_to_send(now)
        packets: list[tuple[bytes, Any]] = []
        due = self._spaces[_ONE_RTT].ack_at
        if not self._settled or (due is not None and due <= now):
            packets = self._all_else(now)
        if waiting:
            packets += self._datagrams_plain(now)
        if streams and not (self._pacing_at is not None and self._datagrams_pending):
            packets += self._streams_plain(now)
        return packets

    def _has_stream_data(self) -> bool:
        return any(not stream.sender.buffer_is_empty for stream in self._streams_queue)

    def _all_else(self, now: float) -> list[tuple[bytes, Any]]:
        """What aioquic has to say but for DATAGRAM and STREAM frames."""
        datagrams, self._datagrams_pending = self._datagrams_pending, deque()
        self._hold_streams = True
        try:
            packets = QuicConnection.datagrams_to_send(self, now)
        finally:
            self._datagrams_pending = datagrams
            self._hold_streams = False
        self._settled = self._pacing_at is None and not self._close_pending
        return packets

    def _write_stream_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream, max_offset: int
    ) -> int:
        return 0 if self._hold_streams else super()._write_stream_frame(builder, space, stream, max_offset)

    def _streams_plain(self, now: float) -> list[tuple[bytes, Any]]:
        """Packets of stream data, a packet from each stream in turn, as far as all limits allow."""
        loss, space, crypto = self._loss, self._spaces[_ONE_RTT], self._cryptos[_ONE_RTT]
        pacer, congestion, to = loss._pacer, loss._cc, self._network_paths[0].addr
        cid = self._peer_cid.cid
        overhead = 1 + len(cid) + PACKET_NUMBER_BYTES + TAG_BYTES
        room = self._max_datagram_size - overhead
        first = number = self._packet_number
        payloads: list[bytes] = []
        turn = deque(stream for stream in self._streams_queue if self._may_send(stream))
        while turn:
            # Declared to return a float always, it returns None while nothing has to wait.
            wait: float | None = pacer.next_send_time(now=now)
            self._pacing_at = wait
            if wait is not None or congestion.congestion_window - congestion.bytes_in_flight < self._max_datagram_size:
                break
            stream = turn[0]
            taken = self._stream_payload(stream, room)
            if taken is None:
                turn.popleft()
                continue
            payload, delivery = taken
            turn.rotate(-1)
            size = overhead + len(payload)
            packet = QuicSentPacket(_ONE_RTT, True, True, False, number, QuicPacketType.ONE_RTT, now, size)
            packet.delivery_handlers.append((stream.sender.on_data_delivery, delivery))
            loss.on_packet_sent(packet=packet, space=space)
            pacer.update_after_send(now=now)
            payloads.append(payload)
            number += 1
        self._packet_number = number
        if payloads and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        return [(data, to) for data in seal(crypto, cid, self._spin_bit, first, payloads)]

    @staticmethod
    def _may_send(stream: QuicStream) -> bool:
        sender = stream.sender
        return not (sender.buffer_is_empty or sender.reset_pending or stream.is_blocked or sender.is_finished)

    def _stream_payload(self, stream: QuicStream, room: int) -> tuple[bytes, tuple[int, int, bool]] | None:
        """One STREAM frame that ends its packet, and what its delivery is to be told; None if there is none to send."""
        sender = stream.sender
        before = sender.highest_offset
        limit = min(before + self._remote_max_data - self._remote_max_data_used, stream.max_stream_data_remote)
        # The offset may take eight bytes: what it takes less is left empty.
        head = _varint(stream.stream_id or 0)
        frame = sender.get_frame(room - 9 - len(head), limit)
        if frame is None:
            return None
        self._remote_max_data_used += sender.highest_offset - before
        start, fin = frame.offset, frame.fin
        kind = STREAM | OFFSET_BIT | (FIN_BIT if fin else 0)
        return b"%c%b%b%b" % (kind, head, _varint(start), frame.data), (start, start + len(frame.data), fin)

    # receive

    def _take_plain(self, first: int, number: int, payload: bytes, now: float) -> list[bytes] | None:
        """What aioquic does with a packet that is authentic and new; returns as `receive`."""
        found = _stream_frame(payload) if STREAM <= payload[0] < STREAM_END else None
        if found is None:
            return super()._take_plain(first, number, payload, now)
        self._settled = False
        try:
            self._take_stream_frame(*found)
        except StreamFinishedError:
            pass
        except QuicConnectionError as exc:
            self.close(error_code=exc.error_code, frame_type=exc.frame_type, reason_phrase=exc.reason_phrase)
            return None
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        space = self._spaces[_ONE_RTT]
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if space.ack_at is None:
            space.ack_at = now + self._ack_delay
        return NOTHING

    def _take_stream_frame(self, stream_id: int, offset: int, fin: bool, data: bytes) -> None:
        """What aioquic does with a STREAM frame (`_handle_stream_frame`)."""
        stream = self._streams.get(stream_id)
        if stream is None or stream_id & 2:
            self._assert_stream_can_receive(QuicFrameType.STREAM_BASE, stream_id)
            stream = self._get_or_create_stream(QuicFrameType.STREAM_BASE, stream_id)
        end, receiver, limit = offset + len(data), stream.receiver, self._local_max_data
        fresh = max(0, end - receiver.highest_offset)
        if end > stream.max_stream_data_local or limit.used + fresh > limit.value:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, QuicFrameType.STREAM_BASE, "Over a data limit")
        limit.used += fresh
        plain = data and not (fin or receiver._buffer or receiver._final_size is not None or receiver.is_finished)
        if plain and offset == receiver._buffer_start:
            receiver._buffer_start = receiver.highest_offset = end
            self._events.append(StreamDataReceived(data, False, stream_id))
            return
        try:
            event = receiver.handle_frame(QuicStreamFrame(data=data, fin=fin, offset=offset))
        except FinalSizeError as exc:
            raise QuicConnectionError(QuicErrorCode.FINAL_SIZE_ERROR, QuicFrameType.STREAM_BASE, str(exc)) from exc
        if event is not None:
            self._events.append(event)
        self._check_gaps(stream)

    def _idle_timeout(self) -> float:
        # Asked for every packet; changes with the round-trip time only.
        smoothed = self._loss._rtt_smoothed
        if smoothed != self._idle_rtt:
            self._idle_rtt = smoothed
            self._idle_s = super()._idle_timeout()
        return self._idle_s


def _varint(value: int) -> bytes:
    if value < 0x40:
        return bytes((value,))
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def _stream_frame(payload: bytes) -> tuple[int, int, bool, bytes] | None:
    """Stream id, offset, FIN and data of the one STREAM frame that is the payload; None if it is anything else."""
    kind, end, at = payload[0], len(payload), 1
    values = [0, 0, -1]
    for index in (0, *((1,) if kind & OFFSET_BIT else ()), *((2,) if kind & LENGTH_BIT else ())):
        if at >= end:
            return None
        size = payload[at] >> 6
        stop = at + (1 << size)
        if stop > end:
            return None
        values[index] = int.from_bytes(payload[at:stop], "big") & VARINT_MASK[size]
        at = stop
    length = values[2]
    if length >= 0 and at + length != end:
        return None
    if values[1] + end - at > VARINT_MASK[3]:
        return None
    return values[0], values[1], bool(kind & FIN_BIT), payload[at:]

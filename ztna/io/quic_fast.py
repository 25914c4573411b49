"""The short way for what a relay does all day: 1-RTT packets that carry DATAGRAM frames, on one validated path.

aioquic asks of every packet, coming or going, what only a handshake, a migration or a stream can need, and builds an
empty packet to find that there is nothing to say. Once the handshake is confirmed this class answers those questions
with one flag, and leaves to aioquic whatever is not plain: other headers, other addresses, a key update, a packet that
does not decrypt or came twice, and the sending of everything but DATAGRAM frames. The state it changes is aioquic's own
(checked against 1.7.2), so that either way may take the next packet.
"""

from collections import deque
from typing import Any, Final

from aioquic import tls
from aioquic._crypto import CryptoError
from aioquic.quic.connection import (
    END_STATES,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicPacketType, decode_packet_number
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES

from ztna.io.quic_protection import PACKET_NUMBER_BYTES, TAG_BYTES, seal, unmask

CID_END: Final = 21
"""First byte and our 20-byte connection ID: a short header ends here (RFC 9000 s17.3.1)."""

SMALLEST_PACKET: Final = CID_END + 4 + TAG_BYTES
DATAGRAM: Final = 0x30
DATAGRAM_WITH_LENGTH: Final = 0x31

_ONE_RTT: Final = tls.Epoch.ONE_RTT


class FastConnection(QuicConnection):
    """aioquic's connection with a short way in and out for DATAGRAM frames."""

    _plain = False
    """Handshake confirmed and trimmed: the short way may be tried."""

    _settled = False
    """aioquic had its say since anything but DATAGRAM frames came or was asked for: it has nothing to send now."""

    _datagrams_pending: deque[bytes]

    @property
    def is_plain(self) -> bool:
        """Whether the handshake is over and the short way may be tried."""
        return self._plain

    def receive(self, data: bytes, addr: Any, now: float) -> list[bytes] | None:
        """Take one UDP payload from `addr`.

        Returns:
            the data of its DATAGRAM frames if it held nothing else, or None: what it brought waits as events.
        """
        if self._plain and (packet := self._decrypt_plain(data, addr)) is not None:
            return self._take_plain(*packet, now)
        self.receive_datagram(data, addr, now)
        return None

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Take one UDP payload from `addr` (aioquic's verb)."""
        self._settled = False
        super().receive_datagram(data, addr, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """UDP payloads to send, each with its address (aioquic's verb)."""
        if self._settled and len(self._network_paths) == 1:
            due = self._spaces[_ONE_RTT].ack_at
            if due is None or due > now:
                return self._datagrams_plain(now) if self._datagrams_pending else []
        packets = super().datagrams_to_send(now)
        self._settled = (
            self._plain
            and self._pacing_at is None
            and not (self._datagrams_pending or self._close_pending)
            and self._network_paths[0].is_validated
        )
        return packets

    # whatever may give aioquic something to say

    def handle_timer(self, now: float) -> None:
        """The timer fired (aioquic's verb)."""
        self._settled = False
        super().handle_timer(now)

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the connection (aioquic's verb)."""
        self._settled = False
        super().close(*args, **kwargs)

    def send_ping(self, uid: int) -> None:
        """Queue a PING (aioquic's verb)."""
        self._settled = False
        super().send_ping(uid)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Write to a stream (aioquic's verb)."""
        self._settled = False
        super().send_stream_data(stream_id, data, end_stream)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Abandon sending on a stream (aioquic's verb)."""
        self._settled = False
        super().reset_stream(stream_id, error_code)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        """Ask the peer to abandon a stream (aioquic's verb)."""
        self._settled = False
        super().stop_stream(stream_id, error_code)

    def change_connection_id(self) -> None:
        """Use another of the peer's connection IDs (aioquic's verb)."""
        self._settled = False
        super().change_connection_id()

    def request_key_update(self) -> None:
        """Change keys with the next packet (aioquic's verb)."""
        self._settled = False
        super().request_key_update()

    # receive

    def _decrypt_plain(self, data: bytes, addr: Any) -> tuple[int, int, bytes] | None:
        """First byte, number and payload of a 1-RTT packet; None, with nothing changed, if it is not plain."""
        paths = self._network_paths
        if (
            data[0] & 0xC0 != 0x40
            or len(data) < SMALLEST_PACKET
            or data[1:CID_END] != self.host_cid
            or len(paths) != 1
            or paths[0].addr != addr
            or not paths[0].is_validated
            or self._state is not QuicConnectionState.CONNECTED
            or self._close_pending
        ):
            return None
        keys, space = self._cryptos[_ONE_RTT].recv, self._spaces[_ONE_RTT]
        if keys.hp is None or keys.aead is None:
            return None
        header, truncated, size = unmask(keys.hp, data, CID_END)
        first = header[0]
        if first & 0x18 or (first & 4) >> 2 != keys.key_phase:
            return None
        number = decode_packet_number(truncated, size * 8, space.expected_packet_number)
        try:
            payload = keys.aead.decrypt(data[CID_END + size :], header, number)
        except CryptoError:
            return None
        return None if number in space.received_packets else (first, number, payload)

    def _take_plain(self, first: int, number: int, payload: bytes, now: float) -> list[bytes] | None:
        """What aioquic does with a packet that is authentic and new; returns as `receive`."""
        space = self._spaces[_ONE_RTT]
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            spin = bool(first & 0x20)
            self._spin_bit = not spin if self._is_client else spin
            self._spin_highest_pn = number
        ack_eliciting = True
        frames = datagram_frames(payload, self._configuration.max_datagram_frame_size or 0)
        if frames is None:
            self._settled = False
            context = QuicReceiveContext(_ONE_RTT, self.host_cid, self._network_paths[0], None, now, None)
            try:
                ack_eliciting, _ = self._payload_received(context, payload)
            except QuicConnectionError as exc:
                self.close(error_code=exc.error_code, frame_type=exc.frame_type, reason_phrase=exc.reason_phrase)
            if self._state in END_STATES or self._close_pending:
                return None
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if ack_eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay
        return frames

    # send

    def _datagrams_plain(self, now: float) -> list[tuple[bytes, Any]]:
        """Packets of queued DATAGRAM frames, as many as pacing and congestion window allow; the rest stays queued."""
        pending, loss, space = self._datagrams_pending, self._loss, self._spaces[_ONE_RTT]
        crypto, to = self._cryptos[_ONE_RTT], self._network_paths[0].addr
        pacer, congestion = loss._pacer, loss._cc
        cid = self._peer_cid.cid
        overhead = 1 + len(cid) + PACKET_NUMBER_BYTES + TAG_BYTES
        room = self._max_datagram_size - overhead
        first = number = self._packet_number
        payloads: list[bytes] = []
        while pending:
            # Declared to return a float always, it returns None while nothing has to wait.
            wait: float | None = pacer.next_send_time(now=now)
            self._pacing_at = wait
            if wait is not None:
                break
            window = congestion.congestion_window - congestion.bytes_in_flight
            payload = b""
            fits = min(room, window - self._max_datagram_size + room)
            while pending and len(frame := _frame(pending[0])) + len(payload) <= fits:
                payload += frame
                pending.popleft()
            if not payload:
                break
            size = overhead + len(payload)
            packet = QuicSentPacket(_ONE_RTT, True, True, False, number, QuicPacketType.ONE_RTT, now, size)
            loss.on_packet_sent(packet=packet, space=space)
            pacer.update_after_send(now=now)
            payloads.append(payload)
            number += 1
        self._packet_number = number
        if payloads and not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        return [(data, to) for data in seal(crypto, cid, self._spin_bit, first, payloads)]


def _frame(data: bytes) -> bytes:
    """One DATAGRAM frame with its length (RFC 9221 s4); no UDP payload needs more than two bytes for it."""
    size = len(data)
    return (bytes((DATAGRAM_WITH_LENGTH, size)) if size < 0x40 else b"\x31" + (size | 0x4000).to_bytes(2, "big")) + data


def datagram_frames(payload: bytes, limit: int) -> list[bytes] | None:
    """Data of the DATAGRAM frames that make up the whole payload, or None if it holds anything else.

    Args:
        payload: decrypted payload of a packet.
        limit: our max_datagram_frame_size in bytes (RFC 9221 s3); a larger frame is not plain.
    """
    found: list[bytes] = []
    at, end = 0, len(payload)
    while at < end:
        kind, start = payload[at], at + 1
        if kind == DATAGRAM_WITH_LENGTH and start < end:
            length = payload[start]
            if length < 0x40:
                start += 1
            elif length < 0x80 and start + 1 < end:
                length = (length & 0x3F) << 8 | payload[start + 1]
                start += 2
            else:
                return None
            stop = start + length
        elif kind == DATAGRAM:
            stop = end
        else:
            return None
        if stop > end or stop - at > limit:
            return None
        found.append(payload[start:stop])
        at = stop
    return found or None

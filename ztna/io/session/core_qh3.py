"""The native core of sessions: qh3 behind our guards.

Its packet core sends every DATAGRAM it is given and knows no bound for them, so they wait in our queue until its own
congestion window has room (RFC 9221 s5.4). It closes nothing by itself that floods it with control frames; what is in
flight beyond any window it had is taken for such a flood.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

from ztna.io.quic_parts import MIN_UDP_PAYLOAD
from ztna.io.session.core import SessionTls
from ztna.io.session.core_base import DEFAULT_RTT_S, MAX_WINDOW_BYTES, CoreBase
from ztna.io.session.core_qh3_connection import MAX_DATAGRAM_BYTES, Qh3Connection
from ztna.io.session.core_qh3_ends import LoneEnds
from ztna.io.session.core_qh3_sizes import LargePackets

SHORT_HEADER: Final = 1 + 2 + 16 + 3
"""First byte, packet number, AEAD tag, DATAGRAM frame type and length; the peer's connection ID comes on top."""

PACKETS_PER_CALL: Final = 512
ACK_TIMER: Final = "ack_application"
FLOOD_BYTES: Final = 1_048_576
PROTOCOL_VIOLATION: Final = 0x0A
SETTLE_S: Final = 2.0
TRICKLE_BYTES: Final = 1024
SIZE_ASKED_S: Final = 0.02
BLACK_HOLE_S: Final = 0.25
PROBE_TIMEOUTS: Final = 3


class Qh3Core(CoreBase):
    """See `ztna.io.session.core.SessionCore`."""

    name = "qh3"

    def __init__(self, settings: SessionTls, now: float, *, is_client: bool) -> None:
        super().__init__(settings, now, is_client=is_client)
        self._connection: Qh3Connection | None = Qh3Connection(settings, now) if is_client else None
        self._over = False
        self._peak_window = 0
        self._heard_at = now
        self._size = MIN_UDP_PAYLOAD
        self._size_asked_at = now
        self._sizes = LargePackets()
        # A server's native core cannot grow its payloads: it is made large, and held small until the path is known.
        self._cleared = is_client
        self._clear_by = math.inf
        self._flight = 0
        self._trickle: list[tuple[int, bytes, bool]] = []
        self._lone_ends = LoneEnds()

    def start(self, now: float) -> None:
        """See `SessionCore`."""
        self._now = now
        self._deadline = now + self.settings.handshake_timeout_s
        if self._connection is not None:
            self._connection.start()

    # packets in

    def _feed_all(self, packets: Sequence[bytes], now: float) -> None:
        connection = self._connection
        if connection is None or not connection.complete or not self._cleared:
            super()._feed_all(packets, now)
            return
        self._heard_at = now
        audit = connection.audit
        if audit is not None and (drawn := audit.due(len(packets))) is not None and audit.overdrawn(packets[drawn]):
            self._end(PROTOCOL_VIOLATION, "too many control frames")
            return
        try:
            connection.receive(packets, now)
        except Exception:
            # One of them broke the batch, which tells neither which nor what came of the others.
            super()._feed_all(packets, now)
            return
        self._errors = 0
        self._take(connection)

    def _feed(self, packet: bytes, now: float) -> None:
        connection = self._connection
        if len(packet) > MAX_DATAGRAM_BYTES:
            return
        if connection is None:
            original = Qh3Connection.original_of(packet)
            if original is None:
                return
            connection = self._connection = Qh3Connection(self.settings, now, original=original)
        self._heard_at = now
        if connection.complete:
            taken = connection.receive((packet,), now)
            if taken and not self._cleared and len(packet) >= connection.udp_payload_bytes:
                # What the peer's probe could pass will pass the other way too.
                self._cleared = True
                self._size = connection.udp_payload_bytes
            self._take(connection)
            return
        self._shake_hands(connection, packet, now)

    def _shake_hands(self, connection: Qh3Connection, packet: bytes, now: float) -> None:
        for event in connection.receive_handshake(packet, now):
            self._event(event)
        if not self._is_client and not connection.core.received_authenticated_packet:
            # Its keys come from the packet itself: this one was broken, or is none, and must not stand in the way.
            self._connection = None
            self._deadline = math.inf
            return
        if connection.complete:
            # A refusal must not overtake what completes the handshake, or the server cannot read it.
            connection.poll_ready()
            self._handshake_done(connection.alpn, connection.chain)
            self._clear_by = now + SETTLE_S
            self._take(connection)
        elif connection.failure is not None:
            self._report_closed(*connection.failure, by_peer=False)

    def _take(self, connection: Qh3Connection) -> None:
        payloads: list[bytes] = []
        for event in iter(connection.core.next_event, None):
            kind = event[0]
            if kind == "datagram":
                payloads.append(event[1])
            elif kind == "stream_data":
                self._stream_data(event[1], event[2], event[3])
            else:
                self._event(event)
        if payloads:
            self._datagrams(payloads)

    def _event(self, event: tuple[Any, ...]) -> None:
        match event[0]:
            case "datagram":
                self._datagrams((event[1],))
            case "stream_data":
                self._stream_data(event[1], event[2], event[3])
            case "stream_reset":
                self._stream_reset(event[1], event[2])
            case "stop_sending":
                self._stream_stopped(event[1], event[2])
            case "peer_closed":
                self._report_closed(event[2], event[4].decode("utf8", "replace"), by_peer=True)
            case "protocol_error":
                self._report_closed(event[1], event[3], by_peer=False)
            case "connection_terminated":
                self._over = True
                reason = event[3].decode("utf8", "replace")
                idle = reason == "Idle timeout"
                self._report_closed(0 if idle else event[1], "idle timeout" if idle else reason, by_peer=False)

    # packets out

    def _build(self, now: float) -> list[bytes]:
        connection = self._connection
        if connection is None or self._over:
            return []
        core = connection.core
        packets, connection.ready = connection.ready, []
        if self.established:
            if not self._cleared:
                self._limits(connection, now)
            if self._queue:
                self._next_timer(core)
                self._admit(core)
        packets += self._poll(core, now)
        if self._is_client and not connection.complete and packets and not core.received_authenticated_packet:
            packets = self._first_flight(packets)
        while self._trickle and not core.get_send_buffer_size():
            core.send_stream(*self._trickle.pop(0))
            packets += self._poll(core, now)
        if self._lone_ends and (ended := self._lone_ends.ready(core, now)):
            for stream_id in ended:
                self._push(stream_id, b"", True)
            packets += self._poll(core, now)
        if self._size > MIN_UDP_PAYLOAD:
            self._sizes.sent += sum(map(MIN_UDP_PAYLOAD.__lt__, map(len, packets)))
        if core.has_events:
            self._take(connection)
        return packets

    @staticmethod
    def _next_timer(core: Any) -> tuple[str, float] | None:
        """The native core's time, but for acknowledgements: these are due at once, and leave when the owner sends.

        Left to its timer of a millisecond they would not go along with data that leave before: a packet more here, and
        one to take in for the peer.
        """
        timer: tuple[str, float] | None = core.get_timer()
        if timer is not None and timer[0] == ACK_TIMER:
            core.handle_timer(timer[1])
            timer = core.get_timer()
        return timer

    def _poll(self, core: Any, now: float) -> list[bytes]:
        transmits = iter(partial(core.poll_transmit, now), None)
        return [transmit[0] for transmit in islice(transmits, PACKETS_PER_CALL)]

    def _first_flight(self, packets: list[bytes]) -> list[bytes]:
        """Without the PING that is the second probe of a time-out: servers refuse a first packet without CRYPTO."""
        if not self._flight:
            self._flight = len(packets)
        return packets[: self._flight]

    def _admit(self, core: Any) -> None:
        """Give the native core as many DATAGRAMs as its congestion window has room for."""
        room = min(core.congestion_window, MAX_WINDOW_BYTES) - core.bytes_in_flight
        if core.get_send_buffer_size():
            room //= 2
        queue, overhead, spent = self._queue, SHORT_HEADER + 8, 0
        send = core.send_datagram
        if self._queue_bytes + overhead * len(queue) <= room:
            for data in queue:
                send(data)
            queue.clear()
            self._queue_bytes = 0
            return
        while queue:
            size = len(queue[0]) + overhead
            if size > room:
                break
            room -= size
            data = queue.popleft()
            spent += len(data)
            send(data)
        self._queue_bytes -= spent

    def _after(self, now: float) -> None:
        if self.established and self._connection is not None:
            self._limits(self._connection, now)
        super()._after(now)

    def _limits(self, connection: Qh3Connection, now: float) -> None:
        core = connection.core
        window, flying = core.congestion_window, core.bytes_in_flight
        if window > self._peak_window:
            self._peak_window = window
        if flying > self._peak_window + FLOOD_BYTES:
            self._end(PROTOCOL_VIOLATION, "too many answers asked for")
            return
        if not self._cleared:
            if now >= self._clear_by or core.loss_total or core.pto_count:
                # What is sent again is sent in packets as large as may be.
                self._cap(connection)
        elif now >= self._size_asked_at + SIZE_ASKED_S:
            self._size_asked_at = now
            self._size = connection.udp_payload_bytes
            if self._size > MIN_UDP_PAYLOAD and self._swallowed(connection, now):
                self._cap(connection)

    # size of UDP payloads

    def _swallowed(self, connection: Qh3Connection, now: float) -> bool:
        """Whether the path seems to swallow large packets (RFC 8899 s4.3)."""
        core = connection.core
        if core.pto_count >= PROBE_TIMEOUTS:
            # Nothing is acknowledged although the peer is heard: what is sent again and again does not pass.
            return now - self._heard_at < SIZE_ASKED_S + 4 * (core.smoothed_rtt or DEFAULT_RTT_S)
        suspicion = self._sizes.suspicion
        lost = self._sizes.judge(core, now, max(BLACK_HOLE_S, 3 * (core.smoothed_rtt or DEFAULT_RTT_S)))
        if self._sizes.suspicion > suspicion:
            self.ping()
        return lost

    def _cap(self, connection: Qh3Connection) -> None:
        """Small packets from now on; the native core cannot grow them again."""
        if not connection.cap_payload(MIN_UDP_PAYLOAD):
            return
        if self._cleared:
            self.stats.payload_shrunk += 1
        self._cleared = True
        self._size = connection.udp_payload_bytes
        self._drop_oversize()

    # time

    def _timer(self) -> float:
        connection = self._connection
        if connection is None or self._over:
            return math.inf
        timer = self._next_timer(connection.core)
        due = min(timer[1] if timer is not None else math.inf, self._lone_ends.get_timer(connection.core))
        return due if self._cleared or self.closed else min(due, self._clear_by)

    def _fire(self, now: float) -> None:
        connection = self._connection
        if connection is None:
            return
        connection.core.handle_timer(now)
        if self.established:
            self._limits(connection, now)
        elif not self._cleared and connection.core.pto_count:
            self._cap(connection)
        self._take(connection)

    # streams (core_streams.Engine)

    def push(self, stream_id: int, data: bytes, fin: bool) -> bool:
        """Give data to a stream's send buffer."""
        assert self._connection is not None
        held = fin and not data and self._lone_ends.hold(stream_id, self._connection.core, self._now)
        return held or self._push(stream_id, data, fin)

    def _push(self, stream_id: int, data: bytes, fin: bool) -> bool:
        assert self._connection is not None
        if not self._cleared:
            pieces = [data[at : at + TRICKLE_BYTES] for at in range(0, len(data), TRICKLE_BYTES)] or [b""]
            self._trickle += [(stream_id, piece, fin and at == len(pieces) - 1) for at, piece in enumerate(pieces)]
            return True
        try:
            for held in self._trickle:
                self._connection.core.send_stream(*held)
            self._trickle.clear()
            self._connection.core.send_stream(stream_id, data, fin)
        except (ValueError, RuntimeError):
            return False
        return True

    def unsent(self, stream_id: int) -> int:
        """Bytes of the stream that were never sent."""
        if self._connection is None:
            return 0
        held = sum(len(piece) for owner, piece, _ in self._trickle if owner == stream_id) if self._trickle else 0
        return held + int(self._connection.core.get_send_buffer_size(stream_id))

    def open(self, unidirectional: bool) -> int:
        """Open a stream of ours, or return -1."""
        if self._connection is None:
            return -1
        try:
            return int(self._connection.core.open_stream(unidirectional))
        except (ValueError, RuntimeError):
            return -1

    def _abandon_stream(self, stream_id: int, code: int) -> None:
        if self._connection is None:
            return
        self._trickle = [each for each in self._trickle if each[0] != stream_id]
        self._lone_ends.drop(stream_id)
        for action in (self._connection.core.reset_stream, self._connection.core.stop_sending):
            try:
                action(stream_id, code)
            except (ValueError, RuntimeError):
                continue

    # connection

    @property
    def quiet(self) -> bool:
        """See `SessionCore`: the native core acknowledges whenever it is asked for packets."""
        connection = self._connection
        if connection is None or not self.established or self._queue or self._trickle or connection.ready:
            return False
        return not self._streams.has_grants and not connection.core.get_send_buffer_size()

    @property
    def awaits_answer(self) -> bool:
        """See `SessionCore`."""
        return self._connection is not None and self._connection.core.bytes_in_flight > 0

    def ping(self) -> None:
        """See `SessionCore`."""
        if self._connection is not None and self.established:
            self._connection.core.send_ping(0)

    def _abandon(self) -> None:
        self._over = True

    def _close_wire(self, code: int, reason: str, *, application: bool) -> None:
        if self._connection is None or self._over:
            self._over = True
            return
        self._connection.core.close(code, None if application else 0, reason.encode()[:128])

    def _update_keys(self) -> None:
        if self._connection is not None:
            self._connection.core.request_key_update()

    def _lost_and_sent(self) -> tuple[int, int]:
        connection = self._connection
        return (int(connection.core.loss_total), self.stats.packets_sent) if connection is not None else (0, 0)

    @property
    def rtt_s(self) -> float | None:
        """See `SessionCore`."""
        return self._connection.core.smoothed_rtt if self._connection is not None else None

    @property
    def max_datagram_payload(self) -> int:
        """See `SessionCore`."""
        connection = self._connection
        if connection is None or not self.established:
            return 0
        fits = min(self._size, connection.peer_udp_payload) - SHORT_HEADER - connection.peer_cid_bytes
        return max(0, min(fits, connection.peer_datagram_frame - 3))

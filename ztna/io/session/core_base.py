"""What both session cores share: the guards around a QUIC implementation, its time limits and the state of a session.

A core is a subclass that says how its implementation takes and builds packets. Whatever an implementation raises costs
the packet that made it raise; ERRORS_IN_A_ROW of them end the connection. DATAGRAMs are checked for their size before
they are queued, and the queue drops its oldest.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from ztna.io.certs import TrustAnchors, verify_server
from ztna.io.quic_types import PeerRejected
from ztna.io.session.core import (
    Closed,
    CoreEvent,
    CoreStats,
    HandshakeDone,
    PayloadLimit,
    SessionTls,
    StreamReceived,
    StreamReset,
    StreamWritable,
)
from ztna.io.session.core_hooks import CoreHooks
from ztna.io.session.core_streams import CreditViolation, SessionStreams
from ztna.io.session.core_tls import anchors_of, check_name

ERRORS_IN_A_ROW: Final = 8
FLOW_CONTROL_ERROR: Final = 0x03
INTERNAL_ERROR: Final = 0x01
NUDGES: Final = 3
REKEY_PACKETS: Final = 4_194_304
"""Half of what AES-GCM may protect under one key (RFC 9001 s6.6)."""

PANIC: Final = "PanicException"
LOSS_SAMPLE_PACKETS: Final = 64
MAX_WINDOW_BYTES: Final = 8_388_608
"""Congestion windows grow with what an application sends though it never fills them; beyond this they mean nothing."""

DEFAULT_RTT_S: Final = 0.1


class CoreBase(CoreHooks):
    """State and guards of one session core; see `ztna.io.session.core.SessionCore` for the verbs."""

    def __init__(self, settings: SessionTls, now: float, *, is_client: bool) -> None:
        self.settings = settings
        self.stats = CoreStats()
        self.established = False
        self.closed = False
        self.peer_chain: list[bytes] = []
        self.loss = 0.0
        self._is_client = is_client
        self._now = now
        self._anchors: TrustAnchors | None = anchors_of(settings.ca_pem) if is_client and settings.verify_peer else None
        self._events: deque[CoreEvent] = deque()
        self._inbox: list[bytes] = []
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._errors = 0
        self._deadline = now + settings.handshake_timeout_s if is_client else math.inf
        self._nudges = 0
        self._nudge_at = math.inf
        self._unsettled = False
        self._payload_told = 0
        self._loss_seen = (0, 0)
        self._rekey_at = REKEY_PACKETS
        self._streams = SessionStreams(self, settings.limits, self.stats, is_client=is_client)

    # packets

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """See `SessionCore`."""
        self._now = now
        self.stats.packets_received += len(packets)
        if self._deadline == math.inf and not self.established and not self.closed:
            self._deadline = now + self.settings.handshake_timeout_s
        self._nudges = 0
        self._nudge_at = math.inf
        try:
            self._feed_all(packets, now)
        except BaseException as exc:
            self._failed(exc)
        self._unsettled = True

    def packets(self, now: float) -> list[bytes]:
        """See `SessionCore`."""
        self._now = now
        self._streams.flush_grants()
        built: list[bytes] = []
        try:
            built = self._build(now)
        except BaseException as exc:
            self._failed(exc)
        self.stats.packets_sent += len(built)
        if self.stats.packets_sent >= self._rekey_at and self.established:
            self._rekey_at += REKEY_PACKETS
            self._update_keys()
        self._unsettled = True
        return built

    def get_timer(self) -> float | None:
        """See `SessionCore`."""
        try:
            due = self._timer()
        except BaseException as exc:
            self._failed(exc)
            due = math.inf
        if not self.closed:
            due = min(due, self._deadline, self._nudge_at)
        return due if due < math.inf else None

    def handle_timer(self, now: float) -> None:
        """See `SessionCore`."""
        self._now = now
        if now >= self._deadline and not self.established and not self.closed:
            self.stats.handshake_timeouts += 1
            self._abandon()
            self._report_closed(0, "handshake timeout", by_peer=False)
            return
        if now >= self._nudge_at:
            self._nudge(now)
        try:
            if now >= self._timer():
                self._fire(now)
        except BaseException as exc:
            self._failed(exc)
        self._unsettled = True

    def _feed_all(self, packets: Sequence[bytes], now: float) -> None:
        for packet in packets:
            if not packet:
                continue
            try:
                self._feed(packet, now)
            except BaseException as exc:
                self._failed(exc)
            else:
                self._errors = 0

    def _failed(self, exc: BaseException) -> None:
        """A packet broke the implementation: it is lost, and a connection that breaks it repeatedly is given up."""
        if not isinstance(exc, Exception):
            if type(exc).__name__ != PANIC:
                raise exc
            # Native code gave up half-way; its lock stays taken, so nothing of it can be used again.
            self._errors = ERRORS_IN_A_ROW
        self.stats.packet_errors += 1
        self._errors += 1
        if self._errors >= ERRORS_IN_A_ROW and not self.closed:
            self._abandon()
            self._report_closed(INTERNAL_ERROR, f"internal error: {type(exc).__name__}", by_peer=False)

    def _after(self, now: float) -> None:
        """Tell what changed beneath since the last call."""
        if self.closed or not self.established:
            return
        for stream_id in self._streams.became_writable():
            self._events.append(StreamWritable(stream_id))
        limit = self.max_datagram_payload
        if limit != self._payload_told:
            self._payload_told = limit
            self._events.append(PayloadLimit(limit))
        lost, sent = self._lost_and_sent()
        if sent - self._loss_seen[1] >= LOSS_SAMPLE_PACKETS:
            share = min(1.0, (lost - self._loss_seen[0]) / (sent - self._loss_seen[1]))
            self.loss += (share - self.loss) / 4
            self._loss_seen = (lost, sent)

    # events

    def take_datagrams(self) -> list[bytes]:
        """See `SessionCore`."""
        taken = self._inbox
        if taken:
            self._inbox = []
        return taken

    def next_event(self) -> CoreEvent | None:
        """See `SessionCore`."""
        if self._unsettled:
            # Late, so that what arrived and what is sent does not wait for it.
            self._unsettled = False
            self._after(self._now)
        return self._events.popleft() if self._events else None

    def _datagrams(self, payloads: Sequence[bytes]) -> None:
        if not self.established or self.closed:
            return
        self.stats.datagrams_received += len(payloads)
        self._inbox += payloads
        over = len(self._inbox) - self.settings.limits.datagrams_received
        if over > 0:
            self.stats.datagrams_dropped_unread += over
            del self._inbox[-over:]

    def _handshake_done(self, alpn: str, chain: list[bytes]) -> None:
        """Judge the server, then let the session begin."""
        self._deadline = math.inf
        self.peer_chain = chain
        if self._anchors is not None:
            try:
                names = verify_server(chain, self._anchors)
                check_name(names, self.settings.server_name)
            except PeerRejected as exc:
                self._end(exc.code, exc.reason)
                return
        self.established = True
        self._events.append(HandshakeDone(alpn))

    def _stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if self.closed:
            return
        try:
            ours = self._streams.received(stream_id, data, fin)
        except CreditViolation as exc:
            self._end(FLOW_CONTROL_ERROR, str(exc))
            return
        if ours:
            self._events.append(StreamReceived(stream_id, data, fin))

    def _stream_reset(self, stream_id: int, code: int) -> None:
        if not self.closed and self._streams.was_reset(stream_id):
            self._events.append(StreamReset(stream_id, code))

    def _stream_stopped(self, stream_id: int, code: int) -> None:
        if not self.closed and self._streams.was_stopped(stream_id):
            self._events.append(StreamReset(stream_id, code))

    def _report_closed(self, code: int, reason: str, *, by_peer: bool) -> None:
        if self.closed:
            return
        self.closed = True
        self.established = False
        self._queue.clear()
        self._queue_bytes = 0
        self._events.append(Closed(code, reason, by_peer))

    def _end(self, code: int, reason: str, *, application: bool = False) -> None:
        if self.closed:
            return
        self._close_wire(code, reason, application=application)
        self._report_closed(code, reason, by_peer=False)

    def close(self, code: int, reason: str) -> None:
        """See `SessionCore`."""
        self._end(code, reason, application=True)

    # DATAGRAMs

    @property
    def quiet(self) -> bool:
        """See `SessionCore`; False where the implementation holds acknowledgements back itself."""
        return False

    @property
    def room(self) -> int:
        """See `SessionCore`."""
        return max(0, self.settings.limits.datagram_queue_packets - len(self._queue)) if self.established else 0

    def send_datagram(self, data: bytes) -> bool:
        """See `SessionCore`."""
        stats = self.stats
        if not self.established:
            stats.datagrams_dropped_closed += 1
            return False
        size = len(data)
        if size > self._payload_told and size > self.max_datagram_payload:
            # A frame that fits no packet would stay at the head of aioquic's queue for ever.
            stats.datagrams_dropped_size += 1
            return False
        queue, limits = self._queue, self.settings.limits
        queue.append(data)
        stats.datagrams_sent += 1
        self._queue_bytes += size
        while len(queue) > limits.datagram_queue_packets or self._queue_bytes > limits.datagram_queue_bytes:
            self._queue_bytes -= len(queue.popleft())
            stats.datagrams_dropped_full += 1
        return True

    def send_datagrams(self, packets: Sequence[bytes]) -> None:
        """See `SessionCore`."""
        if not packets or not self.established or max(map(len, packets)) > self._payload_told:
            for packet in packets:
                self.send_datagram(packet)
            return
        stats, queue, limits = self.stats, self._queue, self.settings.limits
        queue.extend(packets)
        stats.datagrams_sent += len(packets)
        self._queue_bytes += sum(map(len, packets))
        while len(queue) > limits.datagram_queue_packets or self._queue_bytes > limits.datagram_queue_bytes:
            self._queue_bytes -= len(queue.popleft())
            stats.datagrams_dropped_full += 1

    def _drop_oversize(self) -> None:
        """The limit fell below what is queued."""
        limit = self.max_datagram_payload
        kept = [data for data in self._queue if len(data) <= limit]
        self.stats.datagrams_dropped_size += len(self._queue) - len(kept)
        self._queue.clear()
        self._queue.extend(kept)
        self._queue_bytes = sum(map(len, kept))

    # streams

    def open_stream(self) -> int:
        """See `SessionCore`."""
        return self._streams.open() if self.established else -1

    def write(self, stream_id: int, data: bytes, fin: bool = False) -> None:
        """See `SessionCore`."""
        if self.established:
            self._streams.write(stream_id, data, fin)
        else:
            self.stats.stream_bytes_refused += len(data)

    def writable(self, stream_id: int) -> int:
        """See `SessionCore`."""
        return self._streams.writable(stream_id) if self.established else 0

    def consumed(self, stream_id: int, count: int) -> None:
        """See `SessionCore`."""
        self._streams.consumed(stream_id, count, self._now, self.rtt_s or DEFAULT_RTT_S)

    def reset(self, stream_id: int, code: int) -> None:
        """See `SessionCore`."""
        if self.established and self._streams.forget(stream_id):
            self._abandon_stream(stream_id, code)

    # path

    def path_changed(self, now: float) -> None:
        """See `SessionCore`."""
        if not self.established:
            return
        self._now = now
        self.stats.path_changes += 1
        self._forgive(now)
        self._nudges = NUDGES
        self._nudge(now)

    def _nudge(self, now: float) -> None:
        """A PING now, and again until the peer is heard: the first may be lost."""
        if self._nudges <= 0:
            self._nudge_at = math.inf
            return
        self._nudges -= 1
        self._nudge_at = now + 2 * (self.rtt_s or DEFAULT_RTT_S)
        self.ping()

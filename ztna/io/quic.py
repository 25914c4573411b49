"""The QUIC endpoint: one UDP socket, many connections, one transmit per batch.

    UdpSocket -> receive -> per datagram: non_quic hook | known connection | acceptor
              -> events of that connection (authenticated first) -> on_event / on_datagram
              -> on_batch_end (the core's commands) -> packets of dirty connections -> one send_batch

Nothing a peer sends raises past this module: each packet has its own exception barrier, and a connection that keeps
failing is abandoned.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from aioquic.quic import events

from ztna.io.quic_accept import Acceptor
from ztna.io.quic_config import client_configuration
from ztna.io.quic_connection import GuardedConnection
from ztna.io.quic_peer import Peer
from ztna.io.quic_probe import SizeProber
from ztna.io.quic_table import Delivery, PeerTable, ignore
from ztna.io.quic_timer import TimerQueue
from ztna.io.quic_types import (
    AddressChanged,
    ClientSettings,
    Closed,
    Connected,
    PeerEvent,
    QuicCounters,
    ServerSettings,
    StreamReceived,
)
from ztna.io.udp import Address, Datagram, UdpSocket

MAX_ERRORS_PER_CONNECTION, SEND_CHUNK, MAX_ROUNDS = 8, 256, 4


class QuicEndpoint:
    """Accepts and opens connections on one socket.

    Args:
        on_event: called for each event of a peer; `Connected` comes first, `Closed` last and exactly once.
        on_datagram: if given, called for each DATAGRAM instead of `on_event(peer, DatagramReceived)` (hot path).
        on_batch_end: called once after each received batch or timer run, before packets are built.
        on_problem: called with where and the exception of a failing callback or connection, for the log.
        non_quic: sees each datagram whose first byte is below 0x40 or 0x5A; True means it was taken.

    `divert`, if set, gets each batch first and returns what of it is for this endpoint.
    """

    def __init__(
        self,
        udp: UdpSocket,
        *,
        server: ServerSettings | None = None,
        on_event: Callable[[Peer, PeerEvent], None] = ignore,
        on_datagram: Callable[[Peer, bytes], None] | None = None,
        on_batch_end: Callable[[], None] = ignore,
        on_problem: Callable[[str, Exception], None] = ignore,
        non_quic: Callable[[bytes, Address], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.udp = udp
        self.counters = QuicCounters()
        self.non_quic = non_quic
        self.divert: Callable[[list[Datagram]], list[Datagram]] | None = None
        self._clock = clock
        self._loop = loop or asyncio.get_running_loop()
        self._deliver = Delivery(self.counters, on_event, on_datagram, on_batch_end, on_problem)
        self._table = PeerTable()
        self._dirty: list[Peer] = []
        self._outgoing: list[Datagram] = []
        self._in_batch = False
        self._flush_soon = False
        self._all_gone: asyncio.Event | None = None
        self._timers: TimerQueue[Peer] = TimerQueue(self._loop, clock, self._on_timer, self._finish_batch)
        self._sizes = SizeProber(self.counters, clock, self._deliver.event)
        self._acceptor = Acceptor(self.counters, lambda *datagram: self._outgoing.append(datagram), self._abandon)
        self.set_server(server)

    def start(self) -> None:
        """Begin to receive."""
        self.udp.start(self._loop, self.receive)

    def set_server(self, settings: ServerSettings | None) -> None:
        """Accept new connections with these settings from now on (None: accept none). Existing ones are not touched."""
        self._acceptor.set_server(settings)

    def connect(self, address: Address, settings: ClientSettings) -> Peer:
        """Open a connection; `Connected` or `Closed` follows as an event."""
        now = self._clock()
        connection = GuardedConnection(
            configuration=client_configuration(settings), limits=settings.limits, totals=self.counters
        )
        peer = self._table.add(Peer(self, connection, self._table.next_id(), address), [connection.host_cid])
        peer.is_client = True
        peer.judge, peer.keepalive_s = settings.authenticate, settings.keepalive_s
        peer.handshake_deadline = now + settings.handshake_timeout_s
        connection.connect(address, now)
        self.mark_dirty(peer)
        return peer

    @property
    def peers(self) -> list[Peer]:
        """All connections, also those in their closing period."""
        return self._table.peers()

    @property
    def established_count(self) -> int:
        """Handshake complete, not closing."""
        return self._table.established_count

    @property
    def half_open_count(self) -> int:
        """Server connections whose handshake is not complete."""
        return self._acceptor.half_open_count

    def flush(self) -> None:
        """Build and send what is queued now, for callers outside a batch that cannot wait for the loop's next turn."""
        self._flush_soon = False
        if not self._in_batch:
            self._transmit(self._clock())
            self._timers.schedule()

    def close(self) -> None:
        """Forget all connections without telling them, and close the socket."""
        self._timers.close()
        self.udp.close()
        self._table, self._dirty = PeerTable(), []

    async def drain(self, code: int, reason: str, timeout_s: float) -> None:
        """Stop accepting, close every connection, and wait for the closing periods, at most `timeout_s`."""
        self.set_server(None)
        for peer in self.peers:
            peer.close(code, reason)
        self.flush()
        self._all_gone = asyncio.Event()
        if len(self._table):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), timeout_s)

    def receive(self, batch: list[Datagram]) -> None:
        """Take datagrams for our address: the socket's, or what reached another socket that shares it."""
        if self.divert is not None and not (batch := self.divert(batch)):
            return
        now = self._clock()
        self._in_batch = True
        for data, address in batch:
            try:
                self._receive(data, address, now)
            except Exception as exc:
                self.counters.dropped_error += 1
                self._deliver.problem("packet", exc)
        self._finish_batch(now)

    def _receive(self, data: bytes, address: Address, now: float) -> None:
        if not data:
            self.counters.dropped_empty += 1
            return
        first = data[0]
        if (first < 0x40 or first == 0x5A) and self.non_quic is not None and self.non_quic(data, address):
            return
        peer = self._table.find(data)
        if peer is None:
            if not first & 0x80:
                self.counters.dropped_unknown_cid += 1
                return
            accepted = self._acceptor.accept(data, address, now, len(self._table))
            if accepted is None:
                return
            connection, cids, source, deadline = accepted
            peer = self._table.add(Peer(self, connection, self._table.next_id(), address), cids)
            peer.half_open_source = source
            peer.handshake_deadline = deadline
            self._acceptor.opened(peer)
        if peer.closed:
            self.counters.dropped_closed += 1
            self._outgoing.extend((packet, peer.address) for packet in peer.repeated_close())
            return
        try:
            frames = peer.connection.receive(data, address, now)
        except Exception as exc:
            self._failed(peer, exc)
            return
        carried = peer.datagrams_received
        self.mark_dirty(peer)
        if frames is None:
            self._drain_events(peer, now)
        else:
            for frame in frames:
                self._datagram(peer, frame)
        if peer.datagrams_received == carried:
            # A keepalive, a size probe, a stream: no answer will come for it, and its sender waits.
            peer.connection.acknowledge_now(now)
        else:
            peer.connection.pace_acknowledgements(now)

    def _failed(self, peer: Peer, exc: Exception) -> None:
        """A packet broke aioquic: that packet is lost; a connection that breaks it repeatedly is given up."""
        self.counters.connection_errors += 1
        self.counters.dropped_error += 1
        self._deliver.problem("connection", exc)
        peer.errors += 1
        if peer.errors >= MAX_ERRORS_PER_CONNECTION or not peer.established:
            self._abandon(peer, f"internal error: {exc!r}")

    def _drain_events(self, peer: Peer, now: float) -> None:
        """Hand the connection's events up in order; nothing before authentication, nothing after close began."""
        connection = peer.connection
        while (event := connection.next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                self._datagram(peer, event.data)
            elif isinstance(event, events.StreamDataReceived):
                connection.consumed(len(event.data))
                if peer.established and not peer.closed:
                    self._deliver.event(peer, StreamReceived(event.stream_id, event.data, event.end_stream))
            elif isinstance(event, events.StreamReset):
                if peer.established and not peer.closed:
                    self._deliver.event(peer, StreamReceived(event.stream_id, b"", True))
            elif isinstance(event, events.HandshakeCompleted):
                self._handshake_completed(peer, event, now)
            elif isinstance(event, events.ConnectionIdIssued):
                self._table.issue_cid(peer, event.connection_id)
            elif isinstance(event, events.ConnectionIdRetired):
                self._table.retire_cid(peer, event.connection_id)
            elif isinstance(event, events.ConnectionTerminated):
                self._report_closed(peer)
                self._forget(peer)
                return
        if connection.is_ended:
            self._report_closed(peer)
        elif peer.established:
            self._after_receive(peer, now)

    def _datagram(self, peer: Peer, data: bytes) -> None:
        if peer.established and not peer.closed:
            peer.datagrams_received += 1
            peer.datagram_bytes_received += len(data)
            self._deliver.datagram(peer, data)

    def _after_receive(self, peer: Peer, now: float) -> None:
        connection = peer.connection
        if not peer.trimmed and connection.is_confirmed:
            peer.trimmed = True
            connection.trim()
            peer.probe_at = now
        address = connection.validated_address
        if address is not None and address != peer.address:
            peer.address = address
            self._deliver.event(peer, AddressChanged(address))

    def _handshake_completed(self, peer: Peer, event: events.HandshakeCompleted, now: float) -> None:
        peer.handshake_deadline = math.inf
        self._acceptor.settled(peer)
        peer.alpn = event.alpn_protocol or ""
        if not peer.authenticate(self.counters, self._deliver.problem):
            return
        peer.established = True
        self.counters.established += 1
        if peer.keepalive_s is not None:
            peer.keepalive_at = now + peer.keepalive_s
        self._deliver.event(peer, Connected(peer.alpn))

    def end_peer(self, peer: Peer) -> None:
        """The connection began to close: nothing of it is delivered any more but this."""
        self._report_closed(peer)
        self.mark_dirty(peer)

    def _report_closed(self, peer: Peer) -> None:
        if peer.closed:
            return
        peer.closed = True
        self.counters.closed += 1
        self._acceptor.settled(peer)
        event = peer.connection.close_event
        code, reason = (event.error_code, event.reason_phrase) if event is not None else (0, "")
        code, reason = (0, "idle timeout") if reason == "Idle timeout" else (code, reason)
        if peer.established or peer.is_client:
            self._deliver.event(peer, Closed(code, reason, by_peer=peer.connection.closed_by_peer))

    def _abandon(self, peer: Peer, reason: str) -> None:
        peer.connection.abandon(reason)
        self._report_closed(peer)
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        self._acceptor.settled(peer)
        self._table.forget(peer)
        self._timers.discard(peer)
        if self._all_gone is not None and not len(self._table):
            self._all_gone.set()

    def mark_dirty(self, peer: Peer) -> None:
        """Build the peer's packets at the end of this batch, or in the loop's next turn."""
        if not peer.dirty:
            peer.dirty = True
            self._dirty.append(peer)
        if not self._in_batch and not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self.flush)

    def flush_peer(self, peer: Peer) -> None:
        """Build the peer's packets now: its queue would overflow before the batch ends."""
        now = self._clock()
        self._build(peer, now)
        self._built(peer, now)

    def _on_timer(self, peer: Peer, now: float) -> None:
        self._in_batch = True
        connection = peer.connection
        if now >= peer.handshake_deadline:
            self.counters.handshake_timeouts += 1
            peer.handshake_deadline = math.inf
            self._abandon(peer, "handshake timeout")
            return
        if now >= peer.keepalive_at and not peer.closed and peer.keepalive_s is not None:
            peer.keepalive_at = now + peer.keepalive_s
            connection.ping()
        try:
            due = connection.get_timer()
            if due is not None and now >= due:
                connection.handle_timer(now)
        except Exception as exc:
            self._failed(peer, exc)
            return
        self._sizes.suspect_black_hole(peer, now)
        self.mark_dirty(peer)
        self._drain_events(peer, now)

    def _finish_batch(self, now: float) -> None:
        self._in_batch = True
        self._deliver.batch_end()
        self._transmit(now)
        self._in_batch = False
        self._timers.schedule()

    def _transmit(self, now: float) -> None:
        self._in_batch = True
        # Building packets may end a connection, whose event may make another one dirty.
        for _ in range(MAX_ROUNDS):
            dirty, self._dirty = self._dirty, []
            rest: list[Peer] = []
            if len(dirty) > 1:
                # What is relayed waits for nobody's acknowledgement.
                rest = [peer for peer in dirty if not peer.connection.datagrams_waiting]
                dirty = [peer for peer in dirty if peer.connection.datagrams_waiting]
            self._send_packets(dirty, now)
            self._send_packets(rest, now)
            if not self._dirty:
                break
        self._in_batch = False

    def _send_packets(self, peers: list[Peer], now: float) -> None:
        for peer in peers:
            peer.dirty = False
            self._build(peer, now)
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            self.udp.send_batch(outgoing)
        # Only now: a packet does not wait for the reckoning of timers.
        for peer in peers:
            self._built(peer, now)

    def _build(self, peer: Peer, now: float) -> None:
        """Append the peer's packets to the outgoing batch."""
        connection = peer.connection
        outgoing = self._outgoing
        try:
            packets = connection.datagrams_to_send(now)
            if peer.probe_at <= now:
                packets += self._sizes.probe(peer, now)
        except Exception as exc:
            self._failed(peer, exc)
            return
        if packets:
            outgoing.extend(packets)
            if peer.closed:
                peer.close_datagrams = [data for data, _ in packets]
            if len(outgoing) >= SEND_CHUNK:
                self.udp.send_batch(outgoing)
                outgoing.clear()

    def _built(self, peer: Peer, now: float) -> None:
        """After a peer's packets were built: hand up what that brought about, and set its timer."""
        connection = peer.connection
        if connection.has_events:
            self._drain_events(peer, now)
        if peer in self._table:
            try:
                due = connection.get_timer() or math.inf
            except Exception as exc:
                self._failed(peer, exc)
                return
            if not peer.closed:
                due = min(due, peer.handshake_deadline, peer.keepalive_at, peer.probe_at, connection.black_hole_at)
            self._timers.arm(peer, due)

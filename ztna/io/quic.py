"""The QUIC endpoint: one UDP socket, many connections, one transmit per batch.

    UdpSocket -> _on_batch -> per datagram: non_quic hook | known connection | acceptor
              -> events of that connection (authenticated first) -> on_event / on_datagram
              -> on_batch_end (the core's commands) -> packets of dirty connections -> one send_batch

Nothing a peer sends raises past this module: each packet has its own exception barrier, and a connection that keeps
failing is abandoned. Only the modules ztna.io.quic* know aioquic.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

from ztna.io.quic_accept import Acceptor
from ztna.io.quic_connection import CID_BYTES, MIN_UDP_PAYLOAD, GuardedConnection
from ztna.io.quic_peer import Peer
from ztna.io.quic_timer import TimerQueue
from ztna.io.quic_types import (
    AddressChanged,
    ClientSettings,
    Closed,
    Connected,
    DatagramReceived,
    PayloadLimit,
    PeerEvent,
    PeerRejected,
    QuicCounters,
    ServerSettings,
    StreamReceived,
)
from ztna.io.udp import Address, Datagram, UdpSocket

MAX_ERRORS_PER_CONNECTION = 8
PROBE_RETRY_S = (0.5, 2.0, 10.0, 60.0)
BLACK_HOLE_PTO_COUNT = 3
SEND_CHUNK = 256


def _ignore(*_: object) -> None:
    """Default callback."""


class QuicEndpoint:
    """Accepts and opens connections on one socket.

    Args:
        on_event: called for each event of a peer; `Connected` comes first, `Closed` last and exactly once.
        on_datagram: if given, called for each DATAGRAM instead of `on_event(peer, DatagramReceived)` (hot path).
        on_batch_end: called once after each received batch or timer run, before packets are built.
        on_problem: called with where and the exception of a failing callback or connection, for the log.
        non_quic: sees each datagram whose first byte is below 0x40 or 0x5A; True means it was taken.
    """

    def __init__(
        self,
        udp: UdpSocket,
        *,
        server: ServerSettings | None = None,
        on_event: Callable[[Peer, PeerEvent], None] = _ignore,
        on_datagram: Callable[[Peer, bytes], None] | None = None,
        on_batch_end: Callable[[], None] = _ignore,
        on_problem: Callable[[str, Exception], None] = _ignore,
        non_quic: Callable[[bytes, Address], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.udp = udp
        self.counters = QuicCounters()
        self.on_event = on_event
        self.on_datagram = on_datagram
        self.on_batch_end = on_batch_end
        self.on_problem = on_problem
        self.non_quic = non_quic
        self._clock = clock
        self._loop = loop or asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._peers: dict[int, Peer] = {}
        self._by_cid: dict[bytes, Peer] = {}
        self._dirty: list[Peer] = []
        self._outgoing: list[Datagram] = []
        self._in_batch = False
        self._flush_soon = False
        self._all_gone: asyncio.Event | None = None
        self._timers: TimerQueue[Peer] = TimerQueue(self._loop, clock, self._on_timer, self._finish_batch)
        self._acceptor = Acceptor(self.counters, self._send_now, self._abandon)
        self.set_server(server)

    # use

    def start(self) -> None:
        """Begin to receive."""
        self.udp.start(self._loop, self._on_batch)

    def set_server(self, settings: ServerSettings | None) -> None:
        """Accept new connections with these settings from now on (None: accept none). Existing ones are not touched."""
        self._acceptor.set_server(settings)

    def connect(self, address: Address, settings: ClientSettings) -> Peer:
        """Open a connection; `Connected` or `Closed` follows as an event."""
        configuration = QuicConfiguration(
            alpn_protocols=list(settings.alpn),
            cadata=settings.ca_pem.strip() + b"\n",
            connection_id_length=CID_BYTES,
            idle_timeout=settings.idle_timeout_s,
            is_client=True,
            max_data=settings.limits.connection_window_bytes,
            max_datagram_frame_size=65536,
            max_datagram_size=MIN_UDP_PAYLOAD,
            max_stream_data=settings.limits.stream_window_bytes,
            server_name=settings.server_name,
            supported_versions=[QuicProtocolVersion.VERSION_1],
            verify_mode=None if settings.verify_peer else 0,
        )
        if settings.credentials is not None:
            configuration.certificate = settings.credentials.certificate
            configuration.certificate_chain = list(settings.credentials.chain)
            configuration.private_key = settings.credentials.private_key
        now = self._clock()
        connection = GuardedConnection(configuration=configuration, limits=settings.limits)
        peer = self._add(connection, address, [connection.host_cid])
        peer.is_client = True
        peer.keepalive_s = settings.keepalive_s
        peer.handshake_deadline = now + settings.handshake_timeout_s
        connection.connect(address, now)
        self.mark_dirty(peer)
        return peer

    @property
    def peers(self) -> list[Peer]:
        """All connections not yet forgotten, also those in their closing period."""
        return list(self._peers.values())

    @property
    def established_count(self) -> int:
        """Connections past their handshake and not closing."""
        return sum(1 for peer in self._peers.values() if peer.established and not peer.closed)

    @property
    def half_open_count(self) -> int:
        """Server connections whose handshake is not complete."""
        return self._acceptor.half_open_count

    def flush(self) -> None:
        """Build and send what is queued now, for callers outside a batch that cannot wait for the loop's next turn."""
        if not self._in_batch:
            self._transmit(self._clock())
            self._timers.schedule()

    def close(self) -> None:
        """Forget all connections without telling them, and close the socket."""
        self._timers.close()
        self.udp.close()
        self._peers.clear()
        self._by_cid.clear()
        self._dirty.clear()

    async def drain(self, code: int, reason: str, timeout_s: float) -> None:
        """Stop accepting, close every connection, and wait for the closing periods, at most `timeout_s`."""
        self.set_server(None)
        for peer in self.peers:
            peer.close(code, reason)
        self.flush()
        self._all_gone = asyncio.Event()
        if self._peers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), timeout_s)

    # receive

    def _on_batch(self, batch: list[Datagram]) -> None:
        now = self._clock()
        self._in_batch = True
        for data, address in batch:
            try:
                self._receive(data, address, now)
            except Exception as exc:
                self.counters.dropped_error += 1
                self.on_problem("packet", exc)
        self._finish_batch(now)

    def _receive(self, data: bytes, address: Address, now: float) -> None:
        if not data:
            self.counters.dropped_empty += 1
            return
        first = data[0]
        if (first < 0x40 or first == 0x5A) and self.non_quic is not None and self.non_quic(data, address):
            return
        if first & 0x80:
            peer = self._by_cid.get(data[6 : 6 + data[5]]) if len(data) > 6 else None
        else:
            peer = self._by_cid.get(data[1 : 1 + CID_BYTES])
        if peer is None:
            if not first & 0x80:
                self.counters.dropped_unknown_cid += 1
                return
            accepted = self._acceptor.accept(data, address, now, len(self._peers))
            if accepted is None:
                return
            connection, cids, source, deadline = accepted
            peer = self._add(connection, address, cids)
            peer.half_open_source = source
            peer.handshake_deadline = deadline
            self._acceptor.opened(peer)
        if peer.closed:
            self._repeat_close(peer)
            return
        try:
            peer.connection.receive_datagram(data, address, now)
        except Exception as exc:
            self._failed(peer, exc)
            return
        self.mark_dirty(peer)
        self._drain_events(peer, now)

    def _failed(self, peer: Peer, exc: Exception) -> None:
        """A packet broke aioquic: that packet is lost; a connection that breaks it repeatedly is given up."""
        self.counters.connection_errors += 1
        self.counters.dropped_error += 1
        self.on_problem("connection", exc)
        peer.errors += 1
        if peer.errors >= MAX_ERRORS_PER_CONNECTION or not peer.established:
            self._abandon(peer)

    def _repeat_close(self, peer: Peer) -> None:
        """Answer packets of a peer that missed our close, ever more rarely (RFC 9000 s10.2.1)."""
        self.counters.dropped_closed += 1
        peer.received_while_closed += 1
        if peer.received_while_closed & (peer.received_while_closed - 1) == 0:
            self._outgoing.extend((data, peer.address) for data in peer.close_datagrams)

    def _drain_events(self, peer: Peer, now: float) -> None:
        """Hand the connection's events up in order; nothing before authentication, nothing after close began."""
        connection = peer.connection
        while (event := connection.next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                if peer.established and not peer.closed:
                    peer.datagrams_received += 1
                    peer.datagram_bytes_received += len(event.data)
                    self._deliver_datagram(peer, event.data)
            elif isinstance(event, events.StreamDataReceived):
                connection.consumed(len(event.data))
                if peer.established and not peer.closed:
                    self._deliver(peer, StreamReceived(event.stream_id, event.data, event.end_stream))
            elif isinstance(event, events.StreamReset):
                if peer.established and not peer.closed:
                    self._deliver(peer, StreamReceived(event.stream_id, b"", True))
            elif isinstance(event, events.HandshakeCompleted):
                self._handshake_completed(peer, event, now)
            elif isinstance(event, events.ConnectionIdIssued):
                self._by_cid[event.connection_id] = peer
                peer.cids.append(event.connection_id)
            elif isinstance(event, events.ConnectionIdRetired):
                self._by_cid.pop(event.connection_id, None)
                if event.connection_id in peer.cids:
                    peer.cids.remove(event.connection_id)
            elif isinstance(event, events.ConnectionTerminated):
                self._report_closed(peer)
                self._forget(peer)
                return
        if connection.is_ended:
            self._report_closed(peer)
        elif peer.established:
            self._after_receive(peer, now)

    def _after_receive(self, peer: Peer, now: float) -> None:
        connection = peer.connection
        if not peer.trimmed and connection.is_confirmed:
            peer.trimmed = True
            connection.trim()
            peer.probe_at = now
        if peer.shrunk and connection.pto_count == 0:
            peer.shrunk = False
            peer.probe_at = now
        address = connection.validated_address
        if address is not None and address != peer.address:
            peer.address = address
            self._deliver(peer, AddressChanged(address))

    def _handshake_completed(self, peer: Peer, event: events.HandshakeCompleted, now: float) -> None:
        peer.handshake_deadline = math.inf
        chain = peer.connection.peer_certificate_chain()
        if not peer.is_client:
            self._acceptor.settled(peer)
            try:
                peer.identity = self._acceptor.authenticate(peer, chain)
            except PeerRejected as exc:
                self.counters.rejected_certificates += 1
                self.on_problem("certificate", exc)
                peer.close(exc.code, exc.reason, transport=True)
                return
            except Exception as exc:
                self.counters.handler_errors += 1
                self.on_problem("authenticate", exc)
                peer.close(0x01, "invalid client cert", transport=True)
                return
        peer.established = True
        peer.certificates = chain
        self.counters.established += 1
        if peer.keepalive_s is not None:
            peer.keepalive_at = now + peer.keepalive_s
        self._deliver(peer, Connected(event.alpn_protocol or ""))

    def _deliver_datagram(self, peer: Peer, data: bytes) -> None:
        try:
            if self.on_datagram is not None:
                self.on_datagram(peer, data)
            else:
                self.on_event(peer, DatagramReceived(data))
        except Exception as exc:
            self.counters.handler_errors += 1
            self.on_problem("datagram handler", exc)

    def _deliver(self, peer: Peer, event: PeerEvent) -> None:
        try:
            self.on_event(peer, event)
        except Exception as exc:
            self.counters.handler_errors += 1
            self.on_problem("event handler", exc)

    # life of a connection

    def _add(self, connection: GuardedConnection, address: Address, cids: list[bytes]) -> Peer:
        peer = Peer(self, connection, next(self._ids), address)
        peer.cids = cids
        self._peers[peer.conn_id] = peer
        for cid in cids:
            self._by_cid[cid] = peer
        return peer

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
        if reason == "Idle timeout":
            code, reason = 0, "idle timeout"
        if peer.established or peer.is_client:
            self._deliver(peer, Closed(code, reason, by_peer=peer.connection.closed_by_peer))

    def _abandon(self, peer: Peer) -> None:
        peer.connection.abandon()
        self._report_closed(peer)
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        self._acceptor.settled(peer)
        self._peers.pop(peer.conn_id, None)
        for cid in peer.cids:
            self._by_cid.pop(cid, None)
        peer.cids = []
        if not self._peers and self._all_gone is not None:
            self._all_gone.set()
        self._timers.discard(peer)

    # timers and sending

    def mark_dirty(self, peer: Peer) -> None:
        """Build the peer's packets at the end of this batch, or in the loop's next turn."""
        if not peer.dirty:
            peer.dirty = True
            self._dirty.append(peer)
        if not self._in_batch and not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self._flush_scheduled)

    def _flush_scheduled(self) -> None:
        self._flush_soon = False
        self.flush()

    def flush_peer(self, peer: Peer) -> None:
        """Build the peer's packets now: its queue would overflow before the batch ends."""
        self._build(peer, self._clock())

    def _on_timer(self, peer: Peer, now: float) -> None:
        self._in_batch = True
        connection = peer.connection
        if now >= peer.handshake_deadline:
            self.counters.handshake_timeouts += 1
            peer.handshake_deadline = math.inf
            self._abandon(peer)
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
        if connection.pto_count >= BLACK_HOLE_PTO_COUNT and peer.established and connection.shrink_udp_payload():
            self.counters.payload_shrunk += 1
            peer.shrunk = True
            self._deliver(peer, PayloadLimit(connection.max_datagram_payload))
        self.mark_dirty(peer)
        self._drain_events(peer, now)

    def _finish_batch(self, now: float) -> None:
        self._in_batch = True
        try:
            self.on_batch_end()
        except Exception as exc:
            self.counters.handler_errors += 1
            self.on_problem("batch end", exc)
        self._transmit(now)
        self._in_batch = False
        self._timers.schedule()

    def _transmit(self, now: float) -> None:
        self._in_batch = True
        rounds = 0
        while self._dirty and rounds < 4:
            # Building packets may end a connection, whose event may make another one dirty.
            dirty, self._dirty = self._dirty, []
            rounds += 1
            for peer in dirty:
                peer.dirty = False
                self._build(peer, now)
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            self.udp.send_batch(outgoing)
        self._in_batch = False

    def _build(self, peer: Peer, now: float) -> None:
        """Append the peer's packets to the outgoing batch and set its timer."""
        connection = peer.connection
        outgoing = self._outgoing
        try:
            packets = connection.datagrams_to_send(now)
            if peer.probe_at <= now:
                packets += self._size_probe(peer, now)
            timer = connection.get_timer()
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
        if connection.has_events:
            self._drain_events(peer, now)
        if peer.conn_id in self._peers:
            due = timer if timer is not None else math.inf
            self._timers.arm(peer, min(due, peer.handshake_deadline, peer.keepalive_at, peer.probe_at))

    def _size_probe(self, peer: Peer, now: float) -> list[Datagram]:
        peer.probe_at = math.inf
        connection = peer.connection
        if not connection.wants_size_probe():
            return []
        return connection.size_probe(now, lambda acknowledged: self._probed(peer, acknowledged))

    def _probed(self, peer: Peer, acknowledged: bool) -> None:
        if acknowledged:
            self.counters.size_probes_acknowledged += 1
            peer.probes_failed = 0
            if not peer.closed:
                self._deliver(peer, PayloadLimit(peer.max_datagram_payload))
        else:
            self.counters.size_probes_lost += 1
            delay = PROBE_RETRY_S[min(peer.probes_failed, len(PROBE_RETRY_S) - 1)]
            peer.probes_failed += 1
            peer.probe_at = self._clock() + delay

    def _send_now(self, data: bytes, address: Address) -> None:
        self._outgoing.append((data, address))

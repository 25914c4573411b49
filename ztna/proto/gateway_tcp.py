"""TCP through the gateway: each connection of an agent ends here and a backend connection continues it.

    SYN -> OpenTcp -> tcp_connected -> SYN-ACK -> data both ways, each direction ending by itself -> CloseTcp

The agent's handshake waits for the backend's, so that a refused backend is a refused connection. Data the backend has
not taken yet closes the agent's window; data the agent has not acknowledged pauses reading from the backend.
"""

from heapq import heappop, heappush
from typing import Final

from ztna.proto.gateway_context import GatewayContext
from ztna.proto.gateway_types import (
    LEGACY_AGENT_BUDGET_BYTES,
    LEGACY_RELAY_BUDGET_BYTES,
    AbortTcp,
    Backend,
    CloseTcp,
    GatewayService,
    OpenTcp,
    PauseTcp,
    ResumeTcp,
    ShutdownTcp,
    WriteTcp,
)
from ztna.proto.ratelimit import SourceLimiter
from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import ACK, HEADERS_BYTES, RST, SYN, Segment, SegmentBuilder, rst_for
from ztna.proto.tcp_types import Closed, Connected, DataReceived, EndOfStream, Reset, TcpSettings, TcpState

__all__ = ["TcpSessions"]

# The TUN of agents in the field has this MTU although their DATAGRAMs carry less; a SYN with this MSS may be theirs.
_LEGACY_TUN_MSS: Final = 1240
# Segments one session may send in its turn, so that one bulk transfer does not make the others wait.
_BURST_SEGMENTS: Final = 16

SessionKey = tuple[int, int, int, int]


class _Session:
    """One connection: the endpoint towards the agent, and where the backend side stands."""

    __slots__ = (
        "backend",
        "builder",
        "connected",
        "endpoint",
        "eof",
        "id",
        "key",
        "overflow",
        "paused",
        "shell_has_it",
        "timer_at",
    )

    def __init__(self, number: int, key: SessionKey, endpoint: TcpEndpoint, backend: Backend) -> None:
        source, source_port, destination, destination_port = key
        self.id = number
        self.key = key
        self.endpoint = endpoint
        self.backend = backend
        self.builder = SegmentBuilder(destination, destination_port, source, source_port)
        self.connected = False
        self.eof = False
        self.paused = False
        self.shell_has_it = True
        self.overflow = bytearray()
        self.timer_at: float | None = None


class TcpSessions:
    """The table of sessions."""

    __slots__ = (
        "_by_id",
        "_by_key",
        "_context",
        "_dirty",
        "_last_id",
        "_per_source",
        "_syn_limiter",
        "_timers",
        "room",
    )

    def __init__(self, context: GatewayContext) -> None:
        limits = context.limits
        self._context = context
        self._by_key: dict[SessionKey, _Session] = {}
        self._by_id: dict[int, _Session] = {}
        self._per_source: dict[int, int] = {}
        self._timers: list[tuple[float, int]] = []
        # A dict as an ordered set: sessions take turns in the order they became dirty.
        self._dirty: dict[int, _Session] = {}
        self._last_id = 0
        self._syn_limiter = SourceLimiter(
            limits.syn_rate_per_source, limits.syn_burst_per_source, max_sources=limits.sources
        )
        # Packets the way out still takes; None means any number.
        self.room: int | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def backend_of(self, session_id: int) -> Backend | None:
        """Return the backend of a session."""
        session = self._by_id.get(session_id)
        return session.backend if session is not None else None

    # -- from the agent ------------------------------------------------------------------------------------------------

    def known(self, key: SessionKey, segment: Segment, now: float) -> bool:
        """Give a segment to its session; False if there is none."""
        session = self._by_key.get(key)
        if session is None:
            return False
        if segment.flags & SYN and session.endpoint.may_be_reopened_by(segment):
            self._drop(session)
            return False
        session.endpoint.segment_received(segment, now)
        self._dirty[session.id] = session
        return True

    def unknown(self, key: SessionKey, segment: Segment, now: float) -> None:
        """Answer a segment of no session that starts none: a reset (RFC 9293 s3.10.7.1)."""
        self._context.stats.dropped_no_session += 1
        self.refuse(key, segment, now)

    def refuse(self, key: SessionKey, segment: Segment, now: float) -> None:
        """Answer a segment with a reset, within the rate for errors."""
        reply = rst_for(segment)
        if reply is not None and self._context.may_send_error(now):
            source, source_port, destination, destination_port = key
            self._context.emit(SegmentBuilder(destination, destination_port, source, source_port).build(reply))

    def open(self, key: SessionKey, syn: Segment, service: GatewayService, backend: Backend, now: float) -> None:
        """Start a session for a SYN, within the limits."""
        context = self._context
        source = key[0]
        if syn.flags & (ACK | RST):
            self.unknown(key, syn, now)
            return
        if not self._syn_limiter.allow(str(source), now):
            context.stats.dropped_syn_rate += 1
            return
        if self._per_source.get(source, 0) >= context.limits.tcp_sessions_per_source or (
            len(self._by_id) >= context.limits.tcp_sessions and not self._evict(now)
        ):
            context.stats.dropped_session_limit += 1
            self.refuse(key, syn, now)
            return
        settings = self._settings(service, syn)
        initial_sequence = int.from_bytes(context.random(4), "big")
        self._last_id += 1
        endpoint = TcpEndpoint.listen(settings, initial_sequence, syn, now, hold_s=context.limits.tcp_connect_s)
        session = _Session(self._last_id, key, endpoint, backend)
        self._by_key[key] = session
        self._by_id[session.id] = session
        self._per_source[source] = self._per_source.get(source, 0) + 1
        context.stats.tcp_sessions_opened += 1
        self._dirty[session.id] = session
        context.commands.append(OpenTcp(session.id, backend))

    def _settings(self, service: GatewayService, syn: Segment) -> TcpSettings:
        limits, budget = self._context.limits, self._context.budget_bytes
        announced = budget - HEADERS_BYTES
        if syn.options.mss in (None, _LEGACY_TUN_MSS):
            legacy = LEGACY_AGENT_BUDGET_BYTES - 2 - len(service.id.encode()) - HEADERS_BYTES
            announced = min(announced, legacy)
        share = limits.tcp_buffers_total_bytes // (2 * (len(self._by_id) + 1))
        buffer_bytes = max(min(limits.tcp_buffer_bytes, share), 16 * 1024)
        return TcpSettings(
            send_mss=self._send_mss(),
            announced_mss=announced,
            receive_buffer_bytes=buffer_bytes,
            send_buffer_bytes=buffer_bytes,
            idle_s=limits.tcp_idle_s,
        )

    def _send_mss(self) -> int:
        return min(self._context.budget_bytes, LEGACY_RELAY_BUDGET_BYTES) - HEADERS_BYTES

    def budget_changed(self) -> None:
        """Fit the segments of open sessions into the new budget."""
        for session in self._by_id.values():
            session.endpoint.set_send_mss(self._send_mss())

    def path_limit(self, key: SessionKey, mtu_bytes: int) -> None:
        """A router on the way said what fits (RFC 1191); believed down to the size every host must take."""
        session = self._by_key.get(key)
        if session is not None:
            session.endpoint.set_send_mss(min(self._send_mss(), max(mtu_bytes, 576) - HEADERS_BYTES))

    def _evict(self, now: float) -> bool:
        """Drop a session that matters least: closed by both sides, or silent the longest."""
        waiting = [s for s in self._by_id.values() if s.endpoint.state is TcpState.TIME_WAIT]
        session = waiting[0] if waiting else min(self._by_id.values(), key=lambda s: s.endpoint.last_activity)
        if not waiting:
            if now - session.endpoint.last_activity < self._context.limits.evict_after_s:
                return False
            session.endpoint.abort()
        self._context.stats.tcp_sessions_evicted += 1
        self._flush(session, now)
        if session.id in self._by_id:
            self._drop(session)
        return True

    # -- from the backend ----------------------------------------------------------------------------------------------

    def connected(self, session_id: int, now: float) -> None:
        """The backend accepted."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.connected = True
            session.endpoint.accept(now)
            self._dirty[session_id] = session

    def broken(self, session_id: int) -> None:
        """The backend refused or broke the connection, and the shell has forgotten it: the agent gets a reset."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.shell_has_it = False
            session.endpoint.abort()
            self._dirty[session_id] = session

    def data(self, session_id: int, data: bytes) -> None:
        """Take bytes from the backend, all of them."""
        session = self._by_id.get(session_id)
        if session is None:
            return
        if not session.overflow:
            taken = session.endpoint.write(data)
            if taken < len(data):
                session.overflow += data[taken:]
        else:
            session.overflow += data
        if not session.paused and session.endpoint.buffered_bytes * 2 > session.endpoint.settings.send_buffer_bytes:
            session.paused = True
            self._context.commands.append(PauseTcp(session_id))
        self._dirty[session_id] = session

    def eof(self, session_id: int) -> None:
        """The backend sends no more."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.eof = True
            self._dirty[session_id] = session

    def writable(self, session_id: int, count: int) -> None:
        """The backend took `count` bytes."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.endpoint.consumed(count)
            self._dirty[session_id] = session

    # -- output --------------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._dirty) and (self.room is None or self.room > 0)

    def flush(self, now: float) -> None:
        """Give the first session in line its turn: events become commands, segments become packets."""
        session_id, session = next(iter(self._dirty.items()))
        del self._dirty[session_id]
        self._flush(session, now)

    def _flush(self, session: _Session, now: float) -> None:
        endpoint = session.endpoint
        if session.overflow:
            del session.overflow[: endpoint.write(bytes(session.overflow[: endpoint.free_bytes]))]
        if session.eof and not session.overflow:
            endpoint.close_write()
        self._pass_events(session)
        limit = _BURST_SEGMENTS if self.room is None else min(_BURST_SEGMENTS, self.room)
        segments = endpoint.segments_to_send(now, limit)
        emit, build = self._context.emit, session.builder.build
        for segment in segments:
            emit(build(segment))
        if self.room is not None:
            self.room -= len(segments)
        if endpoint.closed:
            self._drop(session)
            return
        if len(segments) >= limit:
            self._dirty[session.id] = session
        low = endpoint.buffered_bytes * 4 < endpoint.settings.send_buffer_bytes
        if session.paused and low and not session.overflow:
            session.paused = False
            self._context.commands.append(ResumeTcp(session.id))
        due = endpoint.get_timer()
        if due is not None and (session.timer_at is None or due < session.timer_at):
            session.timer_at = due
            heappush(self._timers, (due, session.id))

    def _pass_events(self, session: _Session) -> None:
        commands, stats = self._context.commands, self._context.stats
        while (event := session.endpoint.next_event()) is not None:
            match event:
                case DataReceived(data):
                    commands.append(WriteTcp(session.id, data))
                case EndOfStream():
                    commands.append(ShutdownTcp(session.id))
                case Reset():
                    stats.tcp_sessions_reset += 1
                    if session.shell_has_it:
                        session.shell_has_it = False
                        commands.append(AbortTcp(session.id))
                case Closed():
                    pass
                case Connected():
                    pass

    def _drop(self, session: _Session) -> None:
        context = self._context
        context.stats.tcp_sessions_closed += 1
        context.stats.tcp_segments_retransmitted += session.endpoint.segments_retransmitted
        if session.shell_has_it:
            context.commands.append(CloseTcp(session.id))
        self._dirty.pop(session.id, None)
        del self._by_id[session.id]
        if self._by_key.get(session.key) is session:
            del self._by_key[session.key]
        source = session.key[0]
        left = self._per_source[source] - 1
        if left:
            self._per_source[source] = left
        else:
            del self._per_source[source]

    # -- time ----------------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when the first session needs `handle_timer`."""
        timers = self._timers
        while timers:
            due, session_id = timers[0]
            session = self._by_id.get(session_id)
            if session is not None and session.timer_at == due:
                return due
            heappop(timers)
        return None

    def handle_timer(self, now: float) -> None:
        """Let due sessions do what is due; a timer that has moved since is simply set again."""
        while (due := self.get_timer()) is not None and due <= now:
            _, session_id = heappop(self._timers)
            session = self._by_id[session_id]
            session.timer_at = None
            session.endpoint.handle_timer(now)
            self._dirty[session_id] = session

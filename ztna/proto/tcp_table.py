"""TCP connections of one stack: endpoints by address, their turns to send, their timers, and the shell's sockets.

The gateway and the user-mode stack both join an endpoint (towards the overlay) with a socket of the shell (a backend,
or a local client). This table is that join: bytes and ends from one side become commands for the other, with
back-pressure both ways.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

from ztna.proto.gateway_context import GatewayContext
from ztna.proto.gateway_types import (
    AbortTcp,
    Backend,
    CloseTcp,
    PauseTcp,
    ResumeTcp,
    ShutdownTcp,
    SocketError,
    TcpFailed,
    TcpOpened,
    WriteTcp,
)
from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import SYN, Segment, SegmentBuilder
from ztna.proto.tcp_types import Closed, Connected, DataReceived, EndOfStream, Reset, ResetReason

__all__ = ["SessionKey", "TcpSession", "TcpTable"]

# Segments one session may send in its turn, so that one bulk transfer does not make the others wait.
_BURST_SEGMENTS: Final = 16
# How long the shell may still write to its socket what the peer sent, after the peer's side is over.
_LINGER_S: Final = 60.0

_FAILURES: Final = {
    ResetReason.REFUSED: SocketError.REFUSED,
    ResetReason.RESET_BY_PEER: SocketError.RESET,
    ResetReason.TIMED_OUT: SocketError.TIMED_OUT,
}

# (peer's address, peer's port, our address, our port), as in a packet that comes in.
SessionKey = tuple[int, int, int, int]


class TcpSession:
    """One connection: the endpoint towards the overlay, and where the shell's socket stands."""

    __slots__ = (
        "backend",
        "builder",
        "connected",
        "endpoint",
        "eof",
        "id",
        "key",
        "linger_until",
        "overflow",
        "paused",
        "shell_has_it",
        "timer_at",
        "unwritten_bytes",
    )

    def __init__(self, number: int, key: SessionKey, endpoint: TcpEndpoint, backend: Backend | None) -> None:
        peer, peer_port, local, local_port = key
        self.id = number
        self.key = key
        self.endpoint = endpoint
        self.backend = backend
        self.builder = SegmentBuilder(local, local_port, peer, peer_port)
        self.connected = False
        self.eof = False
        self.paused = False
        self.shell_has_it = True
        self.overflow = bytearray()
        self.timer_at: float | None = None
        self.unwritten_bytes = 0
        self.linger_until: float | None = None


class TcpTable:
    """The sessions of one stack; its owner bounds their number."""

    __slots__ = ("_by_id", "_by_key", "_context", "_dirty", "_last_id", "_per_peer", "_timers", "room")

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._by_key: dict[SessionKey, TcpSession] = {}
        self._by_id: dict[int, TcpSession] = {}
        self._per_peer: dict[int, int] = {}
        self._timers: list[tuple[float, int]] = []
        # A dict as an ordered set: sessions take turns in the order they became dirty.
        self._dirty: dict[int, TcpSession] = {}
        self._last_id = 0
        # Packets the way out still takes; None means any number.
        self.room: int | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._by_key

    @property
    def sessions(self) -> Iterable[TcpSession]:
        """All sessions."""
        return self._by_id.values()

    def get(self, session_id: int) -> TcpSession | None:
        """Return a session by its number."""
        return self._by_id.get(session_id)

    def find(self, key: SessionKey) -> TcpSession | None:
        """Return the session of a packet's addresses and ports."""
        return self._by_key.get(key)

    def of_peer(self, address: int) -> int:
        """Return how many sessions a peer has."""
        return self._per_peer.get(address, 0)

    def add(self, key: SessionKey, endpoint: TcpEndpoint, backend: Backend | None = None) -> TcpSession:
        """Enter a new connection."""
        self._last_id += 1
        session = TcpSession(self._last_id, key, endpoint, backend)
        self._by_key[key] = session
        self._by_id[session.id] = session
        self._per_peer[key[0]] = self._per_peer.get(key[0], 0) + 1
        self._dirty[session.id] = session
        self._context.stats.tcp_sessions_opened += 1
        return session

    # -- from the overlay ----------------------------------------------------------------------------------------------

    def received(self, key: SessionKey, segment: Segment, now: float) -> bool:
        """Give a segment to its session; False if there is none."""
        session = self._by_key.get(key)
        if session is None:
            return False
        if segment.flags & SYN and session.endpoint.may_be_reopened_by(segment):
            self.drop(session)
            return False
        session.endpoint.segment_received(segment, now)
        self._dirty[session.id] = session
        return True

    # -- from the shell's sockets --------------------------------------------------------------------------------------

    def connected(self, session_id: int, now: float) -> None:
        """The shell's socket is connected: the peer may be."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.connected = True
            session.endpoint.accept(now)
            self._dirty[session_id] = session

    def broken(self, session_id: int) -> None:
        """The shell's socket failed, and the shell has forgotten it: the peer gets a reset."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.shell_has_it = False
            session.endpoint.abort()
            self._dirty[session_id] = session

    def data(self, session_id: int, data: bytes) -> None:
        """Take bytes from the shell's socket, all of them."""
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
        """The shell's socket sends no more."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.eof = True
            self._dirty[session_id] = session

    def writable(self, session_id: int, count: int) -> None:
        """The shell's socket took `count` bytes."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.unwritten_bytes -= count
            session.endpoint.consumed(count)
            self._dirty[session_id] = session

    # -- output --------------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether `flush_next` has something to do."""
        return bool(self._dirty) and (self.room is None or self.room > 0)

    def flush_next(self, now: float) -> None:
        """Give the first session in line its turn."""
        session_id, session = next(iter(self._dirty.items()))
        del self._dirty[session_id]
        self.flush(session, now)

    def flush(self, session: TcpSession, now: float) -> None:
        """Turn the session's events into commands and its segments into packets."""
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
            self._over(session, now)
            return
        if endpoint.in_time_wait and session.shell_has_it and session.unwritten_bytes <= 0:
            # Only the endpoint has to remember the connection; the socket need not wait.
            session.shell_has_it = False
            self._context.commands.append(CloseTcp(session.id))
        if len(segments) >= limit:
            self._dirty[session.id] = session
        low = endpoint.buffered_bytes * 4 < endpoint.settings.send_buffer_bytes
        if session.paused and low and not session.overflow:
            session.paused = False
            self._context.commands.append(ResumeTcp(session.id))
        self._set_timer(session, endpoint.get_timer())

    def _pass_events(self, session: TcpSession) -> None:
        commands = self._context.commands
        while (event := session.endpoint.next_event()) is not None:
            match event:
                case DataReceived(data):
                    session.unwritten_bytes += len(data)
                    commands.append(WriteTcp(session.id, data))
                case EndOfStream():
                    commands.append(ShutdownTcp(session.id))
                case Reset(reason):
                    self._pass_reset(session, reason)
                case Connected():
                    if not session.connected:
                        session.connected = True
                        commands.append(TcpOpened(session.id))
                case Closed():
                    pass

    def _pass_reset(self, session: TcpSession, reason: ResetReason) -> None:
        self._context.stats.tcp_sessions_reset += 1
        if not session.shell_has_it:
            return
        session.shell_has_it = False
        if session.connected or session.backend is not None:
            self._context.commands.append(AbortTcp(session.id))
        else:
            self._context.commands.append(TcpFailed(session.id, _FAILURES.get(reason, SocketError.OTHER)))

    def _over(self, session: TcpSession, now: float) -> None:
        """The peer's side has ended; the shell keeps its socket until everything the peer sent is written."""
        if session.shell_has_it and session.unwritten_bytes > 0:
            if session.linger_until is None:
                session.linger_until = now + _LINGER_S
                self._forget_key(session)
            self._set_timer(session, session.linger_until)
        else:
            self.drop(session)

    def drop(self, session: TcpSession) -> None:
        """Forget a session; if the shell still has its socket, it is to close it."""
        stats = self._context.stats
        stats.tcp_sessions_closed += 1
        stats.tcp_segments_retransmitted += session.endpoint.segments_retransmitted
        if session.shell_has_it:
            session.shell_has_it = False
            done = session.unwritten_bytes <= 0
            self._context.commands.append(CloseTcp(session.id) if done else AbortTcp(session.id))
        self._dirty.pop(session.id, None)
        self._forget_key(session)
        del self._by_id[session.id]
        left = self._per_peer[session.key[0]] - 1
        if left:
            self._per_peer[session.key[0]] = left
        else:
            del self._per_peer[session.key[0]]

    def _forget_key(self, session: TcpSession) -> None:
        if self._by_key.get(session.key) is session:
            del self._by_key[session.key]

    # -- time ----------------------------------------------------------------------------------------------------------

    def _set_timer(self, session: TcpSession, due: float | None) -> None:
        if due is not None and (session.timer_at is None or due < session.timer_at):
            session.timer_at = due
            heappush(self._timers, (due, session.id))

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
            if session.linger_until is not None and now >= session.linger_until:
                self.drop(session)
                continue
            session.endpoint.handle_timer(now)
            self._dirty[session_id] = session

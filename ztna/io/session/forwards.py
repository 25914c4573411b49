"""User-mode forwards over sessions: a local TCP connection is a stream, a local UDP client a flow.

A client that comes before the session is ready waits for it, a little while: its connection is open to the kernel
already, and its first datagrams are kept.
"""

import asyncio
import contextlib
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ztna.io.session.agent_side import AgentSessions
from ztna.io.session.flows import CONTROL_STREAM, send_flow_payload
from ztna.io.session.session import Session
from ztna.io.udp import Address
from ztna.proto.end_to_end import CloseUdp, OpenUdp, encode_message
from ztna.proto.gateway_types import GatewayLimits

WAIT_S: Final = 10.0
MAX_WAITING: Final = 256
MAX_FLOWS: Final = 1024
FLOW_IDLE_S: Final = 60.0
FLOW_WAITING: Final = 16
TICK_S: Final = 1.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class ForwardCounters:
    """Local clients over sessions; each datagram lost is in one `dropped_*`."""

    tcp_waited: int = 0
    tcp_gave_up: int = 0
    udp_flows: int = 0
    udp_sent: int = 0
    udp_received: int = 0
    udp_failed: int = 0
    dropped_waiting: int = 0
    dropped_flow_limit: int = 0
    dropped_queue: int = 0
    dropped_unknown: int = 0
    dropped_send: int = 0


class _Flow:
    __slots__ = ("active_at", "before", "client", "id", "key", "listener", "port", "service", "session", "waiting")

    def __init__(self, number: int, listener: socket.socket, client: Address, service: str, port: int) -> None:
        self.id = number
        self.key = (listener.fileno(), client)
        self.listener = listener
        self.client = client
        self.service = service
        self.port = port
        self.session: Session | None = None
        self.before: Session | None = None
        """The session before that one: answers may still be under way on it."""
        self.active_at = 0.0
        self.waiting: deque[bytes] = deque(maxlen=FLOW_WAITING)


class SessionForwards:
    """The clients of the agent's forwards whose services are reached by sessions.

    Args:
        on_unreachable: told when a flow's backend refused or cannot be reached.
        limits: of the agent's configuration; flows idle no longer than FLOW_IDLE_S, after which connectors forget them.
    """

    def __init__(
        self,
        sessions: AgentSessions,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_unreachable: Callable[[], None],
        limits: GatewayLimits,
    ) -> None:
        self.counters = ForwardCounters()
        self._sessions = sessions
        self._loop = loop
        self._clock = clock
        self._on_unreachable = on_unreachable
        self._limits = limits
        self._waiting: deque[tuple[float, socket.socket, str, int]] = deque()
        self._flows: OrderedDict[int, _Flow] = OrderedDict()
        self._by_key: dict[tuple[int, Address], _Flow] = {}
        self._last_flow = 0
        self._tick: asyncio.TimerHandle | None = None

    @property
    def udp_flows(self) -> int:
        """Open UDP flows."""
        return len(self._flows)

    @property
    def tcp_waiting(self) -> int:
        """Accepted connections that wait for a session."""
        return len(self._waiting)

    def adopt(self, sock: socket.socket, service: str, port: int) -> bool:
        """Take an accepted, non-blocking socket; False (and it stays the caller's) if there are too many."""
        if self._tcp_open() >= self._limits.tcp_sessions:
            return False
        session = self._sessions.session_for(service)
        if session is not None:
            return self._stream(session, sock, service, port)
        if len(self._waiting) >= MAX_WAITING:
            return False
        self.counters.tcp_waited += 1
        self._waiting.append((self._clock() + WAIT_S, sock, service, port))
        self._schedule()
        return True

    def _tcp_open(self) -> int:
        streams = (len(self._sessions.streams_of(session)) for session in self._sessions.sessions)
        return len(self._waiting) + sum(streams)

    def _stream(self, session: Session, sock: socket.socket, service: str, port: int) -> bool:
        taken = self._sessions.streams_of(session).adopt(sock, service, port)
        session.flush_soon()
        return taken

    def datagram(self, listener: socket.socket, client: Address, service: str, port: int, data: bytes) -> None:
        """Carry a datagram of a local client; the caller flushes the sessions once it has read all."""
        flow = self._by_key.get((listener.fileno(), client)) or self._open(listener, client, service, port)
        if flow is None:
            self.counters.dropped_flow_limit += 1
            return
        flow.active_at = self._clock()
        self._flows.move_to_end(flow.id)
        session = self._sessions.session_for(flow.service)
        if session is None:
            self.counters.dropped_waiting += len(flow.waiting) == FLOW_WAITING
            flow.waiting.append(data)
        else:
            self._send(flow, session, data)

    def _open(self, listener: socket.socket, client: Address, service: str, port: int) -> _Flow | None:
        if len(self._flows) >= min(MAX_FLOWS, self._limits.udp_flows):
            return None
        self._last_flow = (self._last_flow + 1) & 0xFFFFFFFF
        flow = _Flow(self._last_flow, listener, client, service, port)
        self._flows[flow.id] = self._by_key[flow.key] = flow
        self.counters.udp_flows += 1
        self._schedule()
        return flow

    def _send(self, flow: _Flow, session: Session, data: bytes) -> None:
        if session.core.writable(CONTROL_STREAM) <= 0:
            # The connector reads nothing: what it is told must not pile up here.
            self.counters.dropped_queue += 1
            return
        if flow.session is not session:
            flow.before, flow.session = flow.session, session
            session.core.write(CONTROL_STREAM, encode_message(OpenUdp(flow.id, flow.service, flow.port)))
            # The opening must be there before the first payload, which may overtake it.
            session.flush()
        if send_flow_payload(session.core, flow.id, data):
            self.counters.udp_sent += 1
        else:
            self.counters.dropped_queue += 1
        self._sessions.routes.used(session)

    # from the sessions

    def flow_received(self, session: Session, flow_id: int, payload: bytes) -> None:
        """An answer for a local client; of another session than the flow's own, none."""
        flow = self._carried(session, flow_id)
        if flow is None:
            self.counters.dropped_unknown += 1
            return
        flow.active_at = self._clock()
        self._flows.move_to_end(flow_id)
        try:
            flow.listener.sendto(payload, flow.client)
            self.counters.udp_received += 1
        except OSError:
            self.counters.dropped_send += 1

    def _carried(self, session: Session, flow_id: int) -> _Flow | None:
        flow = self._flows.get(flow_id)
        return flow if flow is not None and session in (flow.session, flow.before) else None

    def flow_failed(self, session: Session, flow_id: int, error: str) -> None:
        """The backend of a flow refused, or the connector cannot carry it."""
        if self._carried(session, flow_id) is not None:
            self.counters.udp_failed += 1
            self._on_unreachable()

    def flow_closed(self, session: Session, flow_id: int) -> None:
        """The connector forgot an idle flow: it is opened again by its next payload."""
        flow = self._carried(session, flow_id)
        if flow is not None and flow.session is session:
            flow.session = None

    def sessions_changed(self) -> None:
        """Let those who wait use a session that became ready."""
        for _ in range(len(self._waiting)):
            expires, sock, service, port = self._waiting.popleft()
            session = self._sessions.session_for(service)
            if session is None:
                self._waiting.append((expires, sock, service, port))
            elif not self._stream(session, sock, service, port):
                self._reset(sock)
        for flow in self._flows.values():
            session = self._sessions.session_for(flow.service) if flow.waiting else None
            while session is not None and flow.waiting:
                self._send(flow, session, flow.waiting.popleft())
                session.flush_soon()

    # time

    def _schedule(self) -> None:
        if self._tick is None and (self._waiting or self._flows):
            self._tick = self._loop.call_later(TICK_S, self._expire)

    def _expire(self) -> None:
        self._tick = None
        now = self._clock()
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            if waiting[0] <= now:
                self.counters.tcp_gave_up += 1
                self._reset(waiting[1])
            else:
                self._waiting.append(waiting)
        while self._flows:
            flow = next(iter(self._flows.values()))
            if now < flow.active_at + min(FLOW_IDLE_S, self._limits.udp_idle_s):
                break
            del self._flows[flow.id], self._by_key[flow.key]
            if flow.session is not None and flow.session.ready and flow.session.core.writable(CONTROL_STREAM) > 0:
                flow.session.core.write(CONTROL_STREAM, encode_message(CloseUdp(flow.id)))
                flow.session.flush_soon()
        self._schedule()

    def close(self) -> None:
        """Reset those who wait."""
        if self._tick is not None:
            self._tick.cancel()
        while self._waiting:
            self._reset(self._waiting.popleft()[1])
        self._flows.clear()
        self._by_key.clear()

    def _reset(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        sock.close()

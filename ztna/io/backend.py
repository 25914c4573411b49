"""Backend sockets of the connector: carries out what the packet gateway commands, and tells it what the sockets say.

One connected UDP socket per flow (so the kernel drops what anybody but the backend sends), one non-blocking TCP socket
per session, and a reachability probe. Nothing here blocks or raises: a socket error becomes a gateway input.
"""

import asyncio
import contextlib
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ztna.io.probe import ReachabilityProbe
from ztna.io.resolve import BackendNames, address_family
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import (
    AbortTcp,
    Backend,
    CloseTcp,
    CloseUdp,
    Command,
    OpenTcp,
    OpenUdp,
    PauseTcp,
    PingBackend,
    ResumeTcp,
    SendUdp,
    ShutdownTcp,
    SocketError,
    WriteTcp,
)

UDP_READS_PER_WAKE: Final = 64
TCP_READS_PER_WAKE: Final = 4
TCP_READ_BYTES: Final = 65536
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_IN_PROGRESS: Final = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY})


_ERRORS: Final = {
    errno.ECONNREFUSED: SocketError.REFUSED,
    errno.ENETUNREACH: SocketError.UNREACHABLE,
    errno.EHOSTUNREACH: SocketError.UNREACHABLE,
    errno.EHOSTDOWN: SocketError.UNREACHABLE,
    errno.ENETDOWN: SocketError.UNREACHABLE,
    errno.ETIMEDOUT: SocketError.TIMED_OUT,
    errno.ECONNRESET: SocketError.RESET,
    errno.EPIPE: SocketError.RESET,
}


@dataclass(slots=True)
class BackendCounters:
    """What the sockets did; each lost datagram is in one `dropped_*`."""

    udp_sent: int = 0
    udp_received: int = 0
    tcp_bytes_sent: int = 0
    tcp_bytes_received: int = 0
    probes: int = 0
    open_errors: int = 0
    dropped_send_full: int = 0
    dropped_send_error: int = 0
    dropped_no_socket: int = 0


class _TcpSession:
    """One backend connection: its socket and what still has to be written to it."""

    __slots__ = ("connected", "ended", "paused", "reading", "shutting", "sock", "unsent", "writing")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unsent: deque[bytes] = deque()
        self.connected = False
        self.ended = False
        self.paused = False
        self.reading = False
        self.shutting = False
        self.writing = False


class BackendSockets:
    """The sockets behind one gateway.

    Args:
        gateway: gets every socket event.
        names: resolved backend hosts.
        clock: monotonic seconds, as the gateway expects them.
        on_input: called after the gateway was given something outside `execute`; the owner drains its commands soon.
    """

    def __init__(
        self,
        gateway: Gateway,
        names: BackendNames,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_input: Callable[[], None],
    ) -> None:
        self.counters = BackendCounters()
        self._gateway = gateway
        self._names = names
        self._loop = loop
        self._clock = clock
        self._on_input = on_input
        self._flows: dict[int, socket.socket] = {}
        self._sessions: dict[int, _TcpSession] = {}
        self._probe = ReachabilityProbe(loop)

    @property
    def udp_open(self) -> int:
        """Open UDP flow sockets."""
        return len(self._flows)

    @property
    def tcp_open(self) -> int:
        """Open TCP session sockets."""
        return len(self._sessions)

    def execute(self, command: Command) -> None:
        """Carry out one gateway command (all but EmitPacket, which is the owner's)."""
        match command:
            case SendUdp(flow, data):
                self._send_udp(flow, data)
            case WriteTcp(session, data):
                self._write_tcp(session, data)
            case OpenUdp(flow, backend):
                self._open_udp(flow, backend)
            case CloseUdp(flow):
                self._close_udp(flow)
            case OpenTcp(session, backend):
                self._open_tcp(session, backend)
            case ShutdownTcp(session):
                self._shutdown_tcp(session)
            case AbortTcp(session):
                self._forget_tcp(session, reset=True)
            case CloseTcp(session):
                self._forget_tcp(session)
            case PauseTcp(session):
                self._set_paused(session, True)
            case ResumeTcp(session):
                self._set_paused(session, False)
            case PingBackend(backend):
                self._ping(backend)

    def close(self) -> None:
        """Close every socket; the gateway is not told."""
        for flow in list(self._flows):
            self._close_udp(flow)
        for session in list(self._sessions):
            self._forget_tcp(session, reset=True)
        self._probe.close()

    # UDP

    def _open_udp(self, flow: int, backend: Backend) -> None:
        address = self._names.address(backend.host)
        if address is None:
            self._later(self._gateway.udp_error, flow, SocketError.UNREACHABLE)
            return
        try:
            sock = socket.socket(
                address_family(address), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        except OSError:
            self.counters.open_errors += 1
            return
        try:
            sock.connect((address, backend.port))
        except OSError as exc:
            sock.close()
            self.counters.open_errors += 1
            self._later(self._gateway.udp_error, flow, socket_error(exc))
            return
        self._flows[flow] = sock
        self._loop.add_reader(sock.fileno(), self._udp_readable, flow, sock)

    def _send_udp(self, flow: int, data: bytes) -> None:
        sock = self._flows.get(flow)
        if sock is None:
            self.counters.dropped_no_socket += 1
            return
        try:
            sock.send(data)
            self.counters.udp_sent += 1
        except (BlockingIOError, InterruptedError):
            self.counters.dropped_send_full += 1
        except OSError as exc:
            # The error may be an ICMP answer to an earlier datagram (ECONNREFUSED); reading it cleared it.
            self.counters.dropped_send_error += 1
            self._later(self._gateway.udp_error, flow, socket_error(exc))

    def _udp_readable(self, flow: int, sock: socket.socket) -> None:
        now = self._clock()
        for _ in range(UDP_READS_PER_WAKE):
            try:
                data = sock.recv(65535)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                self._gateway.udp_error(flow, socket_error(exc), now)
                continue
            self.counters.udp_received += 1
            self._gateway.udp_received(flow, data, now)
        self._on_input()

    def _close_udp(self, flow: int) -> None:
        sock = self._flows.pop(flow, None)
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()

    # TCP

    def _open_tcp(self, session: int, backend: Backend) -> None:
        address = self._names.address(backend.host)
        if address is None:
            self._later(self._gateway.tcp_failed, session, SocketError.UNREACHABLE)
            return
        try:
            sock = socket.socket(
                address_family(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        except OSError:
            self.counters.open_errors += 1
            self._later(self._gateway.tcp_failed, session, SocketError.OTHER)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex((address, backend.port))
        if code not in _IN_PROGRESS:
            sock.close()
            self._later(self._gateway.tcp_failed, session, socket_error(OSError(code, "")))
            return
        state = self._sessions[session] = _TcpSession(sock)
        self._set_writing(session, state, True)

    def _tcp_writable(self, session: int, state: _TcpSession) -> None:
        if not state.connected:
            code = state.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._forget_tcp(session)
                self._gateway.tcp_failed(session, socket_error(OSError(code, "")), self._clock())
                self._on_input()
                return
            state.connected = True
            self._gateway.tcp_connected(session, self._clock())
            self._update_reading(session, state)
        self._flush(session, state)
        self._on_input()

    def _write_tcp(self, session: int, data: bytes) -> None:
        state = self._sessions.get(session)
        if state is None:
            return
        state.unsent.append(data)
        if state.connected and not state.writing:
            self._flush(session, state)

    def _flush(self, session: int, state: _TcpSession) -> None:
        """Write what the kernel takes, then wait for it to take more, or shut the write side if that was asked."""
        taken = 0
        try:
            while state.unsent:
                data = state.unsent[0]
                sent = state.sock.send(data)
                taken += sent
                if sent < len(data):
                    state.unsent[0] = data[sent:]
                else:
                    state.unsent.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._broken(session)
            return
        if taken:
            self.counters.tcp_bytes_sent += taken
            self._gateway.tcp_writable(session, taken, self._clock())
        self._set_writing(session, state, bool(state.unsent))
        if state.shutting and not state.unsent:
            state.shutting = False
            with contextlib.suppress(OSError):
                state.sock.shutdown(socket.SHUT_WR)

    def _tcp_readable(self, session: int, state: _TcpSession) -> None:
        for _ in range(TCP_READS_PER_WAKE):
            try:
                data = state.sock.recv(TCP_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._broken(session)
                break
            if not data:
                state.ended = True
                self._update_reading(session, state)
                self._gateway.tcp_eof(session, self._clock())
                break
            self.counters.tcp_bytes_received += len(data)
            self._gateway.tcp_data(session, data, self._clock())
            if len(data) < TCP_READ_BYTES:
                break
        self._on_input()

    def _shutdown_tcp(self, session: int) -> None:
        state = self._sessions.get(session)
        if state is not None:
            state.shutting = True
            if state.connected:
                self._flush(session, state)

    def _set_paused(self, session: int, paused: bool) -> None:
        state = self._sessions.get(session)
        if state is not None:
            state.paused = paused
            self._update_reading(session, state)

    def _update_reading(self, session: int, state: _TcpSession) -> None:
        wanted = state.connected and not state.paused and not state.ended
        if wanted and not state.reading:
            self._loop.add_reader(state.sock.fileno(), self._tcp_readable, session, state)
        elif state.reading and not wanted:
            self._loop.remove_reader(state.sock.fileno())
        state.reading = wanted

    def _set_writing(self, session: int, state: _TcpSession, wanted: bool) -> None:
        if wanted and not state.writing:
            self._loop.add_writer(state.sock.fileno(), self._tcp_writable, session, state)
        elif state.writing and not wanted:
            self._loop.remove_writer(state.sock.fileno())
        state.writing = wanted

    def _broken(self, session: int) -> None:
        self._forget_tcp(session)
        self._later(self._gateway.tcp_reset, session)

    def _forget_tcp(self, session: int, *, reset: bool = False) -> None:
        state = self._sessions.pop(session, None)
        if state is None:
            return
        self._loop.remove_reader(state.sock.fileno())
        self._loop.remove_writer(state.sock.fileno())
        if reset:
            with contextlib.suppress(OSError):
                state.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        state.sock.close()

    # probes and plumbing

    def _ping(self, backend: Backend) -> None:
        self.counters.probes += 1
        address = self._names.address(backend.host)

        def tell(alive: bool) -> None:
            self._gateway.backend_answered(backend, alive, self._clock())
            self._on_input()

        if address is None:
            self._loop.call_soon(tell, False)
        else:
            self._probe.start(address, backend.port, tell)

    def _later(self, method: Callable[..., None], number: int, *arguments: object) -> None:
        """Give the gateway an input in the loop's next turn: it is just being drained of commands."""

        def run() -> None:
            method(number, *arguments, self._clock())
            self._on_input()

        self._loop.call_soon(run)


def socket_error(exc: OSError) -> SocketError:
    """What a peer may learn of an operating system error."""
    return _ERRORS.get(exc.errno or 0, SocketError.OTHER)

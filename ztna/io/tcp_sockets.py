"""Kernel TCP connections on the local side of a sans-IO stack: to backends at the connector, from clients at the agent.

Each is known by the stack's session number. Reading stops while the stack says so, writing waits for the kernel, ends
and resets are told in both directions. Nothing blocks or raises: a socket error becomes an input of the stack.
"""

import asyncio
import contextlib
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ztna.io.resolve import address_family
from ztna.proto.gateway_types import (
    AbortTcp,
    CloseTcp,
    Command,
    PauseTcp,
    ResumeTcp,
    ShutdownTcp,
    SocketError,
    TcpFailed,
    WriteTcp,
)

READS_PER_WAKE: Final = 4
READ_BYTES: Final = 65536
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_IN_PROGRESS: Final = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY})


class TcpStack(Protocol):
    """The inputs of a stack that every connection has, whichever side opened it."""

    def tcp_data(self, session: int, data: bytes, now: float) -> None:
        """Bytes from the local side."""

    def tcp_eof(self, session: int, now: float) -> None:
        """The local side ended its direction."""

    def tcp_reset(self, session: int, now: float) -> None:
        """The local connection broke and is forgotten."""

    def tcp_writable(self, session: int, count: int, now: float) -> None:
        """The local side took `count` more bytes."""


class ConnectingStack(TcpStack, Protocol):
    """The inputs of a stack whose connections we open."""

    def tcp_connected(self, session: int, now: float) -> None:
        """The backend accepted."""

    def tcp_failed(self, session: int, error: SocketError, now: float) -> None:
        """The backend did not accept; the session is forgotten."""


@dataclass(slots=True)
class TcpCounters:
    """Bytes through the sockets, and sockets that could not be had."""

    bytes_sent: int = 0
    bytes_received: int = 0
    open_errors: int = 0


class _Session:
    """One connection: its socket and what still has to be written to it."""

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


class TcpSockets:
    """The sockets of one stack.

    Args:
        stack: gets every socket event.
        clock: monotonic seconds, as the stack expects them.
        on_input: called after the stack was given something outside `execute`; its commands are to be taken soon.
    """

    def __init__(
        self,
        stack: TcpStack,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_input: Callable[[], None],
    ) -> None:
        self.counters = TcpCounters()
        self._stack = stack
        self._loop = loop
        self._clock = clock
        self._on_input = on_input
        self._sessions: dict[int, _Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def execute(self, command: Command) -> bool:
        """Carry out a command about a connection; False if it is about something else."""
        match command:
            case WriteTcp(session, data):
                self._write(session, data)
            case ShutdownTcp(session):
                self._shutdown(session)
            case AbortTcp(session) | TcpFailed(session, _):
                self._forget(session, reset=True)
            case CloseTcp(session):
                self._forget(session)
            case PauseTcp(session):
                self._set_paused(session, True)
            case ResumeTcp(session):
                self._set_paused(session, False)
            case _:
                return False
        return True

    def connect(self, stack: ConnectingStack, session: int, address: str, port: int) -> None:
        """Open a connection for `session`; `tcp_connected` or `tcp_failed` follows, never from within this call."""
        try:
            sock = socket.socket(
                address_family(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        except OSError:
            self.counters.open_errors += 1
            self._later(lambda now: stack.tcp_failed(session, SocketError.OTHER, now))
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex((address, port))
        if code not in _IN_PROGRESS:
            sock.close()
            error = socket_error(OSError(code, ""))
            self._later(lambda now: stack.tcp_failed(session, error, now))
            return
        state = self._sessions[session] = _Session(sock)
        state.writing = True
        self._loop.add_writer(sock.fileno(), self._connect_finished, stack, session, state)

    def adopt(self, session: int, sock: socket.socket) -> None:
        """Take over an accepted, non-blocking socket."""
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        state = self._sessions[session] = _Session(sock)
        state.connected = True
        self._update_reading(session, state)

    def close(self) -> None:
        """Reset every connection; the stack is not told."""
        for session in list(self._sessions):
            self._forget(session, reset=True)

    def _connect_finished(self, stack: ConnectingStack, session: int, state: _Session) -> None:
        code = state.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._forget(session)
            stack.tcp_failed(session, socket_error(OSError(code, "")), self._clock())
        else:
            self._loop.remove_writer(state.sock.fileno())
            state.writing = False
            state.connected = True
            stack.tcp_connected(session, self._clock())
            self._update_reading(session, state)
            self._flush(session, state)
        self._on_input()

    def _writable(self, session: int, state: _Session) -> None:
        self._flush(session, state)
        self._on_input()

    def _write(self, session: int, data: bytes) -> None:
        state = self._sessions.get(session)
        if state is None:
            return
        state.unsent.append(data)
        if state.connected and not state.writing:
            self._flush(session, state)

    def _flush(self, session: int, state: _Session) -> None:
        """Write what the kernel takes, then wait for it to take more, or shut the write side if that was asked."""
        taken = 0
        unsent = state.unsent
        try:
            while unsent:
                data = unsent[0]
                sent = state.sock.send(data)
                taken += sent
                if sent < len(data):
                    unsent[0] = data[sent:]
                else:
                    unsent.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._broken(session)
            return
        if taken:
            self.counters.bytes_sent += taken
            self._stack.tcp_writable(session, taken, self._clock())
            if self._sessions.get(session) is not state:
                return  # that was the last the stack waited for: it has closed the connection
        self._set_writing(session, state, bool(unsent))
        if state.shutting and not unsent:
            state.shutting = False
            with contextlib.suppress(OSError):
                state.sock.shutdown(socket.SHUT_WR)

    def _readable(self, session: int, state: _Session) -> None:
        for _ in range(READS_PER_WAKE):
            try:
                data = state.sock.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._broken(session)
                break
            if not data:
                state.ended = True
                self._update_reading(session, state)
                self._stack.tcp_eof(session, self._clock())
                break
            self.counters.bytes_received += len(data)
            self._stack.tcp_data(session, data, self._clock())
            if len(data) < READ_BYTES:
                break
        self._on_input()

    def _shutdown(self, session: int) -> None:
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

    def _update_reading(self, session: int, state: _Session) -> None:
        wanted = state.connected and not state.paused and not state.ended
        if wanted and not state.reading:
            self._loop.add_reader(state.sock.fileno(), self._readable, session, state)
        elif state.reading and not wanted:
            self._loop.remove_reader(state.sock.fileno())
        state.reading = wanted

    def _set_writing(self, session: int, state: _Session, wanted: bool) -> None:
        if wanted and not state.writing:
            self._loop.add_writer(state.sock.fileno(), self._writable, session, state)
        elif state.writing and not wanted:
            self._loop.remove_writer(state.sock.fileno())
        state.writing = wanted

    def _broken(self, session: int) -> None:
        self._forget(session)
        self._later(lambda now: self._stack.tcp_reset(session, now))

    def _forget(self, session: int, *, reset: bool = False) -> None:
        state = self._sessions.pop(session, None)
        if state is None:
            return
        self._loop.remove_reader(state.sock.fileno())
        self._loop.remove_writer(state.sock.fileno())
        if reset:
            with contextlib.suppress(OSError):
                state.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        state.sock.close()

    def _later(self, tell: Callable[[float], None]) -> None:
        """Tell the stack in the loop's next turn: its commands are just being taken."""

        def run() -> None:
            tell(self._clock())
            self._on_input()

        self._loop.call_soon(run)


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


def socket_error(exc: OSError) -> SocketError:
    """What a peer may learn of an operating system error."""
    return _ERRORS.get(exc.errno or 0, SocketError.OTHER)

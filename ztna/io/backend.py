"""Backend sockets of the connector: carries out what the packet gateway commands, and tells it what the sockets say.

One connected UDP socket per flow (so the kernel drops what anybody but the backend sends), one non-blocking TCP socket
per session, and a reachability probe. Nothing here blocks or raises: a socket error becomes a gateway input.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ztna.io.probe import ReachabilityProbe
from ztna.io.resolve import BackendNames, address_family
from ztna.io.tcp_sockets import TcpSockets, socket_error
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import Backend, CloseUdp, Command, OpenTcp, OpenUdp, PingBackend, SendUdp, SocketError

READS_PER_WAKE: Final = 64
READ_BYTES: Final = 65535


@dataclass(slots=True)
class BackendCounters:
    """What the UDP sockets and the probes did; each lost datagram is in one `dropped_*`."""

    udp_sent: int = 0
    udp_received: int = 0
    probes: int = 0
    open_errors: int = 0
    dropped_send_full: int = 0
    dropped_send_error: int = 0
    dropped_no_socket: int = 0


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
        self.tcp = TcpSockets(gateway, loop=loop, clock=clock, on_input=on_input)
        self._gateway = gateway
        self._names = names
        self._loop = loop
        self._clock = clock
        self._on_input = on_input
        self._flows: dict[int, socket.socket] = {}
        self._probe = ReachabilityProbe(loop)

    @property
    def udp_open(self) -> int:
        """Open UDP flow sockets."""
        return len(self._flows)

    def execute(self, command: Command) -> None:
        """Carry out one gateway command (all but EmitPacket, which is the owner's)."""
        match command:
            case SendUdp(flow, data):
                self._send_udp(flow, data)
            case OpenUdp(flow, backend):
                self._open_udp(flow, backend)
            case CloseUdp(flow):
                self._close_udp(flow)
            case OpenTcp(session, backend):
                self._open_tcp(session, backend)
            case PingBackend(backend):
                self._ping(backend)
            case _:
                self.tcp.execute(command)

    def close(self) -> None:
        """Close every socket; the gateway is not told."""
        for flow in list(self._flows):
            self._close_udp(flow)
        self.tcp.close()
        self._probe.close()

    def _open_udp(self, flow: int, backend: Backend) -> None:
        address = self._names.address(backend.host)
        if address is None:
            self._later(lambda now: self._gateway.udp_error(flow, SocketError.UNREACHABLE, now))
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
            error = socket_error(exc)
            self._later(lambda now: self._gateway.udp_error(flow, error, now))
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
            # The error may be the ICMP answer to an earlier datagram (ECONNREFUSED); this call has cleared it.
            self.counters.dropped_send_error += 1
            error = socket_error(exc)
            self._later(lambda now: self._gateway.udp_error(flow, error, now))

    def _udp_readable(self, flow: int, sock: socket.socket) -> None:
        now = self._clock()
        for _ in range(READS_PER_WAKE):
            try:
                data = sock.recv(READ_BYTES)
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

    def _open_tcp(self, session: int, backend: Backend) -> None:
        address = self._names.address(backend.host)
        if address is None:
            self._later(lambda now: self._gateway.tcp_failed(session, SocketError.UNREACHABLE, now))
        else:
            self.tcp.connect(self._gateway, session, address, backend.port)

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

    def _later(self, tell: Callable[[float], None]) -> None:
        """Tell the gateway in the loop's next turn: its commands are just being taken."""

        def run() -> None:
            tell(self._clock())
            self._on_input()

        self._loop.call_soon(run)

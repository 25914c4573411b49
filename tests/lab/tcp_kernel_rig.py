"""A stack of ours behind a TUN, one application on each side, and the pump that is the network between them."""

import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.lab.tun_namespace import KERNEL_ADDRESS, TUN_MTU_BYTES, TunNamespace
from ztna.proto.forward import UserStack
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import (
    AbortTcp,
    Backend,
    CloseTcp,
    EmitPacket,
    GatewayService,
    OpenTcp,
    PauseTcp,
    ResumeTcp,
    ShutdownTcp,
    SocketError,
    TcpFailed,
    TcpOpened,
    WriteTcp,
)

SERVICE_ADDRESS = "100.64.0.100"
SERVICE = int.from_bytes(socket.inet_aton(SERVICE_ADDRESS), "big")
KERNEL = int.from_bytes(socket.inet_aton(KERNEL_ADDRESS), "big")
PORT = 9999
BACKEND = Backend("backend", PORT)
CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class App:
    """The application on our stack: what it sends, what it got, how it behaves."""

    outgoing: bytes = b""
    close_after: bool = True
    echo: bool = False
    reads: bool = True
    incoming: bytearray = field(default_factory=bytearray)
    opened: bool = False
    ended: bool = False
    closed: bool = False
    aborted: bool = False
    failed: SocketError | None = None
    paused: bool = False
    unread: int = 0
    sent_eof: bool = False


@dataclass(slots=True)
class KernelApp:
    """The application on the kernel's socket."""

    sock: socket.socket
    outgoing: bytes = b""
    close_after: bool = True
    reads: bool = True
    incoming: bytearray = field(default_factory=bytearray)
    ended: bool = False
    error: OSError | None = None

    def run(self) -> None:
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.sock.send(self.outgoing[: 4 * CHUNK_BYTES]) :]
            if self.close_after:
                self.close_after = False
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError as exc:
            self.error = exc
        try:
            while self.reads and not self.ended:
                data = self.sock.recv(4 * CHUNK_BYTES)
                self.incoming += data
                self.ended = not data
        except BlockingIOError:
            pass
        except OSError as exc:
            self.error = exc


class Rig:
    """One stack behind the TUN, one application on each side, and the pump between them."""

    def __init__(self, namespace: TunNamespace, stack: Gateway | UserStack, app: App, loss: float = 0.0) -> None:
        self.namespace = namespace
        self.stack = stack
        self.app = app
        self.loss = loss
        self.deaf = False
        self.random = Random(20260823)
        self.session: int | None = None
        self.refuse: SocketError | None = None
        self.kernel: KernelApp | None = None
        self.largest = 0

    def run(self, until: Callable[[], bool], limit_s: float = 20.0) -> float:
        """Pump until the condition holds; returns the seconds it took."""
        started = time.monotonic()
        while not until():
            assert time.monotonic() - started < limit_s, f"not within {limit_s} s: {self.app} {self.stack.stats}"
            self._pump()
        return time.monotonic() - started

    def _pump(self) -> None:
        for _ in range(64):
            try:
                packet = os.read(self.namespace.tun, 2048)
            except BlockingIOError:
                break
            if packet[0] >> 4 == 4 and not self.deaf and self.random.random() >= self.loss:
                self.stack.packet_received(packet, time.monotonic())
        now = time.monotonic()
        due = self.stack.get_timer()
        if due is not None and due <= now:
            self.stack.handle_timer(now)
        self._run_app(now)
        busy = self._drain(now)
        if self.kernel is not None:
            self.kernel.run()
        if not busy:
            select.select([self.namespace.tun], [], [], 0.001)

    def _run_app(self, now: float) -> None:
        app, session = self.app, self.session
        if session is None or not app.opened:
            return
        if app.outgoing and not app.paused:
            self.stack.tcp_data(session, app.outgoing[:CHUNK_BYTES], now)
            app.outgoing = app.outgoing[CHUNK_BYTES:]
        if app.close_after and not app.outgoing and not app.sent_eof and (app.ended or not app.echo):
            app.sent_eof = True
            self.stack.tcp_eof(session, now)
        if app.reads and app.unread:
            self.stack.tcp_writable(session, app.unread, now)
            app.unread = 0

    def _drain(self, now: float) -> bool:
        app = self.app
        busy = False
        while (command := self.stack.next_command()) is not None:
            busy = True
            match command:
                case EmitPacket(packet):
                    self.largest = max(self.largest, len(packet))
                    if self.random.random() >= self.loss:
                        os.write(self.namespace.tun, packet)
                case OpenTcp(session, backend):
                    assert backend == BACKEND
                    self.session = session
                    assert isinstance(self.stack, Gateway)
                    if self.refuse is not None:
                        self.stack.tcp_failed(session, self.refuse, now)
                    else:
                        app.opened = True
                        self.stack.tcp_connected(session, now)
                case TcpOpened():
                    app.opened = True
                case TcpFailed(_, error):
                    app.failed = error
                case WriteTcp(_, data):
                    app.incoming += data
                    app.unread += len(data)
                    if app.echo:
                        app.outgoing += data
                case ShutdownTcp():
                    app.ended = True
                case CloseTcp():
                    app.closed = True
                case AbortTcp():
                    app.aborted = True
                case PauseTcp():
                    app.paused = True
                case ResumeTcp():
                    app.paused = False
                case _:
                    raise AssertionError(command)
        return busy


def gateway_rig(namespace: TunNamespace, app: App, kernel_sends: bytes = b"", loss: float = 0.0) -> Rig:
    """A kernel client that connects to our gateway; `app` is the backend's application."""
    service = GatewayService(id="echo-service", virtual_ip=SERVICE, backend=BACKEND)
    rig = Rig(namespace, Gateway([service], budget_bytes=TUN_MTU_BYTES, random=os.urandom), app, loss)
    sock = namespace.sockets[0]
    assert sock.connect_ex((SERVICE_ADDRESS, PORT))
    rig.kernel = KernelApp(sock, kernel_sends)
    return rig


def user_rig(namespace: TunNamespace, app: App, kernel_sends: bytes = b"", loss: float = 0.0) -> Rig:
    """A kernel server that our user-mode stack connects to; `app` is the local client's application."""
    listener = namespace.sockets[0]
    listener.bind((KERNEL_ADDRESS, PORT))
    listener.listen()
    stack = UserStack(SERVICE, budget_bytes=TUN_MTU_BYTES, random=os.urandom)
    rig = Rig(namespace, stack, app, loss)
    rig.session = stack.open_tcp(KERNEL, PORT, time.monotonic())

    def accepted() -> bool:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return False
        sock.setblocking(False)
        namespace.sockets.append(sock)
        rig.kernel = KernelApp(sock, kernel_sends)
        return True

    rig.run(accepted)
    return rig

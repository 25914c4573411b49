"""The TCP endpoint against the kernel's: gateway (passive) and user-mode stack (active) behind a TUN device.

The pump below stands for relay and network: it carries packets between the TUN and our stack and loses some, both ways.
"""

import hashlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

from tests.lab.tun_namespace import KERNEL_ADDRESS, TUN_MTU_BYTES, TunNamespace, make_namespace
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

pytestmark = pytest.mark.lab

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


@pytest.fixture
def namespace() -> Iterator[TunNamespace]:
    made = make_namespace()
    yield made
    made.close()


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


RIGS = pytest.mark.parametrize("make_rig", [gateway_rig, user_rig], ids=["passive", "active"])


def assert_same(received: bytes | bytearray, sent: bytes) -> None:
    assert len(received) == len(sent)
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


@RIGS
@pytest.mark.parametrize("size", [1, 1266, 100_000])
def test_both_directions_arrive_intact(make_rig: Callable[..., Rig], size: int, namespace: TunNamespace) -> None:
    ours, theirs = os.urandom(size), os.urandom(size + 1)
    app = App(ours)
    rig = make_rig(namespace, app, theirs)
    rig.run(lambda: app.closed and rig.kernel is not None and rig.kernel.ended)
    assert rig.kernel is not None
    assert_same(rig.kernel.incoming, ours)
    assert_same(app.incoming, theirs)
    assert rig.kernel.error is None
    assert rig.largest <= TUN_MTU_BYTES


@RIGS
@pytest.mark.parametrize("loss", [0.0, 0.03], ids=["clean", "lossy"])
def test_ten_megabytes_each_way(make_rig: Callable[..., Rig], loss: float, namespace: TunNamespace) -> None:
    ours, theirs = os.urandom(10_000_000), os.urandom(10_000_000)
    app = App(ours)
    rig = make_rig(namespace, app, theirs, loss)
    seconds = rig.run(lambda: app.closed and rig.kernel is not None and rig.kernel.ended, 40)
    assert rig.kernel is not None
    assert_same(rig.kernel.incoming, ours)
    assert_same(app.incoming, theirs)
    print(f"{20 / seconds:.1f} MB/s at loss {loss}")


@pytest.mark.parametrize("sysctl", ["tcp_sack=0", "tcp_timestamps=0", "tcp_window_scaling=0", "tcp_ecn=1"])
def test_kernel_with_other_options(sysctl: str) -> None:
    namespace = make_namespace(sysctl)
    data = os.urandom(1_000_000)
    app = App(echo=True)
    rig = gateway_rig(namespace, app, data, 0.02)
    rig.run(lambda: app.closed and rig.kernel is not None and rig.kernel.ended)
    assert rig.kernel is not None
    assert_same(rig.kernel.incoming, data)
    namespace.close()


@RIGS
def test_half_close_by_the_kernel_leaves_our_direction_open(
    make_rig: Callable[..., Rig], namespace: TunNamespace
) -> None:
    app = App(close_after=False)
    rig = make_rig(namespace, app, b"question")
    rig.run(lambda: app.ended)
    assert app.incoming == b"question"
    answer = os.urandom(300_000)
    app.outgoing, app.close_after = answer, True
    rig.run(lambda: rig.kernel is not None and rig.kernel.ended)
    assert rig.kernel is not None
    assert_same(rig.kernel.incoming, answer)
    rig.run(lambda: app.closed)


@RIGS
def test_half_close_by_us_leaves_the_kernels_direction_open(
    make_rig: Callable[..., Rig], namespace: TunNamespace
) -> None:
    app = App(b"question")
    rig = make_rig(namespace, app)
    assert rig.kernel is not None
    rig.kernel.close_after = False
    kernel = rig.kernel
    rig.run(lambda: kernel.ended)
    assert kernel.incoming == b"question"
    answer = os.urandom(300_000)
    kernel.outgoing, kernel.close_after = answer, True
    rig.run(lambda: app.closed)
    assert_same(app.incoming, answer)


@RIGS
def test_reset_by_the_kernel_aborts_our_side(make_rig: Callable[..., Rig], namespace: TunNamespace) -> None:
    app = App(close_after=False)
    rig = make_rig(namespace, app, b"x")
    assert rig.kernel is not None
    rig.kernel.close_after = False
    rig.run(lambda: bool(app.incoming))
    rig.kernel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rig.kernel.sock.close()
    rig.kernel = None
    rig.run(lambda: app.aborted)
    assert rig.stack.tcp_sessions == 0


@RIGS
def test_reset_by_us_reaches_the_kernel(make_rig: Callable[..., Rig], namespace: TunNamespace) -> None:
    app = App(close_after=False)
    rig = make_rig(namespace, app, b"x")
    kernel = rig.kernel
    assert kernel is not None
    kernel.close_after = False
    rig.run(lambda: bool(app.incoming))
    assert rig.session is not None
    rig.stack.tcp_reset(rig.session, time.monotonic())
    rig.run(lambda: kernel.error is not None)
    assert isinstance(kernel.error, ConnectionResetError)


def test_refused_backend_refuses_the_kernels_connection(namespace: TunNamespace) -> None:
    rig = gateway_rig(namespace, App())
    rig.refuse = SocketError.REFUSED
    kernel = rig.kernel
    assert kernel is not None
    kernel.close_after = kernel.reads = False
    rig.run(lambda: kernel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 111)


def test_closed_port_of_the_kernel_fails_our_connection(namespace: TunNamespace) -> None:
    stack = UserStack(SERVICE, budget_bytes=TUN_MTU_BYTES, random=os.urandom)
    app = App()
    rig = Rig(namespace, stack, app)
    rig.session = stack.open_tcp(KERNEL, 1, time.monotonic())
    rig.run(lambda: app.failed is not None)
    assert app.failed is SocketError.REFUSED


@RIGS
def test_our_zero_window_stops_the_kernel_and_opens_again(
    make_rig: Callable[..., Rig], namespace: TunNamespace
) -> None:
    data = os.urandom(3_000_000)
    app = App(reads=False, close_after=False)
    rig = make_rig(namespace, app, data)
    limit = rig.stack.limits.tcp_buffer_bytes
    rig.run(lambda: len(app.incoming) >= limit - TUN_MTU_BYTES)
    stopped_at = time.monotonic()
    rig.run(lambda: time.monotonic() - stopped_at > 0.7)
    assert len(app.incoming) <= limit
    app.reads = app.close_after = True
    rig.run(lambda: app.closed)
    assert_same(app.incoming, data)


@RIGS
def test_kernels_zero_window_pauses_our_side_and_is_probed(
    make_rig: Callable[..., Rig], namespace: TunNamespace
) -> None:
    data = os.urandom(12_000_000)
    app = App(data)
    rig = make_rig(namespace, app)
    kernel = rig.kernel
    assert kernel is not None
    kernel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    kernel.reads = False
    rig.run(lambda: app.paused)
    stopped_at = time.monotonic()
    left = len(app.outgoing)
    rig.run(lambda: time.monotonic() - stopped_at > 0.7)
    assert left - len(app.outgoing) <= CHUNK_BYTES
    # The kernel says once that its window is open again; lost, only a probe brings the transfer back.
    rig.deaf = kernel.reads = True
    deaf_at = time.monotonic()
    rig.run(lambda: time.monotonic() - deaf_at > 0.2)
    rig.deaf = False
    rig.run(lambda: app.closed)
    assert_same(kernel.incoming, data)


def test_blackout_of_a_second_heals(namespace: TunNamespace) -> None:
    data = os.urandom(2_000_000)
    app = App(echo=True)
    rig = gateway_rig(namespace, app, data)
    rig.run(lambda: len(app.incoming) > 500_000)
    rig.loss = 1.0
    dark_at = time.monotonic()
    rig.run(lambda: time.monotonic() - dark_at > 1.0)
    rig.loss = 0.0
    rig.run(lambda: app.closed and rig.kernel is not None and rig.kernel.ended)
    assert rig.kernel is not None
    assert_same(rig.kernel.incoming, data)

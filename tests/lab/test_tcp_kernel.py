"""The TCP endpoint against the kernel's: gateway (passive) and user-mode stack (active) behind a TUN device.

The rig's pump stands for relay and network: it carries packets between the TUN and our stack and loses some, both ways.
"""

import hashlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.tcp_kernel_rig import (
    CHUNK_BYTES,
    KERNEL,
    SERVICE,
    App,
    Rig,
    gateway_rig,
    user_rig,
)
from tests.lab.tun_namespace import TUN_MTU_BYTES, TunNamespace, make_namespace
from ztna.proto.forward import UserStack
from ztna.proto.gateway_types import (
    SocketError,
)

pytestmark = [pytest.mark.lab, pytest.mark.tun]


@pytest.fixture
def namespace() -> Iterator[TunNamespace]:
    made = make_namespace()
    yield made
    made.close()


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

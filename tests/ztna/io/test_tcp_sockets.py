"""Kernel connections of a stack: connect, refuse, pause, partial writes, half-close, resets."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.overlay import HOST, eventually
from ztna.io.tcp_sockets import TcpSockets, socket_error
from ztna.proto.gateway_types import (
    AbortTcp,
    CloseTcp,
    CloseUdp,
    PauseTcp,
    ResumeTcp,
    ShutdownTcp,
    SocketError,
    TcpFailed,
    WriteTcp,
)


class Stack:
    """Records what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.received = bytearray()
        self.written = 0

    def tcp_connected(self, session: int, now: float) -> None:
        self.events.append(("connected", session))

    def tcp_failed(self, session: int, error: SocketError, now: float) -> None:
        self.events.append(("failed", session, error))

    def tcp_data(self, session: int, data: bytes, now: float) -> None:
        self.received += data

    def tcp_eof(self, session: int, now: float) -> None:
        self.events.append(("eof", session))

    def tcp_reset(self, session: int, now: float) -> None:
        self.events.append(("reset", session))

    def tcp_writable(self, session: int, count: int, now: float) -> None:
        self.written += count


class Rig:
    """One stack, its sockets, and a listener that hands out accepted sockets."""

    def __init__(self) -> None:
        self.stack = Stack()
        self.inputs = 0
        loop = asyncio.get_running_loop()
        self.sockets = TcpSockets(self.stack, loop=loop, clock=loop.time, on_input=self._input)
        self.listener = socket.create_server((HOST, 0))
        self.listener.setblocking(False)
        self.accepted: list[socket.socket] = []

    def _input(self) -> None:
        self.inputs += 1

    async def connect(self, session: int = 1) -> socket.socket:
        host, port = self.listener.getsockname()
        self.sockets.connect(self.stack, session, host, port)
        assert self.stack.events == []
        sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.accepted.append(sock)
        await eventually(lambda: ("connected", session) in self.stack.events)
        return sock

    def close(self) -> None:
        self.sockets.close()
        for sock in (*self.accepted, self.listener):
            sock.close()


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


async def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while chunk := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
        data += chunk
    return bytes(data)


async def test_refused_connection_is_told_later_and_forgotten(rig: Rig) -> None:
    with socket.create_server((HOST, 0)) as gone:
        port = gone.getsockname()[1]
    rig.sockets.connect(rig.stack, 1, HOST, port)
    assert rig.stack.events == []
    await eventually(lambda: rig.stack.events == [("failed", 1, SocketError.REFUSED)])
    assert len(rig.sockets) == 0
    assert rig.inputs == 1


async def test_unroutable_address_fails_as_unreachable(rig: Rig) -> None:
    rig.sockets.connect(rig.stack, 1, "255.255.255.255", 9)
    await eventually(lambda: bool(rig.stack.events))
    assert rig.stack.events[0][:2] == ("failed", 1)


async def test_all_bytes_are_written_and_each_is_reported_once(rig: Rig) -> None:
    sock = await rig.connect()
    data = os.urandom(8 << 20)
    for at in range(0, len(data), 100_000):
        rig.sockets.execute(WriteTcp(1, data[at : at + 100_000]))
    assert rig.stack.written < len(data)
    rig.sockets.execute(ShutdownTcp(1))
    assert await read_all(sock) == data
    assert rig.stack.written == len(data)


async def test_writes_before_the_connection_is_up_wait_for_it(rig: Rig) -> None:
    host, port = rig.listener.getsockname()
    rig.sockets.connect(rig.stack, 1, host, port)
    rig.sockets.execute(WriteTcp(1, b"early"))
    rig.sockets.execute(ShutdownTcp(1))
    sock, _ = await asyncio.get_running_loop().sock_accept(rig.listener)
    rig.accepted.append(sock)
    assert await read_all(sock) == b"early"


async def test_paused_connection_is_not_read(rig: Rig) -> None:
    sock = await rig.connect()
    rig.sockets.execute(PauseTcp(1))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    await asyncio.sleep(0)
    assert not rig.stack.received
    rig.sockets.execute(ResumeTcp(1))
    await eventually(lambda: len(rig.stack.received) > 65536)


async def test_end_of_the_other_side_leaves_our_direction_open(rig: Rig) -> None:
    sock = await rig.connect()
    sock.send(b"last words")
    sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: ("eof", 1) in rig.stack.events)
    assert rig.stack.received == b"last words"
    rig.sockets.execute(WriteTcp(1, b"still here"))
    rig.sockets.execute(ShutdownTcp(1))
    assert await read_all(sock) == b"still here"
    rig.sockets.execute(CloseTcp(1))
    assert len(rig.sockets) == 0


async def test_reset_of_the_other_side_is_told_once(rig: Rig) -> None:
    sock = await rig.connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()
    await eventually(lambda: ("reset", 1) in rig.stack.events)
    assert len(rig.sockets) == 0
    rig.sockets.execute(WriteTcp(1, b"nobody"))
    rig.sockets.execute(ShutdownTcp(1))
    rig.sockets.execute(ResumeTcp(1))
    assert rig.stack.events.count(("reset", 1)) == 1


@pytest.mark.parametrize("command", [AbortTcp(1), TcpFailed(1, SocketError.REFUSED)])
async def test_abort_resets_and_drops_what_is_unsent(rig: Rig, command: AbortTcp | TcpFailed) -> None:
    sock = await rig.connect()
    rig.sockets.execute(WriteTcp(1, bytes(16 << 20)))
    rig.sockets.execute(command)
    assert len(rig.sockets) == 0
    with pytest.raises(ConnectionResetError):
        await read_all(sock)


async def test_adopted_connection_is_read_at_once(rig: Rig) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    rig.accepted.append(theirs)
    theirs.send(b"hello")
    rig.sockets.adopt(7, ours)
    await eventually(lambda: rig.stack.received == b"hello")
    rig.sockets.execute(WriteTcp(7, b"world"))
    assert theirs.recv(10) == b"world"


async def test_commands_about_other_things_are_not_taken(rig: Rig) -> None:
    assert not rig.sockets.execute(CloseUdp(1))


def test_unknown_errors_say_nothing() -> None:
    assert socket_error(OSError(99999, "?")) is SocketError.OTHER
    assert socket_error(OSError("no number")) is SocketError.OTHER

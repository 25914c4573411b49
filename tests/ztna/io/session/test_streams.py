"""TCP over streams of a session, between real sockets: the two cores are joined in memory."""

import asyncio
import contextlib
import hashlib
import os
import socket
import time

import pytest

from tests.support.core_pair import Pair
from tests.support.overlay import HOST, Backends, eventually
from ztna.io.session.core import CoreEvent, StreamReceived, StreamReset, StreamWritable
from ztna.io.session.streams import StreamTable
from ztna.io.tcp_sockets import TcpSockets
from ztna.proto.end_to_end import OpenTcp, encode_message
from ztna.proto.gateway_types import CloseTcp, WriteTcp

SERVICE, PORT = "echo-service", 7


class Bridge:
    """An agent's and a connector's stream table whose cores hand their packets to each other in every turn."""

    def __init__(self, backend_port: int, core: str = "aioquic", refusal: str = "") -> None:
        self.pair = Pair(core, core)
        self.pair.client.consume = self.pair.server.consume = False
        self.pair.handshake()
        assert self.pair.client.core.open_stream() == 0, "the control stream"
        self.refusal = refusal
        self.backend_port = backend_port
        self.open = True
        loop = asyncio.get_running_loop()
        self.agent = StreamTable(self.pair.client.core, loop=loop, clock=time.monotonic, on_input=lambda: None)
        self.connector = StreamTable(
            self.pair.server.core, loop=loop, clock=time.monotonic, on_input=lambda: None, backends=self._backend
        )
        self.pair.client.on_event = lambda event: self._event(self.agent, event)
        self.pair.server.on_event = lambda event: self._event(self.connector, event)
        self._task = loop.create_task(self._pump())

    def _backend(self, service: str, port: int) -> tuple[str, int] | str:
        return self.refusal or ("denied" if (service, port) != (SERVICE, PORT) else (HOST, self.backend_port))

    @staticmethod
    def _event(table: StreamTable, event: CoreEvent) -> None:
        match event:
            case StreamReceived(stream, data, fin):
                table.received(stream, data, fin)
            case StreamReset(stream, _):
                table.reset(stream)
            case StreamWritable(stream):
                table.writable(stream)

    async def _pump(self) -> None:
        while self.open:
            self.pair.run(0.005)
            await asyncio.sleep(0)

    async def client(
        self, service: str = SERVICE, port: int = PORT
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A local client whose accepted socket the agent carries."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.setblocking(False)
        assert self.agent.adopt(theirs, service, port)
        return await asyncio.open_connection(sock=ours)

    async def close(self) -> None:
        self.open = False
        await self._task
        self.agent.close()
        self.connector.close()


@pytest.fixture(params=["aioquic", "qh3"])
async def bridge(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    backends = Backends()
    await backends.start()
    made = Bridge(backends.tcp_port, request.param)
    yield made
    await made.close()
    await backends.close()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_a_megabyte_comes_back_equal_and_half_close_ends_it(bridge: Bridge) -> None:
    reader, writer = await bridge.client()
    data = os.urandom(1 << 20)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(-1), 30)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()
    await close(writer)
    await eventually(lambda: not len(bridge.agent) and not len(bridge.connector))
    assert bridge.agent.counters.closed == bridge.connector.counters.closed == 1


async def test_a_client_that_does_not_read_stops_its_backend_and_loses_nothing(bridge: Bridge) -> None:
    reader, writer = await bridge.client()
    size = 12 << 20
    writer.write(bytes(size))
    sending = asyncio.create_task(writer.drain())
    await asyncio.sleep(0.3)
    held = bridge.agent.sockets.counters.bytes_sent
    assert held < size, "the client's socket buffer, the streams' windows and no more"
    received = 0
    while received < size:
        received += len(await asyncio.wait_for(reader.read(1 << 16), 20))
    assert received == size
    await sending
    await close(writer)


@pytest.mark.parametrize("port", [PORT + 1, 0])
async def test_a_port_that_is_not_admitted_resets_the_client(bridge: Bridge, port: int) -> None:
    reader, writer = await bridge.client(port=port)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(-1), 5) == b""
    assert bridge.connector.counters.refused_denied == 1
    await eventually(lambda: not len(bridge.agent))
    await close(writer)


async def test_a_backend_that_refuses_resets_the_client(bridge: Bridge) -> None:
    bridge.backend_port = 1
    reader, writer = await bridge.client()
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(-1), 5) == b""
    assert bridge.connector.counters.refused_backend == 1
    await eventually(lambda: not len(bridge.agent))
    await close(writer)


async def test_a_client_that_is_reset_resets_its_backend_connection(bridge: Bridge) -> None:
    _, writer = await bridge.client()
    writer.write(b"hello")
    await eventually(lambda: len(bridge.connector.sockets) == 1)
    writer.transport.abort()
    await eventually(lambda: not len(bridge.connector) and not len(bridge.agent))


async def test_an_agent_that_opens_with_anything_else_is_reset_and_counted(bridge: Bridge) -> None:
    core = bridge.pair.client.core
    stream = core.open_stream()
    core.write(stream, b"\x00\x00\x00\x03abc")
    await eventually(lambda: bridge.connector.counters.malformed == 1)
    assert not len(bridge.connector)


async def test_streams_of_a_service_that_was_withdrawn_are_reset(bridge: Bridge) -> None:
    reader, writer = await bridge.client()
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 10) == b"hello"
    bridge.connector.keep({SERVICE})
    assert len(bridge.connector) == 1
    bridge.connector.keep({"another"})
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(-1), 5) == b""
    await eventually(lambda: not len(bridge.agent) and not len(bridge.connector))
    await close(writer)


async def test_what_follows_on_a_stream_that_ended_opens_nothing(bridge: Bridge) -> None:
    bridge.refusal = "denied"
    core = bridge.pair.client.core
    stream = core.open_stream()
    opening = encode_message(OpenTcp(SERVICE, PORT))
    core.write(stream, opening)
    await eventually(lambda: bridge.connector.counters.refused_denied == 1)
    bridge.refusal = ""
    core.write(stream, opening)
    core.write(stream, b"data of the client that came with it")
    await asyncio.sleep(0.2)
    assert bridge.connector.counters.opened == 0
    assert bridge.connector.counters.malformed == 0
    assert not len(bridge.connector)


async def test_a_stream_that_was_overtaken_by_a_later_one_is_new_once(bridge: Bridge) -> None:
    table = bridge.connector
    assert [table._is_new(stream) for stream in (12, 4, 4, 12, 8, 8, 16, 0)] == [
        True, True, False, False, True, False, True, False,
    ]  # fmt: skip


async def test_a_socket_that_is_closed_while_its_last_bytes_are_written_is_let_go() -> None:
    """The far end ended first, the near one takes slowly: the last write ends both directions."""
    problems: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(str(context)))

    class Ended:
        """A stack that closes when everything was taken."""

        left = 8 << 20

        def tcp_writable(self, session: int, count: int, now: float) -> None:
            self.left -= count
            if not self.left:
                sockets.execute(CloseTcp(session))

        def tcp_data(self, session: int, data: bytes, now: float) -> None:
            """Nothing is sent."""

        def tcp_eof(self, session: int, now: float) -> None:
            """Nor ended."""

        def tcp_reset(self, session: int, now: float) -> None:
            """Nor reset."""

    sockets = TcpSockets(Ended(), loop=loop, clock=time.monotonic, on_input=lambda: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.setblocking(False)
    sockets.adopt(1, theirs)
    sockets.execute(WriteTcp(1, bytes(Ended.left)))
    reader, writer = await asyncio.open_connection(sock=ours)
    assert len(await asyncio.wait_for(reader.read(-1), 20)) == 8 << 20
    assert len(sockets) == 0
    assert problems == []
    await close(writer)

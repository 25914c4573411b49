"""The HTTP endpoints: routes, limits, time-outs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from ztna.io.http import MAX_CONNECTIONS, HttpBindError, HttpServer, Response, role_routes, text


class Bed:
    def __init__(self) -> None:
        self.reason: str | None = None
        self.server = HttpServer(
            {
                **role_routes(
                    ready=lambda: self.reason,
                    metrics=lambda: Response(b"metric 1\n", content_type="text/plain; version=0.0.4"),
                    status=lambda: {"state": "ready", "pid": 1},
                ),
                "/broken": self._broken,
            },
            head_timeout_s=0.2,
        )
        self.address = ("", 0)

    @staticmethod
    def _broken() -> Response:
        raise RuntimeError("bug")

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request; status 0 if the server closed without an answer."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(request)
        try:
            answer = await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            answer = b""
        await closed(writer)
        if not answer:
            return 0, {}, b""
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        return int(first.split()[1]), dict(line.split(": ", 1) for line in rest), body

    async def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection to its end; the server may have reset it."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed()
    made.address = await made.server.start("127.0.0.1", 0)
    yield made
    await made.server.close()


async def test_routes(bed: Bed) -> None:
    assert (await bed.get("/healthz"))[::2] == (200, b"ok\n")
    status, headers, body = await bed.get("/metrics?x=1")
    assert (status, headers["Content-Type"], body) == (200, "text/plain; version=0.0.4", b"metric 1\n")
    assert headers["Content-Length"] == "9"
    status, headers, body = await bed.get("/status")
    assert (headers["Content-Type"], body) == ("application/json", b'{"state": "ready", "pid": 1}\n')
    assert (await bed.get("/nowhere"))[0] == 404


async def test_readiness_gives_the_reason(bed: Bed) -> None:
    assert (await bed.get("/readyz"))[0] == 200
    bed.reason = "no relay"
    assert (await bed.get("/readyz"))[::2] == (503, b"no relay\n")
    assert (await bed.get("/healthz"))[0] == 200


async def test_head_has_no_body_and_other_methods_are_refused(bed: Bed) -> None:
    status, headers, body = await bed.ask(b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert (status, headers["Content-Length"], body) == (200, "3", b"")
    status, headers, _ = await bed.ask(b"POST /healthz HTTP/1.1\r\n\r\n")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


async def test_request_that_arrives_in_pieces_is_answered(bed: Bed) -> None:
    reader, writer = await asyncio.open_connection(*bed.address)
    for piece in (b"GET /hea", b"lthz HT", b"TP/1.0\r\nA: b\r\n", b"\r\n"):
        writer.write(piece)
        await writer.drain()
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    await closed(writer)


@pytest.mark.parametrize("request_", [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / SPDY\r\n\r\n", b"\xff\xfe x y\r\n\r\n"])
async def test_malformed_requests_are_refused(bed: Bed, request_: bytes) -> None:
    assert (await bed.ask(request_))[0] == 400
    assert bed.server.counters.dropped_malformed == 1


async def test_head_that_never_ends_is_cut_by_size(bed: Bed) -> None:
    assert (await bed.ask(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000))[0] in (0, 431)
    assert bed.server.counters.dropped_malformed == 1


async def test_slow_head_is_cut_by_time(bed: Bed) -> None:
    assert await bed.ask(b"GET / HTTP/1.1\r\nA: ") == (0, {}, b"")
    assert bed.server.counters.dropped_timeout == 1


async def test_connections_are_capped_and_come_free_again(bed: Bed) -> None:
    held = [await asyncio.open_connection(*bed.address) for _ in range(MAX_CONNECTIONS)]
    assert (await bed.get("/healthz"))[0] == 0
    assert bed.server.counters.dropped_busy == 1
    for reader, writer in held:
        assert await asyncio.wait_for(reader.read(), 5) == b""
        await closed(writer)
    assert (await bed.get("/healthz"))[0] == 200


async def test_broken_route_answers_500(bed: Bed) -> None:
    assert (await bed.get("/broken"))[0] == HTTPStatus.INTERNAL_SERVER_ERROR
    assert bed.server.counters.handler_errors == 1


async def test_port_in_use_names_key_and_remedy(bed: Bed) -> None:
    with pytest.raises(HttpBindError, match=r"metrics_port=\d+: the port is in use; set another `metrics_port`, or 0"):
        await HttpServer({"/": lambda: text("x")}).start(*bed.address)

"""The HTTP endpoints of a role: /healthz, /readyz, /metrics, /status. GET and HEAD, one request per connection.

Loopback by default. A request head has 5 s and 8 KiB, and at most 32 connections are served at once, so that neither a
slow nor a greedy client costs more than that.
"""

import asyncio
import contextlib
import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

HEAD_TIMEOUT_S: Final = 5.0
WRITE_TIMEOUT_S: Final = 5.0
MAX_HEAD_BYTES: Final = 8192
MAX_CONNECTIONS: Final = 32


class HttpBindError(OSError):
    """The HTTP port could not be bound; the text names the config key and the remedy."""


@dataclass(slots=True)
class HttpCounters:
    """Requests and what was refused."""

    requests: int = 0
    dropped_timeout: int = 0
    dropped_malformed: int = 0
    dropped_busy: int = 0
    handler_errors: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """What a route answers."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[], Response]


def text(body: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A line of text."""
    return Response(f"{body}\n".encode(), status)


def json_response(value: Mapping[str, Any]) -> Response:
    """A JSON object."""
    return Response(json.dumps(value, default=str).encode() + b"\n", content_type="application/json")


def role_routes(
    *,
    ready: Callable[[], str | None],
    metrics: Callable[[], Response],
    status: Callable[[], Mapping[str, Any]],
) -> dict[str, Route]:
    """The four routes every role has. `ready` returns None when usable, else why not."""

    def readyz() -> Response:
        reason = ready()
        return text("ok") if reason is None else text(reason, HTTPStatus.SERVICE_UNAVAILABLE)

    return {
        "/healthz": lambda: text("ok"),
        "/readyz": readyz,
        "/metrics": metrics,
        "/status": lambda: json_response(status()),
    }


class HttpServer:
    """A small HTTP/1.1 server for a fixed set of routes."""

    def __init__(self, routes: Mapping[str, Route], *, head_timeout_s: float = HEAD_TIMEOUT_S) -> None:
        self.counters = HttpCounters()
        self._routes = routes
        self._head_timeout_s = head_timeout_s
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, addr: str, port: int) -> tuple[str, int]:
        """Listen; returns the bound address.

        Raises:
            HttpBindError: naming `metrics_port` or `metrics_addr` and what to do.
        """
        try:
            self._server = await asyncio.start_server(self._accept, addr, port, limit=MAX_HEAD_BYTES, backlog=64)
        except OSError as exc:
            raise _bind_error(exc, addr, port) from exc
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    async def close(self) -> None:
        """Stop listening and drop what is being served; idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            self.counters.dropped_busy += 1
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._guarded(reader, writer))
        self._tasks.add(task)

        def ended(_task: asyncio.Task[None]) -> None:
            # Also for a task that was cancelled before its first step.
            self._tasks.discard(task)
            writer.close()

        task.add_done_callback(ended)

    async def _guarded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError):
            self.counters.dropped_timeout += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._head_timeout_s)
        except TimeoutError:
            self.counters.dropped_timeout += 1
            return
        except asyncio.IncompleteReadError:
            self.counters.dropped_malformed += 1
            return
        except asyncio.LimitOverrunError:
            self.counters.dropped_malformed += 1
            await self._answer(writer, text("request too large", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), False)
            return
        method, path = _request_line(head)
        if not path:
            self.counters.dropped_malformed += 1
            await self._answer(writer, text("malformed request", HTTPStatus.BAD_REQUEST), False)
            return
        self.counters.requests += 1
        await self._answer(writer, self._route(method, path), method == "HEAD")

    def _route(self, method: str, path: str) -> Response:
        if method not in ("GET", "HEAD"):
            return text("only GET and HEAD", HTTPStatus.METHOD_NOT_ALLOWED)
        route = self._routes.get(path)
        if route is None:
            return text(f"not found; there are {' '.join(self._routes)}", HTTPStatus.NOT_FOUND)
        try:
            return route()
        except Exception:
            self.counters.handler_errors += 1
            return text("internal error", HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _answer(self, writer: asyncio.StreamWriter, response: Response, head_only: bool) -> None:
        lines = [
            f"HTTP/1.1 {response.status.value} {response.status.phrase}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if response.status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head_only else response.body))
        await asyncio.wait_for(writer.drain(), WRITE_TIMEOUT_S)
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), WRITE_TIMEOUT_S)


def _request_line(head: bytes) -> tuple[str, str]:
    """(method, path without query), both empty if it is no HTTP/1 request."""
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1.") or not parts[1].startswith(b"/"):
        return "", ""
    return parts[0].decode("latin-1"), parts[1].decode("latin-1").partition("?")[0]


def _bind_error(exc: OSError, addr: str, port: int) -> HttpBindError:
    place = f"cannot listen on TCP {addr} metrics_port={port}"
    if exc.errno == errno.EADDRINUSE:
        return HttpBindError(f"{place}: the port is in use; set another `metrics_port`, or 0 to turn it off")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return HttpBindError(f"{place}: ports below 1024 need root; set `metrics_port` to 1024 or above")
    if exc.errno == errno.EADDRNOTAVAIL:
        return HttpBindError(f"{place}: this host has no such address; set `metrics_addr` to 127.0.0.1")
    return HttpBindError(f"{place}: {exc.strerror or exc}")

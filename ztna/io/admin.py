"""Administration of a running intermediate: a UNIX socket that only its owner may open (mode 0600).

One JSON object per line and direction: {"relay": "off"}, "on" or "status" is answered by the relay's status, as in
/status, or by {"error": TEXT}. Who can open the socket could as well stop the process; there is nothing else to prove.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

RELAY_VERBS: Final = ("off", "on", "status")
MAX_LINE_BYTES: Final = 4096
MAX_CLIENTS: Final = 8
IDLE_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 16 << 20
DEFAULT_NAME: Final = "admin.sock"

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class AdminBindError(OSError):
    """The socket cannot be made; the text names `admin_socket` and the remedy."""


class AdminServer:
    """Serves the socket.

    Args:
        handle: answers one request; it may raise ValueError, whose text is the answer's "error".
    """

    def __init__(self, path: Path, handle: Handler) -> None:
        self.path = path
        self.dropped_busy = 0
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._inode = 0

    async def start(self) -> None:
        """Listen. A socket that nobody listens on any more is replaced.

        Raises:
            AdminBindError: the path is in use, too long or not writable.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            if _is_dead(self.path):
                self.path.unlink()
            # Made without any right for others, so that there is no moment in which they could connect.
            mask = os.umask(0o177)
            try:
                listener.bind(str(self.path))
            finally:
                os.umask(mask)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE_BYTES)
            self._inode = self.path.stat().st_ino
        except OSError as exc:
            listener.close()
            reason = "another process listens there" if exc.errno == errno.EADDRINUSE else str(exc.strerror or exc)
            remedy = "set `admin_socket` to a short path in a directory that is writable"
            raise AdminBindError(f"cannot make admin_socket {self.path}: {reason}; {remedy}") from exc

    async def close(self) -> None:
        """Stop and remove the socket; idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in list(self._clients):
            writer.transport.abort()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            self.dropped_busy += 1
            writer.close()
            return
        self._clients.add(writer)
        try:
            while line := await asyncio.wait_for(reader.readline(), IDLE_S):
                writer.write(json.dumps(self._answer(line), default=str).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), IDLE_S)
        except (OSError, ValueError, TimeoutError, asyncio.CancelledError):
            # Silent, gone, or a line without an end; nothing is owed to it.
            pass
        finally:
            self._clients.discard(writer)
            writer.close()

    def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is one JSON object")
            return self._handle(request)
        except (ValueError, RecursionError) as exc:
            return {"error": str(exc)}


def ask(path: Path, request: Mapping[str, Any], *, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
    """Send one request to a running intermediate and return its answer.

    Raises:
        OSError: nobody listens, or no permission.
        ValueError: what answers is no intermediate, or it refused; the text says why.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(timeout_s)
        client.connect(str(path))
        client.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            part = client.recv(65536)
            if not part or len(data) > MAX_ANSWER_BYTES:
                raise ValueError("the answer ended early")
            data += part
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")
    if "error" in answer:
        raise ValueError(str(answer["error"]))
    return answer


def relay_verb(request: Mapping[str, Any]) -> str:
    """The verb of a request.

    Raises:
        ValueError: it has none that is known.
    """
    verb = request.get("relay")
    if verb not in RELAY_VERBS or len(request) != 1:
        raise ValueError(f'a request is {{"relay": VERB}} with one of {", ".join(RELAY_VERBS)}')
    return str(verb)


def _is_dead(path: Path) -> bool:
    """Whether a socket is there that nobody listens on."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False

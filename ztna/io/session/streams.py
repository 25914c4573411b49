"""TCP connections as streams of a session: the kernel's TCP ends at either side, QUIC's flow control lies between.

Flow at the agent: an accepted socket -> stream, OpenTcp -> TcpResult -> bytes both ways. At the connector: a stream and
its OpenTcp -> connect to the backend -> TcpResult -> bytes both ways. A half-close is FIN, a reset RESET_STREAM. What
one side cannot take stays with the other: a socket is not read while its stream takes nothing more, and a stream's
window opens only by what the socket took.
"""

import asyncio
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ztna.io.session.core import SessionCore
from ztna.io.tcp_sockets import TcpSockets
from ztna.proto.end_to_end import FrameBuffer, OpenTcp, SessionMessage, TcpResult, decode_message, encode_message
from ztna.proto.errors import WireError
from ztna.proto.gateway_types import AbortTcp, CloseTcp, PauseTcp, ResumeTcp, ShutdownTcp, SocketError, WriteTcp

Backends = Callable[[str, int], "tuple[str, int] | str"]
"""(service, port) -> where the connector connects to, or why it does not ("denied", "unreachable")."""

RESET_CODE: Final = 0x1
OPENING_BYTES: Final = 1024
MAX_STREAMS: Final = 1024
CLIENT_BIDI: Final = 0
STREAM_STEP: Final = 4
KIND_BITS: Final = 0x03  # RFC 9000 s2.1


@dataclass(slots=True)
class StreamCounters:
    """Connections carried as streams; each that failed is in one `refused_*`."""

    opened: int = 0
    closed: int = 0
    reset: int = 0
    refused_limit: int = 0
    refused_denied: int = 0
    refused_backend: int = 0
    malformed: int = 0


class _Link:
    """One connection; its socket goes by the number of its stream."""

    __slots__ = ("local_ended", "opening", "paused", "remote_ended", "service", "stream", "unwritten")

    def __init__(self, stream: int, service: str = "") -> None:
        self.stream = stream
        self.service = service
        """Empty until the peer's first frame named it."""
        self.opening: FrameBuffer | None = FrameBuffer(OPENING_BYTES)
        """Until the peer's first frame was read."""
        self.paused = False
        self.local_ended = False
        self.remote_ended = False
        self.unwritten = 0
        """Bytes that the socket has not taken yet."""


class StreamTable:
    """The TCP streams of one session, on either side.

    Args:
        core: the session's QUIC core; the owner feeds its stream events to `received`, `reset` and `writable`.
        backends: None at the agent.
        on_input: called after a socket gave something to the core; the owner transmits soon.
    """

    def __init__(
        self,
        core: SessionCore,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        on_input: Callable[[], None],
        backends: Backends | None = None,
    ) -> None:
        self.counters = StreamCounters()
        self._core = core
        self._backends = backends
        self._links: dict[int, _Link] = {}
        self._next = CLIENT_BIDI + STREAM_STEP
        self._skipped: set[int] = set()
        """Streams of the agent whose first bytes a later stream has overtaken."""
        self.sockets = TcpSockets(self, loop=loop, clock=clock, on_input=on_input)

    def __len__(self) -> int:
        return len(self._links)

    def close(self) -> None:
        """Reset every socket: the session is over."""
        self._links.clear()
        self.sockets.close()

    def keep(self, services: Collection[str]) -> None:
        """At the connector: reset what is not of these services; the agent reaches no others any more."""
        for link in list(self._links.values()):
            if link.service and link.service not in services:
                self._drop(link)

    def adopt(self, sock: socket.socket, service: str, port: int) -> bool:
        """At the agent: carry an accepted, non-blocking socket to a port of a service; False if there are too many."""
        if len(self._links) >= MAX_STREAMS or (stream := self._core.open_stream()) < 0:
            self.counters.refused_limit += 1
            return False
        link = self._links[stream] = _Link(stream, service)
        self.counters.opened += 1
        self._core.write(stream, encode_message(OpenTcp(service, port)))
        # What the client says first travels behind OpenTcp: nothing is gained by waiting for the answer.
        self.sockets.adopt(stream, sock)
        self._follow_room(link)
        return True

    # from the core

    def received(self, stream: int, data: bytes, fin: bool) -> None:
        """Bytes of a stream, in order."""
        link = self._links.get(stream) or self._accept(stream)
        if link is None:
            self._core.consumed(stream, len(data))
            return
        if link.opening is not None:
            opening = link.opening
            opening.feed(data)
            opened = self._read_opening(link, opening)
            rest = opening.rest() if opened else b""
            self._core.consumed(stream, len(data) - len(rest))
            if not opened:
                if fin:
                    self._drop(link)
                return
            data = rest
        if data:
            link.unwritten += len(data)
            self.sockets.execute(WriteTcp(stream, data))
        if fin and stream in self._links:
            link.remote_ended = True
            self.sockets.execute(ShutdownTcp(stream))
            self._finish(link)

    def reset(self, stream: int) -> None:
        """The peer reset a stream, or will read no more of it."""
        link = self._links.get(stream)
        if link is not None:
            self._drop(link)

    def writable(self, stream: int) -> None:
        """A stream takes more again."""
        link = self._links.get(stream)
        if link is not None:
            self._follow_room(link)

    def _accept(self, stream: int) -> _Link | None:
        """Make a link for a stream that the agent opened."""
        if self._backends is None or stream & KIND_BITS != CLIENT_BIDI or not self._is_new(stream):
            return None
        if len(self._links) >= MAX_STREAMS:
            self.counters.refused_limit += 1
            self._core.reset(stream, RESET_CODE)
            return None
        link = self._links[stream] = _Link(stream)
        return link

    def _is_new(self, stream: int) -> bool:
        """Whether nothing was received of a stream yet: what follows on one that ended opens no second connection."""
        if stream in self._skipped:
            self._skipped.discard(stream)
            return True
        if stream < self._next:
            return False
        # RFC 9000 s2.1: a stream opens all of its type with lower numbers; QUIC's limit of streams bounds how many.
        self._skipped.update(range(self._next, stream, STREAM_STEP))
        self._next = stream + STREAM_STEP
        return True

    def _read_opening(self, link: _Link, opening: FrameBuffer) -> bool:
        """Act on the peer's first frame; False if it is incomplete or ended the link."""
        try:
            body = opening.next_frame()
            if body is None:
                return False
            message = decode_message(body)
        except WireError:
            self.counters.malformed += 1
            self._drop(link)
            return False
        link.opening = None
        return self._connect(link, message) if self._backends is not None else self._answered(link, message)

    def _connect(self, link: _Link, message: SessionMessage) -> bool:
        if not isinstance(message, OpenTcp) or self._backends is None:
            self.counters.malformed += 1
            self._drop(link)
            return False
        found = self._backends(message.service, message.port)
        if isinstance(found, str):
            self.counters.refused_denied += 1
            self._refuse(link, found)
            return False
        self.counters.opened += 1
        link.service = message.service
        self.sockets.connect(self, link.stream, *found)
        return True

    def _answered(self, link: _Link, message: SessionMessage) -> bool:
        if isinstance(message, TcpResult) and message.error is None:
            return True
        self.counters.refused_backend += isinstance(message, TcpResult)
        self.counters.malformed += not isinstance(message, TcpResult)
        self._drop(link)
        return False

    # from the sockets (ztna.io.tcp_sockets.ConnectingStack)

    def tcp_connected(self, session: int, now: float) -> None:
        """The backend accepted."""
        link = self._links.get(session)
        if link is not None:
            self._core.write(session, encode_message(TcpResult()))
            self._follow_room(link)

    def tcp_failed(self, session: int, error: SocketError, now: float) -> None:
        """The backend did not accept."""
        link = self._links.get(session)
        if link is not None:
            self.counters.refused_backend += 1
            self._refuse(link, error.value)

    def tcp_data(self, session: int, data: bytes, now: float) -> None:
        """The socket gave bytes."""
        link = self._links.get(session)
        if link is not None:
            self._core.write(session, data)
            self._follow_room(link)

    def tcp_eof(self, session: int, now: float) -> None:
        """The socket's peer ended its direction."""
        link = self._links.get(session)
        if link is not None:
            self._core.write(session, b"", fin=True)
            link.local_ended = True
            self._finish(link)

    def tcp_reset(self, session: int, now: float) -> None:
        """The socket broke."""
        link = self._links.get(session)
        if link is not None:
            self._drop(link)

    def tcp_writable(self, session: int, count: int, now: float) -> None:
        """The socket took bytes: the stream's window opens by them."""
        link = self._links.get(session)
        if link is not None:
            link.unwritten -= count
            self._core.consumed(session, count)
            self._finish(link)

    def _follow_room(self, link: _Link) -> None:
        """Read from the socket exactly while its stream takes more."""
        full = self._core.writable(link.stream) <= 0
        if full != link.paused:
            link.paused = full
            self.sockets.execute(PauseTcp(link.stream) if full else ResumeTcp(link.stream))

    def _finish(self, link: _Link) -> None:
        """Forget a link whose both directions have ended and whose bytes are all written."""
        if link.local_ended and link.remote_ended and link.unwritten <= 0 and link.stream in self._links:
            del self._links[link.stream]
            self.counters.closed += 1
            self.sockets.execute(CloseTcp(link.stream))

    def _refuse(self, link: _Link, error: str) -> None:
        self._links.pop(link.stream, None)
        self._core.write(link.stream, encode_message(TcpResult(error)), fin=True)

    def _drop(self, link: _Link) -> None:
        if self._links.pop(link.stream, None) is not None:
            self.counters.reset += 1
            self._core.reset(link.stream, RESET_CODE)
            self.sockets.execute(AbortTcp(link.stream))

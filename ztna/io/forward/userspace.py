"""Forwarding in user space, within the intermediate's own event loop: needs no privilege and no nftables."""

import asyncio
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ztna.io.forward.pump import Buffer, Pump
from ztna.io.forward.sockets import open_towards
from ztna.io.forward.types import ForwardError, LocalDatagram, PairCounters
from ztna.proto.paths.stun_types import Endpoint


@dataclass(slots=True)
class _Pair:
    a: Endpoint
    b: Endpoint
    a_socket: socket.socket
    b_socket: socket.socket
    from_a: Pump
    from_b: Pump


class PairPumps:
    """Pairs of connected sockets with a pump in each direction; shared by the in-process back end and its workers.

    Args:
        on_local: takes what is not to be forwarded, with its source.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_local: LocalDatagram) -> None:
        self.drops: Counter[str] = Counter()
        self._loop = loop
        self._on_local = on_local
        self._buffer = Buffer()
        self._pairs: dict[bytes, _Pair] = {}
        self._past: dict[bytes, PairCounters] = {}

    def __contains__(self, session: bytes) -> bool:
        return session in self._pairs

    def add(self, session: bytes, a: Endpoint, b: Endpoint, a_socket: socket.socket, b_socket: socket.socket) -> None:
        """Pump between two connected sockets, which belong to this object from now on.

        A session's earlier pair is replaced: sockets that are not in the new one are closed, counters go on.
        """
        old = self._pairs.get(session)
        if old is not None:
            self._past[session] = self._count(session, old)
            self._stop(old, keep=(a_socket, b_socket))
        pumps = [
            Pump(source, target, buffer=self._buffer, on_local=self._on_local, drops=self.drops)
            for source, target in ((a_socket, b_socket), (b_socket, a_socket))
        ]
        self._pairs[session] = _Pair(a, b, a_socket, b_socket, *pumps)
        for sock, pump in ((a_socket, pumps[0]), (b_socket, pumps[1])):
            self._loop.add_reader(sock.fileno(), pump.readable)

    def sockets_of(self, session: bytes) -> dict[Endpoint, socket.socket]:
        """The open sockets of a session by the endpoint they are connected to."""
        pair = self._pairs.get(session)
        return {} if pair is None else {pair.a: pair.a_socket, pair.b: pair.b_socket}

    def remove(self, session: bytes) -> PairCounters | None:
        """Stop and close; what it forwarded, None if there is no such session."""
        pair = self._pairs.pop(session, None)
        if pair is None:
            return None
        self._stop(pair)
        seen = self._count(session, pair)
        self._past.pop(session, None)
        return seen

    def counters(self) -> dict[bytes, PairCounters]:
        """What each session forwarded so far."""
        return {session: self._count(session, pair) for session, pair in self._pairs.items()}

    def _stop(self, pair: _Pair, keep: tuple[socket.socket, ...] = ()) -> None:
        for sock in (pair.a_socket, pair.b_socket):
            self._loop.remove_reader(sock.fileno())
            if sock not in keep:
                sock.close()

    def _count(self, session: bytes, pair: _Pair) -> PairCounters:
        past = self._past.get(session) or PairCounters()
        return PairCounters(
            past.a_packets + pair.from_a.packets,
            past.a_bytes + pair.from_a.octets,
            past.b_packets + pair.from_b.packets,
            past.b_bytes + pair.from_b.octets,
        )

    def close(self) -> None:
        """Close everything."""
        for session in list(self._pairs):
            self.remove(session)


class UserspaceForwarder:
    """The user-space back end for one bound UDP socket.

    Args:
        host, port: what the main socket is bound to; `main_fd` is its descriptor, which stays the caller's.
        on_local: takes STUN and strays, with their source. It must not raise.
    """

    name = "userspace"

    def __init__(
        self, host: str, port: int, main_fd: int, *, loop: asyncio.AbstractEventLoop, on_local: LocalDatagram
    ) -> None:
        self._host, self._port, self._main_fd = host, port, main_fd
        self._on_local = on_local
        self._pumps = PairPumps(loop, on_local)

    def install(self, session: bytes, a: Endpoint, b: Endpoint) -> None:
        """Forward between `a` and `b`; a side that did not change keeps its socket and loses no packet.

        Raises:
            ForwardError: no route, no family or no descriptor; nothing is forwarded for the session then.
        """
        there = self._pumps.sockets_of(session)
        if list(there) == [a, b]:
            return
        opened: list[socket.socket] = []
        try:
            sockets = [there.get(end) or self._open(end, opened) for end in (a, b)]
        except ForwardError:
            for sock in opened:
                sock.close()
            self._pumps.remove(session)
            raise
        self._pumps.add(session, a, b, *sockets)

    def _open(self, end: Endpoint, opened: list[socket.socket]) -> socket.socket:
        sock, strays = open_towards(end, self._host, self._port, self._main_fd)
        opened.append(sock)
        for data, source in strays:
            self._on_local(data, source)
        return sock

    def remove(self, session: bytes) -> PairCounters | None:
        """Stop forwarding for the session; what it forwarded, None if there is no such session."""
        return self._pumps.remove(session)

    def counters(self) -> Mapping[bytes, PairCounters]:
        """What was forwarded of each installed session."""
        return self._pumps.counters()

    def drops(self) -> Mapping[str, int]:
        """Packets not forwarded, by reason."""
        return self._pumps.drops

    def tick(self) -> str | None:
        """Nothing to renew, and nothing of the host between it and its packets."""
        return None

    def close(self, *, leave: bool = False) -> None:
        """Close all sockets; nothing can be left. Idempotent."""
        self._pumps.close()

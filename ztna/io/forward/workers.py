"""Forwarding in user space by worker processes, one per core: for hosts without the kernel back end and much traffic.

This process opens the sockets and hands them over, so it also can hand them to a new worker when one dies; it holds
them open, but reads none of them.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import ztna
from ztna.io.forward.channel import LOCAL, InstallPair, RemovePair, Report, decode, decode_local, encode, receive
from ztna.io.forward.sockets import open_towards, refuse_all
from ztna.io.forward.types import ForwardError, LocalDatagram, PairCounters
from ztna.proto.paths.stun_types import Endpoint

MAX_WORKERS: Final = 64
_RESTARTS: Final = 5
_RESTART_WINDOW_S: Final = 60.0
_END_S: Final = 1.0
_CHANNEL_BYTES: Final = 1 << 21


@dataclass(slots=True)
class _Pair:
    a: Endpoint
    b: Endpoint
    sockets: tuple[socket.socket, socket.socket]
    past: PairCounters = field(default_factory=PairCounters)
    now: PairCounters = field(default_factory=PairCounters)


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    channel: socket.socket
    sessions: set[bytes] = field(default_factory=set)
    drops: dict[str, int] = field(default_factory=dict)


class WorkerForwarder:
    """The user-space back end in `count` processes. Arguments are those of UserspaceForwarder.

    Args:
        clock: monotonic seconds.

    Raises:
        ForwardError: a worker cannot be started.
    """

    name = "userspace"

    def __init__(
        self,
        host: str,
        port: int,
        main_fd: int,
        *,
        count: int,
        loop: asyncio.AbstractEventLoop,
        on_local: LocalDatagram,
        clock: Callable[[], float],
    ) -> None:
        self._host, self._port, self._main_fd = host, port, main_fd
        self._loop, self._on_local, self._clock = loop, on_local, clock
        self._pairs: dict[bytes, _Pair] = {}
        self._lost_drops: Counter[str] = Counter()
        self._deaths: deque[float] = deque(maxlen=_RESTARTS)
        self._problem: str | None = None
        self._workers: list[_Worker] = []
        try:
            for _ in range(min(count, MAX_WORKERS)):
                self._workers.append(self._start())
        except OSError as exc:
            self.close()
            raise ForwardError(f"a relay worker cannot be started: {exc}") from exc

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def install(self, session: bytes, a: Endpoint, b: Endpoint) -> None:
        """Forward between `a` and `b`; a side that did not change keeps its socket and loses no packet.

        Raises:
            ForwardError: no route, no family or no descriptor; nothing is forwarded for the session then.
        """
        old = self._pairs.get(session)
        if old is not None and (old.a, old.b) == (a, b):
            return
        there = {} if old is None else dict(zip((old.a, old.b), old.sockets, strict=True))
        opened: list[socket.socket] = []
        try:
            left, right = (there.get(end) or self._open(end, opened) for end in (a, b))
        except ForwardError:
            for sock in opened:
                sock.close()
            self.remove(session)
            raise
        for sock in there.values():
            if sock not in (left, right):
                _silence(sock)
        pair = self._pairs[session] = _Pair(a, b, (left, right))
        if old is not None:
            pair.past, pair.now = old.past, old.now
        worker = self._worker_of(session) or min(self._workers, key=lambda worker: len(worker.sessions))
        worker.sessions.add(session)
        self._hand_over(worker, session, pair)

    def _open(self, end: Endpoint, opened: list[socket.socket]) -> socket.socket:
        sock, strays = open_towards(end, self._host, self._port, self._main_fd)
        opened.append(sock)
        for data, source in strays:
            self._on_local(data, source)
        return sock

    def _worker_of(self, session: bytes) -> _Worker | None:
        return next((worker for worker in self._workers if session in worker.sessions), None)

    def _hand_over(self, worker: _Worker, session: bytes, pair: _Pair) -> None:
        message = encode(InstallPair(session, pair.a, pair.b))
        try:
            socket.send_fds(worker.channel, [message], [sock.fileno() for sock in pair.sockets])
        except OSError as exc:
            # The worker is dying, and its successor will get the pair; or it hangs with a full channel.
            self._problem = self._problem or (f"a relay worker does not listen: {exc}" if _hangs(exc) else None)

    def remove(self, session: bytes) -> PairCounters | None:
        """Stop forwarding for the session before this returns; what it forwarded, None if there is no such session."""
        pair = self._pairs.pop(session, None)
        if pair is None:
            return None
        for sock in pair.sockets:
            _silence(sock)
        worker = self._worker_of(session)
        if worker is not None:
            worker.sessions.discard(session)
            try:
                worker.channel.send(encode(RemovePair(session)))
            except OSError as exc:
                self._problem = self._problem or (f"a relay worker does not listen: {exc}" if _hangs(exc) else None)
        return _sum(pair.past, pair.now)

    def counters(self) -> Mapping[bytes, PairCounters]:
        """What was forwarded of each installed session, as last reported: at most 0.2 s old."""
        return {session: _sum(pair.past, pair.now) for session, pair in self._pairs.items()}

    def drops(self) -> Mapping[str, int]:
        """Packets not forwarded, by reason."""
        total = Counter(self._lost_drops)
        for worker in self._workers:
            total.update(worker.drops)
        return total

    def tick(self) -> str | None:
        """Return why workers cannot be used any more, if that is so."""
        return self._problem

    def close(self, *, leave: bool = False) -> None:
        """End the workers and close all sockets; nothing can be left. Idempotent."""
        workers, self._workers = self._workers, []
        for worker in workers:
            self._loop.remove_reader(worker.channel.fileno())
            worker.channel.close()
        for pair in self._pairs.values():
            for sock in pair.sockets:
                _silence(sock)
        self._pairs.clear()
        for worker in workers:
            try:
                worker.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    # -- workers ------------------------------------------------------------------------------------------------

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for end in (ours, theirs):
                end.setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BYTES)
            path = os.pathsep.join([str(Path(ztna.__path__[0]).parent), os.environ.get("PYTHONPATH", "")])
            process = subprocess.Popen(
                [sys.executable, "-m", "ztna.io.forward.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)},
                # A Ctrl-C in the terminal is for the parent, which ends its workers when it has told its peers.
                start_new_session=True,
            )
        worker = _Worker(process, ours)
        self._loop.add_reader(ours.fileno(), self._readable, worker)
        return worker

    def _readable(self, worker: _Worker) -> None:
        while True:
            try:
                packet, _ = receive(worker.channel)
            except (BlockingIOError, InterruptedError):
                return
            if not packet:
                self._died(worker)
                return
            if packet[:1] == LOCAL:
                self._on_local(*decode_local(packet))
                continue
            message = decode(packet)
            if isinstance(message, Report):
                worker.drops = message.drops
                for session, totals in message.totals.items():
                    if session in worker.sessions:
                        self._pairs[session].now = PairCounters(*totals)

    def _died(self, worker: _Worker) -> None:
        """Start another one in its place, unless they keep dying."""
        self._loop.remove_reader(worker.channel.fileno())
        worker.channel.close()
        worker.process.kill()
        worker.process.wait()
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        self._lost_drops.update(worker.drops)
        now = self._clock()
        self._deaths.append(now)
        if len(self._deaths) == _RESTARTS and now - self._deaths[0] < _RESTART_WINDOW_S:
            self._problem = f"relay workers died {_RESTARTS} times within {_RESTART_WINDOW_S:.0f} s"
        try:
            successor = self._start()
        except OSError as exc:
            self._problem = f"a relay worker cannot be started: {exc}"
            return
        self._workers.append(successor)
        for session in worker.sessions:
            pair = self._pairs[session]
            pair.past, pair.now = _sum(pair.past, pair.now), PairCounters()
            successor.sessions.add(session)
            self._hand_over(successor, session, pair)


def _silence(sock: socket.socket) -> None:
    """Close our copy of a socket; by the worker's nothing comes or goes from now on."""
    try:
        refuse_all(sock)
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        sock.close()


def _hangs(exc: OSError) -> bool:
    return isinstance(exc, BlockingIOError)


def _sum(one: PairCounters, other: PairCounters) -> PairCounters:
    return PairCounters(
        one.a_packets + other.a_packets,
        one.a_bytes + other.a_bytes,
        one.b_packets + other.b_packets,
        one.b_bytes + other.b_bytes,
    )

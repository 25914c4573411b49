"""Program: one relay worker. `python -m ztna.io.forward.worker DESCRIPTOR`; ends when its parent does."""

import asyncio
import contextlib
import socket
import sys
from typing import Final

from ztna.io.forward.channel import (
    REPORTED_SESSIONS,
    InstallPair,
    RemovePair,
    Report,
    decode,
    encode,
    encode_local,
    receive,
)
from ztna.io.forward.types import PairCounters
from ztna.io.forward.userspace import PairPumps
from ztna.io.runtime import run, settle_memory
from ztna.proto.paths.stun_types import Endpoint

REPORT_S: Final = 0.2


class Worker:
    """Does what its parent says, and reports."""

    def __init__(self, channel: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self.ended = loop.create_future()
        self._channel = channel
        self._loop = loop
        self._pumps = PairPumps(loop, self._local)
        self._reported: dict[bytes, PairCounters] = {}
        self._reported_drops: dict[str, int] = {}
        channel.setblocking(False)
        loop.add_reader(channel.fileno(), self._readable)
        loop.call_later(REPORT_S, self._report)

    def _readable(self) -> None:
        while True:
            try:
                packet, descriptors = receive(self._channel)
            except (BlockingIOError, InterruptedError):
                return
            if not packet:
                self._pumps.close()
                self._loop.remove_reader(self._channel.fileno())
                if not self.ended.done():
                    self.ended.set_result(None)
                return
            message = decode(packet)
            if isinstance(message, InstallPair) and len(descriptors) == 2:
                sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                self._pumps.add(message.session, Endpoint(*message.a), Endpoint(*message.b), *sockets)
            elif isinstance(message, RemovePair):
                self._pumps.remove(message.session)
                self._reported.pop(message.session, None)

    def _local(self, data: bytes, source: Endpoint) -> None:
        # A parent that does not keep up loses keepalives, as it would from its own full receive buffer.
        with contextlib.suppress(OSError):
            self._channel.send(encode_local(data, source))

    def _report(self) -> None:
        self._loop.call_later(REPORT_S, self._report)
        now = self._pumps.counters()
        changed = [session for session, seen in now.items() if self._reported.get(session) != seen]
        drops = dict(self._pumps.drops)
        for at in range(0, len(changed), REPORTED_SESSIONS):
            part = changed[at : at + REPORTED_SESSIONS]
            totals = {session: _totals(now[session]) for session in part}
            if self._send(Report(totals, drops)):
                self._reported |= {session: now[session] for session in part}
        if not changed and drops != self._reported_drops:
            self._send(Report({}, drops))
        self._reported_drops = drops

    def _send(self, report: Report) -> bool:
        try:
            self._channel.send(encode(report))
        except OSError:
            return False
        return True


def _totals(seen: PairCounters) -> tuple[int, int, int, int]:
    return seen.a_packets, seen.a_bytes, seen.b_packets, seen.b_bytes


async def work(descriptor: int) -> None:
    """Work until the parent is gone."""
    with socket.socket(fileno=descriptor) as channel:
        worker = Worker(channel, asyncio.get_running_loop())
        settle_memory()
        await worker.ended


if __name__ == "__main__":
    run(work(int(sys.argv[1])))

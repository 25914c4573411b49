"""The session's QUIC cores alone: no socket, no loop, both ends in one process, CPU seconds of the two together."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.model import Row, limited
from tests.support.core_pair import Pair, Weather
from ztna.io.session.core import SessionCore, StreamReceived

GROUP: Final = "cores"
PAYLOAD_BYTES: Final = 1150
BURST: Final = 32
PIECE_BYTES: Final = 65_536
DELAY_S: Final = 0.0005
IDLE_TURNS: Final = 2000

PAIRS: Final = (("aioquic", "aioquic"), ("qh3", "qh3"), ("aioquic", "qh3"), ("qh3", "aioquic"))
DATAGRAMS_PER_S: Final = {"aioquic": 20_000, "qh3": 90_000}
STREAM_MBIT_PER_S: Final = {"aioquic": 200, "qh3": 800}


@dataclass(slots=True)
class Ends:
    """An established pair of cores and which of them sends."""

    source: SessionCore
    target: SessionCore
    now: float
    stream: int

    @classmethod
    def of(cls, client: str, server: str, *, up: bool) -> "Ends":
        """Connect two cores and open a stream; `up` when the client is to send."""
        pair = Pair(client, server, weather=Weather(delay_s=DELAY_S)).handshake()
        stream = pair.client.core.open_stream()
        pair.client.core.write(stream, b"open")
        pair.run(0.1)
        near, far = pair.client.core, pair.server.core
        return cls(near if up else far, far if up else near, pair.now, stream)

    def turn(self) -> bool:
        """Carry the source's packets over and the answers back; whether there were any."""
        source, target = self.source, self.target
        self.now += DELAY_S
        for core in (source, target):
            due = core.get_timer()
            if due is not None and due <= self.now:
                core.handle_timer(self.now)
        packets = source.packets(self.now)
        if packets:
            target.receive(packets, self.now)
        self.now += DELAY_S
        answers = target.packets(self.now)
        if answers:
            source.receive(answers, self.now)
        return bool(packets or answers)


def datagrams(client: str, server: str, *, up: bool, count: int) -> float:
    """DATAGRAMs per CPU second of both ends together; raises RuntimeError if some were lost."""
    ends = Ends.of(client, server, up=up)
    data, got = bytes(PAYLOAD_BYTES), 0
    began = time.process_time()
    for _ in range(count // BURST):
        for _ in range(BURST):
            ends.source.send_datagram(data)
        for _ in range(4):
            ends.turn()
            taken = len(ends.target.take_datagrams())
            got += taken
            if got % BURST == 0 and taken:
                break
    spent = time.process_time() - began
    if got < 0.99 * (count // BURST * BURST):
        raise RuntimeError(f"{client} -> {server}: {got} of {count} DATAGRAMs arrived on a path without loss")
    return got / spent


def stream(client: str, server: str, *, up: bool, size: int) -> float:
    """Mbit per CPU second of both ends together on one stream; raises RuntimeError if it stands still."""
    ends = Ends.of(client, server, up=up)
    source, target, piece = ends.source, ends.target, bytes(PIECE_BYTES)
    written = got = idle = 0
    began = time.process_time()
    while got < size:
        while written < size and source.writable(ends.stream) >= PIECE_BYTES:
            source.write(ends.stream, piece)
            written += PIECE_BYTES
        idle = 0 if ends.turn() else idle + 1
        if idle > IDLE_TURNS:
            raise RuntimeError(f"{client} -> {server}: the stream stands still after {got} bytes")
        while (event := target.next_event()) is not None:
            if isinstance(event, StreamReceived):
                got += len(event.data)
                target.consumed(event.stream_id, len(event.data))
        while source.next_event() is not None:
            pass
    return got * 8 / (time.process_time() - began) / 1e6


def measure(*, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Both cores with themselves and with each other, both directions; the best of a few rounds is what they can do."""
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    for client, server in PAIRS:
        alike = client == server
        if quick and not alike:
            continue
        native = alike and client == "qh3"
        count, size = (40_000, 60_000_000) if native else (10_000, 12_000_000)
        for up in (True, False):
            way = f"{client} -> {server}" if up else f"{client} <- {server}"
            carried = _best(quick, lambda: datagrams(client, server, up=up, count=count), raw, f"{way} DATAGRAMs")  # noqa: B023
            moved = _best(quick, lambda: stream(client, server, up=up, size=size), raw, f"{way} stream")  # noqa: B023
            least = (DATAGRAMS_PER_S[client], STREAM_MBIT_PER_S[client]) if alike else (None, None)
            rows.append(_row(f"{way}: DATAGRAMs of {PAYLOAD_BYTES} bytes, both ends", carried, "1/CPU s", least[0]))
            rows.append(_row(f"{way}: one stream, both ends", moved, "Mbit/CPU s", least[1]))
    return rows, raw


def _best(quick: bool, once: Callable[[], float], raw: dict[str, Any], name: str) -> float:
    figures = [once() for _ in range(2 if quick else 5)]
    raw[name] = figures
    return max(figures)


def _row(name: str, value: float, unit: str, at_least: float | None) -> Row:
    return limited(GROUP, name, value, unit, at_least=at_least) if at_least else Row(GROUP, name, value, unit)


if __name__ == "__main__":
    for row in measure(quick=False)[0]:
        print(f"{row.name:60} {row.value or 0:12,.0f} {row.unit:12} {row.target}")

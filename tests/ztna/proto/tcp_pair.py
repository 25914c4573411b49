"""Two TCP endpoints joined by a link in virtual time that delays, loses, reorders and duplicates."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from ztna.proto.tcp import TcpEndpoint
from ztna.proto.tcp_segment import Segment, SegmentBuilder, parse_tcp
from ztna.proto.tcp_types import Closed, Connected, DataReceived, EndOfStream, Reset, TcpSettings

SETTINGS = TcpSettings(send_mss=1266, announced_mss=1266)
HEADER_BYTES = 20


@dataclass(slots=True)
class Link:
    """One direction's behaviour: fractions per segment, times in seconds."""

    delay_s: float = 0.02
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    rate_bps: float | None = None
    drop: Callable[[Segment], bool] = lambda segment: False
    free_at: float = 0.0
    carried: int = 0


@dataclass(slots=True)
class Side:
    """One endpoint with the application on top: what it wants to send and what it received."""

    endpoint: TcpEndpoint
    builder: SegmentBuilder
    link: Link
    outgoing: bytes = b""
    written: int = 0
    close_after: bool = True
    reads: bool = True
    incoming: bytearray = field(default_factory=bytearray)
    connected: bool = False
    ended: bool = False
    closed: bool = False
    reset: Reset | None = None
    unread: int = 0

    def pump(self) -> None:
        """Let the application write and read what it can."""
        if self.written < len(self.outgoing):
            self.written += self.endpoint.write(self.outgoing[self.written : self.written + 65536])
        elif self.close_after:
            self.endpoint.close_write()
        while (event := self.endpoint.next_event()) is not None:
            match event:
                case DataReceived(data):
                    assert not self.ended
                    self.incoming += data
                    self.unread += len(data)
                case EndOfStream():
                    assert not self.ended
                    self.ended = True
                case Connected():
                    assert not self.connected
                    self.connected = True
                case Reset():
                    self.reset = event
                case Closed():
                    self.closed = True
        if self.reads and self.unread:
            self.endpoint.consumed(self.unread)
            self.unread = 0


class Pair:
    """A client and a server; segments travel as packets, so that the codec is in the way too."""

    def __init__(
        self,
        *,
        client: TcpSettings = SETTINGS,
        server: TcpSettings = SETTINGS,
        up: Link | None = None,
        down: Link | None = None,
        seed: int = 0,
    ) -> None:
        self.now = 1000.0
        self.random = Random(seed)
        self.order = itertools.count()
        self.queue: list[tuple[float, int, Side, bytes]] = []
        self.server_settings = server
        self.client = Side(
            TcpEndpoint.connect(client, self.random.getrandbits(32), self.now),
            SegmentBuilder(1, 2, 3, 4),
            up or Link(),
        )
        self.server: Side | None = None
        self.down = down or Link()
        self.server_outgoing = b""
        self.server_close_after = True
        self.seen: list[tuple[float, str, Segment]] = []

    def _transmit(self, side: Side) -> None:
        link = side.link
        name = "client" if side is self.client else "server"
        while segments := side.endpoint.segments_to_send(self.now):
            for segment in segments:
                packet = side.builder.build(segment)
                self.seen.append((self.now, name, segment))
                if link.drop(segment) or self.random.random() < link.loss:
                    continue
                for _ in range(2 if self.random.random() < link.duplicate else 1):
                    at = self.now
                    if link.rate_bps is not None:
                        at = link.free_at = max(link.free_at, at) + len(packet) * 8 / link.rate_bps
                    at += link.delay_s + self.random.random() * link.jitter_s
                    link.carried += 1
                    heapq.heappush(self.queue, (at, next(self.order), side, packet))

    def _deliver(self, sender: Side, packet: bytes) -> None:
        source, destination = (1, 3) if sender is self.client else (3, 1)
        segment = parse_tcp(source, destination, packet[HEADER_BYTES:])
        assert segment is not None
        if sender is not self.client:
            self.client.endpoint.segment_received(segment, self.now)
            return
        if self.server is None:
            endpoint = TcpEndpoint.listen(self.server_settings, self.random.getrandbits(32), segment, self.now)
            endpoint.accept(self.now)
            self.server = Side(endpoint, SegmentBuilder(3, 4, 1, 2), self.down, self.server_outgoing)
            self.server.close_after = self.server_close_after
            return
        self.server.endpoint.segment_received(segment, self.now)

    @property
    def sides(self) -> list[Side]:
        return [self.client] if self.server is None else [self.client, self.server]

    def step(self) -> bool:
        """Let everything happen that is due, then move time to the next thing; False if there is none."""
        for side in self.sides:
            side.pump()
            self._transmit(side)
        times = [self.queue[0][0]] if self.queue else []
        times += [due for side in self.sides if (due := side.endpoint.get_timer()) is not None]
        if not times:
            return False
        self.now = max(self.now, min(times))
        while self.queue and self.queue[0][0] <= self.now:
            _, _, sender, packet = heapq.heappop(self.queue)
            self._deliver(sender, packet)
        for side in self.sides:
            due = side.endpoint.get_timer()
            if due is not None and due <= self.now:
                side.endpoint.handle_timer(self.now)
        for side in self.sides:
            side.pump()
        return True

    def run(self, until: Callable[[], bool], *, limit_s: float = 3600.0) -> float:
        """Step until the condition holds; returns the virtual seconds it took."""
        started = self.now
        while not until():
            assert self.step() or until(), "nothing left to happen"
            assert self.now - started < limit_s, "too long"
        return self.now - started

    def finished(self) -> bool:
        return self.server is not None and all(side.endpoint.closed and side.closed for side in self.sides)

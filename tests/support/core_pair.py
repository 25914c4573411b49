"""Two session cores joined by a network made here, on a virtual clock: nothing sleeps, a seed makes the weather."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.certs import Issued, issue
from ztna.io.session.core import (
    Closed,
    CoreEvent,
    HandshakeDone,
    SessionCore,
    SessionLimits,
    SessionTls,
    StreamReceived,
    client_core,
    server_core,
)

SERVER_URI = "spiffe://lab/connector/connector"


@dataclass
class Weather:
    """What the network does to packets, each share from 0 to 1."""

    delay_s: float = 0.025
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    mtu: int = 65535
    down: bool = False


@dataclass
class Side:
    """One core and what came out of it."""

    core: SessionCore
    datagrams: list[bytes] = field(default_factory=list)
    events: list[CoreEvent] = field(default_factory=list)
    data: dict[int, bytearray] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    sent: list[bytes] = field(default_factory=list)
    consume: bool = True
    keep: bool = True
    sent_bytes: int = 0
    on_event: Callable[[CoreEvent], None] | None = None

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def closed(self) -> Closed | None:
        found = self.of(Closed)
        return found[0] if found else None


class Pki:
    """A CA and a connector's certificate; a foreign CA."""

    def __init__(self) -> None:
        self.ca = issue("session CA", ca=True)
        self.foreign = issue("another CA", ca=True)
        self.server = self.issue_server(self.ca)

    @staticmethod
    def issue_server(ca: Issued, **changes: Any) -> Issued:
        from tests.support.certs import CLIENT, SERVER

        dns = ("connector.echo-service.ztna",)
        return issue("connector", ca, uris=(SERVER_URI,), dns=dns, usage=(CLIENT, SERVER), **changes)


PKI = Pki()


class Pair:
    """A client and a server core. Time goes on only by `run`."""

    def __init__(
        self,
        client: str = "aioquic",
        server: str = "aioquic",
        *,
        weather: Weather | None = None,
        seed: int = 1,
        limits: SessionLimits | None = None,
        credentials: Issued | None = None,
        ca: Issued | None = None,
        start: bool = True,
        **tls: Any,
    ) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.up = weather or Weather()
        self.down = self.up
        limits = limits or SessionLimits()
        issued = credentials or PKI.server
        ca_pem = (ca or PKI.ca).cert_pem.encode()
        self.client = Side(client_core(client, SessionTls(ca_pem, limits=limits, **tls), self.now))
        server_tls = SessionTls(PKI.ca.cert_pem.encode(), issued.credentials, limits=limits, **tls)
        self.server = Side(server_core(server, server_tls, self.now))
        self.wire: list[tuple[float, int, Side, bytes]] = []
        self._sequence = 0
        self.delivered = 0
        if start:
            self.client.core.start(self.now)

    def other(self, side: Side) -> Side:
        return self.server if side is self.client else self.client

    def collect(self, side: Side) -> int:
        """Take what a side has and put its packets on the wire; returns how many."""
        self.drain(side)
        packets = side.core.packets(self.now)
        for packet in packets:
            side.sent_bytes += len(packet)
            if side.keep:
                side.sent.append(packet)
            self.transmit(side, packet)
        self.drain(side)
        return len(packets)

    def drain(self, side: Side) -> None:
        side.datagrams += side.core.take_datagrams()
        while (event := side.core.next_event()) is not None:
            if isinstance(event, StreamReceived):
                side.data.setdefault(event.stream_id, bytearray()).extend(event.data)
                if event.fin:
                    side.ended.add(event.stream_id)
                if side.consume:
                    side.core.consumed(event.stream_id, len(event.data))
            side.events.append(event)
            if side.on_event is not None:
                side.on_event(event)

    def transmit(self, side: Side, packet: bytes) -> None:
        weather = self.up if side is self.client else self.down
        rng = self.rng
        if weather.down or rng.random() < weather.loss or len(packet) > weather.mtu:
            return
        for _ in range(1 + (rng.random() < weather.duplicate)):
            copy = packet
            if rng.random() < weather.corrupt:
                broken = bytearray(packet)
                broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
                copy = bytes(broken)
            late = weather.delay_s * (1 + 5 * rng.random()) if rng.random() < weather.reorder else weather.delay_s
            self.inject(self.other(side), copy, late)

    def inject(self, target: Side, packet: bytes, after_s: float = 0.0) -> None:
        self._sequence += 1
        heapq.heappush(self.wire, (self.now + after_s, self._sequence, target, packet))

    def step(self, until: float) -> bool:
        """Handle the next moment at which something happens; False if there is none before `until`."""
        sides = (self.client, self.server)
        for side in sides:
            for _ in range(8):
                if not self.collect(side):
                    break
        due = [timer for side in sides if (timer := side.core.get_timer()) is not None]
        if self.wire:
            due.append(self.wire[0][0])
        if not due or min(due) > until:
            self.now = until
            return False
        self.now = max(self.now, min(due))
        batches: dict[int, list[bytes]] = {}
        while self.wire and self.wire[0][0] <= self.now:
            _, _, target, packet = heapq.heappop(self.wire)
            batches.setdefault(id(target), []).append(packet)
            self.delivered += 1
        for side in sides:
            if batch := batches.get(id(side)):
                side.core.receive(batch, self.now)
        for side in sides:
            timer = side.core.get_timer()
            if timer is not None and timer <= self.now:
                side.core.handle_timer(self.now)
            self.drain(side)
        return True

    def run(self, for_s: float, until: Callable[[], bool] | None = None, max_steps: int = 1_000_000) -> bool:
        """Let time pass, until a condition holds if one is given; whether it does."""
        end = self.now + for_s
        for _ in range(max_steps):
            if until is not None and until():
                return True
            if not self.step(end):
                break
        else:
            raise AssertionError("time does not pass: a timer stays in the past")
        return until is None or until()

    def handshake(self, within_s: float = 10.0) -> "Pair":
        done = self.run(within_s, lambda: self.client.core.established and self.server.core.established)
        assert done, (self.client.closed, self.server.closed)
        assert self.client.of(HandshakeDone)
        self.run(0.5)
        return self


def both(pair: Pair) -> tuple[bool, bool]:
    """Whether the client and the server are established."""
    return pair.client.core.established, pair.server.core.established


def send_all(pair: Pair, up: bool, data: bytes, within_s: float) -> bytes:
    """Send data on one stream, heeding `writable`, and return what arrived."""
    source, target = (pair.client, pair.server) if up else (pair.server, pair.client)
    stream = pair.client.core.open_stream()
    if not up:
        pair.client.core.write(stream, b"go")
        assert pair.run(within_s, lambda: stream in pair.server.data)
    at = 0

    def feed() -> bool:
        nonlocal at
        while at < len(data) and (room := source.core.writable(stream)) > 0:
            piece = data[at : at + min(room, 65_536)]
            at += len(piece)
            source.core.write(stream, piece, at == len(data))
        return stream in target.ended

    assert pair.run(within_s, feed), (at, len(target.data.get(stream, b"")), source.closed, target.closed)
    return bytes(target.data[stream])

"""Endpoints on loopback for tests: what they saw is recorded, and waiting is for conditions, never for time."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.certs import Issued, issue, issue_member, issue_server
from ztna.io.certs import TrustAnchors, load_anchors
from ztna.io.material import authenticator
from ztna.io.quic import QuicEndpoint
from ztna.io.quic_guard import AdmissionLimits
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import ClientSettings, ConnectionLimits, PeerEvent, ServerSettings
from ztna.io.udp import Address, Datagram, UdpSocket

WAIT_S = 10.0


class Pki:
    """One CA with a server and two clients."""

    def __init__(self) -> None:
        self.ca = issue("test CA", ca=True)
        self.server = issue_server(self.ca)
        self.agent = issue_member(self.ca, "agent", "agent", "echo-service")
        self.connector = issue_member(self.ca, "connector", "connector", "echo-service")

    @property
    def anchors(self) -> TrustAnchors:
        return load_anchors(self.ca.pem())

    def server_settings(
        self,
        *,
        allow_anonymous: bool = False,
        retry: bool = True,
        admission: AdmissionLimits | None = None,
        limits: ConnectionLimits | None = None,
        idle_timeout_s: float = 30.0,
    ) -> ServerSettings:
        return ServerSettings(
            self.server.credentials,
            authenticator(self.anchors, "lab", allow_anonymous),
            retry=retry,
            admission=admission or AdmissionLimits(),
            limits=limits or ConnectionLimits(),
            idle_timeout_s=idle_timeout_s,
        )

    def client_settings(self, who: Issued | None = None, **changes: Any) -> ClientSettings:
        ca = changes.pop("ca", self.ca)
        credentials = who.credentials if who is not None else None
        return ClientSettings(ca.cert_pem.encode(), "ztna-server", credentials=credentials, **changes)


class Recorder:
    """Events of one endpoint in order, as (peer, event)."""

    def __init__(self) -> None:
        self.events: list[tuple[Peer, PeerEvent]] = []
        self.problems: list[tuple[str, Exception]] = []
        self._changed = asyncio.Event()

    def on_event(self, peer: Peer, event: PeerEvent) -> None:
        self.events.append((peer, event))
        self._changed.set()

    def on_problem(self, where: str, exc: Exception) -> None:
        self.problems.append((where, exc))
        self._changed.set()

    def touch(self) -> None:
        self._changed.set()

    def of(self, kind: type, peer: Peer | None = None) -> list[Any]:
        return [event for who, event in self.events if isinstance(event, kind) and peer in (None, who)]

    def peers(self, kind: type) -> list[Peer]:
        return [who for who, event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; looked at after each event."""

        async def wait() -> None:
            while not condition():
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(wait(), WAIT_S)

    async def first(self, kind: type, peer: Peer | None = None) -> Any:
        await self.until(lambda: self.of(kind, peer))
        return self.of(kind, peer)[0]


class Node:
    """An endpoint with its recorder."""

    def __init__(self, server: ServerSettings | None = None, *, udp: UdpSocket | None = None, **options: Any) -> None:
        self.seen = Recorder()
        self.udp = udp or UdpSocket("127.0.0.1", 0)
        self.endpoint = QuicEndpoint(
            self.udp,
            server=server,
            on_event=self.seen.on_event,
            on_problem=self.seen.on_problem,
            on_batch_end=self.seen.touch,
            **options,
        )
        self.endpoint.start()

    @property
    def address(self) -> Address:
        return self.udp.local_address

    @property
    def counters(self) -> Any:
        return self.endpoint.counters

    def connect(self, to: "Node | Address", settings: ClientSettings) -> Peer:
        return self.endpoint.connect(to.address if isinstance(to, Node) else to, settings)

    async def until(self, condition: Callable[[], object]) -> None:
        await self.seen.until(condition)

    def close(self) -> None:
        self.endpoint.close()


@contextmanager
def nodes(*made: Node) -> Iterator[None]:
    """Close the endpoints at the end."""
    try:
        yield
    finally:
        for node in made:
            node.close()


class Raw:
    """A bare UDP socket that keeps what it receives."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.udp = UdpSocket(host, 0, gro=False)
        self.received: list[bytes] = []
        self._changed = asyncio.Event()
        self.udp.start(asyncio.get_running_loop(), self._on_batch)

    def _on_batch(self, batch: list[Datagram]) -> None:
        self.received += [data for data, _ in batch]
        self._changed.set()

    def send(self, data: bytes, to: Node) -> None:
        self.udp.send(data, to.address)

    async def answer(self) -> bytes:
        """The next datagram received."""

        async def wait() -> bytes:
            while not self.received:
                self._changed.clear()
                await self._changed.wait()
            return self.received.pop(0)

        return await asyncio.wait_for(wait(), WAIT_S)

    def close(self) -> None:
        self.udp.close()


class Nat:
    """A UDP relay between one client and a server, whose outside port can be changed: NAT rebinding."""

    def __init__(self, server: Node) -> None:
        self._server = server.address
        self._client: Address | None = None
        self.inside = UdpSocket("127.0.0.1", 0, gro=False)
        self.inside.start(asyncio.get_running_loop(), self._from_inside)
        self.outside = self._open()
        self.drop_larger_than = 65535
        self.forwarded: list[bytes] = []

    def _open(self) -> UdpSocket:
        udp = UdpSocket("127.0.0.1", 0, gro=False)
        udp.start(asyncio.get_running_loop(), self._from_outside)
        return udp

    def rebind(self) -> Address:
        """Take another outside port; returns its address."""
        self.outside.close()
        self.outside = self._open()
        return self.outside.local_address

    def _from_inside(self, batch: list[Datagram]) -> None:
        for data, source in batch:
            self._client = source
            self.forwarded.append(data)
            if len(data) <= self.drop_larger_than:
                self.outside.send(data, self._server)

    def _from_outside(self, batch: list[Datagram]) -> None:
        for data, _ in batch:
            if self._client is not None and len(data) <= self.drop_larger_than:
                self.inside.send(data, self._client)

    def close(self) -> None:
        self.inside.close()
        self.outside.close()

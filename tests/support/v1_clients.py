"""Many light `ztna-v1` agents in one process: certificates and virtual addresses of their own, one UDP socket.

They share nothing with the product's agent but the QUIC endpoint and the codecs, so that a fault in the agent's control
code cannot hide one in the relay.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ztna.io.quic import QuicEndpoint
from ztna.io.quic_peer import Peer
from ztna.io.quic_types import ClientSettings, Closed, Connected, Credentials, PeerEvent
from ztna.io.udp import UdpSocket
from ztna.proto import packet, wire


@dataclass(frozen=True, slots=True)
class Profile:
    """What a client needs of an agent.json."""

    name: str
    relay: tuple[str, int]
    virtual_ip: int
    services: Mapping[str, int]
    settings: ClientSettings

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Profile":
        """Read a self-contained profile."""
        key = serialization.load_pem_private_key(value["key_pem"].encode(), password=None)
        certificate = x509.load_pem_x509_certificate(value["cert_pem"].encode())
        server = value["intermediate_server"]
        return cls(
            name=value["name"],
            relay=(server["host"], server["port"]),
            virtual_ip=int(IPv4Address(value["virtual_ip"])),
            services={entry["id"]: int(IPv4Address(entry["virtual_ip"])) for entry in value["services"]},
            settings=ClientSettings(
                ca_pem=value["ca_cert_pem"].encode(),
                server_name=server["server_name"],
                credentials=Credentials(certificate, (), key),
            ),
        )


def read_profile(path: Path) -> Profile:
    """Read a profile's file."""
    return Profile.from_json(json.loads(path.read_text()))


@dataclass(slots=True, eq=False)
class Client:
    """One agent: its connection and what came back on it."""

    profile: Profile
    peer: Peer
    on_packet: Callable[["Client", bytes], None]
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    registered: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    observed: wire.ObservedAddress | None = None
    closed: Closed | None = None
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    def register(self) -> None:
        """Ask for every service of the profile."""
        for service in self.profile.services:
            self.peer.send_datagram(wire.RegisterAgent(service).encode())

    @property
    def settled(self) -> bool:
        """Whether every service is registered or denied, or the connection is over."""
        return self.closed is not None or self.registered | self.denied >= set(self.profile.services)

    def wrap_udp(self, service: str, source_port: int, port: int, payload: bytes) -> bytes:
        """A service-routed UDP packet from this client's virtual address."""
        inner = packet.build_udp(self.profile.virtual_ip, source_port, self.profile.services[service], port, payload)
        return wire.service_routed_prefix(service) + inner

    def event(self, event: PeerEvent) -> None:
        """An event of the connection."""
        if isinstance(event, Connected):
            self.connected.set()
        elif isinstance(event, Closed):
            self.closed = event
            self.connected.set()
            self.answers.set()

    def datagram(self, data: bytes) -> None:
        """A DATAGRAM of the relay: a control message, or a packet for `on_packet`."""
        if not data:
            return
        if data[0] >> 4 == 4:
            self.on_packet(self, data)
            return
        match wire.decode(data):
            case wire.RegistrationAck(service_id=service):
                self.registered.add(service)
            case wire.RegistrationNack(service_id=service):
                self.denied.add(service)
            case wire.ObservedAddress() as observed:
                self.observed = observed
        self.answers.set()


class Clients:
    """Clients on one endpoint. Use inside a running loop; `close` at the end."""

    def __init__(self, bind_addr: str, on_packet: Callable[[Client, bytes], None] | None = None) -> None:
        self._on_packet = on_packet or (lambda client, data: None)
        self._by_peer: dict[int, Client] = {}
        self.problems: list[str] = []
        self.endpoint = QuicEndpoint(
            UdpSocket(bind_addr, 0),
            on_event=lambda peer, event: self._by_peer[peer.conn_id].event(event),
            on_datagram=lambda peer, data: self._by_peer[peer.conn_id].datagram(data),
            on_problem=lambda where, error: self.problems.append(f"{where}: {error!r}"),
        )
        self.endpoint.start()

    def open(self, profile: Profile) -> Client:
        """Begin to connect one more client."""
        peer = self.endpoint.connect(profile.relay, profile.settings)
        client = Client(profile, peer, self._on_packet)
        self._by_peer[peer.conn_id] = client
        return client

    async def connect(self, profile: Profile, *, register: bool = True, timeout_s: float = 15.0) -> Client:
        """Connect one client and wait until all its services are registered, denied or the connection is closed."""
        client = self.open(profile)
        async with asyncio.timeout(timeout_s):
            await client.connected.wait()
            if register:
                client.register()
                while not client.settled:
                    client.answers.clear()
                    await client.answers.wait()
        return client

    async def close(self) -> None:
        """Close all connections and the socket."""
        await self.endpoint.drain(0, "done", 1.0)
        self.endpoint.close()

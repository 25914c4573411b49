"""Agents and connectors that are nothing but an uplink: what they are told is kept, and no session is ever made.

They show what the control connection and the relay of packets do, without what roles build on top of them.
"""

import asyncio
import random
import time
from typing import Any

from tests.support.certs import Issued
from tests.support.overlay import CA, HOST, eventually, quiet_log
from ztna.config_types import RelayAddress
from ztna.io.quic_types import ALPN, ALPN_V2, ClientSettings
from ztna.io.udp import Address, UdpSocket
from ztna.io.uplink import Uplink
from ztna.proto.agent import AgentControl
from ztna.proto.client import ClientControl
from ztna.proto.connector import ConnectorControl

BOTH = (ALPN_V2, ALPN)


class Member:
    """One uplink and what it was told. `settings` change those of its next attempt."""

    def __init__(self, leaf: Issued, control: ClientControl, port: int, *, alpn: tuple[str, ...] = BOTH) -> None:
        self.settings = ClientSettings(
            CA.cert_pem.encode(), "ztna-server", credentials=leaf.credentials, alpn=alpn, keepalive_s=None
        )
        self.control = control
        self.events: list[Any] = []
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        self.uplink = Uplink(
            UdpSocket(HOST, 0),
            control=control,
            relay=RelayAddress(host=HOST, port=port, server_name="ztna-server"),
            settings=lambda: self.settings,
            owner=self,
            log=quiet_log(),
            loop=asyncio.get_running_loop(),
            clock=time.monotonic,
        )

    async def start(self) -> "Member":
        """Dial, and wait until everything is registered."""
        self.uplink.start()
        await eventually(lambda: self.control.is_connected and self.control.ready)
        return self

    @property
    def protocol(self) -> str:
        """What was negotiated."""
        assert self.uplink.peer is not None
        return self.uplink.peer.alpn

    async def told(self, kind: type, count: int = 1) -> Any:
        """Wait for an event of a kind and return it, the `count`th of its kind."""
        found: list[Any] = []

        def enough() -> bool:
            found[:] = [event for event in self.events if isinstance(event, kind)]
            return len(found) >= count

        await eventually(enough)
        return found[count - 1]

    def send(self, packet: bytes) -> None:
        """Send a packet through the intermediate, as the role wraps it."""
        assert isinstance(self.control, AgentControl | ConnectorControl)
        payload = self.control.wrap(packet)
        assert payload is not None
        self.uplink.send(payload)

    async def packet(self) -> bytes:
        """The next packet from the intermediate."""
        return await asyncio.wait_for(self.packets.get(), 5)

    async def close(self) -> None:
        await self.uplink.close()

    # uplink owner

    def dialled(self, relay: Address) -> None: ...

    def packet_received(self, packet: bytes) -> None:
        self.packets.put_nowait(packet)

    def payload_limit_changed(self, max_bytes: int) -> None: ...

    def control_event(self, event: object) -> None:
        self.events.append(event)

    def batch_ended(self) -> None: ...

    def relayed_packets(self) -> tuple[int, int]:
        return 0, 0

    def non_quic(self, data: bytes, source: Address) -> bool:
        return False


def agent_member(leaf: Issued, port: int, services: dict[str, str], virtual_ip: str, **options: Any) -> Member:
    """An agent of these services (address by id)."""
    return Member(leaf, AgentControl(services, virtual_ip, random=random.random), port, **options)


def connector_member(leaf: Issued, port: int, *services: str, **options: Any) -> Member:
    """A connector of these services."""
    return Member(leaf, ConnectorControl(services, random=random.random), port, **options)

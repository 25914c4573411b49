"""One agent's packets at the connector: a packet gateway of its own, which its sessions come and go beneath.

Flows and TCP connections belong to the agent, not to a session, so they survive a session that had to be made anew.
What one agent does not read holds up that agent alone.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ztna.io.backend import BackendSockets
from ztna.io.lazy_timer import LazyTimer
from ztna.io.resolve import BackendNames
from ztna.io.session.session import Session
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import EmitPacket, GatewayLimits, GatewayService

DRAIN_ROUNDS: Final = 8
SHARE: Final = 4
"""A connector's limits are divided by this for each agent: no one of them can take all."""


class AgentGateway:
    """See the module.

    Args:
        agent_ip: the only inner address (4 bytes) that packets of this agent may come from.
        services: every service of the connector; `allow` says which of them this agent reaches.
    """

    def __init__(
        self,
        agent_ip: bytes,
        services: Sequence[GatewayService],
        *,
        names: BackendNames,
        limits: GatewayLimits,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        self.agent_ip = agent_ip
        self.session: Session | None = None
        self.dropped_source = 0
        self.dropped_not_allowed = 0
        self.dropped_queue = 0
        self.idle_since = clock()
        self._services = services
        self._allowed: frozenset[bytes] | None = frozenset()
        self._loop = loop
        self._clock = clock
        own = replace(
            limits,
            udp_flows=max(1, limits.udp_flows // SHARE),
            tcp_sessions=max(1, limits.tcp_sessions // SHARE),
            tcp_buffers_total_bytes=limits.tcp_buffers_total_bytes // SHARE,
        )
        self.gateway = Gateway(services, budget_bytes=1158, random=os.urandom, limits=own)
        self.sockets = BackendSockets(self.gateway, names, loop=loop, clock=clock, on_input=self._drain_soon)
        self._timer = LazyTimer(loop, clock, self._due)
        self._scheduled = False

    @property
    def idle(self) -> bool:
        """Whether nothing is open and no session is there."""
        return self.session is None and not self.gateway.udp_flows and not self.gateway.tcp_sessions

    @property
    def open_flows(self) -> tuple[int, int]:
        """UDP flows and TCP connections."""
        return self.gateway.udp_flows, self.gateway.tcp_sessions

    @property
    def capabilities(self) -> tuple[str, ...]:
        """None: the packet gateway judges checksums itself."""
        return ()

    @property
    def forwarded(self) -> tuple[int, int]:
        """Packets of the agent, and their bytes."""
        return self.gateway.stats.packets_in, self.gateway.stats.bytes_in

    def allow(self, services: Sequence[str]) -> None:
        """Say which services the agent reaches."""
        found = [service for service in self._services if service.id in services]
        if any(service.virtual_ip is None for service in found):
            self._allowed = None
        else:
            self._allowed = frozenset((service.virtual_ip or 0).to_bytes(4, "big") for service in found)

    def attach(self, session: Session) -> None:
        """Send by this session from now on."""
        self.session = session
        self.budget_changed()

    def detach(self, session: Session) -> None:
        """The session is over; flows wait for the next one until they expire."""
        if self.session is session:
            self.session = None
            self.idle_since = self._clock()

    def budget_changed(self) -> None:
        """Packets may be as large as the session takes now."""
        if self.session is not None:
            self.gateway.set_budget(self.session.core.max_datagram_payload)

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """IP packets of the agent, from its session."""
        now, own, allowed = self._clock(), self.agent_ip, self._allowed
        receive = self.gateway.packet_received
        for packet in packets:
            if packet[12:16] != own:
                self.dropped_source += 1
            elif allowed is not None and packet[16:20] not in allowed:
                self.dropped_not_allowed += 1
            else:
                receive(packet, now)

    def drain(self) -> None:
        """Carry out the gateway's commands; TCP waits while the session's queue is full."""
        gateway, sockets, session = self.gateway, self.sockets, self.session
        for _ in range(DRAIN_ROUNDS):
            core = session.core if session is not None and session.ready else None
            gateway.room = core.room if core is not None else 0
            while (command := gateway.next_command()) is not None:
                if type(command) is EmitPacket:
                    if core is None or not core.send_datagram(command.packet):
                        self.dropped_queue += 1
                else:
                    sockets.execute(command)
            if gateway.room or core is None or not core.room:
                break
        else:
            self._drain_soon()
        self._timer.arm(gateway.get_timer())

    def close(self) -> None:
        """Close every socket."""
        self._timer.close()
        self.sockets.close()

    def _drain_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain_now)

    def _drain_now(self) -> None:
        self._scheduled = False
        self.drain()
        if self.session is not None:
            self.session.flush()

    def _due(self) -> None:
        self.gateway.handle_timer(self._clock())
        self._drain_now()

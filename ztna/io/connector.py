"""The connector process: dials out from beside the services and carries agents' packets to their backends.

Flow: session of an agent -> its gateway, streams, UDP flows -> backend sockets, and back (`ztna.io.session`). Agents
that speak only `ztna-v1`: relay -> uplink -> packet gateway -> backend sockets, and back. Each batch of packets is
processed whole and answered with one transmit. While the congestion window is shut, TCP data stays with the gateway and
then with the backend, whose socket is not read; of UDP answers the oldest are dropped and counted.

Its UDP port also answers raw binding requests and keepalives of agents, but only when P2P certificates are configured:
only from hosts that an offer relayed by the intermediate has named as a candidate, from those for a bounded time, and
each host within a token bucket. With those certificates it also takes QUIC connections of such agents (`ztna.io.p2p`):
who may not have one is closed after the handshake, within bounds on handshakes and on what an address is sent before it
is proven. Everything else gets silence.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from ztna.config import ConfigError, ConnectorConfig, apply_limits, load_connector
from ztna.config_types import ServiceConfig
from ztna.io.backend import BackendSockets
from ztna.io.client_role import client_settings, run_role, uplink_not_ready, uplink_samples, uplink_status
from ztna.io.lazy_timer import LazyTimer
from ztna.io.logs import Logger
from ztna.io.metrics import Sample, counters_of
from ztna.io.p2p import p2p_server
from ztna.io.quic_types import ConnectionLimits
from ztna.io.resolve import BackendNames
from ztna.io.session.role_watch import RoleWatch
from ztna.io.session.roles import connector_sessions, relayed_packets, session_samples, tun_gateway
from ztna.io.udp import Address, UdpSocket
from ztna.io.uplink import Uplink
from ztna.proto.connector import ConnectorControl
from ztna.proto.gateway import Gateway
from ztna.proto.gateway_types import Backend, EmitPacket, GatewayLimits, GatewayService, PortRule
from ztna.proto.limits import ConnectorLimits
from ztna.proto.p2p import is_control
from ztna.proto.signalling import SocketAddress

INITIAL_BUDGET_BYTES: Final = 1158
# The relays in the field drop larger packets on the leg to the agent, whatever ours to the relay takes.
MAX_BUDGET_BYTES: Final = 1306
DRAIN_ROUNDS: Final = 8


class Connector:
    """One connector; see the module for its flow.

    Raises:
        ConfigError: two services share a virtual IP, a limit is unknown, or a certificate cannot be used.
        UdpBindError: the UDP port cannot be bound.
    """

    def __init__(
        self,
        config: ConnectorConfig,
        *,
        loop: asyncio.AbstractEventLoop,
        log: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.loop = loop
        self.log = log
        self.clock = clock
        self._started = clock()
        limits = apply_limits(config.limits, ConnectorLimits(), GatewayLimits(), ConnectionLimits())
        control_limits, gateway_limits, self._connection_limits = limits
        client_settings(config)
        services = [gateway_service(service) for service in config.services]
        try:
            self.gateway = Gateway(
                services, budget_bytes=INITIAL_BUDGET_BYTES, random=os.urandom, limits=gateway_limits
            )
        except ValueError as exc:
            raise ConfigError(f"services: {exc}") from exc
        self.control = ConnectorControl(
            [service.id for service in config.services], random=random.random, limits=control_limits
        )
        self.udp = UdpSocket(config.bind_addr, config.p2p.port, purpose="p2p.port")
        self.names = BackendNames({backend.host for service in services for backend in _backends(service)})
        self.sockets = BackendSockets(self.gateway, self.names, loop=loop, clock=clock, on_input=self._drain_soon)
        self.uplink = Uplink(
            self.udp,
            control=self.control,
            relay=config.relay,
            settings=lambda: client_settings(config, self._connection_limits),
            owner=self,
            log=log,
            loop=loop,
            clock=clock,
        )
        self._gateway_timer = LazyTimer(loop, clock, self._gateway_due)
        self._drain_scheduled = False
        self.tun = tun_gateway(self, services)
        self.sessions = connector_sessions(self, services, gateway_limits)
        addresses = {service.id: service.virtual_ip for service in services}
        self.p2p = p2p_server(self, addresses, self._connection_limits, control_limits)
        self.watch = RoleWatch(self.uplink, self.sessions, loop=loop, clock=clock, bind_addr=config.bind_addr)

    async def start(self) -> None:
        """Resolve the backends' names and dial the relay."""
        await self.names.start()
        if self.tun is not None:
            await self.tun.start()
        self.uplink.start()
        self.watch.start()

    async def close(self) -> None:
        """Send the close frame and release every socket."""
        self.watch.close()
        if self.sessions is not None:
            await self.sessions.close()
        if self.tun is not None:
            self.tun.close()
        if self.p2p is not None:
            self.p2p.stop()
        await self.uplink.close()
        if self.p2p is not None:
            self.p2p.endpoint.close()
        await self.names.close()
        self._gateway_timer.close()
        self.sockets.close()

    def not_ready(self) -> str | None:
        """None when connected and registered for every service, else why not."""
        return uplink_not_ready(self.uplink)

    def status(self) -> Mapping[str, Any]:
        """The connector's part of /status."""
        virtual_ips = {service.id: service.virtual_ip for service in self.config.services}
        return {
            **uplink_status(self.uplink, self.udp, virtual_ips),
            "p2p": self.p2p is not None,
            "p2p_connections": 0 if self.p2p is None else len(self.p2p.table),
            "sessions": [] if self.sessions is None else self.sessions.status(),
            **self.watch.status(),
            "flows": self._open_flows(),
            "counters": {name: value for name, value in _stats(self.gateway.stats).items() if value},
            "control": {name: value for name, value in self.control.stats.as_dict().items() if value},
        }

    def _open_flows(self) -> dict[str, int]:
        """UDP flows and TCP connections of agents of both protocols."""
        more = {"udp": 0, "tcp": 0} if self.sessions is None else self.sessions.open_flows()
        return {"udp": self.gateway.udp_flows + more["udp"], "tcp": self.gateway.tcp_sessions + more["tcp"]}

    def samples(self) -> list[Sample]:
        """Metrics; the first five have the names that dashboards of connectors in the field use."""
        stats, sockets, tcp = self.gateway.stats, self.sockets.counters, self.sockets.tcp.counters
        carried = (0, 0) if self.sessions is None else self.sessions.forwarded()
        forwarded = tcp.bytes_sent + tcp.bytes_received + carried[1]
        prefix = "ztna_connector"
        return [
            Sample(f"{prefix}_forwarded_packets", "Packets from agents to backends", stats.packets_in + carried[0]),
            Sample(
                f"{prefix}_forwarded_bytes", "TCP payload both ways and packets from agents", forwarded + stats.bytes_in
            ),
            Sample(f"{prefix}_tcp_sessions", "TCP sessions opened", stats.tcp_sessions_opened),
            Sample(f"{prefix}_tcp_errors", "TCP sessions that ended by a reset", stats.tcp_sessions_reset),
            Sample(f"{prefix}_udp_flows_open", "UDP flows now", self.sockets.udp_open, "gauge"),
            Sample(f"{prefix}_tcp_sessions_open", "TCP sessions now", len(self.sockets.tcp), "gauge"),
            *counters_of(f"{prefix}_gateway", "Packet gateway", stats),
            *counters_of(f"{prefix}_backend", "Backend sockets", sockets),
            *counters_of(f"{prefix}_backend_tcp", "Backend TCP sockets", tcp),
            *counters_of(f"{prefix}_control", "Control", self.control.stats),
            *([] if self.sessions is None else session_samples(prefix, self.sessions)),
            *([] if self.tun is None else self.tun.samples(prefix)),
            *([] if self.p2p is None else self.p2p.samples(prefix)),
            *uplink_samples(prefix, self.uplink, self.udp, self._started),
        ]

    # uplink owner

    def dialled(self, relay: Address) -> None:
        """Tell the control core which addresses its candidates may name."""
        external = self.config.external_ip
        port = self.udp.local_address[1]
        self.control.set_addresses(
            self.udp.local_address, relay=relay, external=None if external is None else (external, port)
        )

    def packet_received(self, packet: bytes) -> None:
        """A packet of an agent, by the intermediate."""
        if self.sessions is not None and self.config.protocol == "v2":
            self.sessions.counters.dropped_unsealed += 1
            return
        self.gateway.packet_received(packet, self.clock())

    def payload_limit_changed(self, max_bytes: int) -> None:
        """Let answers be as large as the relay leg takes."""
        self.gateway.set_budget(min(max_bytes, MAX_BUDGET_BYTES))

    def relayed_packets(self) -> tuple[int, int]:
        """Packets of sessions by the relay's path: the relay is alive as long as they come back."""
        return (0, 0) if self.sessions is None else relayed_packets(self.sessions.sessions)

    def batch_ended(self) -> None:
        """Carry out what the batch led to, so that it leaves with this batch's transmit."""
        self._drain()

    def control_event(self, event: object) -> None:
        """Invitations to sessions, and what belongs to them."""
        if self.sessions is not None:
            self.sessions.control_event(event)

    def non_quic(self, data: bytes, source: Address) -> bool:
        """Raw checks and keepalives of agents; see the module for who gets an answer."""
        if self.p2p is None or not is_control(data):
            return False
        answer = self.control.p2p.datagram_received(data, SocketAddress(*source), self.clock())
        if answer is not None:
            self.udp.send(answer, source)
        return True

    # gateway

    def _drain(self) -> None:
        """Take the gateway's commands until it has none, or only TCP data that the DATAGRAM queue has no room for."""
        gateway, sockets, uplink, control = self.gateway, self.sockets, self.uplink, self.control
        for _ in range(DRAIN_ROUNDS):
            gateway.room = uplink.room
            while (command := gateway.next_command()) is not None:
                if type(command) is EmitPacket:
                    payload = control.wrap(command.packet)
                    if payload is not None:
                        uplink.send(payload)
                else:
                    sockets.execute(command)
            if gateway.room or not uplink.room:
                break
        else:
            # Other connections' packets are waiting: the rest goes in the next turn of the loop.
            self._drain_soon()
        self._gateway_timer.arm(gateway.get_timer())

    def answer_now(self) -> None:
        """Send what packets led to that did not come by the connection to the relay."""
        self._drain()
        self.uplink.endpoint.flush()

    def _drain_soon(self) -> None:
        """A socket spoke: drain once all sockets that are ready in this turn of the loop have."""
        if not self._drain_scheduled:
            self._drain_scheduled = True
            self.loop.call_soon(self._drain_now)

    def _drain_now(self) -> None:
        self._drain_scheduled = False
        self.answer_now()

    def _gateway_due(self) -> None:
        self.gateway.handle_timer(self.clock())
        self.answer_now()


def gateway_service(service: ServiceConfig) -> GatewayService:
    """A service of the config as the gateway takes it."""
    return GatewayService(
        id=service.id,
        virtual_ip=None if service.virtual_ip is None else int(IPv4Address(service.virtual_ip)),
        backend=None if service.backend is None else Backend(*service.backend),
        ports=tuple(
            PortRule("tcp" if rule.protocol == "tcp" else "udp", rule.port, Backend(*rule.backend))
            for rule in service.ports or ()
        ),
        protocol=_protocol(service.protocol),
    )


def _protocol(text: str) -> Any:
    return text if text in ("tcp", "udp") else "any"


def _backends(service: GatewayService) -> list[Backend]:
    return [rule.backend for rule in service.ports] + ([service.backend] if service.backend is not None else [])


def _stats(stats: Any) -> dict[str, int]:
    return {name: getattr(stats, name) for name in stats.__slots__}


def run(config: ConnectorConfig | Path) -> int:
    """Run a connector until SIGTERM or SIGINT; returns 0.

    Raises:
        ConfigError, UdpBindError, HttpBindError: it could not start; the text has the remedy.
    """
    loaded = load_connector(config) if isinstance(config, Path) else config
    return run_role("connector", loaded, lambda loop, log: Connector(loaded, loop=loop, log=log))

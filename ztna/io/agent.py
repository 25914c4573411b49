"""The agent process: brings a machine's packets for the stack's services to their connectors, and the answers back.

TUN mode (root or CAP_NET_ADMIN) routes the service addresses, and nothing else, to a device of its own. User mode needs
no privilege: local TCP and UDP ports stand for a service's port. Packets travel in an end-to-end session with the
connector (`ztna.io.session`), or in DATAGRAM frames through the intermediate where the connector speaks only `ztna-v1`.
Everything there is is read before anything is transmitted.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from ztna.config import AgentConfig, ConfigError, ForwardConfig, apply_limits, load_agent
from ztna.io.client_role import client_settings, run_role, uplink_not_ready, uplink_samples, uplink_status
from ztna.io.dns import DnsResponder, ServiceZone
from ztna.io.logs import Logger
from ztna.io.metrics import Sample, counters_of
from ztna.io.quic_types import ConnectionLimits
from ztna.io.session.role_watch import RoleWatch
from ztna.io.session.roles import agent_sessions, relayed_packets, session_samples
from ztna.io.session.session import Session
from ztna.io.tun import TunDevice, tun_available
from ztna.io.tun_side import TunSide
from ztna.io.udp import Address, UdpSocket
from ztna.io.uplink import Uplink
from ztna.io.user_mode import UserMode, parse_forward
from ztna.proto.agent import AgentControl
from ztna.proto.gateway_types import GatewayLimits
from ztna.proto.limits import AgentLimits

ANY_ADDRESS: Final = "0.0.0.0"


class LocalSide(Protocol):
    """Where the agent's packets come from and go to."""

    def start(self) -> None:
        """Begin to take packets from the local side."""

    async def close(self) -> None:
        """Release devices, sockets and routes."""

    def packet_received(self, packet: bytes) -> None:
        """A packet from the relay, for the local side."""

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """Packets of one session's batch."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What sessions may tell their peers of the local side."""

    def mtu_changed(self, mtu_bytes: int) -> None:
        """Packets may be this large now."""

    def batch_ended(self) -> None:
        """The last chance to add packets to the transmit of this batch."""

    def flow_received(self, session: Session, flow: int, payload: bytes) -> None:
        """A UDP payload of a session's flow."""

    def flow_failed(self, session: Session, flow: int, error: str) -> None:
        """A session's UDP flow has no backend."""

    def flow_closed(self, session: Session, flow: int) -> None:
        """The connector forgot a session's UDP flow."""

    def sessions_changed(self) -> None:
        """A session became ready or ended."""

    def status(self) -> dict[str, Any]:
        """The local side's part of /status."""

    def samples(self, prefix: str) -> list[Sample]:
        """The local side's metrics."""


class Agent:
    """One agent; see the module.

    Args:
        local: makes the local side, given the agent; called once, from `start`.

    Raises:
        ConfigError: a service has no virtual IP, a limit is unknown, or a certificate cannot be used.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        loop: asyncio.AbstractEventLoop,
        log: Logger,
        local: Callable[["Agent"], LocalSide],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.loop = loop
        self.log = log
        self.clock = clock
        self.virtual_ips = virtual_ips(config)
        self.virtual_ip = config.virtual_ip or random_virtual_ip()
        self._started = clock()
        limits = apply_limits(config.limits, AgentLimits(), ConnectionLimits(), GatewayLimits())
        control_limits, connection_limits, self.stack_limits = limits
        client_settings(config)
        self.control = AgentControl(self.virtual_ips, self.virtual_ip, random=random.random, limits=control_limits)
        self.udp = UdpSocket(ANY_ADDRESS, 0)
        self.uplink = Uplink(
            self.udp,
            control=self.control,
            relay=config.relay,
            settings=lambda: client_settings(config, connection_limits),
            owner=self,
            log=log,
            loop=loop,
            clock=clock,
        )
        self._make_local = local
        self._local: LocalSide | None = None
        self._dns: DnsResponder | None = None
        self._uplink_used = False
        self.sessions = agent_sessions(self)
        self.watch = RoleWatch(self.uplink, self.sessions, loop=loop, clock=clock)

    async def start(self) -> None:
        """Open the local side and dial the relay. Raises TunError or UdpBindError."""
        self._local = self._make_local(self)
        self._local.start()
        if self.config.dns is not None:
            self._dns = DnsResponder(ServiceZone(self.virtual_ips), self.config.dns.listen, self.loop)
        self.uplink.start()
        self.watch.start()

    async def close(self) -> None:
        """Send the close frame, then remove the device or the listeners."""
        self.watch.close()
        if self.sessions is not None:
            await self.sessions.close()
        await self.uplink.close()
        if self._dns is not None:
            self._dns.close()
        if self._local is not None:
            await self._local.close()

    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Queue a batch of packets of the local side, each the way its service is reached; `flush` transmits them."""
        wrap, send, sessions = self.control.wrap, self.uplink.send, self.sessions
        rest = packets if sessions is None else sessions.routes.send(packets)
        if sessions is not None and sessions.asking.sealed:
            sessions.counters.dropped_unsealed += len(rest)
            return
        for packet in rest:
            payload = wrap(packet)
            self._uplink_used = True
            if payload is not None:
                send(payload)

    def answer_too_large(self, packet: bytes, limit: int) -> None:
        """Tell the local side by ICMP that a packet is larger than its session takes."""
        self._uplink_used = True
        self.control.answer_too_large(packet, limit)

    def flush(self) -> None:
        """Transmit what was sent outside a batch, and deliver what the control core answered itself."""
        if self.sessions is not None:
            self.sessions.routes.flush()
        if self._uplink_used or self.sessions is None:
            self._uplink_used = False
            self.uplink.pump()
            self.uplink.endpoint.flush()

    @property
    def room(self) -> int:
        """Packets that can be sent before they displace each other, on the ways that were used last."""
        room = None if self.sessions is None else self.sessions.routes.room
        return self.uplink.room if room is None else room

    @property
    def max_packet_bytes(self) -> int:
        """Largest packet that every way takes: the MTU for the local side."""
        sessions = self.sessions
        limit = None if sessions is None else sessions.max_packet_bytes
        if limit is None or sessions is None:
            return self.control.max_packet_bytes
        return limit if not any(map(sessions.legacy, self.virtual_ips)) else min(limit, self.control.max_packet_bytes)

    def not_ready(self) -> str | None:
        """None when every service is registered and can be reached, else why not."""
        reason = uplink_not_ready(self.uplink)
        return reason if reason is not None or self.sessions is None else self.sessions.not_ready()

    def status(self) -> Mapping[str, Any]:
        """The agent's part of /status."""
        return {
            **uplink_status(self.uplink, self.udp, self.virtual_ips),
            "virtual_ip": self.virtual_ip,
            "dns": None if self._dns is None else f"{self._dns.address[0]}:{self._dns.address[1]}",
            "sessions": [] if self.sessions is None else self.sessions.status(),
            **self.watch.status(),
            **({} if self._local is None else self._local.status()),
            "control": {name: value for name, value in self.control.stats.as_dict().items() if value},
        }

    def samples(self) -> list[Sample]:
        """The agent's metrics."""
        prefix = "ztna_agent"
        return [
            *counters_of(f"{prefix}_control", "Control", self.control.stats),
            *([] if self.sessions is None else session_samples(prefix, self.sessions)),
            *([] if self._local is None else self._local.samples(prefix)),
            *([] if self._dns is None else counters_of(f"{prefix}_dns", "Name responder", self._dns.zone.counters)),
            *uplink_samples(prefix, self.uplink, self.udp, self._started),
        ]

    # uplink owner

    def dialled(self, relay: Address) -> None:
        """Nothing of ours depends on the relay's address."""

    def packet_received(self, packet: bytes) -> None:
        """A packet of a service, by the intermediate."""
        if self.sessions is not None and self.sessions.asking.sealed:
            self.sessions.counters.dropped_unsealed += 1
        elif self._local is not None:
            self._local.packet_received(packet)

    def payload_limit_changed(self, max_bytes: int) -> None:
        """The control core knows the limit already; the local side wants the packet size that follows from it."""
        self._follow_mtu()

    def _follow_mtu(self) -> None:
        if self._local is not None:
            self._local.mtu_changed(self.max_packet_bytes)

    def control_event(self, event: object) -> None:
        """Sessions, and who serves what."""
        if self.sessions is not None:
            self.sessions.control_event(event)

    def relayed_packets(self) -> tuple[int, int]:
        """Packets of sessions by the relay's path: the relay is alive as long as they come back."""
        return (0, 0) if self.sessions is None else relayed_packets(self.sessions.sessions)

    def batch_ended(self) -> None:
        """Let the local side add to this batch."""
        if self._local is not None:
            self._local.batch_ended()

    def non_quic(self, data: bytes, source: Address) -> bool:
        """This agent takes nothing but QUIC."""
        return False

    # sessions

    def packets_received(self, packets: Sequence[bytes]) -> None:
        """Packets of one session's batch."""
        if self._local is not None:
            self._local.packets_received(packets)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What sessions may tell their peers of the local side."""
        return () if self._local is None else self._local.capabilities

    def flow_received(self, session: Session, flow: int, payload: bytes) -> None:
        """A UDP payload of a session's flow."""
        if self._local is not None:
            self._local.flow_received(session, flow, payload)

    def flow_failed(self, session: Session, flow: int, error: str) -> None:
        """A session's UDP flow has no backend."""
        if self._local is not None:
            self._local.flow_failed(session, flow, error)

    def flow_closed(self, session: Session, flow: int) -> None:
        """The connector forgot a session's UDP flow."""
        if self._local is not None:
            self._local.flow_closed(session, flow)

    def sessions_changed(self) -> None:
        """A session became ready or ended, or takes packets of another size."""
        self._follow_mtu()
        if self._local is not None:
            self._local.sessions_changed()


def virtual_ips(config: AgentConfig) -> dict[str, str]:
    """Virtual IP of each service; raises ConfigError if one has none."""
    found: dict[str, str] = {}
    for index, service in enumerate(config.services):
        if service.virtual_ip is None:
            raise ConfigError(f"services[{index}].virtual_ip: missing; an agent finds a service by its address")
        found[service.id] = service.virtual_ip
    return found


def random_virtual_ip() -> str:
    """An own address for an agent whose config gives none: only to tell its flows from those of other agents."""
    number = random.randrange(1, 1 << 16)  # noqa: S311 - a name, not a secret
    return f"100.127.{number >> 8}.{number & 255}"


def choose_mode(config: AgentConfig, *, forwards_given: bool) -> tuple[str, str]:
    """(tun or user, why). Forwards on the command line ask for user mode; otherwise `auto` takes the best there is."""
    if config.mode != "auto":
        return config.mode, "as configured"
    if forwards_given:
        return "user", "forwards were given"
    reason = tun_available()
    if reason is None:
        return "tun", "TUN devices may be made"
    return "user", reason


def run(
    config: AgentConfig | Path,
    *,
    forward: Sequence[str] = (),
    forward_udp: Sequence[str] = (),
    mode: str | None = None,
) -> int:
    """Run an agent until SIGTERM or SIGINT; returns 0.

    Args:
        config: the config or its file.
        forward, forward_udp: more forwards, as `[ADDR:]PORT=SERVICE:PORT`.
        mode: overrides the config's.

    Raises:
        ConfigError, UdpBindError, HttpBindError, TunError: it could not start; the text has the remedy.
    """
    loaded = load_agent(config) if isinstance(config, Path) else config
    given: tuple[ForwardConfig, ...] = (
        *(parse_forward(text, "tcp", loaded.services) for text in forward),
        *(parse_forward(text, "udp", loaded.services) for text in forward_udp),
    )
    if mode is not None and mode not in ("auto", "tun", "user"):
        raise ConfigError(f"--mode: {mode!r} is none of auto, tun, user")
    loaded = replace(loaded, forwards=loaded.forwards + given, mode=mode or loaded.mode)
    chosen, reason = choose_mode(loaded, forwards_given=bool(given))
    local = _tun_side(loaded) if chosen == "tun" else _user_side(loaded, reason)

    def make(loop: asyncio.AbstractEventLoop, log: Logger) -> Agent:
        log.info("mode", mode=chosen, reason=reason)
        if chosen == "tun" and loaded.forwards:
            log.warning("configuration", detail="forwards are for user mode; in TUN mode use the service addresses")
        return Agent(loaded, loop=loop, log=log, local=local)

    return run_role("agent", loaded, make)


def _tun_side(config: AgentConfig) -> Callable[[Agent], LocalSide]:
    """Make the device now: it speaks netlink, which blocks."""
    if config.virtual_ip is None:
        raise ConfigError("virtual_ip: missing; TUN mode needs the agent's own address, like 100.64.1.1")
    addresses = virtual_ips(config)
    control = AgentControl(addresses, config.virtual_ip, random=random.random)
    mtu = config.tun.mtu or control.max_packet_bytes
    device = TunDevice(config.tun.name, config.virtual_ip, sorted(set(addresses.values())), mtu)
    return lambda agent: TunSide(agent, device)


def _user_side(config: AgentConfig, reason: str) -> Callable[[Agent], LocalSide]:
    if not config.forwards:
        raise ConfigError(
            f"forwards: none, and TUN mode is not used ({reason}); give --forward 8080=SERVICE:80, or run as root"
        )
    return lambda agent: UserMode(agent, config.forwards)

"""The connector's TUN mode: the kernel's own TCP/IP carries agents' packets to the backends.

    session of an agent -> its source and destinations are checked -> device -> nftables -> backend
    backend -> nftables -> device -> by the agent's address to its session

One device for all agents. Services' virtual addresses are its addresses, an agent's address is a route to it with the
MTU of that agent's session. Device, routes and its switches go away with the process, however that ends; the table and
the forwarding switch of a dead process are put right by the next start (`ztna.io.forward.tables`).

The rules are in `ztna.io.session.tun_rules`; this mode needs CAP_NET_ADMIN and nft.
"""

import asyncio
import contextlib
import ipaddress
import socket
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from ztna.config import ConfigError
from ztna.io import routes
from ztna.io.forward.forwarding import Forwarding
from ztna.io.forward.nfnetlink import delete_table
from ztna.io.forward.tables import Owner, clear_stale, others_live
from ztna.io.forward.types import ForwardError
from ztna.io.logs import Logger
from ztna.io.metrics import Sample, counters_of
from ztna.io.resolve import BackendNames
from ztna.io.session.tun_rules import TunRules, Way, ways
from ztna.io.session.tun_traffic import TunTraffic, TunTrafficCounters
from ztna.io.tun import MAX_BATCH_PACKETS, TunDevice, TunError
from ztna.io.udp import PAUSE_S
from ztna.proto.gateway_types import GatewayService
from ztna.proto.packet import address_text

DEVICE_NAME: Final = "ztnac%d"
DEVICE_MTU_BYTES: Final = 1500
RESUME_ROOM: Final = 32
NFT_TIMEOUT_S: Final = 10.0
REFRESH_S: Final = 5.0
AGENTS: Final = ipaddress.IPv4Network("100.64.0.0/10")
"""Where agents' addresses must be (RFC 6598): a route for any other would take traffic of this host."""

_CONF: Final = Path("/proc/sys/net/ipv4/conf")


class TunGateway:
    """The device and what belongs to it; `traffic` makes the side of one agent.

    Args:
        services: every service of the connector; each needs a virtual address.

    Raises:
        ConfigError: a service without a virtual address.
    """

    def __init__(
        self,
        services: Sequence[GatewayService],
        *,
        names: BackendNames,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        log: Logger,
    ) -> None:
        for service in services:
            if service.virtual_ip is None:
                raise ConfigError(f"service {service.id!r}: virtual_ip is missing; `gateway` tun needs one for each")
        self.counters = TunTrafficCounters()
        self.services = services
        self.addresses = sorted({address_text(service.virtual_ip or 0) for service in services})
        self._ways: list[Way] = ways(services)
        self._names = names
        self._loop = loop
        self._clock = clock
        self._log = log
        self.device: TunDevice | None = None
        self._forwarding = Forwarding()
        self._off = False
        self._forwards = False
        self._table = ""
        self._resolved: dict[str, str] = {}
        self._speaker: str | None = None
        self._local: list[str] = []
        self._agents: dict[bytes, TunTraffic] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._asked_at = 0.0

    # life

    async def start(self) -> None:
        """Make the device and its rules, in a thread: netlink and nft block.

        Raises:
            TunError: no right, no nft, or an address in use; the text names the remedy.
        """
        try:
            await self._loop.run_in_executor(None, self._set_up)
        except (ForwardError, OSError) as exc:
            self.close()
            raise TunError(f"the connector's TUN mode cannot be set up: {exc}; or set `gateway` to user") from exc
        assert self.device is not None
        self.device.start(self._loop, self._readable)
        self._timer = self._loop.call_later(REFRESH_S, self._refresh)
        self._log.info("tun_up", device=self.device.name, mtu_bytes=self.device.mtu_bytes)

    def _set_up(self) -> None:
        self.device = TunDevice(DEVICE_NAME, self.addresses, [], DEVICE_MTU_BYTES)
        self._table = self._rules({}).table
        self._forwarding = Forwarding(clear_stale(self._table))
        self._off = self._forwarding.was_off("ipv4")
        self._apply(self._resolve())

    def close(self) -> None:
        """Remove everything; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        device, self.device = self.device, None
        if device is None:
            return
        device.close()
        if self._table:
            try:
                if self._forwards and not others_live(self._table):
                    self._forwarding.put_back()
                delete_table(self._table)
            except OSError as exc:
                self._log.warning("problem", where="tun", detail=f"table {self._table} stays: {exc}")

    def samples(self, prefix: str) -> list[Sample]:
        """Metrics of the device."""
        device = self.device
        return [
            *counters_of(f"{prefix}_tun_traffic", "TUN mode", self.counters),
            *([] if device is None else counters_of(f"{prefix}_tun", "TUN device", device.counters)),
        ]

    # rules

    def _rules(self, resolved: dict[str, str]) -> TunRules:
        assert self.device is not None
        return TunRules(
            device=self.device.name,
            comment=Owner.this(("ipv4",) if self._off and self._forwards else ()).comment,
            ways=self._ways,
            resolved=resolved,
            services=self.addresses,
            local=self._local,
            guarded=self._off and self._forwards,
        )

    def _resolve(self) -> dict[str, str]:
        """IPv4 addresses of the backends' hosts as they are known now."""
        found: dict[str, str] = {}
        for way in self._ways:
            host = way.backend.host
            address = self._names.address(host)
            if address is not None and ipaddress.ip_address(address).version == 4:
                found[host] = address
        return found

    def _apply(self, resolved: dict[str, str]) -> None:
        """Put the rules for these addresses in force, and the switches that they need. Raises ForwardError."""
        assert self.device is not None
        conf = _CONF / self.device.name
        local = sorted({address for address in resolved.values() if is_local(address)})
        if any(ipaddress.IPv4Address(address).is_loopback for address in local):
            # Else the kernel takes packets to 127.0.0.0/8 from a device for martians. The rules let in only what they
            # translated to it themselves.
            _switch(conf / "route_localnet")
        if any(address not in local for address in resolved.values()):
            self._forwards = True
        self._speaker, self._local = (local[0], local[1:]) if local else (None, [])
        load(self._rules(resolved).text())
        if self._forwards:
            self._forwarding.turn_on(("ipv4",))
        self._resolved = resolved
        for agent in self._agents.values():
            agent.budget_changed()

    def _refresh(self) -> None:
        """A backend's name may stand for another address now."""
        self._timer = self._loop.call_later(REFRESH_S, self._refresh)
        resolved = self._resolve()
        if resolved != self._resolved:
            try:
                self._apply(resolved)
            except (ForwardError, OSError) as exc:
                self._log.warning("problem", where="tun", detail=f"rules not changed: {exc}")

    # agents

    @property
    def speaker(self) -> str | None:
        """The address with which sockets bound to none speak to agents: that of a backend on this host.

        Else a datagram of theirs would come from a service's address and belong to no connection that was translated.
        """
        return self._speaker

    def traffic(self, agent_ip: bytes) -> TunTraffic:
        """The side of one agent, by its inner address."""
        return TunTraffic(self, agent_ip, clock=self._clock)

    def claim(self, agent: TunTraffic) -> bool:
        """Route an agent's address to the device; False if it may not be, or belongs to another agent's session."""
        address = agent.address
        holder = self._agents.get(agent.agent_ip)
        if holder is agent:
            return True
        self.read_on()
        if self.device is None or (holder is not None and holder.session is not None):
            return False
        if holder is not None:
            self._agents[agent.agent_ip] = agent
            return True
        if ipaddress.IPv4Address(address) not in AGENTS or address in self.addresses or is_local(address):
            self._log.warning("problem", where="tun", detail=f"{address} cannot be an agent's: it is not in {AGENTS}")
            return False
        try:
            routes.add_route(address, self.device.index)
        except OSError as exc:
            self._log.warning("problem", where="tun", detail=f"no route to {address} can be set: {exc}")
            return False
        self._agents[agent.agent_ip] = agent
        return True

    def release(self, agent: TunTraffic) -> None:
        """Take the route away."""
        if self._agents.get(agent.agent_ip) is agent:
            del self._agents[agent.agent_ip]
            if self.device is not None:
                with contextlib.suppress(OSError):
                    routes.remove_route(agent.address, self.device.index)
                self.finishing()

    def finishing(self) -> None:
        """Which agents finish checksums themselves has changed."""
        if self.device is not None:
            self.device.unfinished = frozenset(ip for ip, agent in self._agents.items() if agent.unfinished)

    # packets out of the device

    def _readable(self) -> None:
        """Read what there is, each agent's packets to its session, then transmit once for each."""
        device = self.device
        if device is None:
            return
        asked, self._asked_at = self._asked_at, self._clock()
        # After a pause there is one packet: send it before asking for another (the loop calls again at once).
        used = self._pass_on(device.read_batch(1 if self._asked_at - asked > PAUSE_S else MAX_BATCH_PACKETS))
        if len(self._agents) == 1 and any(agent.is_full for agent in used):
            # With one agent the kernel's queue is the place to wait. With more, one must not hold up the others.
            self._paused = True
            device.pause()

    def _pass_on(self, batch: list[bytes]) -> Collection[TunTraffic]:
        """Give each agent its packets; returns the agents that got some."""
        agents, counters = self._agents, self.counters
        used: dict[TunTraffic, list[bytes]] = {}
        last, packets = b"", None
        for packet in batch:
            destination = packet[16:20]
            if destination != last:
                last, agent = destination, agents.get(destination)
                packets = None if agent is None else used.setdefault(agent, [])
            if packets is None:
                counters.dropped_no_agent += 1
            else:
                packets.append(packet)
        for agent, packets in used.items():
            agent.send(packets)
        return used

    def read_more(self, room: int) -> None:
        """A session has room for so many packets in the batch that it is about to transmit."""
        device = self.device
        if device is None:
            return
        if not self._paused:
            answers = device.read_answers(min(room, MAX_BATCH_PACKETS)) if room else None
            if answers:
                self._pass_on(answers)
            return
        if room < RESUME_ROOM:
            return
        batch = device.read_batch(room)
        if batch:
            self._pass_on(batch)
        if len(batch) < room:
            self.read_on()

    def read_on(self) -> None:
        """Read the device again, whatever the reason was not to."""
        if self._paused and self.device is not None:
            self._paused = False
            self.device.resume()


def load(text: str) -> None:
    """Give a ruleset to nft. Raises ForwardError with its words."""
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=text, capture_output=True, text=True, timeout=NFT_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise ForwardError("nft is not installed (package nftables)") from None
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ForwardError(f"nft cannot be run: {exc}") from exc
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise ForwardError(f"nft refused the ruleset: {lines[0]}")


def _switch(path: Path) -> None:
    try:
        path.write_text("1")
    except OSError as exc:
        raise ForwardError(f"{'.'.join(path.parts[3:])} cannot be set: {exc.strerror}") from exc


def is_local(address: str) -> bool:
    """Whether an IPv4 address is one of this host's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True

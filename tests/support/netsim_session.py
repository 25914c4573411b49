"""Two ends of a session and their intermediate on a simulated network: STUN corners, relay, signalling, traffic."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.support.netsim import Endpoint, Host, Network, Packet
from ztna.proto.paths.candidates import is_v6
from ztna.proto.paths.session_paths import (
    CloseSockets,
    LocalCandidates,
    NatSeen,
    OpenSockets,
    PathConfig,
    PathKind,
    PathSelected,
    SendStun,
    SessionPaths,
)
from ztna.proto.paths.stun_types import StunRequest, StunResponse

RELAY: Final = Endpoint("198.51.100.1", 4433)
RELAY_V6: Final = Endpoint("2001:db8:ffff::1", 4433)
CORNERS: Final = (
    RELAY,
    Endpoint("198.51.100.1", 4434),
    Endpoint("198.51.100.2", 4433),
    Endpoint("198.51.100.2", 4434),
    RELAY_V6,
)
CONTROL_S: Final = 0.025
"""One way between either side and the intermediate."""
SESSION: Final = bytes(range(16))


@dataclass(eq=False)
class SimRelay:
    """The intermediate: answers STUN on four corners, forwards between proven addresses, tells both when ready."""

    network: Network
    host: Host
    ends: "dict[str, End]" = field(default_factory=dict)
    proven: dict[str, Endpoint] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    is_up: bool = True
    told: bool = False
    forwarded: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.host.receive = self.receive

    def receive(self, packet: Packet) -> None:
        """STUN is answered, everything else forwarded by its proven source."""
        if not self.is_up:
            return
        if isinstance(packet.payload, StunRequest):
            self._stun(packet.payload, packet)
            return
        for role, endpoint in self.proven.items():
            other = self.proven.get("connector" if role == "agent" else "agent")
            if endpoint == packet.source and other is not None:
                self.forwarded += 1
                mine = RELAY_V6 if is_v6(other.host) else RELAY
                self.network.send(self.host, mine, other, packet.payload)
                return
        self.refused += 1

    def restart(self) -> None:
        """Come back without any memory."""
        self.is_up, self.told = True, False
        self.proven.clear()
        self.counters.clear()

    def _stun(self, request: StunRequest, packet: Packet) -> None:
        authenticated = bool(request.username)
        response = StunResponse(request.transaction, packet.source, authenticated=authenticated)
        self.network.send(self.host, packet.destination, packet.source, response)
        if not authenticated:
            return
        role = request.username.rpartition(":")[2]
        counter = int.from_bytes(request.transaction[:6], "big")
        if counter > self.counters.get(role, 0):
            self.counters[role] = counter
            self.proven[role] = packet.source
        if len(self.proven) == 2 and not self.told:
            self.told = True
            for end in self.ends.values():
                end.later(CONTROL_S, lambda now, end=end: end.paths.relay_ready(now))  # type: ignore[misc]


@dataclass(eq=False)
class End:
    """One side: `SessionPaths` on a simulated host, one port per address family, a stream of numbered packets."""

    network: Network
    host: Host
    role: Literal["agent", "connector"]
    paths: SessionPaths
    ports: dict[int, int] = field(default_factory=lambda: {0: 40000, 1: 40001})
    peer: "End | None" = None
    selected: list[tuple[float, PathSelected]] = field(default_factory=list)
    received: dict[int, float] = field(default_factory=dict)
    unknown: int = 0
    checks_at: list[float] = field(default_factory=list)
    nat_seen: NatSeen | None = None
    sending: bool = False
    opened: int = 0
    signalling: bool = True
    on_routes: Callable[[float, tuple[PathKind, ...]], None] | None = None
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _armed: float | None = None

    def __post_init__(self) -> None:
        self.host.receive = self.receive

    def start(self) -> None:
        """Tell the paths their own addresses."""
        self.paths.add_local(self.hosts(), self.network.now)
        self.settle()

    def hosts(self) -> list[tuple[int, Endpoint]]:
        """(socket, endpoint) of each interface address."""
        return [(int(is_v6(a)), Endpoint(a, self.ports[int(is_v6(a))])) for a in self.host.addresses]

    def later(self, delay_s: float, action: "Callable[[float], None]") -> None:
        """Call `action(now)` on this end after a delay, then do what it asks for."""

        def run() -> None:
            action(self.network.now)
            self.settle()

        self.network.at(self.network.now + delay_s, run)

    def receive(self, packet: Packet) -> None:
        """A packet arrived at one of the ports."""
        now = self.network.now
        local = next((i for i, port in self.ports.items() if port == packet.destination.port), None)
        if local is None:
            return
        if isinstance(packet.payload, StunRequest | StunResponse):
            self.paths.stun_received(packet.payload, packet.source, local, now)
        elif self.paths.packet_received(packet.source, local, now):
            self.received.setdefault(packet.payload, now)
        else:
            self.unknown += 1
        self.settle()

    def settle(self) -> None:
        """Perform every command and arm the timer."""
        while (command := self.paths.next_command()) is not None:
            self._perform(command)
        if self.on_routes is not None:
            self.on_routes(self.network.now, tuple(route.kind for route in self.paths.routes()))
        timer = self.paths.get_timer()
        if timer is not None and (self._armed is None or timer < self._armed or self._armed <= self.network.now):
            self._armed = timer
            self.network.at(timer, self._wake)

    def _wake(self) -> None:
        timer = self.paths.get_timer()
        if self._armed is not None and self._armed <= self.network.now:
            self._armed = None
        if timer is not None and timer <= self.network.now:
            self.paths.handle_timer(self.network.now)
        self.settle()

    def _perform(self, command: object) -> None:
        if isinstance(command, SendStun):
            if isinstance(command.message, StunRequest):
                self.checks_at.append(self.network.now)
            self._send(command.local, command.remote, command.message)
        elif isinstance(command, LocalCandidates):
            self._signal(command)
        elif isinstance(command, PathSelected):
            self.selected.append((self.network.now, command))
        elif isinstance(command, NatSeen):
            self.nat_seen = command
            if self.peer is not None and self.signalling:
                report, peer = command, self.peer
                peer.later(
                    2 * CONTROL_S,
                    lambda now: peer.paths.peer_nat(report.mapping, report.filtering, report.allocation),
                )
        elif isinstance(command, OpenSockets):
            self.opened = command.count
            self.ports.update({2 + n: 42000 + n for n in range(command.count)})
            address = next(a for a in self.host.addresses if not is_v6(a))
            extra = [(2 + n, Endpoint(address, 42000 + n)) for n in range(command.count)]
            self.later(0.0, lambda now: self.paths.add_local(extra, now))
        elif isinstance(command, CloseSockets):
            for local in command.locals:
                self.ports.pop(local, None)

    def _signal(self, command: LocalCandidates) -> None:
        peer = self.peer
        if peer is None or not self.signalling:
            return
        peer.later(2 * CONTROL_S, lambda now: peer.paths.remote_candidates(command.candidates, 0.0, now))

    def _send(self, local: int, remote: Endpoint, payload: object) -> None:
        address = next((a for a in self.host.addresses if is_v6(a) == is_v6(remote.host)), None)
        if local in self.ports and address is not None:
            self.network.send(self.host, Endpoint(address, self.ports[local]), remote, payload)

    def stream(self, every_s: float = 0.02) -> None:
        """Send a numbered packet on every route, again and again, while `sending`."""
        self.sending = True

        def tick(now: float) -> None:
            if not self.sending:
                return
            routes = self.paths.routes()
            number = next(self._numbers)
            for route in routes:
                self._send(route.local, route.remote, number)
            if routes:
                self.paths.packets_sent(now)
            self.later(every_s, tick)

        self.later(0.0, tick)


@dataclass(eq=False)
class SimSession:
    """Both ends, the relay and the clock."""

    network: Network
    relay: SimRelay
    agent: End
    connector: End

    @property
    def ends(self) -> tuple[End, End]:
        """Agent and connector."""
        return self.agent, self.connector

    @property
    def kinds(self) -> tuple[PathKind, PathKind]:
        """The paths in use."""
        return self.agent.paths.kind, self.connector.paths.kind

    def start(self) -> None:
        """Both sides begin at once."""
        for end in self.ends:
            end.start()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.network.run(self.network.now + seconds)

    def run_until(self, kind: PathKind, limit_s: float) -> float | None:
        """Let time pass until both ends use `kind`; returns the seconds that took, None when the limit passed first."""
        begun = self.network.now
        while self.network.now < begun + limit_s:
            if self.kinds == (kind, kind):
                return self.network.now - begun
            self.network.run(self.network.now + 0.001)
        return None

    def stream(self) -> None:
        """Traffic both ways, 50 packets per second."""
        for end in self.ends:
            end.stream()

    def block_direct(self, *, only_from: str | None = None) -> Callable[[], None]:
        """Drop what travels directly, silently; returns what heals it."""

        def rule(origin: str, target: str, packet: Packet) -> bool:
            between = {origin, target} == {"agent", "connector"}
            return between and (only_from is None or origin == only_from)

        self.network.drops.append(rule)
        return lambda: self.network.drops.remove(rule)


def make_session(
    network: Network,
    agent: Host,
    connector: Host,
    *,
    config: PathConfig | None = None,
    relay: Endpoint | None = RELAY,
    connector_relay: Endpoint | None = None,
    corners: Sequence[Endpoint] = CORNERS,
) -> SimSession:
    """Wire two hosts and a relay together."""
    places = [(address, network.internet) for address in ("198.51.100.1", "198.51.100.2", "2001:db8:ffff::1")]
    sim_relay = SimRelay(network, network.host("relay", *places))
    made = []
    for seed, (role, host) in enumerate((("agent", agent), ("connector", connector))):
        rng = random.Random(seed + network.rng.randrange(1 << 30))
        paths = SessionPaths(
            SESSION,
            role,  # type: ignore[arg-type]
            relay=connector_relay if role == "connector" and connector_relay is not None else relay,
            random=rng.randbytes,
            config=config or PathConfig(),
            stun_corners=corners,
            now=network.now,
        )
        made.append(End(network, host, role, paths))  # type: ignore[arg-type]
    made[0].peer, made[1].peer = made[1], made[0]
    sim_relay.ends = {end.role: end for end in made}
    return SimSession(network, sim_relay, *made)

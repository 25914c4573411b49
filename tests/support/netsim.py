"""A network in virtual time: hosts, NATs by behaviour (RFC 4787), lossy links, rules that drop. No sockets, no sleeps.

Flow: make a `Network`, attach hosts to its internet or behind a `Nat` (which may stand behind another), give each host
a handler, `send`, and `run` until a time. Every host's link has a one-way delay of 12.5 ms by default, so any two
hosts are 25 ms apart, and 0.5 ms within one LAN.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from infra.lab.nat import Filtering, Mapping, NatBehavior, PortAllocation
from ztna.proto.paths.stun_types import Endpoint

HALF_LEG_S: Final = 0.0125
LAN_S: Final = 0.0005

__all__ = [
    "Endpoint",
    "Filtering",
    "Host",
    "Link",
    "Mapping",
    "Nat",
    "NatBehavior",
    "Network",
    "Packet",
    "PortAllocation",
]


@dataclass(slots=True)
class Packet:
    """A UDP packet: `origin` is the host that sent it, `source` changes at every NAT."""

    origin: str
    source: Endpoint
    destination: Endpoint
    payload: Any


@dataclass(slots=True)
class Link:
    """One host's access link. Loss, duplication and reordering (an extra `reorder_s` of delay) hold each way."""

    delay_s: float = HALF_LEG_S
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.02
    up: bool = True


@dataclass(eq=False)
class Realm:
    """A routing domain: the internet, or a LAN behind a NAT."""

    name: str
    gateway: "Nat | None" = None
    nodes: dict[str, "Host | Nat"] = field(default_factory=dict)


@dataclass(eq=False)
class Host:
    """A host with its addresses; `receive(packet)` is called for what arrives, `blocks` drops by a local firewall."""

    name: str
    realms: dict[str, Realm]
    link: Link = field(default_factory=Link)
    receive: Callable[[Packet], None] = lambda packet: None
    firewalled: bool = False
    _opened: set[tuple[int, Endpoint]] = field(default_factory=set)

    @property
    def addresses(self) -> list[str]:
        """Interface addresses."""
        return list(self.realms)

    def opens(self, packet: Packet) -> None:
        """Remember what a stateful host firewall lets back in."""
        self._opened.add((packet.source.port, packet.destination))

    def admits(self, packet: Packet) -> bool:
        """Whether the host firewall lets a packet in."""
        return not self.firewalled or (packet.destination.port, packet.source) in self._opened


@dataclass(eq=False)
class Entry:
    """One mapping: inner endpoint, outer port, and when each outside endpoint was last in touch."""

    inner: Endpoint
    port: int
    used_at: float
    contacted: dict[Endpoint, float] = field(default_factory=dict)


@dataclass(eq=False)
class Nat:
    """A NAT, or with `translates=False` a stateful filter that changes no address."""

    behavior: NatBehavior
    address: str
    outer: Realm
    inner: Realm
    rng: random.Random
    translates: bool = True
    mappings: dict[Any, Entry] = field(default_factory=dict)
    by_port: dict[int, Entry] = field(default_factory=dict)
    next_port: int = 50000
    scrambled: bool = False

    def rebind(self) -> None:
        """Lose every mapping, as at a reboot or a change of the carrier's; new ones get other ports."""
        self.mappings.clear()
        self.by_port.clear()
        self.scrambled = True

    def outbound(self, packet: Packet, now: float) -> Packet | None:
        """Translate a packet from inside; None when UDP is blocked."""
        if self.behavior.udp_blocked:
            return None
        key = self._key(packet)
        entry = self.mappings.get(key)
        if entry is None or now - entry.used_at > self.behavior.udp_timeout_s:
            if entry is not None:
                self.by_port.pop(entry.port, None)
            entry = Entry(packet.source, self._port(packet.source), now)
            self.mappings[key] = self.by_port[entry.port] = entry
        entry.used_at = entry.contacted[packet.destination] = now
        source = Endpoint(self.address, entry.port) if self.translates else packet.source
        return Packet(packet.origin, source, packet.destination, packet.payload)

    def inbound(self, packet: Packet, now: float) -> Packet | None:
        """Translate a packet from outside; None when no mapping, or the filter, lets it in."""
        if self.translates:
            entry = self.by_port.get(packet.destination.port)
        else:
            entry = self.mappings.get(self._key_of(packet.destination, packet.source))
        if self.behavior.udp_blocked or entry is None or not self._admits(entry, packet.source, now):
            return None
        if packet.source in entry.contacted:
            entry.used_at = entry.contacted[packet.source] = now
        return Packet(packet.origin, packet.source, entry.inner, packet.payload)

    def _admits(self, entry: Entry, source: Endpoint, now: float) -> bool:
        if now - entry.used_at > self.behavior.udp_timeout_s:
            return False
        if self.behavior.filtering is Filtering.ENDPOINT_INDEPENDENT:
            return True
        fresh = [to for to, at in entry.contacted.items() if now - at <= self.behavior.udp_timeout_s]
        if self.behavior.filtering is Filtering.ADDRESS_DEPENDENT:
            return source.host in {to.host for to in fresh}
        return source in fresh

    def _key(self, packet: Packet) -> Any:
        return self._key_of(packet.source, packet.destination)

    def _key_of(self, inner: Endpoint, remote: Endpoint) -> Any:
        if self.behavior.mapping is Mapping.ENDPOINT_INDEPENDENT:
            return inner
        return (inner, remote.host) if self.behavior.mapping is Mapping.ADDRESS_DEPENDENT else (inner, remote)

    def _port(self, inner: Endpoint) -> int:
        kind = self.behavior.port_allocation
        if not self.translates:
            return inner.port
        if kind is PortAllocation.PRESERVING and not self.scrambled and inner.port not in self.by_port:
            return inner.port
        if kind is PortAllocation.SEQUENTIAL:
            self.next_port += 1
            return self.next_port
        while (port := self.rng.randrange(1024, 65536)) in self.by_port:
            pass
        return port


class Network:
    """The internet, what is attached, one clock. `drops` are rules (origin, target host, packet) -> dropped."""

    def __init__(self, seed: int = 1, start: float = 1000.0) -> None:
        self.now = start
        self.rng = random.Random(seed)
        self.internet = Realm("internet")
        self.drops: list[Callable[[str, str, Packet], bool]] = []
        self.sent = 0
        self.delivered = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Call `action` at a time."""
        heapq.heappush(self._events, (max(when, self.now), next(self._order), action))

    def run(self, until: float, *, after: Callable[[], None] = lambda: None) -> None:
        """Let time pass up to `until`, calling `after` behind every event."""
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
            after()
        self.now = until

    def nat(self, behavior: NatBehavior, address: str, *, outer: Realm | None = None, translates: bool = True) -> Nat:
        """Put a NAT with a new LAN behind it; `outer` is the internet by default."""
        outer = outer or self.internet
        inner = Realm(f"behind {address}")
        nat = Nat(behavior, address, outer, inner, self.rng, translates)
        inner.gateway = nat
        if translates:
            outer.nodes[address] = nat
        return nat

    def host(self, name: str, *places: tuple[str, Realm], link: Link | None = None) -> Host:
        """Attach a host: (address, realm) for each of its interfaces."""
        host = Host(name, {}, link or Link())
        for address, realm in places:
            self.attach(host, address, realm)
        return host

    def attach(self, host: Host, address: str, realm: Realm) -> None:
        """Give a host one more address."""
        host.realms[address] = realm
        realm.nodes[address] = host
        while realm.gateway is not None and not realm.gateway.translates:
            # A filter that translates nothing: the outside routes to the inside address through it.
            realm.gateway.outer.nodes[address] = realm.gateway
            realm = realm.gateway.outer

    def detach(self, host: Host, address: str) -> None:
        """Take an address away, as when an uplink is unplugged."""
        realm = host.realms.pop(address)
        del realm.nodes[address]

    def send(self, host: Host, source: Endpoint, destination: Endpoint, payload: Any) -> None:
        """Send a packet from one of the host's addresses."""
        self.sent += 1
        realm = host.realms.get(source.host)
        link = host.link
        if realm is None or not link.up or self.rng.random() < link.loss:
            return
        packet = Packet(host.name, source, destination, payload)
        if host.firewalled:
            host.opens(packet)
        copies = 2 if self.rng.random() < link.duplicate else 1
        for _ in range(copies):
            self._climb(packet, realm, link)

    def _climb(self, packet: Packet, realm: Realm, link: Link) -> None:
        """Upwards through the NATs until the destination is in the realm; then down, when the packet gets there."""
        local = True
        moving: Packet | None = packet
        while moving is not None and moving.destination.host not in realm.nodes:
            if realm.gateway is None:
                return
            local = False
            moving = realm.gateway.outbound(moving, self.now)
            if packet.destination.host == realm.gateway.address and not realm.gateway.behavior.hairpin:
                return
            realm = realm.gateway.outer
        if moving is None:
            return
        at_home, where = local and realm is not self.internet, realm
        final = moving
        delay = LAN_S / 2 if at_home else link.delay_s + self._extra(link)
        self.at(self.now + delay, lambda: self._descend(final, where, at_home=at_home))

    def _descend(self, packet: Packet, realm: Realm, *, at_home: bool) -> None:
        moving: Packet | None = packet
        node = realm.nodes.get(packet.destination.host)
        while isinstance(node, Nat) and moving is not None:
            moving = node.inbound(moving, self.now)
            if moving is not None:
                node = node.inner.nodes.get(moving.destination.host)
        if moving is None or not isinstance(node, Host):
            return
        host, link, final = node, node.link, moving
        if any(rule(moving.origin, host.name, moving) for rule in self.drops):
            return
        if not link.up or (not at_home and self.rng.random() < link.loss):
            return
        delay = LAN_S / 2 if at_home else link.delay_s + self._extra(link)
        self.at(self.now + delay, lambda: self._deliver(final, host))

    def _deliver(self, packet: Packet, host: Host) -> None:
        if host.link.up and packet.destination.host in host.realms and host.admits(packet):
            self.delivered += 1
            host.receive(packet)

    def _extra(self, link: Link) -> float:
        return link.reorder_s if self.rng.random() < link.reorder else 0.0

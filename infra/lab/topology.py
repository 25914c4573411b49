"""A requested lab as frozen data: segments (LANs), routers (NATs or plain), hosts, and the links between them.

Nothing here runs anything; infra/lab/runtime.py realises it. Every object turns into JSON-able builtins and back
(`to_spec`, `from_spec`), so that a deployment tool can keep it as the inputs of a resource.
"""

import ipaddress
import re
from typing import Any, Final, Self

import msgspec

from infra.lab.nat import NatBehavior

NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def integral(value: Any) -> Any:
    """Return builtins with 5.0 made 5 (some wires know only floats) and tuples made lists (most know only these)."""
    if isinstance(value, dict):
        return {key: integral(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every object of a topology: JSON-able builtins out and in."""

    def to_spec(self) -> dict[str, Any]:
        """Return the object as JSON-able builtins; `from_spec` is the inverse."""
        spec: dict[str, Any] = integral(msgspec.to_builtins(self))
        return spec

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Self:
        """Build the object from builtins; integral floats (as some wires make of integers) count as integers.

        Raises:
            ValueError: unknown key, missing key or bad value; names the place.
        """
        try:
            return msgspec.convert(integral(spec), cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"{cls.__name__}: {error}") from error


def check_name(kind: str, name: str) -> None:
    """Raise ValueError unless the name can stand in the name of a namespace."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{kind} name {name!r}: use 1 to 32 lower-case letters, digits and inner hyphens")


def check_address(owner: str, address: str) -> None:
    """Raise ValueError unless the text is an interface address with its prefix, as in 172.21.0.10/24."""
    if "/" not in address:
        raise ValueError(f"{owner}: address {address!r} lacks its prefix length, as in 172.21.0.10/24")
    try:
        ipaddress.ip_interface(address)
    except ValueError as error:
        raise ValueError(f"{owner}: address {address!r}: {error}") from None


class Impairment(Spec, frozen=True):
    """What one direction of a link does to packets; the defaults do nothing.

    Args:
        delay_ms: one-way delay.
        jitter_ms: uniform spread around the delay; packets whose spreads cross are reordered, as on a real path.
        loss: share of packets dropped, 0 to 1.
        loss_burst: mean number of packets dropped in a row; 1 drops each independently of the others.
        reorder: share of packets sent at once instead of after the delay, 0 to 1.
        duplicate: share of packets delivered twice, 0 to 1.
        corrupt: share of UDP packets whose payload is altered, with a checksum that does not tell, 0 to 1.
        rate_bps: bottleneck rate in bit/s of frames; None is unlimited.
        buffer_ms: the bottleneck's queue, as time at `rate_bps`; what would wait longer is dropped.
        mtu_bytes: IP packets above this are dropped silently (a path MTU black hole); None lets all pass.
        queue_packets: bound on packets in flight inside the link.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    loss_burst: float = 1.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate_bps: int | None = None
    buffer_ms: float = 200.0
    mtu_bytes: int | None = None
    queue_packets: int = 20_000

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate", "corrupt"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; give a share from 0 to 1 (3 % is 0.03)")
        for name in ("delay_ms", "jitter_ms", "buffer_ms"):
            if not 0 <= getattr(self, name) <= 60_000:
                raise ValueError(f"{name} is {getattr(self, name)}; give milliseconds from 0 to 60000")
        if not 1 <= self.loss_burst <= 1000 or (self.loss_burst > 1 and self.loss == 1):
            raise ValueError(f"loss_burst is {self.loss_burst}; give packets from 1 to 1000, and a loss below 1")
        if self.rate_bps is not None and self.rate_bps < 1000:
            raise ValueError(f"rate_bps is {self.rate_bps}; give at least 1000 bit/s or leave it out")
        if self.mtu_bytes is not None and self.mtu_bytes < 68:
            raise ValueError(f"mtu_bytes is {self.mtu_bytes}; IPv4 needs 68 (RFC 791)")
        if self.queue_packets < 1:
            raise ValueError(f"queue_packets is {self.queue_packets}; give at least 1")

    @property
    def active(self) -> bool:
        """Whether packets would notice."""
        return self != Impairment(buffer_ms=self.buffer_ms, queue_packets=self.queue_packets)


class Link(Spec, frozen=True):
    """One interface of a host or router, plugged into a segment.

    Args:
        segment: name of the segment.
        address: own address with prefix, as in 172.21.0.10/24.
        up: what happens to packets from the host towards the segment.
        down: what happens to packets from the segment towards the host.
        mtu: the interface's MTU in bytes, known to the host (a black hole is `Impairment.mtu_bytes`).
    """

    segment: str
    address: str
    up: Impairment = Impairment()
    down: Impairment = Impairment()
    mtu: int = 1500

    def __post_init__(self) -> None:
        check_name("segment", self.segment)
        check_address(f"link to {self.segment}", self.address)
        if not 576 <= self.mtu <= 65535:
            raise ValueError(f"link to {self.segment}: mtu is {self.mtu}; give bytes from 576 to 65535")

    @property
    def ip(self) -> str:
        """The address without its prefix."""
        return str(ipaddress.ip_interface(self.address).ip)

    @property
    def network(self) -> str:
        """The network of the address, as in 172.21.0.0/24."""
        return str(ipaddress.ip_interface(self.address).network)

    @property
    def impaired(self) -> bool:
        """Whether either direction does anything to packets."""
        return self.up.active or self.down.active


class Segment(Spec, frozen=True):
    """A LAN: everything plugged into it hears everything else. `cidr` documents the range its addresses come from."""

    name: str
    cidr: str

    def __post_init__(self) -> None:
        check_name("segment", self.name)
        try:
            ipaddress.ip_network(self.cidr)
        except ValueError as error:
            raise ValueError(f"segment {self.name}: cidr {self.cidr!r}: {error}") from None


class Router(Spec, frozen=True):
    """Forwards between inside links and one outside link.

    Args:
        name: unique among routers and hosts.
        inside: links to LANs.
        outside: the uplink; its address is the public one.
        nat: levels of NAT from the inside out. None: a plain router, and everything on the outside segment gets a
            route to the inside. Two: home router and carrier (the second level is a namespace of its own).
        gateway: next hop of the default route, on the outside segment; None where the segment is the whole world.
    """

    name: str
    inside: tuple[Link, ...]
    outside: Link
    nat: tuple[NatBehavior, ...] = ()
    gateway: str | None = None

    def __post_init__(self) -> None:
        check_name("router", self.name)
        if not self.inside:
            raise ValueError(f"router {self.name}: needs at least one inside link")
        if len(self.nat) > 2:
            raise ValueError(f"router {self.name}: {len(self.nat)} levels of NAT; two at most (home and carrier)")


class Host(Spec, frozen=True):
    """A machine.

    Args:
        name: unique among routers and hosts.
        links: its interfaces, eth0 first.
        gateway: next hop of the default route.
        addresses: further addresses of eth0, with prefix.
        firewall: whether it has a stateful firewall: everything may leave, and only what answers it may enter.
    """

    name: str
    links: tuple[Link, ...]
    gateway: str | None = None
    addresses: tuple[str, ...] = ()
    firewall: bool = False

    def __post_init__(self) -> None:
        check_name("host", self.name)
        if not self.links:
            raise ValueError(f"host {self.name}: needs at least one link")
        for address in self.addresses:
            check_address(f"host {self.name}", address)


class Topology(Spec, frozen=True):
    """A whole lab. Names are unique, and links end at segments that are there (ValueError otherwise)."""

    segments: tuple[Segment, ...]
    routers: tuple[Router, ...] = ()
    hosts: tuple[Host, ...] = ()

    def __post_init__(self) -> None:
        segments = [segment.name for segment in self.segments]
        nodes = [*(router.name for router in self.routers), *(host.name for host in self.hosts)]
        for kind, names in (("segment", segments), ("host or router", nodes)):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{kind} named twice: {', '.join(sorted(twice))}")
        for link in self.links():
            if link.segment not in segments:
                raise ValueError(f"a link goes to segment {link.segment!r}, which is not among {', '.join(segments)}")

    def links(self) -> tuple[Link, ...]:
        """Every link, routers' first."""
        of_routers = [link for router in self.routers for link in (*router.inside, router.outside)]
        return (*of_routers, *(link for host in self.hosts for link in host.links))


def two_nat_topology(
    agent_nat: tuple[NatBehavior, ...],
    connector_nat: tuple[NatBehavior, ...],
    *,
    agent_link: tuple[Impairment, Impairment] = (Impairment(), Impairment()),
    connector_link: tuple[Impairment, Impairment] = (Impairment(), Impairment()),
) -> Topology:
    """A relay with two public addresses, and an agent and a connector with its backend behind a NAT each.

    Args:
        agent_nat: levels of NAT in front of the agent.
        connector_nat: levels of NAT in front of the connector.
        agent_link: (up, down) of the agent-side NAT's uplink.
        connector_link: (up, down) of the connector-side NAT's uplink.
    """

    def router(
        side: str, lan: str, outside: str, nat: tuple[NatBehavior, ...], link: tuple[Impairment, Impairment]
    ) -> Router:
        uplink = Link("public", outside, up=link[0], down=link[1])
        return Router(f"nat-{side}", (Link(f"{side}-lan", lan),), uplink, nat=nat)

    return Topology(
        segments=(
            Segment("public", "172.20.0.0/24"),
            Segment("agent-lan", "172.21.0.0/24"),
            Segment("connector-lan", "172.22.0.0/24"),
        ),
        routers=(
            router("agent", "172.21.0.1/24", "172.20.0.21/24", agent_nat, agent_link),
            router("connector", "172.22.0.1/24", "172.20.0.22/24", connector_nat, connector_link),
        ),
        hosts=(
            Host("relay", (Link("public", "172.20.0.2/24"),), addresses=("172.20.0.3/24",)),
            Host("agent", (Link("agent-lan", "172.21.0.10/24"),), gateway="172.21.0.1"),
            Host("connector", (Link("connector-lan", "172.22.0.10/24"),), gateway="172.22.0.1"),
            Host("backend", (Link("connector-lan", "172.22.0.20/24"),), gateway="172.22.0.1"),
        ),
    )

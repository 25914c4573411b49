"""What a host or router becomes: namespaces, interfaces, addresses, routes and rules, as plain data.

Pure: names and addresses are derived from the run and the object alone, so that any process at any time derives the
same ones. Every namespace of a run is called `ztna.RUN.NODE`; the bridges and the segments' ends of all links live in
`ztna.RUN._switch`. Neither dots nor underscores may stand in a name, so no name can stray into another run.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from infra.lab.nat import NatBehavior
from infra.lab.nft import firewall_ruleset, nat_ruleset
from infra.lab.topology import Host, Link, Router

PREFIX: Final = "ztna."
# The link between a home router and its carrier; shared address space (RFC 6598), never seen from either side.
TRANSFER: Final = ("100.127.255.2/30", "100.127.255.1/30")


def namespace(run: str, node: str) -> str:
    """Name of a node's network namespace."""
    return f"{PREFIX}{run}.{node}"


def switch_namespace(run: str) -> str:
    """Name of the namespace that holds the bridges of a run."""
    return f"{PREFIX}{run}._switch"


def device_id(*parts: str) -> str:
    """12 hex digits derived from names; with a letter before it, it fits an interface name (15 characters)."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def bridge_name(segment: str) -> str:
    """Name of a segment's bridge, inside the switch namespace."""
    return f"b{device_id(segment)}"


@dataclass(frozen=True, slots=True)
class Port:
    """One interface: a veth pair from a node's namespace to the switch (or, between routers, to another node)."""

    node: str
    ifname: str
    addresses: tuple[str, ...]
    link: Link | None = None
    peer: tuple[str, str] | None = None

    @property
    def id(self) -> str:
        """Stable id of the port within its run."""
        return device_id(self.node, self.ifname)

    @property
    def switch_end(self) -> str:
        """Name of the far end, inside the switch namespace."""
        return f"p{self.id}"

    @property
    def mac(self) -> str:
        """A locally administered MAC, stable so that neighbours' ARP entries outlive a rebuilt host."""
        digits = self.id[:10]
        return ":".join(("02", *(digits[at : at + 2] for at in range(0, 10, 2))))


@dataclass(frozen=True, slots=True)
class Space:
    """One namespace of a node."""

    node: str
    ports: tuple[Port, ...]
    gateway: str | None = None
    forwards: bool = False
    ruleset: str | None = None
    udp_timeout_s: int | None = None
    routes: tuple[str, ...] = field(default=())


def host_spaces(host: Host) -> tuple[Space, ...]:
    """The one namespace of a host; interfaces are eth0, eth1, ..."""
    ports = []
    for index, link in enumerate(host.links):
        extra = host.addresses if index == 0 else ()
        ports.append(Port(host.name, f"eth{index}", (link.address, *extra), link))
    ruleset = firewall_ruleset() if host.firewall else None
    return (Space(host.name, tuple(ports), gateway=host.gateway, ruleset=ruleset),)


def router_spaces(router: Router) -> tuple[Space, ...]:
    """One namespace per level of NAT (one for a plain router); interfaces are lan0, lan1, ... and wan."""
    lans = tuple(Port(router.name, f"lan{i}", (link.address,), link) for i, link in enumerate(router.inside))
    outside = router.outside
    if len(router.nat) < 2:
        wan = Port(router.name, "wan", (outside.address,), outside)
        nat = router.nat[0] if router.nat else None
        return (_router_space(router.name, lans, wan, router.gateway, nat),)
    carrier = f"{router.name}_carrier"
    near, far = TRANSFER
    uplink = Port(router.name, "wan", (near,), peer=(carrier, "lan0"))
    downlink = Port(carrier, "lan0", (far,))
    return (
        # The carrier first: the home router's uplink is plugged into it.
        _router_space(
            carrier, (downlink,), Port(carrier, "wan", (outside.address,), outside), router.gateway, router.nat[1]
        ),
        _router_space(router.name, lans, uplink, far.split("/")[0], router.nat[0]),
    )


def _router_space(node: str, lans: tuple[Port, ...], wan: Port, gateway: str | None, nat: NatBehavior | None) -> Space:
    ruleset = None
    if nat is not None:
        external = wan.addresses[0].split("/")[0]
        ruleset = nat_ruleset(nat, inside=[port.ifname for port in lans], outside=wan.ifname, external=external)
    timeout = None if nat is None else nat.udp_timeout_s
    return Space(node, (*lans, wan), gateway, forwards=True, ruleset=ruleset, udp_timeout_s=timeout)

"""The internet of the lab: regions of clouds, the administrator's network and those of clients, joined by one core.

    client -- NAT --+
    client -- NAT --+-- core 198.18.0.0/24 --+-- region router -- transit -- edge of each machine -- machine
    admin ----------+                        +-- region router ...

All addresses are of documentation or of benchmarks (RFC 5737, RFC 2544), and exist inside namespaces only. A region's
public network is routed to its router, which knows the way to each public address that is in use (infra/twin/edge.py).
"""

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from infra.lab.nat import PRESETS
from infra.lab.topology import Host, Impairment, Link, Router, Segment, Topology

CORE: Final = "core"
CORE_NETWORK: Final = IPv4Network("198.18.0.0/24")
ADMIN: Final = "admin"
ADMIN_ADDRESS: Final = "203.0.113.10"
"""In the network that the stacks' example configurations let in for SSH."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A region of a cloud.

    Attributes:
        name: of its router; `NAME-transit` and `NAME-public` are its segments.
        core: its address in the core.
        public: the network that public addresses are taken from; its last address is the router's.
        transit: the network between the router and the machines' edges; its first address is the router's.
        one_way_ms: delay between the core and the region.
    """

    name: str
    core: str
    public: IPv4Network
    transit: IPv4Network
    one_way_ms: float

    @property
    def segment(self) -> str:
        """The segment that edges are plugged into."""
        return f"{self.name}-transit"

    @property
    def gateway(self) -> str:
        """The router's address in it."""
        return str(self.transit[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientNetwork:
    """A network that people connect from: a LAN with one host, named as the network, behind a NAT preset.

    Attributes:
        core: its router's address outside.
        host: which address of the LAN the host has.
    """

    name: str
    preset: str
    core: str
    lan: IPv4Network
    one_way_ms: float
    host: int = 10

    @property
    def host_address(self) -> str:
        """The host's own address."""
        return str(self.lan[self.host])


NYC1: Final = Region(
    name="nyc1",
    core="198.18.0.10",
    public=IPv4Network("192.0.2.0/24"),
    transit=IPv4Network("198.18.10.0/24"),
    one_way_ms=4.0,
)
US_EAST_2: Final = Region(
    name="us-east-2",
    core="198.18.0.11",
    public=IPv4Network("198.51.100.0/24"),
    transit=IPv4Network("198.18.11.0/24"),
    one_way_ms=9.0,
)
REGIONS: Final = (NYC1, US_EAST_2)

CLIENTS: Final = (
    ClientNetwork(name="open", preset="public", core="198.18.0.20", lan=IPv4Network("198.18.20.0/24"), one_way_ms=3.0),
    ClientNetwork(
        name="home", preset="port-restricted", core="198.18.0.21", lan=IPv4Network("192.168.21.0/24"), one_way_ms=6.0
    ),
    ClientNetwork(
        name="fibre", preset="full-cone", core="198.18.0.22", lan=IPv4Network("192.168.22.0/24"), one_way_ms=2.0
    ),
    ClientNetwork(
        name="cafe", preset="symmetric", core="198.18.0.23", lan=IPv4Network("192.168.23.0/24"), one_way_ms=8.0
    ),
    ClientNetwork(
        name="mobile", preset="cgnat", core="198.18.0.24", lan=IPv4Network("192.168.24.0/24"), one_way_ms=25.0
    ),
    ClientNetwork(
        name="hotel", preset="udp-blocked", core="198.18.0.25", lan=IPv4Network("192.168.25.0/24"), one_way_ms=12.0
    ),
)
ADMIN_ROUTER: Final = "admin-net"
_ADMIN_CORE: Final = "198.18.0.12"
_ADMIN_GATEWAY: Final = "203.0.113.1"
_ADMIN_ONE_WAY_MS: Final = 2.0


def region(name: str) -> Region:
    """Return a region by name. Raises ValueError, listing those there are."""
    for found in REGIONS:
        if found.name == name:
            return found
    raise ValueError(f"the twin has no region {name!r}; it has {', '.join(item.name for item in REGIONS)}")


def topology() -> Topology:
    """Return the world before anything is deployed into it."""
    segments = [Segment(CORE, str(CORE_NETWORK)), Segment(ADMIN_ROUTER, "203.0.113.0/24")]
    routers = [_router(ADMIN_ROUTER, _ADMIN_CORE, _ADMIN_ONE_WAY_MS, Link(ADMIN_ROUTER, f"{_ADMIN_GATEWAY}/24"))]
    hosts = [Host(ADMIN, (Link(ADMIN_ROUTER, f"{ADMIN_ADDRESS}/24"),), gateway=_ADMIN_GATEWAY)]
    for place in REGIONS:
        public = f"{place.name}-public"
        segments += [Segment(place.segment, str(place.transit)), Segment(public, str(place.public))]
        links = (
            Link(place.segment, f"{place.gateway}/{place.transit.prefixlen}"),
            Link(public, f"{place.public[-2]}/{place.public.prefixlen}"),
        )
        routers.append(_router(place.name, place.core, place.one_way_ms, *links))
    for client in CLIENTS:
        segment = f"{client.name}-lan"
        segments.append(Segment(segment, str(client.lan)))
        inside = Link(segment, f"{client.lan[1]}/24")
        routers.append(_router(f"{client.name}-nat", client.core, client.one_way_ms, inside, preset=client.preset))
        hosts.append(Host(client.name, (Link(segment, f"{client.host_address}/24"),), gateway=str(client.lan[1])))
    return Topology(segments=tuple(segments), routers=tuple(routers), hosts=tuple(hosts))


def _router(name: str, core: str, one_way_ms: float, *inside: Link, preset: str = "public") -> Router:
    delay = Impairment(delay_ms=one_way_ms)
    outside = Link(CORE, f"{core}/{CORE_NETWORK.prefixlen}", up=delay, down=delay)
    return Router(name, inside, outside, nat=PRESETS[preset])

"""The nine classes of NAT met in the field as a lab topology: agents of some, connectors of others, one relay.

All of them stand around one public segment, so one lab holds every pair of classes at once. Letters are those of the
table in cells.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from infra.lab.nat import CARRIER, HOME, Filtering, Mapping, NatBehavior, PortAllocation
from infra.lab.topology import Host, Impairment, Link, Router, Segment, Topology

Side = Literal["agent", "connector"]

RELAY: Final = "relay"
RELAY_ADDRESS: Final = "172.20.0.2"
RELAY_ALTERNATE: Final = "172.20.0.3"
PUBLIC: Final = "public"
PUBLIC_CIDR: Final = "172.20.0.0/24"
_FIRST_OUTSIDE: Final[dict[Side, int]] = {"agent": 20, "connector": 40}
_LAN: Final[dict[Side, int]] = {"agent": 21, "connector": 22}


class NatClass(StrEnum):
    """What stands in front of a host."""

    PUBLIC = "P"
    FIREWALLED = "F"
    FULL_CONE = "O"
    ADDRESS_FILTER = "A"
    HOME = "H"
    SYMMETRIC = "S"
    SEQUENTIAL = "Q"
    CARRIER = "C"
    UDP_BLOCKED = "U"


LEVELS: Final[dict[NatClass, tuple[NatBehavior, ...]]] = {
    NatClass.PUBLIC: (),
    # An elastic or reserved address: translated one to one, ports kept, behind a stateful filter that forgets a UDP
    # flow after 180 s. With one host inside, that is a port-preserving NAT which filters by address and port.
    NatClass.FIREWALLED: (NatBehavior(udp_timeout_s=180),),
    NatClass.FULL_CONE: (NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT, udp_timeout_s=300, hairpin=True),),
    NatClass.ADDRESS_FILTER: (NatBehavior(filtering=Filtering.ADDRESS_DEPENDENT),),
    NatClass.HOME: (HOME,),
    NatClass.SYMMETRIC: (
        NatBehavior(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_allocation=PortAllocation.RANDOM),
    ),
    NatClass.SEQUENTIAL: (
        NatBehavior(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_allocation=PortAllocation.SEQUENTIAL),
    ),
    NatClass.CARRIER: (HOME, CARRIER),
    NatClass.UDP_BLOCKED: (NatBehavior(udp_blocked=True),),
}


@dataclass(frozen=True, slots=True)
class Seat:
    """A host behind a NAT of one class, on one side of the matrix."""

    side: Side
    nat: NatClass

    @property
    def number(self) -> int:
        """Place of the class in the alphabet of the matrix."""
        return list(NatClass).index(self.nat)

    @property
    def host(self) -> str:
        """Name of the host, which is also the name of the role that runs there."""
        return f"{self.side}-{self.nat.lower()}"

    @property
    def router(self) -> str:
        """Name of the router in front of it; a public host has none."""
        return f"nat-{self.host}"

    @property
    def outside(self) -> str:
        """The address under which the world sees it."""
        return f"172.20.0.{_FIRST_OUTSIDE[self.side] + self.number}"

    @property
    def address(self) -> str:
        """The address that the host itself has."""
        return f"172.{_LAN[self.side]}.{self.number}.10" if LEVELS[self.nat] else self.outside

    def nodes(self, leg: Impairment = Impairment()) -> tuple[Segment | None, Router | None, Host]:  # noqa: B008 - frozen
        """The LAN, the router and the host.

        Args:
            leg: what happens to packets between the outside of the NAT and the public segment, in each direction.
        """
        uplink = Link(PUBLIC, f"{self.outside}/24", up=leg, down=leg)
        if not LEVELS[self.nat]:
            return None, None, Host(self.host, (uplink,))
        network = f"172.{_LAN[self.side]}.{self.number}"
        lan = f"lan-{self.host}"
        router = Router(self.router, (Link(lan, f"{network}.1/24"),), uplink, nat=LEVELS[self.nat])
        host = Host(self.host, (Link(lan, f"{self.address}/24"),), gateway=f"{network}.1")
        return Segment(lan, f"{network}.0/24"), router, host


def matrix_topology(seats: Sequence[Seat], leg: Impairment = Impairment()) -> Topology:  # noqa: B008 - frozen
    """Every seat and a relay with two public addresses around one public segment."""
    nodes = [seat.nodes(leg) for seat in seats]
    relay = Host(RELAY, (Link(PUBLIC, f"{RELAY_ADDRESS}/24"),), addresses=(f"{RELAY_ALTERNATE}/24",))
    return Topology(
        segments=(Segment(PUBLIC, PUBLIC_CIDR), *(segment for segment, _, _ in nodes if segment is not None)),
        routers=tuple(router for _, router, _ in nodes if router is not None),
        hosts=(relay, *(host for _, _, host in nodes)),
    )

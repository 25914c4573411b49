"""The address plan: which host, NAT, service and agent has which address. Pure arithmetic over `ipaddress`.

Nothing else in the project computes an address; docs/addressing.md is checked against `lab_table`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

SERVICE_CIDR: Final = IPv4Network("100.64.0.0/24")
AGENT_CIDR: Final = IPv4Network("100.64.1.0/24")
FIRST_SERVICE: Final = 100
"""Offset of the first service in `service_cidr`; what lies below is left for hand-made assignments."""
FIRST_AGENT: Final = 1


class AddressingError(ValueError):
    """A plan cannot be made: a network is too small or two networks overlap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayPlan:
    """Virtual addresses of services and agents, in the order in which they were named."""

    services: dict[str, IPv4Address]
    agents: dict[str, IPv4Address]


def overlay_plan(
    services: Sequence[str],
    agents: Sequence[str],
    *,
    fixed: Mapping[str, IPv4Address] | None = None,
    service_cidr: IPv4Network = SERVICE_CIDR,
    agent_cidr: IPv4Network = AGENT_CIDR,
) -> OverlayPlan:
    """Give each service and each agent its virtual address. Appending a name moves no earlier one.

    Args:
        fixed: services that have an address of their own choice. It moves no other one.

    Raises:
        AddressingError: a name occurs twice, a network has too few addresses, the two networks overlap, or a fixed
            address is another's, an agent's or no unicast one.
    """
    require_disjoint({"service_cidr": service_cidr, "agent_cidr": agent_cidr})
    assigned = _assign(services, service_cidr, FIRST_SERVICE, "service") | dict(fixed or {})
    taken: dict[IPv4Address, str] = {}
    for name, address in assigned.items():
        if address in agent_cidr:
            raise AddressingError(f"service {name!r} has {address}, which is in {agent_cidr}, the range of agents")
        if address.is_multicast or address.is_loopback or address.is_link_local or not 1 <= int(address) >> 24 <= 223:
            raise AddressingError(f"service {name!r} has {address}, which is no unicast address that can be routed")
        if address in taken:
            raise AddressingError(f"services {taken[address]!r} and {name!r} both have {address}: move one of them")
        taken[address] = name
    return OverlayPlan(services=assigned, agents=_assign(agents, agent_cidr, FIRST_AGENT, "agent"))


def _assign(names: Sequence[str], network: IPv4Network, first: int, what: str) -> dict[str, IPv4Address]:
    duplicate = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if duplicate is not None:
        raise AddressingError(f"{what} {duplicate!r} is named twice: give each {what} its own name")
    room = network.num_addresses - 1 - first  # the last one is the broadcast address
    if len(names) > room:
        raise AddressingError(
            f"{len(names)} {what}s do not fit into {network}, which has room for {max(room, 0)}: use a wider network"
        )
    return {name: network.network_address + first + index for index, name in enumerate(names)}


def require_disjoint(networks: dict[str, IPv4Network]) -> None:
    """Raise AddressingError when two of the named networks share an address."""
    items = list(networks.items())
    for index, (name, network) in enumerate(items):
        for other_name, other in items[index + 1 :]:
            if network.overlaps(other):
                raise AddressingError(f"{name} {network} overlaps {other_name} {other}: choose another range for one")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabPlan:
    """Addresses of the lab's hosts: a public segment and two LANs, each behind a NAT."""

    public: IPv4Network
    agent_lan: IPv4Network
    connector_lan: IPv4Network

    def __post_init__(self) -> None:
        networks = self.networks()
        require_disjoint({**networks, "service_cidr": SERVICE_CIDR, "agent_cidr": AGENT_CIDR})
        for name, network in networks.items():
            if network.prefixlen > 26:
                raise AddressingError(f"{name} {network} is too small: the lab's hosts need a /26 or wider")

    def networks(self) -> dict[str, IPv4Network]:
        """Return the segments by name."""
        return {"public": self.public, "agent-lan": self.agent_lan, "connector-lan": self.connector_lan}

    @property
    def relay(self) -> IPv4Address:
        """The intermediate's address."""
        return self.public.network_address + 2

    @property
    def relay_alternate(self) -> IPv4Address:
        """The intermediate's second address, for NAT classification (RFC 5780)."""
        return self.public.network_address + 3

    @property
    def agent_outside(self) -> IPv4Address:
        """The public address of the agent's NAT."""
        return self.public.network_address + 21

    @property
    def connector_outside(self) -> IPv4Address:
        """The public address of the connector's NAT."""
        return self.public.network_address + 22

    @property
    def agent(self) -> IPv4Address:
        """The agent's host."""
        return self.agent_lan.network_address + 10

    @property
    def connector(self) -> IPv4Address:
        """The connector's host."""
        return self.connector_lan.network_address + 10

    @property
    def backend(self) -> IPv4Address:
        """The host of the services, beside the connector."""
        return self.connector_lan.network_address + 20

    def hosts(self) -> dict[str, IPv4Address]:
        """Return every planned host address by name."""
        return {
            "relay": self.relay,
            "relay-alternate": self.relay_alternate,
            "nat-agent": self.agent_outside,
            "nat-connector": self.connector_outside,
            "agent": self.agent,
            "connector": self.connector,
            "backend": self.backend,
        }


def gateway(network: IPv4Network) -> IPv4Address:
    """Return the first address of a network, which its router has."""
    return network.network_address + 1


def interface(address: IPv4Address, network: IPv4Network) -> str:
    """Return `address/prefix length`, as interfaces are configured.

    Raises:
        AddressingError: the address is not in the network.
    """
    if address not in network:
        raise AddressingError(f"{address} is not in {network}")
    return f"{address}/{network.prefixlen}"


LAB: Final = LabPlan(
    public=IPv4Network("172.20.0.0/24"),
    agent_lan=IPv4Network("172.21.0.0/24"),
    connector_lan=IPv4Network("172.22.0.0/24"),
)

LOOPBACK: Final = LabPlan(
    public=IPv4Network("127.20.0.0/24"),
    agent_lan=IPv4Network("127.21.0.0/24"),
    connector_lan=IPv4Network("127.22.0.0/24"),
)
"""The same plan inside 127.0.0.0/8 (RFC 1122 section 3.2.1.3), where the machine allows no namespaces."""


def lab_table(plan: LabPlan) -> list[tuple[str, str]]:
    """Return (what, address or network) rows of a plan, in the order of docs/addressing.md."""
    networks = [(f"segment {name}", str(network)) for name, network in plan.networks().items()]
    return networks + [(f"host {name}", str(address)) for name, address in plan.hosts().items()]


@dataclass(frozen=True, kw_only=True, slots=True)
class ZonePlan:
    """The two subnets of an availability zone. `letter` is the last of its name, as `a` in `us-east-2a`."""

    letter: str
    public: IPv4Network
    private: IPv4Network


AWS_ZONES: Final = "abc"
"""Letters of the zones of us-east-2, in the order in which they are used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsPlan:
    """A VPC whose zone number n (from 0) has the /24 at ten times n plus 1 for public and plus 2 for private hosts.

    Hosts get their addresses from the provider, which keeps the first four and the last of each subnet.
    Source: https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html
    """

    vpc: IPv4Network

    def __post_init__(self) -> None:
        require_disjoint({"vpc": self.vpc, "service_cidr": SERVICE_CIDR, "agent_cidr": AGENT_CIDR})
        if not 16 <= self.vpc.prefixlen <= 19:
            raise AddressingError(f"vpc {self.vpc} must be a /16 to /19: AWS allows no wider, the subnets no narrower")

    def zones(self, count: int) -> tuple[ZonePlan, ...]:
        """Return the subnets of the first zones.

        Raises:
            AddressingError: there are not as many zones.
        """
        if not 1 <= count <= len(AWS_ZONES):
            raise AddressingError(f"{count} zones were asked for, there are 1 to {len(AWS_ZONES)}")
        return tuple(
            ZonePlan(letter=letter, public=self._subnet(10 * index + 1), private=self._subnet(10 * index + 2))
            for index, letter in enumerate(AWS_ZONES[:count])
        )

    def _subnet(self, index: int) -> IPv4Network:
        return IPv4Network((int(self.vpc.network_address) + index * 256, 24))


@dataclass(frozen=True, kw_only=True, slots=True)
class DoPlan:
    """A VPC at DigitalOcean, which gives hosts their addresses. The relay's public one is a reserved address.

    Source: https://docs.digitalocean.com/products/networking/vpc/details/limits/
    """

    vpc: IPv4Network

    def __post_init__(self) -> None:
        require_disjoint({"vpc": self.vpc, "service_cidr": SERVICE_CIDR, "agent_cidr": AGENT_CIDR})
        if not 16 <= self.vpc.prefixlen <= 28:
            raise AddressingError(f"vpc {self.vpc} must be a /16 to /28: DigitalOcean allows no other")


@dataclass(frozen=True, kw_only=True, slots=True)
class PiPlan:
    """The one address of the home LAN by which the relay is reached; the cluster chooses all others itself."""

    relay: IPv4Address

    def __post_init__(self) -> None:
        require_disjoint(
            {"relay": IPv4Network(self.relay), "service_cidr": SERVICE_CIDR, "agent_cidr": AGENT_CIDR},
        )


AWS: Final = AwsPlan(vpc=IPv4Network("10.0.0.0/16"))
DO: Final = DoPlan(vpc=IPv4Network("10.77.0.0/24"))
PI: Final = PiPlan(relay=IPv4Address("10.0.150.205"))


def cloud_table() -> list[tuple[str, str]]:
    """Return (what, address or network) rows of the cloud stacks' plans, in the order of docs/addressing.md."""
    subnets = [
        (f"aws-us-east-2 {kind} subnet, zone {zone.letter}", str(network))
        for zone in AWS.zones(2)
        for kind, network in (("public", zone.public), ("private", zone.private))
    ]
    return [
        ("do-nyc1 vpc", str(DO.vpc)),
        ("aws-us-east-2 vpc", str(AWS.vpc)),
        *subnets,
        ("pi-home relay", str(PI.relay)),
    ]

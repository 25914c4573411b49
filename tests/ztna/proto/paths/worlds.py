"""Hosts behind each class of NAT of the matrix, on a simulated network."""

from typing import Final

from infra.lab.nat import CARRIER, HOME, Filtering, Mapping, NatBehavior, PortAllocation
from tests.support.netsim import Host, Nat, Network
from tests.support.netsim_session import SimSession, make_session
from ztna.proto.paths.session_paths import PathConfig

EDM: Final = Mapping.ADDRESS_AND_PORT_DEPENDENT
NATS: Final[dict[str, tuple[NatBehavior, ...]]] = {
    # Inside first. P: public. F: 1:1 NAT with a stateful filter. O, A, H: endpoint-independent mapping with endpoint-
    # independent, address-dependent, address-and-port-dependent filtering. S, Q: address-and-port-dependent mapping
    # with random, with sequential ports. C: H behind a carrier's NAT. U: UDP blocked.
    "P": (),
    "F": (HOME,),
    "O": (NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT),),
    "A": (NatBehavior(filtering=Filtering.ADDRESS_DEPENDENT),),
    "H": (HOME,),
    "S": (NatBehavior(mapping=EDM, port_allocation=PortAllocation.RANDOM),),
    "Q": (NatBehavior(mapping=EDM, port_allocation=PortAllocation.SEQUENTIAL),),
    "C": (HOME, CARRIER),
    "U": (NatBehavior(udp_blocked=True),),
}


def place(network: Network, name: str, kind: str, number: int) -> tuple[Host, list[Nat]]:
    """Put a host named `name` behind a NAT of class `kind`; returns it and its NATs, outermost first."""
    realm, nats = network.internet, []
    for level, behavior in enumerate(reversed(NATS[kind])):
        address = f"203.0.113.{number}" if not level else f"100.64.{number}.1"
        nats.append(network.nat(behavior, address, outer=realm))
        realm = nats[-1].inner
    inside = f"192.168.{number}.10" if nats else f"203.0.113.{100 + number}"
    return network.host(name, (inside, realm)), nats


def session(agent: str, connector: str, *, seed: int = 1, config: PathConfig | None = None) -> SimSession:
    """Both ends behind NATs of the named classes, started."""
    network = Network(seed)
    hosts = [place(network, "agent", agent, 1)[0], place(network, "connector", connector, 2)[0]]
    made = make_session(network, *hosts, config=config)
    made.start()
    return made

"""What a session sees of its NAT, by class and by parts."""

import pytest

from infra.lab.nat import Mapping, NatBehavior, PortAllocation
from tests.support.netsim import Network
from tests.support.netsim_session import CORNERS, RELAY, make_session
from tests.ztna.proto.paths.worlds import place, session
from ztna.proto.natclass import Behavior
from ztna.proto.natclass import PortAllocation as Seen
from ztna.proto.paths.nat_watch import MAX_CONTACTED, MAX_CORNERS, NatWatch
from ztna.proto.paths.stun_types import Endpoint

EIM, ADM, APDM = Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT
BASE, HOST = Endpoint("203.0.113.1", 61000), Endpoint("192.168.1.10", 40000)


@pytest.mark.parametrize(
    ("kind", "mapping", "allocation"),
    [
        ("P", Behavior.NONE, Seen.PRESERVING),
        ("F", EIM, Seen.PRESERVING),
        ("H", EIM, Seen.PRESERVING),
        ("S", APDM, Seen.RANDOM),
        ("Q", APDM, Seen.SEQUENTIAL),
        ("C", EIM, Seen.UNKNOWN),
    ],
)
def test_class_is_recognised_and_told_to_the_peer(kind: str, mapping: Behavior, allocation: Seen) -> None:
    """From the mapped addresses at the relay's corners."""
    made = session(kind, "P")
    made.run(2.0)
    seen = made.agent.nat_seen
    assert seen is not None
    assert (seen.mapping, seen.allocation) == (mapping, allocation)
    peer = made.connector.paths.snapshot(made.network.now).peer_nat
    assert peer is not None
    assert (peer.mapping, peer.allocation) == (mapping, allocation)


@pytest.mark.parametrize(("corners", "mapping"), [(CORNERS, ADM), (CORNERS[:2], EIM)])
def test_address_dependent_mapping_needs_a_second_address(corners: tuple[Endpoint, ...], mapping: Behavior) -> None:
    """A second port alone cannot tell it from an endpoint-independent one."""
    network = Network()
    nat = network.nat(
        NatBehavior(mapping=Mapping.ADDRESS_DEPENDENT, port_allocation=PortAllocation.RANDOM), "203.0.113.1"
    )
    host = network.host("agent", ("192.168.1.10", nat.inner))
    made = make_session(network, host, place(network, "connector", "P", 2)[0], corners=corners)
    made.start()
    made.run(2.5)
    assert made.agent.nat_seen is not None
    assert made.agent.nat_seen.mapping is mapping


@pytest.mark.parametrize(("kind", "filtering"), [("P", EIM), ("O", ADM), ("A", ADM), ("H", Behavior.UNKNOWN)])
def test_filtering_shows_in_what_arrives(kind: str, filtering: Behavior) -> None:
    """From a new address, or from a new port of a known one: two NATs begin at once, so no more can be told there."""
    made = session(kind, "S")
    made.run(8.0)
    assert made.agent.paths.snapshot(made.network.now).nat.filtering is filtering


def watch(*mapped: tuple[Endpoint, Endpoint]) -> NatWatch:
    """A watch whose corners answered (corner, mapped)."""
    made = NatWatch(RELAY, tuple(corner for corner, _ in mapped), hosts=(HOST,), base=BASE)
    made.start([(0, False)], 1.0)
    for corner in made.corners:
        corner.mapped = dict(mapped)[corner.remote]
    return made


def other(port: int) -> Endpoint:
    """The outside address with another port."""
    return Endpoint(BASE.host, port)


def test_mapping_rules() -> None:
    """RFC 5780 section 4.3, as far as the corners allow."""
    port, address, both = CORNERS[1:4]
    assert watch().seen.mapping is Behavior.UNKNOWN
    assert watch((port, BASE)).seen.mapping is EIM
    assert watch((port, other(1))).seen.mapping is APDM
    assert watch((port, BASE), (address, other(1)), (both, other(1))).seen.mapping is ADM
    assert watch((address, other(1)), (both, other(2))).seen.mapping is APDM
    assert watch((address, BASE)).seen.mapping is EIM
    assert watch((port, other(61001)), (address, other(61002))).seen.allocation is Seen.SEQUENTIAL
    assert watch((port, other(5)), (address, other(40000))).seen.allocation is Seen.RANDOM


def test_corners_are_bounded_and_given_up() -> None:
    """Six at most, five requests each; the relay itself and other families are left out."""
    made = NatWatch(RELAY, [*CORNERS, *(Endpoint("198.51.100.3", n) for n in range(1, 40))])
    made.start([(0, False)], 1.0)
    assert len(made.corners) == MAX_CORNERS
    assert all(corner.remote != RELAY and corner.local == 0 for corner in made.corners)
    corner = made.corners[0]
    times = []
    while corner.next_at is not None:
        times.append(round(corner.next_at, 3))
        corner.request_sent(corner.next_at)
    assert times == [1.0, 1.1, 1.3, 1.7, 2.5]


def test_lan_peers_say_nothing_of_the_nat() -> None:
    """Their packets do not pass it."""
    made = NatWatch(RELAY, (), base=Endpoint("8.8.8.8", 1))
    made.heard_from(Endpoint("192.168.1.11", 5))
    assert made.filtering is Behavior.UNKNOWN
    made.sent_to(Endpoint("1.1.1.1", 5))
    made.heard_from(Endpoint("1.1.1.1", 5))
    assert made.filtering is Behavior.UNKNOWN
    made.heard_from(Endpoint("1.1.1.1", 6))
    assert made.filtering is ADM
    made.heard_from(Endpoint("9.9.9.9", 6))
    assert made.filtering is EIM
    made.heard_from(Endpoint("1.1.1.1", 7))
    assert made.filtering is EIM


def test_contacted_endpoints_are_bounded() -> None:
    """Beyond that nothing is concluded."""
    made = NatWatch(RELAY, ())
    for port in range(1, MAX_CONTACTED + 50):
        made.sent_to(Endpoint("1.1.1.1", port))
    made.heard_from(Endpoint("1.1.1.1", MAX_CONTACTED + 10))
    assert made.filtering is Behavior.UNKNOWN

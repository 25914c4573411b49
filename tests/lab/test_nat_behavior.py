"""Each property of RFC 4787, seen from packets: mapping, filtering, port allocation, time-out, hairpinning."""

import itertools
import time

import pytest

from infra.lab.nat import CARRIER, HOME, Filtering, Mapping, NatBehavior, PortAllocation
from tests.lab.conftest import EXTERNAL, RELAY, SECOND, NatLab
from tests.lab.probe import Probe, exchange

pytestmark = pytest.mark.lab

ENDPOINT, ADDRESS, ADDRESS_AND_PORT = Mapping
_QUIET_S = 0.15
_ports = itertools.count(20_000)


def mapped_port(nat_lab: NatLab, inside: Probe, port: int, remote: str, remote_port: int) -> int:
    """Send from an inside port to a remote endpoint that is open; return the external port seen there."""
    source = exchange(inside, port, nat_lab.relay, remote_port, (remote, remote_port))
    assert source is not None
    assert source[0] == EXTERNAL
    return source[1]


def remote_sockets(nat_lab: NatLab) -> tuple[int, int]:
    """Two ports open on both addresses of the remote host."""
    return nat_lab.relay.open(), nat_lab.relay.open()


@pytest.mark.parametrize("allocation", PortAllocation)
@pytest.mark.parametrize("mapping", Mapping)
def test_mapping_depends_on_what_it_says(nat_lab: NatLab, mapping: Mapping, allocation: PortAllocation) -> None:
    nat_lab.set(NatBehavior(mapping=mapping, port_allocation=allocation))
    first, second = remote_sockets(nat_lab)
    port = nat_lab.left.open()
    base = mapped_port(nat_lab, nat_lab.left, port, RELAY, first)
    other_port = mapped_port(nat_lab, nat_lab.left, port, RELAY, second)
    other_address = mapped_port(nat_lab, nat_lab.left, port, SECOND, first)
    again = mapped_port(nat_lab, nat_lab.left, port, RELAY, first)
    assert again == base
    assert (other_port == base) is (mapping is not ADDRESS_AND_PORT)
    assert (other_address == base) is (mapping is ENDPOINT)


@pytest.mark.parametrize("mapping", Mapping)
@pytest.mark.parametrize("filtering", Filtering)
def test_filtering_depends_on_what_it_says(nat_lab: NatLab, filtering: Filtering, mapping: Mapping) -> None:
    nat_lab.set(NatBehavior(mapping=mapping, filtering=filtering, port_allocation=PortAllocation.RANDOM))
    relay, left = nat_lab.relay, nat_lab.left
    contacted, port = relay.open(RELAY), left.open()
    other_port, other_address = relay.open(RELAY), relay.open(SECOND)
    external = (EXTERNAL, mapped_port(nat_lab, left, port, RELAY, contacted))

    def passes(source: int) -> bool:
        relay.send(source, f"from {source}", external)
        got = left.receive(port, _QUIET_S)
        return got is not None and got[0] == f"from {source}"

    assert passes(contacted)
    assert passes(other_port) is (filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT)
    assert passes(other_address) is (filtering is Filtering.ENDPOINT_INDEPENDENT)
    # Replies to what came in leave by the port it came in by.
    if filtering is Filtering.ENDPOINT_INDEPENDENT:
        left.send(port, "back", (SECOND, other_address))
        assert relay.receive(other_address) == ("back", external)


def test_preserving_keeps_the_port_and_falls_back_when_it_is_taken(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior())
    first, second = remote_sockets(nat_lab)
    port = nat_lab.left.open(port=next(_ports))
    nat_lab.right.open(port=port)
    assert mapped_port(nat_lab, nat_lab.left, port, RELAY, first) == port
    fallback = mapped_port(nat_lab, nat_lab.right, port, RELAY, second)
    assert fallback != port
    assert mapped_port(nat_lab, nat_lab.right, port, SECOND, first) == fallback
    assert mapped_port(nat_lab, nat_lab.left, port, SECOND, second) == port


def test_sequential_ports_follow_each_other(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(mapping=ADDRESS_AND_PORT, port_allocation=PortAllocation.SEQUENTIAL))
    port = nat_lab.left.open()
    remotes = [nat_lab.relay.open() for _ in range(5)]
    seen = [mapped_port(nat_lab, nat_lab.left, port, RELAY, remote) for remote in remotes]
    assert seen == list(range(seen[0], seen[0] + 5))
    assert seen[0] >= 49_152


def test_random_ports_are_neither_kept_nor_in_order(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(mapping=ADDRESS_AND_PORT, port_allocation=PortAllocation.RANDOM))
    port = nat_lab.left.open()
    remotes = [nat_lab.relay.open() for _ in range(8)]
    seen = [mapped_port(nat_lab, nat_lab.left, port, RELAY, remote) for remote in remotes]
    assert len(set(seen)) == 8
    assert port not in seen
    steps = {after - before for before, after in itertools.pairwise(seen)}
    assert len(steps) > 4
    assert all(1024 <= number <= 65_535 for number in seen)


def test_unsolicited_packets_do_not_take_the_port(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior())
    relay, left = nat_lab.relay, nat_lab.left
    remote, port = relay.open(RELAY), left.open(port=next(_ports))
    for _ in range(3):
        relay.send(remote, "too early", (EXTERNAL, port))
    assert left.receive(port, _QUIET_S) is None
    assert mapped_port(nat_lab, left, port, RELAY, remote) == port
    # The very packets that were dropped before now pass.
    relay.send(remote, "in time", (EXTERNAL, port))
    assert left.receive(port) == ("in time", (RELAY, remote))


@pytest.mark.parametrize("mapping", [ENDPOINT, ADDRESS_AND_PORT])
def test_an_idle_mapping_is_forgotten_after_the_time_out(nat_lab: NatLab, mapping: Mapping) -> None:
    nat_lab.set(
        NatBehavior(
            mapping=mapping,
            filtering=Filtering.ENDPOINT_INDEPENDENT,
            udp_timeout_s=2,
            port_allocation=PortAllocation.RANDOM,
        )
    )
    relay, left = nat_lab.relay, nat_lab.left
    remote, idle, busy = relay.open(RELAY), left.open(), left.open()
    idle_external = mapped_port(nat_lab, left, idle, RELAY, remote)
    busy_external = mapped_port(nat_lab, left, busy, RELAY, remote)
    for _ in range(4):
        time.sleep(0.9)
        assert mapped_port(nat_lab, left, busy, RELAY, remote) == busy_external
    relay.send(remote, "still there?", (EXTERNAL, idle_external))
    assert left.receive(idle, _QUIET_S) is None
    relay.send(remote, "still there?", (EXTERNAL, busy_external))
    assert left.receive(busy) == ("still there?", (RELAY, remote))
    assert mapped_port(nat_lab, left, idle, RELAY, remote) != idle_external


def test_hairpin_shows_the_external_endpoint(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT, hairpin=True))
    remote = nat_lab.relay.open()
    here, there = nat_lab.left.open(), nat_lab.right.open()
    external = mapped_port(nat_lab, nat_lab.right, there, RELAY, remote)
    source = exchange(nat_lab.left, here, nat_lab.right, there, (EXTERNAL, external))
    assert source is not None
    assert source[0] == EXTERNAL
    assert source[1] == mapped_port(nat_lab, nat_lab.left, here, RELAY, remote)
    nat_lab.right.send(there, "back", source)
    assert nat_lab.left.receive(here) == ("back", (EXTERNAL, external))


def test_hairpin_is_filtered_like_traffic_from_outside(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(hairpin=True))
    remote = nat_lab.relay.open()
    here, there = nat_lab.left.open(), nat_lab.right.open()
    near = (EXTERNAL, mapped_port(nat_lab, nat_lab.left, here, RELAY, remote))
    far = (EXTERNAL, mapped_port(nat_lab, nat_lab.right, there, RELAY, remote))
    assert exchange(nat_lab.right, there, nat_lab.left, here, near) is None
    assert exchange(nat_lab.left, here, nat_lab.right, there, far) == near
    assert exchange(nat_lab.right, there, nat_lab.left, here, near) == far


def test_no_hairpin_unless_asked_for(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT))
    remote = nat_lab.relay.open()
    here, there = nat_lab.left.open(), nat_lab.right.open()
    external = mapped_port(nat_lab, nat_lab.right, there, RELAY, remote)
    nat_lab.left.send(here, "hello?", (EXTERNAL, external))
    assert nat_lab.right.receive(there, _QUIET_S) is None


@pytest.mark.parametrize("allocation", PortAllocation)
@pytest.mark.parametrize("blocked", [False, True])
def test_tcp_and_icmp_pass(nat_lab: NatLab, allocation: PortAllocation, blocked: bool) -> None:
    nat_lab.set(NatBehavior(port_allocation=allocation, udp_blocked=blocked))
    port = next(_ports)
    nat_lab.relay.listen(port)
    assert nat_lab.left.fetch((RELAY, port)) is not None
    source = nat_lab.relay.serve_once(port)
    assert source is not None
    assert source[0] == EXTERNAL
    nat_lab.lab.run("left", ["ping", "-c1", "-W1", RELAY])


def test_tcp_from_outside_does_not_pass(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT))
    port = next(_ports)
    nat_lab.left.listen(port)
    assert nat_lab.relay.fetch((EXTERNAL, port), 0.3) is None


def test_inside_addresses_are_not_reached_from_outside(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT))
    nat_lab.lab.run("relay", ["ip", "route", "add", "172.21.0.0/24", "via", EXTERNAL])
    try:
        port, remote = nat_lab.left.open(), nat_lab.relay.open()
        nat_lab.relay.send(remote, "straight in", ("172.21.0.10", port))
        assert nat_lab.left.receive(port, _QUIET_S) is None
    finally:
        nat_lab.lab.run("relay", ["ip", "route", "del", "172.21.0.0/24"])


def test_icmp_errors_find_their_way_back(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(mapping=ADDRESS_AND_PORT, port_allocation=PortAllocation.RANDOM))
    assert nat_lab.left.refused((RELAY, 9))


def test_blocked_udp_is_blocked_both_ways(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT, udp_blocked=True))
    remote, port = nat_lab.relay.open(), nat_lab.left.open(port=next(_ports))
    nat_lab.left.send(port, "out", (RELAY, remote))
    assert nat_lab.relay.receive(remote, _QUIET_S) is None
    nat_lab.relay.send(remote, "in", (EXTERNAL, port))
    assert nat_lab.left.receive(port, _QUIET_S) is None


def test_two_levels_share_one_public_address(nat_lab: NatLab) -> None:
    nat_lab.set(HOME, CARRIER)
    first, second = remote_sockets(nat_lab)
    port = nat_lab.left.open()
    external = mapped_port(nat_lab, nat_lab.left, port, RELAY, first)
    assert mapped_port(nat_lab, nat_lab.left, port, SECOND, second) == external
    assert external != port  # the carrier draws its own
    nat_lab.relay.send(second, "uncontacted port", (EXTERNAL, external))
    nat_lab.lab.run("left", ["ping", "-c1", "-W1", RELAY])


def test_a_changed_nat_forgets_its_mappings_and_keeps_its_hosts(nat_lab: NatLab) -> None:
    nat_lab.set(NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT))
    remote, port = nat_lab.relay.open(RELAY), nat_lab.left.open()
    external = mapped_port(nat_lab, nat_lab.left, port, RELAY, remote)
    nat_lab.set(NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT, port_allocation=PortAllocation.SEQUENTIAL))
    nat_lab.relay.send(remote, "late", (EXTERNAL, external))
    assert nat_lab.left.receive(port, _QUIET_S) is None
    assert mapped_port(nat_lab, nat_lab.left, port, RELAY, remote) != external

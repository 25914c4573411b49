"""Topologies as data: there and back, and what they refuse."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.lab.nat import PRESETS, Filtering, Mapping, NatBehavior, PortAllocation, preset
from infra.lab.topology import Host, Impairment, Link, Router, Segment, Topology, two_nat_topology

SHARES = st.floats(0, 1)
IMPAIRMENTS = st.builds(
    Impairment,
    delay_ms=st.floats(0, 60_000),
    jitter_ms=st.floats(0, 100),
    loss=SHARES,
    reorder=SHARES,
    duplicate=SHARES,
    rate_bps=st.none() | st.integers(1000, 10**12),
    loss_burst=st.just(1.0),
    corrupt=SHARES,
    mtu_bytes=st.none() | st.integers(68, 65535),
)
NATS = st.builds(
    NatBehavior,
    mapping=st.sampled_from(Mapping),
    filtering=st.sampled_from(Filtering),
    udp_timeout_s=st.integers(1, 86400),
    hairpin=st.booleans(),
    port_allocation=st.sampled_from(PortAllocation),
    udp_blocked=st.booleans(),
)
LINK = Link("lan", "172.21.0.10/24")


def floats(value: Any) -> Any:
    """Make every integer a float, as a wire that knows only doubles does."""
    if isinstance(value, dict):
        return {key: floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return float(value) if type(value) is int else value


@given(up=IMPAIRMENTS, down=IMPAIRMENTS, agent=st.lists(NATS, max_size=2), connector=st.lists(NATS, max_size=2))
def test_a_topology_survives_json_and_wires_of_floats(
    up: Impairment, down: Impairment, agent: list[NatBehavior], connector: list[NatBehavior]
) -> None:
    topology = two_nat_topology(tuple(agent), tuple(connector), agent_link=(up, down))
    wired = json.loads(json.dumps(topology.to_spec()))
    assert Topology.from_spec(wired) == topology
    assert Topology.from_spec(floats(wired)) == topology
    assert Topology.from_spec(floats(wired)).to_spec() == topology.to_spec()


def test_the_lab_is_the_one_in_the_documents() -> None:
    topology = two_nat_topology(preset("port-restricted"), preset("symmetric"))
    assert {segment.name: segment.cidr for segment in topology.segments} == {
        "public": "172.20.0.0/24",
        "agent-lan": "172.21.0.0/24",
        "connector-lan": "172.22.0.0/24",
    }
    assert {router.name: router.outside.ip for router in topology.routers} == {
        "nat-agent": "172.20.0.21",
        "nat-connector": "172.20.0.22",
    }
    assert {host.name: host.links[0].ip for host in topology.hosts} == {
        "relay": "172.20.0.2",
        "agent": "172.21.0.10",
        "connector": "172.22.0.10",
        "backend": "172.22.0.20",
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Impairment(loss=3), "3 % is 0.03"),
        (lambda: Impairment(corrupt=2), "corrupt is 2"),
        (lambda: Impairment(loss=0.1, loss_burst=0), "loss_burst is 0"),
        (lambda: Impairment(loss=1, loss_burst=2), "a loss below 1"),
        (lambda: Impairment(delay_ms=-1), "delay_ms is -1"),
        (lambda: Impairment(rate_bps=10), "rate_bps is 10"),
        (lambda: Impairment(mtu_bytes=20), "IPv4 needs 68"),
        (lambda: Impairment(queue_packets=0), "at least 1"),
        (lambda: Link("lan", "172.21.0.10"), "lacks its prefix length"),
        (lambda: Link("lan", "172.21.0.300/24"), "172.21.0.300"),
        (lambda: Link("lan", "172.21.0.10/24", mtu=100), "mtu is 100"),
        (lambda: Segment("lan", "172.21.0.1/24"), "host bits"),
        (lambda: Segment("Lan", "172.21.0.0/24"), "lower-case"),
        (lambda: Host("a.b", (LINK,)), "lower-case"),
        (lambda: Host("a", ()), "at least one link"),
        (lambda: Host("a", (LINK,), addresses=("172.20.0.3",)), "lacks its prefix length"),
        (lambda: Router("r", (), LINK), "at least one inside link"),
        (lambda: Router("r", (LINK,), LINK, nat=(NatBehavior(),) * 3), "3 levels of NAT"),
        (lambda: NatBehavior(udp_timeout_s=0), "udp_timeout_s is 0"),
        (lambda: Topology((Segment("lan", "10.0.0.0/8"),), hosts=(Host("a", (LINK,)), Host("a", (LINK,)))), "twice: a"),
        (lambda: Topology((), hosts=(Host("a", (LINK,)),)), "goes to segment 'lan'"),
        (lambda: preset("cone"), "there are public, full-cone"),
    ],
)
def test_nonsense_is_refused_with_its_reason(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mut": 1500}, "unknown field `mut`"),
        ({"mtu": "big"}, r"Expected `int`, got `str` - at `\$.links\[0\].mtu`"),
        ({"up": {"loss": 2}}, r"loss is 2.*\$.links\[0\].up"),
    ],
)
def test_a_bad_spec_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    spec = Host("a", (LINK,)).to_spec()
    spec["links"][0] |= change
    with pytest.raises(ValueError, match=message):
        Host.from_spec(spec)


def test_only_what_packets_notice_counts_as_an_impairment() -> None:
    assert not Impairment(buffer_ms=50, queue_packets=10).active
    assert Impairment(mtu_bytes=1280).active
    assert not LINK.impaired
    assert Link("lan", "172.21.0.10/24", down=Impairment(loss=0.01)).impaired


def test_presets_are_shorthand_for_levels() -> None:
    assert preset("cgnat") == (*preset("port-restricted"), PRESETS["cgnat"][1])
    assert preset("public") == ()

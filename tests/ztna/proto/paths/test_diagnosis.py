"""Why a session is relayed: each typed reason from a network that causes it, and its words."""

from dataclasses import replace

import pytest

from infra.lab.nat import HOME
from tests.support.netsim import Network
from tests.support.netsim_session import RELAY, SimSession, make_session
from tests.ztna.proto.paths.worlds import place, session
from ztna.proto.natclass import Behavior, PortAllocation
from ztna.proto.paths.diagnosis import Facts, diagnose
from ztna.proto.paths.session_paths import BlockedBy, Endpoint, NatSeen, PathConfig, PathSnapshot

EIM, APDM = Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT
UNKNOWN = NatSeen(Behavior.UNKNOWN, Behavior.UNKNOWN, PortAllocation.UNKNOWN)
FINE = Facts(
    direct_allowed=True,
    is_direct=False,
    age_s=10.0,
    probing_s=9.0,
    stun_sent=5,
    stun_answered=5,
    relay=Endpoint("8.8.8.8", 4433),
    mapped=Endpoint("9.9.9.9", 40000),
    observed_host="9.9.9.9",
    nat=NatSeen(EIM, Behavior.UNKNOWN, PortAllocation.PRESERVING),
    peer_nat=NatSeen(EIM, Behavior.UNKNOWN, PortAllocation.PRESERVING),
    checks_sent=20,
    peer_requests=0,
    ever_direct=False,
    peer_hosts_share_mapped=False,
    hairpin_tried=False,
    remote_candidates=2,
    families=frozenset({4}),
    peer_families=frozenset({4, 6}),
    unheard_address=None,
)


def seen(made: SimSession) -> list[PathSnapshot]:
    """What both sides say."""
    return [end.paths.snapshot(made.network.now) for end in made.ends]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, BlockedBy.FILTERED),
        ({"is_direct": True}, None),
        ({"direct_allowed": False}, BlockedBy.POLICY),
        ({"stun_answered": 0}, BlockedBy.UDP_BLOCKED),
        ({"stun_answered": 0, "age_s": 1.0, "probing_s": 1.0}, None),
        ({"mapped": Endpoint("10.0.0.1", 1)}, BlockedBy.ADDRESS_LIED),
        ({"mapped": Endpoint("10.0.0.1", 1), "relay": RELAY, "observed_host": None}, BlockedBy.FILTERED),
        ({"observed_host": "9.9.9.10"}, BlockedBy.ADDRESS_LIED),
        ({"observed_host": "2606:4700::1111"}, BlockedBy.FILTERED),
        ({"observed_host": "nonsense"}, BlockedBy.FILTERED),
        ({"peer_hosts_share_mapped": True}, BlockedBy.HAIRPIN_NEEDED),
        ({"nat": NatSeen(APDM, Behavior.UNKNOWN, PortAllocation.RANDOM)}, BlockedBy.MAPPING_VARIES),
        ({"peer_nat": NatSeen(APDM, Behavior.UNKNOWN, PortAllocation.UNKNOWN)}, BlockedBy.MAPPING_VARIES),
        ({"peer_nat": None}, BlockedBy.FILTERED),
        ({"remote_candidates": 0, "probing_s": None}, BlockedBy.PEER_NEVER_PROBED),
        ({"peer_requests": 3}, BlockedBy.FILTERED),
        ({"probing_s": 1.0}, None),
        ({"peer_families": frozenset({6})}, BlockedBy.PEER_NEVER_PROBED),
        ({"peer_families": frozenset({6}), "age_s": 1.0}, BlockedBy.FILTERED),
        ({"peer_families": frozenset({6}), "families": frozenset({4, 6})}, BlockedBy.FILTERED),
        ({"peer_families": frozenset()}, BlockedBy.FILTERED),
        ({"unheard_address": Endpoint("9.9.9.10", 4434)}, BlockedBy.ADDRESS_LIED),
        ({"unheard_address": Endpoint("9.9.9.10", 4434), "probing_s": 1.0}, None),
        ({"unheard_address": Endpoint("9.9.9.10", 4434), "mapped": None}, BlockedBy.FILTERED),
    ],
)
def test_rules(change: dict[str, object], reason: BlockedBy | None) -> None:
    """Each rule, from the facts that call for it; a reason always comes with evidence and advice."""
    found = diagnose(replace(FINE, **change))  # type: ignore[arg-type]
    assert found.blocked_by is reason
    assert bool(found.evidence) == bool(found.advice) == (reason is not None)


def test_open_filter_on_the_other_side_excuses_a_varying_mapping() -> None:
    """A public peer lets new ports in: something else drops the packets."""
    facts = replace(
        FINE,
        nat=NatSeen(APDM, Behavior.UNKNOWN, PortAllocation.RANDOM),
        peer_nat=NatSeen(Behavior.NONE, Behavior.ENDPOINT_INDEPENDENT, PortAllocation.PRESERVING),
    )
    assert diagnose(facts).blocked_by is BlockedBy.FILTERED


def test_evidence_names_what_was_seen() -> None:
    """Numbers and addresses, not categories alone."""
    assert "None of 5 STUN requests to 8.8.8.8:4433" in diagnose(replace(FINE, stun_answered=0)).evidence
    both = replace(
        FINE,
        nat=NatSeen(APDM, Behavior.UNKNOWN, PortAllocation.RANDOM),
        peer_nat=NatSeen(APDM, Behavior.UNKNOWN, PortAllocation.SEQUENTIAL),
    )
    assert "random ports here" in diagnose(both).evidence
    assert "sequential ports there" in diagnose(both).evidence
    assert "20 checks were sent to 2 addresses" in diagnose(FINE).evidence
    assert "since the direct path was lost" in diagnose(replace(FINE, ever_direct=True)).evidence
    assert "one direction only" in diagnose(replace(FINE, peer_requests=3)).evidence
    families = diagnose(replace(FINE, peer_families=frozenset({6})))
    assert "All 2 addresses that the peer has named are IPv6, and this side has IPv4 alone" in families.evidence
    assert "IPv6 here, or IPv4 at the peer" in families.advice


@pytest.mark.parametrize(("left", "right"), [("S", "S"), ("H", "S"), ("S", "H"), ("Q", "Q"), ("F", "S")])
def test_varying_mappings_are_named_on_both_sides(left: str, right: str) -> None:
    """Whoever asks gets the same reason."""
    made = session(left, right)
    made.run(6.0)
    assert [s.blocked_by for s in seen(made)] == [BlockedBy.MAPPING_VARIES] * 2


def test_blocked_udp_is_named_within_10_s() -> None:
    """No STUN answer at all."""
    made = session("U", "H")
    made.run(10.0)
    assert seen(made)[0].blocked_by is BlockedBy.UDP_BLOCKED


def test_a_firewall_between_is_named() -> None:
    """Home NATs that should work, and packets that do not arrive; and while they did, no reason."""
    made = session("H", "H")
    made.run(1.0)
    assert [s.blocked_by for s in seen(made)] == [None, None]
    made = session("H", "H")
    made.block_direct()
    made.run(6.0)
    assert [s.blocked_by for s in seen(made)] == [BlockedBy.FILTERED] * 2


def test_one_way_block_is_told_apart() -> None:
    """One side hears the other."""
    made = session("H", "H")
    made.block_direct(only_from="agent")
    made.run(6.0)
    assert "one direction only" in seen(made)[0].evidence
    assert seen(made)[1].blocked_by is BlockedBy.FILTERED


def test_direct_off_is_policy_here_and_silence_there() -> None:
    """The side that switched it off knows; the other sees a peer that names no address."""
    network = Network()
    made = make_session(network, *(place(network, n, "H", i)[0] for i, n in ((1, "agent"), (2, "connector"))))
    made.agent.paths._parts.config = PathConfig(direct=False)
    made.start()
    made.run(6.0)
    assert [s.blocked_by for s in seen(made)] == [BlockedBy.POLICY, BlockedBy.PEER_NEVER_PROBED]


def test_address_rewritten_at_the_relay() -> None:
    """The control connection and the session are seen under different addresses."""
    made = session("S", "S")
    made.run(5.0)
    made.agent.paths.control_observed("203.0.113.250")
    assert seen(made)[0].blocked_by is BlockedBy.ADDRESS_LIED
    assert "203.0.113.250" in seen(made)[0].evidence


def test_an_address_of_ones_own_that_is_not_ones_own() -> None:
    """The connector names an address where nobody arrives: it says so, until somebody is known to have come by it."""
    made = session("S", "F")
    connector, wrong = made.connector.paths, Endpoint("203.0.113.99", 4434)
    connector.add_listener(1 << 16, [Endpoint("10.0.0.2", 4434)], [wrong], made.network.now)
    made.run(6.0)
    assert [s.blocked_by for s in seen(made)] == [BlockedBy.MAPPING_VARIES, BlockedBy.ADDRESS_LIED]
    assert str(wrong) in seen(made)[1].evidence
    connector.listener_proven()
    assert seen(made)[1].blocked_by is BlockedBy.MAPPING_VARIES


def test_an_address_that_the_relay_sees_is_no_lie() -> None:
    """Nobody has come by it, but it is this host's."""
    made = session("S", "F")
    made.run(6.0)
    mapped = seen(made)[1].mapped
    assert mapped is not None
    made.connector.paths.add_listener(1 << 16, [], [Endpoint(mapped.host, 4434)], made.network.now)
    assert seen(made)[1].blocked_by is BlockedBy.MAPPING_VARIES


def test_same_public_address_without_a_route() -> None:
    """Two LANs behind one NAT that does not hairpin."""
    network = Network()
    outer = network.nat(HOME, "203.0.113.1")
    inner = [network.nat(HOME, f"10.0.0.{n}", outer=outer.inner) for n in (1, 2)]
    hosts = [network.host(n, (f"192.168.{i}.10", inner[i].inner)) for i, n in ((0, "agent"), (1, "connector"))]
    made = make_session(network, *hosts)
    made.start()
    made.run(6.0)
    assert [s.blocked_by for s in seen(made)] == [BlockedBy.HAIRPIN_NEEDED] * 2
    assert "hairpin_probe" in seen(made)[0].advice

"""The NAT matrix: 9 classes in pairs and 4 further cells, each in both roles, with the path each must reach."""

import pytest

from infra.lab.nat import CARRIER, HOME, Filtering, NatBehavior
from tests.support.netsim import Network
from tests.support.netsim_session import RELAY, RELAY_V6, SimSession, make_session
from tests.ztna.proto.paths.worlds import session
from ztna.proto.paths.session_paths import BlockedBy, PathConfig, PathKind

D, R, N = PathKind.DIRECT, PathKind.RELAY, PathKind.NONE

# The expected path of each cell: with the defaults, and where that differs with `birthday` on.
CELLS = [
    ("P", "P", D, D), ("P", "F", D, D), ("P", "O", D, D), ("P", "A", D, D), ("P", "H", D, D),
    ("P", "S", D, D), ("P", "Q", D, D), ("P", "C", D, D), ("P", "U", N, N),
    ("F", "F", D, D), ("F", "O", D, D), ("F", "A", D, D), ("F", "H", D, D),
    ("F", "S", R, D), ("F", "Q", D, D), ("F", "C", D, D), ("F", "U", N, N),
    ("O", "O", D, D), ("O", "A", D, D), ("O", "H", D, D), ("O", "S", D, D),
    ("O", "Q", D, D), ("O", "C", D, D), ("O", "U", N, N),
    ("A", "A", D, D), ("A", "H", D, D), ("A", "S", D, D), ("A", "Q", D, D),
    ("A", "C", D, D), ("A", "U", N, N),
    ("H", "H", D, D), ("H", "S", R, D), ("H", "Q", D, D), ("H", "C", D, D), ("H", "U", N, N),
    ("S", "S", R, R), ("S", "Q", R, R), ("S", "C", R, D), ("S", "U", N, N),
    ("Q", "Q", R, R), ("Q", "C", D, D), ("Q", "U", N, N),
    ("C", "C", D, D), ("C", "U", N, N),
    ("U", "U", N, N),
]  # fmt: skip
CAP_S = 15.0


def settle(made: SimSession, expected: PathKind, limit_s: float) -> None:
    """Run until the expected path is taken by both ends, and see that it stays."""
    if expected is not D:
        made.run(limit_s)
    else:
        assert made.run_until(D, limit_s) is not None, made.agent.paths.snapshot(made.network.now)
    made.stream()
    made.run(3.0)
    assert made.kinds == (expected, expected), made.agent.paths.snapshot(made.network.now)


def assert_carries(made: SimSession, expected: PathKind) -> None:
    """Traffic arrives both ways, by the relay only where that is expected."""
    before, moment = made.relay.forwarded, made.network.now
    made.run(2.0)
    for end in made.ends:
        arrived = sum(at >= moment for at in end.received.values())
        assert (arrived > 90) == (expected is not N)
    assert (made.relay.forwarded > before) == (expected is R)


def test_the_matrix_has_every_pair_of_classes() -> None:
    """45 unordered pairs of 9 classes."""
    assert len({frozenset(cell[:2]) for cell in CELLS}) == 45


@pytest.mark.parametrize("swap", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize(("left", "right", "expected", "_birthday"), CELLS)
def test_cell(left: str, right: str, expected: PathKind, _birthday: PathKind, swap: bool) -> None:
    """The path that the two NATs allow is found within 15 s, in both roles."""
    made = session(right, left) if swap else session(left, right)
    settle(made, expected, CAP_S if expected is D else 10.0)
    assert_carries(made, expected)
    if expected is N:
        kinds = (right, left) if swap else (left, right)
        blocked = [end for end, kind in zip(made.ends, kinds, strict=True) if kind == "U"]
        assert all(end.paths.snapshot(made.network.now).blocked_by is BlockedBy.UDP_BLOCKED for end in blocked)


@pytest.mark.parametrize("swap", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize(("left", "right", "_plain", "expected"), [c for c in CELLS if c[2] is not c[3]])
def test_birthday_cell(left: str, right: str, _plain: PathKind, expected: PathKind, swap: bool) -> None:
    """With the birthday search on, one side's random ports are found within its 30 s."""
    config = PathConfig(birthday=True)
    made = session(right, left, config=config) if swap else session(left, right, config=config)
    settle(made, expected, 40.0)
    assert_carries(made, expected)
    for end in made.ends:
        assert len(end.ports) <= 3
        assert end.paths.stats.birthday_checks_sent <= 2048


def test_same_lan_takes_the_local_path() -> None:
    """Host candidates win over reflexive ones, and nothing crosses the NAT."""
    network = Network()
    nat = network.nat(NatBehavior(hairpin=True), "203.0.113.1")
    hosts = [network.host(name, (f"192.168.1.{n}", nat.inner)) for n, name in ((10, "agent"), (11, "connector"))]
    made = make_session(network, *hosts)
    made.start()
    settle(made, D, CAP_S)
    remotes = [end.paths.routes()[0].remote.host for end in made.ends]
    assert remotes == ["192.168.1.11", "192.168.1.10"]
    assert_carries(made, D)


def test_v6_with_stateful_filters_is_direct() -> None:
    """Filters that translate nothing open for who has been sent to."""
    network = Network()
    hosts = []
    for number, name in ((1, "agent"), (2, "connector")):
        filter_ = network.nat(HOME, f"filter {number}", translates=False)
        hosts.append(network.host(name, (f"2001:db8:{number}::10", filter_.inner)))
    made = make_session(network, *hosts, relay=RELAY_V6)
    made.start()
    settle(made, D, CAP_S)
    assert_carries(made, D)


@pytest.mark.parametrize("swap", [False, True], ids=["", "swapped"])
def test_v4_only_with_v6_only_takes_the_relay(swap: bool) -> None:
    """No pair has one family: the relay speaks both."""
    network = Network()
    v4 = network.host("connector" if swap else "agent", ("203.0.113.101", network.internet))
    v6 = network.host("agent" if swap else "connector", ("2001:db8:2::10", network.internet))
    if swap:
        made = make_session(network, v6, v4, relay=RELAY_V6, connector_relay=RELAY)
    else:
        made = make_session(network, v4, v6, connector_relay=RELAY_V6)
    made.start()
    settle(made, R, 10.0)
    assert_carries(made, R)
    for end in made.ends:
        found = end.paths.snapshot(network.now)
        assert found.blocked_by is BlockedBy.PEER_NEVER_PROBED
        assert "this side has IPv" in found.evidence


@pytest.mark.parametrize("firewalled", ["agent", "connector"])
def test_host_firewall_behind_a_home_nat_is_direct(firewalled: str) -> None:
    """A stateful firewall on the host opens like the NAT does."""
    network = Network()
    nats = [network.nat(HOME, f"203.0.113.{n}") for n in (1, 2)]
    hosts = [
        network.host(name, (f"192.168.{n}.10", nat.inner))
        for n, name, nat in ((1, "agent", nats[0]), (2, "connector", nats[1]))
    ]
    for host in hosts:
        host.firewalled = host.name == firewalled
    made = make_session(network, *hosts)
    made.start()
    settle(made, D, CAP_S)
    assert_carries(made, D)


@pytest.mark.parametrize(("hairpin", "probe", "expected"), [(True, True, D), (True, False, R), (False, True, R)])
def test_both_behind_one_carrier_nat(hairpin: bool, probe: bool, expected: PathKind) -> None:
    """Direct only where the carrier hairpins and the probe is on; else the reason is named."""
    network = Network()
    carrier = network.nat(
        NatBehavior(filtering=Filtering.ENDPOINT_INDEPENDENT, hairpin=hairpin, port_allocation=CARRIER.port_allocation),
        "203.0.113.1",
    )
    homes = [network.nat(HOME, f"100.64.0.{n}", outer=carrier.inner) for n in (1, 2)]
    hosts = [
        network.host(name, (f"192.168.{n}.10", home.inner))
        for n, name, home in ((1, "agent", homes[0]), (2, "connector", homes[1]))
    ]
    made = make_session(network, *hosts, config=PathConfig(hairpin=probe))
    made.start()
    settle(made, expected, CAP_S)
    if expected is R:
        assert all(e.paths.snapshot(network.now).blocked_by is BlockedBy.HAIRPIN_NEEDED for e in made.ends)

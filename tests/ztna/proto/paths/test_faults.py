"""What happens to a session's traffic when paths fail and heal: the bars of the fault matrix, in virtual time."""

import statistics
from collections.abc import Callable
from itertools import pairwise

import pytest

from infra.lab.nat import HOME
from tests.support.netsim import Nat, Network
from tests.support.netsim_session import End, SimSession, make_session
from tests.ztna.proto.paths.worlds import place, session
from ztna.proto.paths.session_paths import PathKind, SwitchRecord

D, R, N = PathKind.DIRECT, PathKind.RELAY, PathKind.NONE


def running(agent: str = "H", connector: str = "H", *, seed: int = 1, phase_s: float = 0.0) -> SimSession:
    """A session on its direct path with traffic both ways."""
    made = session(agent, connector, seed=seed)
    assert made.run_until(D, 5.0) is not None
    made.stream()
    made.run(2.0 + phase_s)
    return made


def with_nats(agent: str = "H", connector: str = "H") -> tuple[SimSession, list[Nat]]:
    """A session on its direct path with traffic, and the agent's NATs, outermost first."""
    network = Network(3)
    host, nats = place(network, "agent", agent, 1)
    made = make_session(network, host, place(network, "connector", connector, 2)[0])
    made.start()
    made.run(1.0)
    made.stream()
    made.run(2.0)
    return made, nats


def changes(end: End, since: float) -> list[tuple[PathKind, str]]:
    """Changes of kind since a time."""
    kinds = [(record.at, record.from_kind, record.to_kind, record.reason) for record in log(end)]
    return [(to, reason) for at, before, to, reason in kinds if at >= since and to is not before]


def log(end: End) -> list[SwitchRecord]:
    """The switch log."""
    return list(end.paths.snapshot(end.network.now).switch_log)


def note_relay(when: dict[str, float], role: str) -> Callable[[float, tuple[PathKind, ...]], None]:
    """Note when an end's routes first hold the relay."""

    def note(now: float, kinds: tuple[PathKind, ...]) -> None:
        if R in kinds:
            when.setdefault(role, now)

    return note


def network_change(end: End) -> Callable[[float], None]:
    """What the shell does when the kernel reports new addresses."""

    def change(now: float) -> None:
        end.paths.network_changed(now)
        end.paths.add_local(end.hosts(), now)

    return change


def longest_gap_s(end: End, since: float) -> float:
    """The longest time without a packet of the peer."""
    arrivals = [since, *sorted(at for at in end.received.values() if at >= since), end.network.now]
    return max(b - a for a, b in pairwise(arrivals))


def test_start_is_direct_within_400_ms() -> None:
    """Home NAT with home NAT: relay first, direct 150 ms after both began."""
    times = []
    for seed in range(9):
        made = session("H", "H", seed=seed)
        took = made.run_until(D, 5.0)
        assert took is not None
        times.append(took)
        for end in made.ends:
            assert [event.kind for _, event in end.selected] == [R, D]
            assert end.selected[0][1].reason == "relay-ready"
            assert end.selected[1][1].reason == "check-succeeded"
    assert statistics.median(times) <= 0.4


@pytest.mark.parametrize("seed", range(8))
def test_silent_drop_duplicates_then_switches_then_heals(seed: int) -> None:
    """Relay among the routes within 350 ms, switched within 600 ms, direct within 3 s of healing; once each way."""
    made = running(seed=seed, phase_s=seed * 0.013)
    dropped_at = made.network.now
    doubled: dict[str, float] = {}
    for end in made.ends:
        end.on_routes = note_relay(doubled, end.role)
    heal = made.block_direct()
    made.run(4.0 + seed)
    assert all(at - dropped_at <= 0.35 for at in doubled.values())
    for end in made.ends:
        assert [change[0] for change in changes(end, dropped_at)] == [R]
        assert log(end)[-1].at - dropped_at <= 0.6
        assert longest_gap_s(end, dropped_at) <= 0.35
    heal()
    assert made.run_until(D, 3.0) is not None
    made.run(10.0)
    for end in made.ends:
        assert changes(end, dropped_at) == [(R, "check-missed"), (D, "direct-recovered")]
        assert not end.unknown


def test_both_routes_while_a_miss_is_not_yet_silence() -> None:
    """After the first miss packets travel both ways; an answer ends that."""
    made = running()
    heal = made.block_direct()
    while len(made.agent.paths.routes()) == 1:
        made.run(0.001)
    assert [route.kind for route in made.agent.paths.routes()] == [D, R]
    heal()
    made.run(0.3)
    assert [route.kind for route in made.agent.paths.routes()] == [D]


@pytest.mark.parametrize("blocked", ["agent", "connector"])
def test_one_direction_blocked_does_not_flap(blocked: str) -> None:
    """Checks need both directions: one switch to the relay on both sides, and one back."""
    made = running()
    at = made.network.now
    heal = made.block_direct(only_from=blocked)
    made.run(60.0)
    assert made.kinds == (R, R)
    assert [len(changes(end, at)) for end in made.ends] == [1, 1]
    heal()
    assert made.run_until(D, 3.0) is not None
    made.run(5.0)
    assert [len(changes(end, at)) for end in made.ends] == [2, 2]


@pytest.mark.parametrize(("loss", "seed"), [(0.05, 0), (0.1, 1), (0.2, 0), (0.2, 1), (0.2, 2)])
def test_random_loss_does_not_flap(loss: float, seed: int) -> None:
    """At most two switches in 60 s, and the relay's copies keep the gaps short."""
    made = running(seed=seed)
    at = made.network.now
    made.agent.host.link.loss = loss
    made.run(60.0)
    for end in made.ends:
        assert len(changes(end, at)) <= 2
        assert longest_gap_s(end, at) < 0.5


def test_relay_killed_while_direct_changes_nothing() -> None:
    """The direct path does not need the relay."""
    made = running()
    at = made.network.now
    made.relay.is_up = False
    made.run(60.0)
    for end in made.ends:
        assert changes(end, at) == []
        assert longest_gap_s(end, at) < 0.05


def test_neither_path_then_the_relay_comes_back() -> None:
    """The last path is kept while nothing answers, and the relay is used as soon as it does."""
    made = running()
    made.relay.is_up = False
    made.run(5.0)
    at = made.network.now
    made.block_direct()
    made.run(10.0)
    assert [route.kind for route in made.agent.paths.routes()] == [D, R]
    made.relay.is_up = True
    back = made.network.now
    made.run(5.0)
    assert made.kinds == (R, R)
    assert min(x for x in made.agent.received.values() if x > back) - back <= 2.5
    assert [len(changes(end, at)) for end in made.ends] == [1, 1]


def test_consent_expires_without_a_relay() -> None:
    """RFC 7675: 30 s without an answer, and nothing is sent to the peer any more."""
    made = running()
    for end in made.ends:
        end.paths.relay_lost("quota", made.network.now)
    at = made.network.now
    heal = made.block_direct()
    made.run(31.0)
    assert made.kinds == (N, N)
    assert made.agent.paths.routes() == ()
    assert changes(made.agent, at) == [(N, "consent-expired")]
    heal()
    assert made.run_until(D, 3.0) is not None


@pytest.mark.parametrize(("agent", "connector"), [("H", "H"), ("H", "P"), ("A", "H"), ("C", "H"), ("P", "O")])
def test_rebinding_every_5_s_survives(agent: str, connector: str) -> None:
    """New mapped ports are found, signalled and used; traffic pauses for less than 350 ms each time."""
    made, nats = with_nats(agent, connector)
    for _ in range(6):
        at = made.network.now
        if nats:
            nats[0].rebind()
        made.run(5.0)
        assert made.kinds == (D, D)
        for end in made.ends:
            assert longest_gap_s(end, at) <= 0.35


def test_rebinding_is_no_flapping() -> None:
    """A failure explained by a new mapping is forgiven: the way back stays short after many of them."""
    made, nats = with_nats()
    for _ in range(7):
        nats[0].rebind()
        made.run(5.0)
    at = made.network.now
    heal = made.block_direct()
    made.run(5.0)
    heal()
    assert made.run_until(D, 3.0) is not None
    assert [len(changes(end, at)) for end in made.ends] == [2, 2]


def test_a_failure_explained_by_rebinding_is_forgiven() -> None:
    """The next outage is judged as on a clean path: at the second miss, not after 320 ms of silence."""
    made, nats = with_nats()
    nats[0].rebind()
    made.run(5.0)
    assert (R, "check-missed") in changes(made.agent, 0.0)
    at = made.network.now
    made.block_direct()
    made.run(2.0)
    assert log(made.agent)[-1].to_kind is R
    assert log(made.agent)[-1].at - at < 0.4


def test_rebinding_on_the_relay_path_is_noticed_by_its_silence() -> None:
    """Packets leave and none comes back: the address is proved again at once, not at the next keepalive."""
    made, nats = with_nats("S", "S")
    made.run(10.0)
    assert made.kinds == (R, R)
    for _ in range(4):
        at = made.network.now
        nats[0].rebind()
        made.run(5.0)
        for end in made.ends:
            assert longest_gap_s(end, at) <= 0.5


@pytest.mark.parametrize("told", [True, False], ids=["netlink", "unnoticed"])
def test_uplink_change(told: bool) -> None:
    """Another network, another NAT: relay within 1 s, direct again within 3 s."""
    made, _ = with_nats()
    network, agent = made.network, made.agent
    other = network.nat(HOME, "203.0.113.77")
    at = network.now
    network.detach(agent.host, "192.168.1.10")
    network.attach(agent.host, "10.0.0.5", other.inner)
    if told:
        agent.later(0.05, network_change(agent))
    made.run(3.0)
    assert made.kinds == (D, D)
    for end in made.ends:
        assert longest_gap_s(end, at) <= 1.0
        assert len(changes(end, at)) <= 2


def test_network_change_on_the_same_addresses_costs_nothing() -> None:
    """A false alarm duplicates for a moment and switches nowhere."""
    made = running()
    at = made.network.now
    for end in made.ends:
        end.later(0.0, network_change(end))
    made.run(3.0)
    assert made.kinds == (D, D)
    assert [changes(end, at) for end in made.ends] == [[], []]


@pytest.mark.parametrize("down_s", [5.0, 30.0, 120.0])
def test_link_down_and_up(down_s: float) -> None:
    """Traffic flows within 2 s of the link's return, direct within 3 s."""
    made = running()
    made.agent.host.link.up = False
    made.run(down_s)
    made.agent.host.link.up = True
    up_at = made.network.now
    made.run(3.0)
    assert made.kinds == (D, D)
    for end in made.ends:
        assert min(at for at in end.received.values() if at > up_at) - up_at <= 2.0


def test_750_ms_one_way_is_no_outage() -> None:
    """Time-outs follow the round-trip time."""
    network = Network()
    hosts = [place(network, name, "H", n)[0] for n, name in ((1, "agent"), (2, "connector"))]
    for host in hosts:
        host.link.delay_s = 0.375
    made = make_session(network, *hosts)
    made.start()
    assert made.run_until(D, 4.0) is not None
    made.stream()
    at = network.now
    made.run(20.0)
    assert [changes(end, at) for end in made.ends] == [[], []]


@pytest.mark.parametrize("loss", [0.12, 0.25])
def test_direct_is_reached_under_loss(loss: float) -> None:
    """Checks are repeated: at 25 % loss on both links direct is reached within seconds."""
    for seed in range(5):
        network = Network(seed)
        hosts = [place(network, name, "H", n)[0] for n, name in ((1, "agent"), (2, "connector"))]
        for host in hosts:
            host.link.loss, host.link.duplicate, host.link.reorder = loss, 0.05, 0.25
        made = make_session(network, *hosts)
        made.start()
        assert made.run_until(D, 15.0) is not None


def test_idle_session_stays_direct_on_few_packets() -> None:
    """Consent every 5 s and keepalives every 20 to 25 s: under 2 packets per second of both sides together."""
    made = session("H", "H")
    made.run(10.0)
    before = made.network.sent
    made.run(300.0)
    assert made.kinds == (D, D)
    assert made.network.sent - before < 2 * 300
    asked = [at for at in made.agent.checks_at if at > 1010.0]
    assert len(asked) <= 300 / 4 + 300 / 20 + 2


def test_idle_relay_leg_is_kept_within_25_s() -> None:
    """The mapping towards the relay outlives 30 s NATs (S to S: no direct path, no checks that would help)."""
    made = session("S", "S")
    made.run(60.0)
    counts = [end.paths.stats.relay_bindings_answered for end in made.ends]
    made.run(100.0)
    for end, before in zip(made.ends, counts, strict=True):
        assert 4 <= end.paths.stats.relay_bindings_answered - before <= 6


def test_relay_comes_back_for_a_session_that_lives_on_it() -> None:
    """After a restart the relay has forgotten everything: the next proof makes it ready again."""
    made, _ = with_nats("S", "S")
    made.run(2.0)
    made.relay.is_up = False
    made.run(5.0)
    made.relay.restart()
    at = made.network.now
    made.run(3.0)
    for end in made.ends:
        assert min(x for x in end.received.values() if x > at) - at <= 3.0


def test_better_pair_is_taken_when_it_appears() -> None:
    """A host candidate that begins to work later replaces the reflexive one, on both sides."""
    network = Network()
    nat = network.nat(HOME, "203.0.113.1")
    lan = network.host("agent", ("192.168.1.10", nat.inner)), network.host("connector", ("192.168.1.11", nat.inner))
    for host in lan:
        network.attach(host, f"203.0.113.{150 + len(host.name)}", network.internet)
    made = make_session(network, *lan)
    made.start()
    assert made.run_until(D, 5.0) is not None
    made.run(5.0)
    routes = [end.paths.routes() for end in made.ends]
    assert routes[0][0].remote in {e for _, e in made.connector.hosts()}
    assert routes[1][0].remote in {e for _, e in made.agent.hosts()}

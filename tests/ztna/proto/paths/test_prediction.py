"""Ports nobody named: prediction, and the birthday search with its budgets."""

import random
from itertools import pairwise

from tests.ztna.proto.paths.worlds import session
from ztna.proto.paths.prediction import (
    BIRTHDAY_BUDGET_S,
    BIRTHDAY_INTERVAL_S,
    BIRTHDAY_PROBES,
    BIRTHDAY_SOCKETS,
    BirthdaySearch,
    PortPrediction,
    predicted_ports,
)
from ztna.proto.paths.session_paths import PathConfig, PathKind
from ztna.proto.paths.stun_types import Endpoint

MAPPED = Endpoint("203.0.113.1", 50000)


def test_predicted_ports_follow_and_wrap() -> None:
    """The next 16, from 65535 on to 1024."""
    assert [e.port for e in predicted_ports(MAPPED)] == list(range(50001, 50017))
    assert [e.port for e in predicted_ports(Endpoint("203.0.113.1", 65534), 3)] == [65535, 1024, 1025]


def test_prediction_is_bounded() -> None:
    """Four rounds per mapped address, four addresses, none twice in a row."""
    prediction = PortPrediction()
    sent = 0
    for run in range(10):
        prediction.start(Endpoint("203.0.113.1", 50000 + run), float(run))
        prediction.start(Endpoint("203.0.113.1", 50000 + run), float(run))
        while prediction.next_at is not None:
            sent += prediction.take(max(prediction.next_at, run)) is not None
    assert sent == 4 * 4 * 16


def test_prediction_waits_for_its_start_and_stops() -> None:
    """The common T0."""
    prediction = PortPrediction()
    prediction.start(MAPPED, 5.0)
    due = [prediction.next_at]
    taken = [prediction.take(4.9), prediction.take(5.0)]
    prediction.stop()
    due.append(prediction.next_at)
    taken.append(prediction.take(9.0))
    assert due == [5.0, None]
    assert taken == [None, Endpoint("203.0.113.1", 50001), None]


def test_without_prediction_a_sequential_peer_stays_relayed() -> None:
    """What makes H with Q direct is the prediction, and nothing else: without the peer's report there is none."""
    made = session("H", "Q")
    made.connector.nat_seen = None
    made.connector.signalling = True
    for end in made.ends:
        end.paths.peer_nat = lambda *args: None  # type: ignore[method-assign]
    made.run(10.0)
    assert made.kinds == (PathKind.RELAY, PathKind.RELAY)
    predicted = session("H", "Q")
    assert predicted.run_until(PathKind.DIRECT, 10.0) is not None
    assert predicted.agent.paths.stats.predicted_checks_sent > 0


def probe(search: BirthdaySearch, begin: float) -> list[tuple[float, int | None, Endpoint]]:
    """Everything a search sends, with its times."""
    sent: list[tuple[float, int | None, Endpoint]] = []
    now = begin
    while search.next_at is not None:
        now = max(now, search.next_at)
        found = search.take(now)
        if found is not None:
            sent.append((now, *found))
    return sent


def test_probing_side_has_a_budget() -> None:
    """2048 packets at 100 per second, 30 s, once."""
    search = BirthdaySearch(random.Random(1).randbytes)
    search.start(MAPPED, opens_sockets=False, now=10.0)
    sent = probe(search, 10.0)
    assert len(sent) == BIRTHDAY_PROBES
    assert all(b[0] - a[0] >= BIRTHDAY_INTERVAL_S * 0.99 for a, b in pairwise(sent))
    assert sent[-1][0] <= 10.0 + BIRTHDAY_BUDGET_S
    assert len({endpoint.port for _, _, endpoint in sent}) > BIRTHDAY_PROBES * 0.99
    assert all(endpoint.host == MAPPED.host and endpoint.port >= 1024 for _, _, endpoint in sent)
    search.start(MAPPED, opens_sockets=False, now=100.0)
    assert search.next_at is None


def test_time_budget_ends_a_slow_search() -> None:
    """Even with packets left."""
    search = BirthdaySearch(random.Random(1).randbytes)
    search.start(MAPPED, opens_sockets=False, now=10.0)
    assert search.take(10.0) is not None
    assert search.take(10.0 + BIRTHDAY_BUDGET_S) is None
    assert search.next_at is None


def test_opening_side_sends_twice_from_each_socket() -> None:
    """All of them once, then all again."""
    search = BirthdaySearch(random.Random(1).randbytes)
    search.start(MAPPED, opens_sockets=True, now=10.0)
    assert search.next_at is None
    search.add_sockets(list(range(2, 400)), 10.5)
    sent = probe(search, 10.5)
    usual = list(range(2, 2 + BIRTHDAY_SOCKETS))
    assert [local for _, local, _ in sent] == usual * 2
    assert {remote for _, _, remote in sent} == {MAPPED}


def test_birthday_is_off_by_default() -> None:
    """Nobody's NAT is strained without being asked."""
    made = session("H", "S")
    made.run(40.0)
    for end in made.ends:
        assert end.opened == 0
        assert end.paths.stats.birthday_checks_sent == 0


def test_failed_birthday_search_stops_for_good() -> None:
    """Two varying mappings: not even begun. One, but the other side does not take part: budget, then nothing."""
    both = session("S", "S", config=PathConfig(birthday=True))
    both.run(20.0)
    assert both.agent.opened == both.connector.opened == 0
    made = session("H", "S", config=PathConfig(birthday=True))
    made.block_direct()
    made.run(60.0)
    sent = [end.paths.stats.birthday_checks_sent for end in made.ends]
    assert sent[0] == BIRTHDAY_PROBES
    assert sent[1] == 2 * BIRTHDAY_SOCKETS
    assert len(made.connector.ports) == 2
    made.run(120.0)
    assert [end.paths.stats.birthday_checks_sent for end in made.ends] == sent

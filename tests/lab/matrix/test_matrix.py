"""The matrix with real agents, connectors and an intermediate: each pair of NATs ends with the path that it must.

What counts is where the packets went: the kernel's counters outside the NATs and the relay's own per session, while
200 echoes pass. `make test` runs a few pairs; `make test-lab` runs all 81 twice, and alone those that guess ports.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.matrix.cells import CELLS, Expected, cell_of, ordered_pairs
from tests.lab.matrix.classes import NatClass, Seat
from tests.lab.matrix.rig import CLOSED_S, Closed, Matrix, Observation, Run, write_results

pytestmark = pytest.mark.lab

RESULTS = Path(__file__).parents[3] / "build" / "reports" / "matrix"
RUNS = 2
Pair = tuple[NatClass, NatClass]
P, F, O, A, H, S, Q, C, U = NatClass  # noqa: E741 - the letters of the table

SAMPLE_AGENTS, SAMPLE_CONNECTORS = (H, S, U), (H, A)
SAMPLE = tuple((agent, connector) for agent in SAMPLE_AGENTS for connector in SAMPLE_CONNECTORS)


class Seen:
    """The runs of one lab, and what the ends without UDP said."""

    def __init__(self, runs: list[Run], closed: dict[Seat, Closed]) -> None:
        self.runs, self.closed = runs, closed

    def of(self, pair: Pair) -> list[Observation]:
        return [run[pair] for run in self.runs]


def check(seen: Seen, pair: Pair, *, alone: bool = False) -> None:
    """Hold every run of a pair against its cell; `alone`: nothing but the pair passes its NATs."""
    expected = cell_of(*pair).expected
    if expected is Expected.TCP_BLOCKED:
        check_closed(seen, pair)
        return
    for found in seen.of(pair):
        assert found.answered >= 0.99 * found.sent, found
        if expected is Expected.PREDICTED and not alone:
            # Among the other sessions of the matrix it is luck; the packets must go where the ends say all the same.
            (check_direct if found.path == "direct" else check_relayed)(found)
        elif expected is Expected.DIRECT or alone:
            check_direct(found)
        else:
            check_relayed(found)


def check_direct(found: Observation) -> None:
    assert (found.path, found.peer_path) == ("direct", "direct"), found
    assert found.direct_bytes >= found.payload_bytes, found
    assert found.relay_grown is not None
    assert found.relay_grown < 0.01 * found.payload_bytes, found
    assert found.via_relay_bytes < 0.01 * found.payload_bytes, found


def check_relayed(found: Observation) -> None:
    assert (found.path, found.peer_path) == ("relay", "relay"), found
    assert found.blocked_by is not None, found
    assert found.relay_grown is not None
    assert found.relay_grown >= found.payload_bytes, found
    # Each packet passes the public segment twice.
    assert found.via_relay_bytes >= 2 * found.payload_bytes, found
    assert found.direct_bytes < 0.01 * found.payload_bytes, found


def check_closed(seen: Seen, pair: Pair) -> None:
    agent, connector = Seat("agent", pair[0]), Seat("connector", pair[1])
    for seat in (agent, connector):
        if seat.nat is U:
            closed = seen.closed[seat]
            assert closed.blocked_by == "udp-blocked", closed
            assert closed.after_s <= CLOSED_S + 0.5, closed
            assert closed.answered == 0
    # Nobody reaches a connector that cannot dial out.
    assert all(pair not in run for run in seen.runs)


def observe(name: str, directory: Path, agents: tuple[NatClass, ...], connectors: tuple[NatClass, ...]) -> Seen:
    with Matrix(f"{name}-{os.getpid()}", directory, agents, connectors) as matrix:
        runs = [matrix.run() for _ in range(RUNS)]
        return Seen(runs, matrix.closed)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    directory = tmp_path_factory.mktemp("sample")
    with Matrix(f"sample-{os.getpid()}", directory, SAMPLE_AGENTS, SAMPLE_CONNECTORS) as matrix:
        yield Seen([matrix.run()], matrix.closed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    seen = observe("matrix", tmp_path_factory.mktemp("matrix"), tuple(NatClass), tuple(NatClass))
    write_results(seen.runs, RESULTS / "matrix.json")
    return seen


@pytest.mark.parametrize("pair", SAMPLE, ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.timeout(180)
def test_a_few_pairs(sample: Seen, pair: Pair) -> None:
    check(sample, pair)


@pytest.mark.matrix
@pytest.mark.parametrize("pair", ordered_pairs(), ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.timeout(600)
def test_every_pair(whole: Seen, pair: Pair) -> None:
    check(whole, pair)


def both_orders(expected: Expected) -> tuple[Pair, ...]:
    """The pairs of such cells, each role on each side."""
    cells = [cell for cell in CELLS if cell.expected is expected]
    return tuple(pair for cell in cells for pair in ((cell.first, cell.second), (cell.second, cell.first)))


def observe_alone(pair: Pair, directory: Path, **config: bool) -> Seen:
    """A lab for one pair: in a common one, other sessions take the ports that this one is about to guess."""
    with Matrix(f"alone-{os.getpid()}", directory, pair[:1], pair[1:], config=config) as matrix:
        return Seen([matrix.run()], matrix.closed)


@pytest.mark.matrix
@pytest.mark.parametrize("pair", both_orders(Expected.PREDICTED), ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.timeout(180)
def test_ports_in_sequence_are_predicted(pair: Pair, tmp_path: Path) -> None:
    check(observe_alone(pair, tmp_path), pair, alone=True)


@pytest.mark.matrix
@pytest.mark.parametrize("pair", both_orders(Expected.BIRTHDAY), ids=lambda pair: f"{pair[0]}-{pair[1]}")
@pytest.mark.timeout(180)
def test_many_sockets_find_a_random_port(pair: Pair, tmp_path: Path) -> None:
    check(observe_alone(pair, tmp_path, birthday=True), pair, alone=True)

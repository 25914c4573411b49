"""The lab itself: each class of NAT behaves as its definition, shown by a hole puncher that knows no overlay.

A pair that the matrix calls direct must be punched, and every other pair must fail: where nothing must fail, a passing
matrix proves nothing.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from infra.lab.nat import Mapping, PortAllocation
from infra.lab.runtime import Lab
from tests.lab.matrix import punch
from tests.lab.matrix.cells import CELLS, Expected, cell_of, ordered_pairs
from tests.lab.matrix.classes import LEVELS, RELAY, RELAY_ADDRESS, RELAY_ALTERNATE, NatClass, Seat, matrix_topology
from tests.lab.matrix.witness import Reading, Witness

pytestmark = pytest.mark.lab

STUN = ((RELAY_ADDRESS, 3478), (RELAY_ADDRESS, 3479), (RELAY_ALTERNATE, 3478))
PUNCH_S = 2.0
SCRIPT = Path(punch.__file__)
Remotes = dict[str, list[tuple[str, int]]]


class Prober:
    """The puncher in one host."""

    def __init__(self, prefix: Sequence[str]) -> None:
        argv = [*prefix, sys.executable, "-ISs", str(SCRIPT), "peer"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("", timeout=5)

    def ask(self, **command: Any) -> Any:
        """One command and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Punches:
    """Every pair of classes punched at once, both roles, and what the public segment saw of it."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.agents = [Seat("agent", nat) for nat in NatClass]
        self.connectors = [Seat("connector", nat) for nat in NatClass]
        seats = [*self.agents, *self.connectors]
        lab.realise(matrix_topology(seats))
        argv = [sys.executable, "-ISs", str(SCRIPT), "stun", *(f"{host}:{port}" for host, port in STUN)]
        lab.spawn(RELAY, "stun", argv)
        witness = Witness(lab)
        probers = {seat: stack.enter_context(Prober(lab.exec_prefix(seat.host))) for seat in seats}
        self.mapped: dict[tuple[Seat, Seat], list[tuple[str, int] | None]] = {}
        ports: dict[tuple[Seat, Seat], int] = {}
        with ThreadPoolExecutor(len(seats)) as pool:
            opened = pool.map(lambda seat: self._open(seat, probers[seat]), seats)
            for seat, answers in zip(seats, opened, strict=True):
                for peer, answer in answers.items():
                    self.mapped[seat, peer] = [None if at is None else (at[0], at[1]) for at in answer["mapped"]]
                    ports[seat, peer] = answer["port"]

            def candidates(peer: Seat, seat: Seat) -> list[tuple[str, int]]:
                mapped = self.mapped[peer, seat][0]
                return [(peer.address, ports[peer, seat]), *([mapped] if mapped else [])]

            def run(seat: Seat) -> dict[str, Any]:
                remotes: Remotes = {pair_name(seat, peer): candidates(peer, seat) for peer in self.peers(seat)}
                found: dict[str, Any] = probers[seat].ask(do="punch", remotes=remotes, seconds=PUNCH_S)
                return found

            answers = dict(zip(seats, pool.map(run, seats), strict=True))
        self.answered = {
            (seat, peer): answers[seat][pair_name(seat, peer)] for seat in seats for peer in self.peers(seat)
        }
        self.seen: Reading = witness.read()

    def peers(self, seat: Seat) -> list[Seat]:
        return self.connectors if seat.side == "agent" else self.agents

    def _open(self, seat: Seat, prober: Prober) -> dict[Seat, dict[str, Any]]:
        # The blocked class would wait for every answer that does not come; one server tells as much.
        stun = STUN[:1] if seat.nat is NatClass.UDP_BLOCKED else STUN
        return {peer: prober.ask(do="open", name=pair_name(seat, peer), stun=stun) for peer in self.peers(seat)}


def pair_name(one: Seat, other: Seat) -> str:
    """The same for both ends."""
    agent, connector = (one, other) if one.side == "agent" else (other, one)
    return f"{agent.nat}-{connector.nat}"


@pytest.fixture(scope="module")
def punches() -> Iterator[Punches]:
    with Lab(f"test-punch-{os.getpid()}") as lab, ExitStack() as stack:
        yield Punches(lab, stack)


@pytest.mark.parametrize(("agent", "connector"), ordered_pairs(), ids=lambda nat: nat.value)
def test_a_pair_can_be_punched_exactly_where_the_matrix_says_direct(
    punches: Punches, agent: NatClass, connector: NatClass
) -> None:
    here, there = Seat("agent", agent), Seat("connector", connector)
    expected = cell_of(agent, connector).expected
    both = (punches.answered[here, there], punches.answered[there, here])
    assert all(both) is (expected is Expected.DIRECT), both
    # The answers came to each from the other's own public address, and crossed the public segment.
    if expected is Expected.DIRECT:
        assert (both[0][0], both[1][0]) == (there.outside, here.outside)
        assert punches.seen.between(here.outside, there.outside) > 0


@pytest.mark.parametrize("side", ["agent", "connector"])
@pytest.mark.parametrize("nat", NatClass)
def test_a_class_maps_as_it_says(punches: Punches, nat: NatClass, side: str) -> None:
    seat = Seat("agent" if side == "agent" else "connector", nat)
    for peer in punches.peers(seat):
        mapped = punches.mapped[seat, peer]
        if nat is NatClass.UDP_BLOCKED:
            assert mapped == [None]
            continue
        assert {at[0] for at in mapped if at} == {seat.outside}
        ports = [at[1] for at in mapped if at]
        assert len(ports) == len(STUN)
        levels = LEVELS[nat]
        independent = all(level.mapping is Mapping.ENDPOINT_INDEPENDENT for level in levels)
        assert len(set(ports)) == (1 if independent else len(STUN))
        if levels and levels[-1].port_allocation is PortAllocation.SEQUENTIAL:
            assert ports == list(range(ports[0], ports[0] + len(ports)))
        elif not independent:
            assert any(after - before != 1 for before, after in itertools.pairwise(ports))


def test_the_matrix_has_each_pair_once() -> None:
    assert len(CELLS) == 45
    assert {frozenset((cell.first, cell.second)) for cell in CELLS} == {frozenset(pair) for pair in ordered_pairs()}


def test_nothing_of_the_blocked_class_reaches_the_world(punches: Punches) -> None:
    blocked = {seat.outside for seat in (*punches.agents, *punches.connectors) if seat.nat is NatClass.UDP_BLOCKED}
    assert not {flow.source for flow in punches.seen.bytes_by_flow} & blocked

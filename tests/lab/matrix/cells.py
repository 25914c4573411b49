"""The matrix: which path two classes of NAT end up with. One table, and everything else here is derived from it.

A cell holds for both roles: agent behind the first class and connector behind the second, and the other way round.
Cells believed impossible stand here with what is expected of them, so that an improvement shows as a failing test.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.lab.matrix.classes import NatClass


class Expected(StrEnum):
    """How a pair of NATs ends.

    PREDICTED: direct where nothing else takes ports of the NAT that allots them in sequence, else relay.
    BIRTHDAY: relay, and direct with many sockets and probes (`birthday`), which is off unless asked for.
    TCP_BLOCKED: no UDP gets out, so it fails closed within 10 s and says `udp-blocked`.
    """

    DIRECT = "direct"
    RELAY = "relay"
    PREDICTED = "predicted"
    BIRTHDAY = "birthday"
    TCP_BLOCKED = "tcp-blocked"


@dataclass(frozen=True, slots=True)
class Cell:
    """Two classes, the path, and why where that is not plain from RFC 4787."""

    first: NatClass
    second: NatClass
    expected: Expected
    why: str = ""


_TABLE: Final = """
P P direct       both are reached where they are
P F direct
P O direct
P A direct
P H direct
P S direct       the far port is learnt from the packet (peer-reflexive candidate)
P Q direct       likewise
P C direct
P U tcp-blocked
F F direct       both filters open by their own checks
F O direct
F A direct
F H direct
F S birthday     the filter wants a port that nobody can tell beforehand
F Q predicted    the port follows the last one seen
F C direct
F U tcp-blocked
O O direct
O A direct
O H direct
O S direct       the full cone lets any port in
O Q direct
O C direct
O U tcp-blocked
A A direct
A H direct
A S direct       the filter looks at the address alone, and the symmetric side keeps one
A Q direct       likewise
A C direct
A U tcp-blocked
H H direct       the usual case: two homes
H S birthday
H Q predicted
H C direct
H U tcp-blocked
S S relay        two unknown ports
S Q relay
S C birthday
S U tcp-blocked
Q Q relay        each guess moves the other's next port
Q C predicted
Q U tcp-blocked
C C direct       two carriers; one carrier for both is among the extras
C U tcp-blocked
U U tcp-blocked
"""


def _parse(line: str) -> Cell:
    first, second, expected, *why = line.split(maxsplit=3)
    return Cell(NatClass(first), NatClass(second), Expected(expected), " ".join(why))


CELLS: Final = tuple(_parse(line) for line in _TABLE.strip().splitlines())
"""45 pairs."""


def cell_of(agent: NatClass, connector: NatClass) -> Cell:
    """The cell of an ordered pair; both orders give the same."""
    return next(cell for cell in CELLS if {cell.first, cell.second} == {agent, connector})


def ordered_pairs() -> tuple[tuple[NatClass, NatClass], ...]:
    """(agent's class, connector's class) of all 81 sessions of the matrix."""
    return tuple((agent, connector) for agent in NatClass for connector in NatClass)

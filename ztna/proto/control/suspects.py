"""Connectors that an agent hears nothing of: are they there? Decided from what they acknowledge, and nothing else.

Flow: an agent reports silence -> ASKED: a PING at once and again every 70 ms -> nothing acknowledged for `doubt_s`:
DOUBTED, who can be replaced is -> nothing for `absent_s`: ABSENT -> PINGs go on, once a second, until one is answered
or the connection times out. An answer ends it at any time, and for `calm_s` after that nobody's report counts.

So no report can harm a connector that answers, and whatever is reported costs a healthy one a PING per `calm_s`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ztna.proto.commands import ConnId
from ztna.proto.control.stats import ControlServerStats
from ztna.proto.limits import ControlLimits
from ztna.proto.registry import Peer

__all__ = ["Packets", "Stage", "Suspects"]

ASK_EVERY_S: Final = 0.07
"""Five PINGs before doubt: each way 20 % of all packets may be lost, and one in 150 connectors is doubted in vain."""
DOUBTED_EVERY_S: Final = 0.2
ABSENT_EVERY_S: Final = 1.0
LOOK_EVERY_S: Final = 0.25
DOUBT_RTTS: Final = 5
ABSENT_RTTS: Final = 10

Packets = tuple[int, int]
"""Of one connection: the number of the next packet sent, and the largest number acknowledged."""


class Stage(Enum):
    """How far a suspicion has come."""

    ASKED = "asked"
    DOUBTED = "doubted"
    ABSENT = "absent"
    CALM = "calm"


@dataclass(slots=True)
class _Case:
    """One connector. `mark` is the number of the packet that bears the first PING, or of a later one."""

    peer: Peer
    stage: Stage
    mark: int
    doubt_at: float
    absent_at: float
    ping_at: float
    due: float


class Suspects:
    """All suspicions, at most one per connection.

    Args:
        ping: sends a PING on a connection.
        packets: see `Packets`; None for a connection that is gone.
        rtt_s: smoothed round-trip time of a connection, None before it is known.
        changed: a connector is DOUBTED or ABSENT now; or CALM: it is back, and was one of these before.
    """

    def __init__(
        self,
        limits: ControlLimits,
        stats: ControlServerStats,
        *,
        ping: Callable[[ConnId], None],
        packets: Callable[[ConnId], Packets | None],
        rtt_s: Callable[[ConnId], float | None],
        changed: Callable[[Peer, Stage, float], None],
    ) -> None:
        self._limits = limits
        self._stats = stats
        self._ping = ping
        self._packets = packets
        self._rtt_s = rtt_s
        self._changed = changed
        self._cases: dict[ConnId, _Case] = {}

    def __len__(self) -> int:
        return len(self._cases)

    def stage(self, peer: Peer) -> Stage | None:
        """How far the suspicion of a connector has come, None where there is none."""
        case = self._cases.get(peer.conn)
        return None if case is None else case.stage

    def ask(self, peer: Peer, now: float) -> None:
        """Somebody hears nothing of a connector."""
        packets = self._packets(peer.conn)
        if peer.conn in self._cases or packets is None:
            return
        self._stats.connectors_asked += 1
        rtt_s = self._rtt_s(peer.conn) or 0.0
        doubt_at = now + max(self._limits.doubt_s, DOUBT_RTTS * rtt_s)
        absent_at = max(doubt_at, now + max(self._limits.absent_s, ABSENT_RTTS * rtt_s))
        case = _Case(peer, Stage.ASKED, packets[0], doubt_at, absent_at, now, now)
        self._cases[peer.conn] = case
        self._step(case, now)

    def heard(self, peer: Peer, now: float) -> None:
        """A connector said something: that is an answer, too."""
        case = self._cases.get(peer.conn)
        if case is not None and case.stage is not Stage.CALM:
            self._answered(case, now)

    def forget(self, peer: Peer) -> None:
        """The connection is gone."""
        self._cases.pop(peer.conn, None)

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due."""
        return min((case.due for case in self._cases.values()), default=None)

    def handle_timer(self, now: float) -> None:
        """Look for answers, ask again, and draw the consequences."""
        for case in [case for case in self._cases.values() if case.due <= now]:
            self._step(case, now)

    def _step(self, case: _Case, now: float) -> None:
        packets = None if case.stage is Stage.CALM else self._packets(case.peer.conn)
        if packets is None:
            del self._cases[case.peer.conn]
        elif packets[1] >= case.mark:
            self._answered(case, now)
        else:
            self._unanswered(case, now)

    def _answered(self, case: _Case, now: float) -> None:
        before, case.stage, case.due = case.stage, Stage.CALM, now + self._limits.calm_s
        if before is not Stage.ASKED:
            self._stats.connectors_back += 1
            self._changed(case.peer, Stage.CALM, now)

    def _unanswered(self, case: _Case, now: float) -> None:
        if case.stage is Stage.ASKED and now >= case.doubt_at:
            case.stage = Stage.DOUBTED
            self._stats.connectors_doubted += 1
            self._changed(case.peer, Stage.DOUBTED, now)
        if case.stage is Stage.DOUBTED and now >= case.absent_at:
            case.stage = Stage.ABSENT
            self._stats.connectors_absent += 1
            self._changed(case.peer, Stage.ABSENT, now)
        if now >= case.ping_at:
            case.ping_at = now + _EVERY_S[case.stage]
            self._ping(case.peer.conn)
        ends = {Stage.ASKED: case.doubt_at, Stage.DOUBTED: case.absent_at}
        case.due = min(case.ping_at, ends.get(case.stage, case.ping_at), now + LOOK_EVERY_S)


_EVERY_S: Final = {Stage.ASKED: ASK_EVERY_S, Stage.DOUBTED: DOUBTED_EVERY_S, Stage.ABSENT: ABSENT_EVERY_S}

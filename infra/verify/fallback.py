"""A direct path is cut while traffic flows, and mended: when did packets go by the relay, and when direct again?

before | cut: packets between the two ends are dropped outside their NATs | mended | after

One echo after another tells what users feel; the agent's own record of its switches tells the path.
"""

import itertools
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from infra import ports
from infra.outputs import ServiceOutput
from infra.verify.capture import nat_place
from infra.verify.context import Context, Json, VerifyError, wait_until
from infra.verify.held import Held
from infra.verify.places import status_page
from infra.verify.sessions import (
    DIRECT,
    NONE,
    RELAY,
    SessionRecord,
    Switch,
    find_session,
    host_of,
    read_relay,
    read_sessions,
)
from infra.verify.stats import median

BEFORE_S: Final = 3.0
CUT_S: Final = 6.0
AFTER_S: Final = 10.0
INTERVAL_MS: Final = 20.0
_SETTLE_S: Final = 15.0
_HELD_LIMIT_S: Final = 120.0
_TABLE: Final = "inet ztna_cut"

Sample = tuple[float, float | None]
"""Unix seconds of sending, RTT in ms or None for no answer."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of the course: echoes sent and answered, and their median RTT in ms (nan without any)."""

    name: str
    sent: int
    answered: int
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Course:
    """What happened. Times are seconds after the cut or the mending; None where it did not come.

    Attributes:
        started: Unix seconds of the first echo; `cut` and `mended` are relative to it.
        outage_s: longest spell without an answer around the cut.
        to_relay_s: from the cut until the agent's record said relay.
        to_direct_s: from the mending until it said direct.
        paths: (seconds, path) at each change of the record, the first at 0.
    """

    started: float
    cut: float
    mended: float
    samples: tuple[Sample, ...]
    paths: tuple[tuple[float, str], ...]
    phases: tuple[Phase, ...]
    outage_s: float
    to_relay_s: float | None
    to_direct_s: float | None

    @property
    def succeeded(self) -> bool:
        """Whether it fell back and came back."""
        return self.to_relay_s is not None and self.to_direct_s is not None

    def path_at(self, seconds: float) -> str:
        """The path in the record at a time."""
        index = bisect_right([at for at, _ in self.paths], seconds) - 1
        return self.paths[max(index, 0)][1] if self.paths else NONE

    def to_json(self) -> Json:
        """Plain JSON values, samples included."""
        return {
            "succeeded": self.succeeded, "started": self.started, "cut_s": self.cut, "mended_s": self.mended,
            "outage_s": self.outage_s, "to_relay_s": self.to_relay_s, "to_direct_s": self.to_direct_s,
            "phases": [
                {"name": phase.name, "sent": phase.sent, "answered": phase.answered,
                 "rtt_ms": None if phase.rtt_ms != phase.rtt_ms else round(phase.rtt_ms, 3)}
                for phase in self.phases
            ],
            "paths": [list(entry) for entry in self.paths],
            "samples": [[round(at, 4), rtt] for at, rtt in self.samples],
        }  # fmt: skip


def analyse(samples: Sequence[Sample], switches: Sequence[Switch], cut: float, mended: float) -> Course:
    """Make the course of what was measured. All times in are Unix seconds, in order; the path at first is direct."""
    started = samples[0][0] if samples else cut
    paths = [(0.0, DIRECT), *((switch.at - started, switch.new) for switch in switches if switch.at >= started)]
    relative = [(at - started, rtt) for at, rtt in samples]
    cut, mended = cut - started, mended - started
    to_relay = next((at - cut for at, path in paths if cut <= at < mended and path == RELAY), None)
    # Only what follows a fallback is a return.
    to_direct = next((at - mended for at, path in paths if at >= mended and path == DIRECT), None)
    bounds = (("direct", 0.0, cut), ("cut", cut, mended), ("mended", mended, float("inf")))
    return Course(
        started=started, cut=cut, mended=mended, samples=tuple(relative), paths=tuple(paths),
        phases=tuple(_phase(name, relative, low, high) for name, low, high in bounds),
        outage_s=_outage(relative, cut, mended), to_relay_s=to_relay,
        to_direct_s=to_direct if to_relay is not None else None,
    )  # fmt: skip


def _phase(name: str, samples: Sequence[Sample], low: float, high: float) -> Phase:
    inside = [rtt for at, rtt in samples if low <= at < high]
    answered = [rtt for rtt in inside if rtt is not None]
    return Phase(name, len(inside), len(answered), median(answered))


def _outage(samples: Sequence[Sample], cut: float, mended: float) -> float:
    """The longest time between two answered echoes of which at least one was sent during the cut."""
    answered = [at for at, rtt in samples if rtt is not None]
    spans = [after - before for before, after in itertools.pairwise(answered) if after >= cut and before < mended]
    return round(max(spans, default=mended - cut), 3)


@dataclass(frozen=True, slots=True)
class Cutter:
    """Where packets between the two ends are dropped: outside each NAT that the stack gives access to."""

    context: Context
    service: ServiceOutput

    def session(self) -> SessionRecord | None:
        """The agent's record of the session."""
        page = status_page(self.context, self.context.agent_place)
        return find_session(read_sessions(page), self.service.id, self.context.connector.name)

    def path(self) -> str:
        """The path in that record; `none` when there is none."""
        found = self.session()
        return found.path if found is not None else NONE

    def cuts(self) -> list[Held]:
        """The changes that cut the direct path, one per NAT.

        Raises:
            VerifyError: the stack gives access to no NAT, or the ends' public addresses are unknown.
        """
        here, there = self.context.agent_place, self.context.connector_place
        addresses = self._addresses()
        found = []
        for place, other in ((here, "connector"), (there, "agent")):
            nat = nat_place(self.context.outputs, place)
            if nat is not None and addresses.get(other):
                found.append(_cut(self.context, nat, addresses[other]))
        if not found:
            raise VerifyError("the stack gives access to no NAT where the direct path could be cut")
        return found

    def _addresses(self) -> dict[str, str]:
        """The public address of each end: its NAT's, or as the relay sees it."""
        found: dict[str, str] = {}
        session = self.session()
        relay = read_relay(status_page(self.context, self.context.relay_place))
        carried = relay.session(session.session) if relay is not None and session is not None else None
        for side, place in (("agent", self.context.agent_place), ("connector", self.context.connector_place)):
            nat = self.context.place(place).nat
            address = nat.public_address if nat is not None else host_of(getattr(carried, f"{side}_address", None))
            if address:
                found[side] = address
        return found


def _cut(context: Context, nat: str, address: str) -> Held:
    """Drop UDP with an address in a NAT's forwarding: what goes to the relay passes."""
    family = "ip6" if ":" in address else "ip"
    rules = "; ".join(
        (
            f"add table {_TABLE}",
            f"add chain {_TABLE} direct {{ type filter hook forward priority -5; }}",
            f"add rule {_TABLE} direct {family} saddr {address} meta l4proto udp counter drop",
            f"add rule {_TABLE} direct {family} daddr {address} meta l4proto udp counter drop",
        )
    )
    return Held(
        f"the cut at {nat}",
        context.place(nat).exec,
        ("nft", rules),
        ("nft", f"add table {_TABLE}; delete table {_TABLE}"),
        limit_s=_HELD_LIMIT_S,
    )


def run_fallback(
    context: Context, service: ServiceOutput, *, on_step: Callable[[str], None] = lambda _: None
) -> Course:
    """Cut the direct path of a session for a while and watch. Mended however this ends.

    Raises:
        VerifyError: there is no direct path to cut, or no place to cut it at.
    """
    echoes = any((port.protocol, port.port) == ("udp", ports.ECHO) for port in service.ports)
    target = context.target(service, "udp", ports.ECHO) if echoes else None
    if target is None:
        raise VerifyError(f"{service.id} has no echo on UDP port {ports.ECHO} that the agent reaches")
    cutter = Cutter(context, service)
    on_step("waiting for a direct path")
    _settle(context, cutter, target)
    seconds = BEFORE_S + CUT_S + AFTER_S
    trace = context.start_probe(
        context.agent_place, "udp-trace", "--target", target, "--interval-ms", INTERVAL_MS, "--seconds", seconds
    )
    try:
        time.sleep(BEFORE_S)
        with ExitStack() as stack:
            on_step("the direct path is cut")
            # Whichever NAT drops first cuts it whole; the last one that passes again mends it.
            cut_at = min(stack.enter_context(cut).since for cut in cutter.cuts())
            time.sleep(CUT_S)
        mended_at = time.time()
        on_step("the direct path is mended")
        measured: Json = trace.result(seconds + 30)
    finally:
        trace.stop()
    samples = [(float(at), None if rtt is None else float(rtt)) for at, rtt in measured["samples"]]
    session = cutter.session()
    return analyse(samples, session.switch_log if session is not None else (), cut_at, mended_at)


def _settle(context: Context, cutter: Cutter, target: str) -> None:
    def direct() -> bool:
        context.probe(context.agent_place, "udp-echo", "--target", target, "--sizes", 64, "--count", 3)
        return cutter.path() == DIRECT

    if wait_until(direct, _SETTLE_S) is None:
        raise VerifyError(
            f"there is no direct path to cut: the agent says {cutter.path()!r}; `ztna why {context.agent.name} "
            f"{cutter.service.id}` says why"
        )

"""Real agents and connectors of every class, all sessions of the matrix in one lab, and what was seen of each."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from infra.lab.topology import Impairment
from infra.verify.sessions import DIRECT, RELAY, RelaySession, SessionRecord, host_of, port_of
from tests.lab.matrix.cells import Expected, cell_of
from tests.lab.matrix.classes import RELAY_ADDRESS, RELAY_ALTERNATE, NatClass, Seat, matrix_topology
from tests.lab.matrix.witness import Reading, Witness
from tests.support.session_bed import SessionBed, SessionBedSpec, service_of, until

ECHOES: Final = 200
ECHO_BYTES: Final = 1000
SETTLE_S: Final = 15.0
"""A cell that is to be direct must be by then."""

ALONE_S: Final = 35.0
"""The same where ports are guessed, which has a budget of 30 s."""

HOLD_S: Final = 10.0
"""A cell that is to be relayed must still be after so long."""

MEASURES: Final = 3
"""At most so many bursts of echoes for a pair."""

CLOSED_S: Final = 10.0
"""Without UDP, an agent must say so within this time."""

NO_DELAY: Final = Impairment()


@dataclass(frozen=True, slots=True)
class Observation:
    """One session of one run.

    Attributes:
        path, peer_path: by the records of agent and connector.
        reason, blocked_by: why, in the agent's words.
        to_direct_s: from the agent's first path to its first direct one; None if it never was.
        rtt_ms: median of the echoes.
        sent, answered: echoes through the service.
        relay_grown: bytes that the relay carried for this session meanwhile, by its own counter.
        direct_bytes: bytes between the two public addresses meanwhile, by the kernel outside the NATs.
        via_relay_bytes: bytes between the session's ports and the relay meanwhile, likewise.
    """

    path: str
    peer_path: str
    reason: str
    blocked_by: str | None
    to_direct_s: float | None
    rtt_ms: float | None
    sent: int
    answered: int
    relay_grown: int | None
    direct_bytes: int
    via_relay_bytes: int

    @property
    def mixed(self) -> bool:
        """Whether more than keepalives went by the relay although the path is direct, or the ends differ."""
        quiet = (self.relay_grown or 0) < 0.01 * self.payload_bytes and self.via_relay_bytes < 0.01 * self.payload_bytes
        return self.path != self.peer_path or self.answered < self.sent or (self.path == DIRECT and not quiet)

    @property
    def payload_bytes(self) -> int:
        """What was echoed, both ways."""
        return 2 * ECHO_BYTES * self.answered


@dataclass(frozen=True, slots=True)
class Closed:
    """An end without UDP: what it said after how long, and whether anything got through."""

    blocked_by: str | None
    text: str
    after_s: float
    answered: int


Run = dict[tuple[NatClass, NatClass], Observation]


class Matrix:
    """The bed and its witness; a context manager."""

    def __init__(
        self,
        name: str,
        directory: Path,
        agents: Sequence[NatClass],
        connectors: Sequence[NatClass],
        *,
        leg: Impairment = NO_DELAY,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.agents = [Seat("agent", nat) for nat in agents]
        self.connectors = [Seat("connector", nat) for nat in connectors]
        keys = dict(config or {})
        topology = matrix_topology([*self.agents, *self.connectors], leg)
        hosts = [tuple(seat.host for seat in seats) for seats in (self.agents, self.connectors)]
        spec = SessionBedSpec(
            topology, hosts[0], hosts[1], RELAY_ADDRESS, RELAY_ALTERNATE, agent_config=keys, connector_config=keys
        )
        self.bed = SessionBed(name, directory, spec)
        self.closed: dict[Seat, Closed] = {}

    def __enter__(self) -> "Matrix":
        self.bed.__enter__()
        try:
            self.witness = Witness(self.bed.lab)
            with self._watching_closed(self.connectors):
                self.bed.start_all([seat.host for seat in self.connectors if seat.nat is not NatClass.UDP_BLOCKED])
        except BaseException:
            self.bed.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.bed.__exit__(*error)

    @property
    def usable(self) -> tuple[list[Seat], list[Seat]]:
        """Agents and connectors that get UDP out."""
        agents, connectors = (
            [seat for seat in seats if seat.nat is not NatClass.UDP_BLOCKED] for seats in (self.agents, self.connectors)
        )
        return agents, connectors

    def run(self) -> Run:
        """Start all agents, let each pair settle, and see what its packets do. The agents are stopped after it."""
        agents, connectors = self.usable
        with self._watching_closed(self.agents):
            for seat in agents:  # one after another: two cores cannot hurry them all
                self.bed.start_all([seat.host])
                self._first_packets(seat)
            started = time.monotonic()
            wanted = {seat: [peer.host for peer in connectors if self._awaits_direct(seat, peer)] for seat in agents}
            with ThreadPoolExecutor(len(self.agents)) as pool:
                list(pool.map(lambda seat: self._settle(seat, wanted[seat]), agents))
            time.sleep(max(0.0, started + HOLD_S - time.monotonic()))
        found: Run = {}
        for seat in agents:
            found |= {(seat.nat, peer.nat): seen for peer, seen in self._judged(seat, connectors).items()}
        for seat in self.agents:
            self.bed.stop(seat.host)
        return found

    def _judged(self, seat: Seat, connectors: Sequence[Seat]) -> dict[Seat, Observation]:
        """Measure, and again where packets took both paths: a moment of a busy machine makes the ends duplicate."""
        found: dict[Seat, Observation] = {}
        for _ in range(MEASURES):
            mixed = [peer for peer in connectors if peer not in found or found[peer].mixed]
            if not mixed:
                break
            found |= self._measure(seat, mixed)
        return found

    def _awaits_direct(self, seat: Seat, peer: Seat) -> bool:
        """Whether to wait for a direct path: where it must come, and for guessed ports where nothing disturbs."""
        expected = cell_of(seat.nat, peer.nat).expected
        alone = len(self.agents) == len(self.connectors) == 1
        return expected is Expected.DIRECT or (alone and expected in (Expected.PREDICTED, Expected.BIRTHDAY))

    @contextlib.contextmanager
    def _watching_closed(self, seats: Sequence[Seat]) -> Iterator[None]:
        """Start those of the seats that get no UDP out, and hear what they say, while the block does other things."""
        blocked = [seat for seat in seats if seat.nat is NatClass.UDP_BLOCKED]
        with ThreadPoolExecutor(1) as pool:
            heard = [pool.submit(self._closed, seat) for seat in blocked]
            yield
        self.closed |= {seat: future.result() for seat, future in zip(blocked, heard, strict=True)}

    def _first_packets(self, seat: Seat) -> None:
        """A packet to each service makes its session."""
        services = [service_of(peer.host) for peer in self.connectors]
        self.bed.echoes(seat.host, services, count=2, wait_s=0.3)

    def _settle(self, seat: Seat, peers: Sequence[str]) -> None:
        def direct() -> bool:
            sessions = self.bed.sessions(seat.host)
            return all(peer in sessions and sessions[peer].path == DIRECT for peer in peers)

        until(direct, SETTLE_S if len(self.agents) > 1 else ALONE_S, 0.2)

    def _measure(self, seat: Seat, connectors: Sequence[Seat]) -> dict[Seat, Observation]:
        services = [service_of(peer.host) for peer in connectors]
        before, relayed = self.witness.read(), self._relayed()
        echoed = self.bed.echoes(seat.host, services, count=ECHOES, size=ECHO_BYTES, wait_s=2.0, window=1)
        after, grown = self.witness.read().since(before), self._relayed()
        sessions = self.bed.sessions(seat.host)
        with ThreadPoolExecutor(len(connectors)) as pool:
            theirs = list(pool.map(lambda peer: self.bed.session(peer.host, seat.host), connectors))
        found = {}
        for peer, there in zip(connectors, theirs, strict=True):
            here = sessions.get(peer.host)
            key = here.session if here is not None else ""
            one, other = relayed.get(key), grown.get(key)
            found[peer] = Observation(
                path=here.path if here is not None else "no session",
                peer_path=there.path if there is not None else "no session",
                reason=here.reason if here is not None else "",
                blocked_by=here.blocked_by if here is not None else None,
                to_direct_s=time_to_direct(here),
                rtt_ms=_median(echoed[service_of(peer.host)]["rtt_ms"]),
                sent=echoed[service_of(peer.host)]["sent"],
                answered=echoed[service_of(peer.host)]["answered"],
                relay_grown=None if one is None or other is None else other.bytes - one.bytes,
                direct_bytes=after.between(seat.outside, peer.outside),
                via_relay_bytes=_by_relay(after, other),
            )
        return found

    def _relayed(self) -> dict[str, RelaySession]:
        return {session.session: session for session in self.bed.relay_state().sessions}

    def _closed(self, seat: Seat) -> Closed:
        page: dict[str, Any] = {}

        def named() -> bool:
            nonlocal page
            page = self.bed.status(seat.host)
            return page.get("blocked_by") is not None

        self.bed.start(seat.host)
        until(lambda: self.bed.status(seat.host), CLOSED_S)
        began = time.monotonic()
        until(named, CLOSED_S)
        after_s = time.monotonic() - began
        answered = 0
        if seat.side == "agent":
            services = [service_of(peer.host) for peer in self.connectors]
            echoed = self.bed.echoes(seat.host, services, count=3, wait_s=0.5)
            answered = sum(entry["answered"] for entry in echoed.values())
        return Closed(page.get("blocked_by"), f"{page.get('not_ready')}; {page.get('evidence')}", after_s, answered)


def time_to_direct(session: SessionRecord | None) -> float | None:
    """Seconds from the first path of a session to its first direct one, by its own log."""
    log = session.switch_log if session is not None else ()
    direct = next((switch.at for switch in log if switch.new == DIRECT), None)
    up = next((switch.at for switch in log if switch.new in (DIRECT, RELAY)), None)
    return None if direct is None or up is None else direct - up


def _by_relay(seen: Reading, session: RelaySession | None) -> int:
    if session is None:
        return 0
    relays = (RELAY_ADDRESS, RELAY_ALTERNATE)
    ends = ((host_of(at), port_of(at)) for at in (session.agent_address, session.connector_address))
    return sum(seen.of_endpoint(host, port, relays) for host, port in ends if host is not None and port is not None)


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def write_results(runs: Sequence[Run], path: Path) -> None:
    """Keep the runs as JSON, so that trends can be seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [
        {f"{agent.value}-{connector.value}": asdict(seen) for (agent, connector), seen in run.items()} for run in runs
    ]
    path.write_text(json.dumps(plain, indent=1) + "\n")

"""The bed of the fault rows: an agent and a connector behind a home router each, and ways to break what is between."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.lab.nat import NatBehavior, PortAllocation
from infra.lab.topology import Impairment, Link, Router, Topology, two_nat_topology
from infra.verify.sessions import SessionRecord
from tests.support.session_bed import SessionBed, SessionBedSpec, run_name, service_of, until

AGENT, CONNECTOR = "agent", "connector"
SERVICE: Final = service_of(CONNECTOR)
OUTSIDE: Final = {AGENT: "172.20.0.21", CONNECTOR: "172.20.0.22"}
RESULTS: Final = Path(__file__).parents[3] / "build" / "reports" / "faults"
RUNS: Final = 3
INTERVAL_MS: Final = 20.0
RANDOM_HOME: Final = NatBehavior(port_allocation=PortAllocation.RANDOM)
NO_CHANGE: Final = Impairment()
RTT_50_MS: Final = Impairment(delay_ms=12.5)


@dataclass(frozen=True, slots=True)
class Watched:
    """Echoes at a steady pace: [Unix seconds of sending, RTT in ms or None], and answers that came twice."""

    samples: tuple[tuple[float, float | None], ...]
    twice: int

    @property
    def lost(self) -> int:
        """Echoes without an answer."""
        return sum(rtt is None for _, rtt in self.samples)

    @property
    def arrivals(self) -> list[float]:
        """When answers came: Unix seconds, in order. An echo that waited for a path counts when it is answered."""
        return sorted(at + rtt / 1000 for at, rtt in self.samples if rtt is not None)

    def gap(self, since: float, until_: float | None = None) -> float:
        """The longest spell without an answer, of those that begin by one time and end after another: seconds."""
        end = self.samples[-1][0]
        until_ = end if until_ is None else until_
        times = [self.samples[0][0], *self.arrivals, max(end, self.arrivals[-1] if self.arrivals else end)]
        spans = [after - before for before, after in itertools.pairwise(times) if after >= since and before <= until_]
        return max(0.0, max(spans, default=0.0) - INTERVAL_MS / 1000)

    def first_answer(self, since: float) -> float | None:
        """Seconds from a time until the next answer comes."""
        return next((at - since for at in self.arrivals if at >= since), None)


class FaultBed:
    """A session bed of one agent and one connector; a context manager."""

    def __init__(
        self,
        directory: Path,
        *,
        nats: tuple[NatBehavior, NatBehavior] = (NatBehavior(), NatBehavior()),
        agent_link: Impairment = NO_CHANGE,
        connector_link: Impairment = NO_CHANGE,
        config: Mapping[str, Any] | None = None,
        relay_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.topology = topology(nats, agent_link, connector_link)
        keys = dict(config or {})
        spec = SessionBedSpec(
            self.topology,
            (AGENT,),
            (CONNECTOR,),
            agent_config=keys,
            connector_config=keys,
            relay_config=dict(relay_config or {}),
        )
        self.bed = SessionBed(run_name("fault"), directory, spec)

    def __enter__(self) -> "FaultBed":
        self.bed.__enter__()
        try:
            self.bed.start_all([CONNECTOR])
            self.bed.start_all([AGENT])
        except BaseException:
            self.bed.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.bed.__exit__(*error)

    # -- looking ------------------------------------------------------------------------------------------------

    def session(self) -> SessionRecord | None:
        """The agent's record."""
        return self.bed.session(AGENT, CONNECTOR)

    def path(self) -> str:
        """The path in it."""
        found = self.session()
        return found.path if found is not None else "none"

    def wait_path(self, wanted: str, timeout_s: float = 20.0) -> float:
        """Wait for a path while a few packets flow; seconds. Raises AssertionError when it does not come."""
        began = time.monotonic()

        def there() -> bool:
            answered = self.bed.echoes(AGENT, [SERVICE], count=1, wait_s=0.3)[SERVICE]["answered"]
            return self.path() == wanted and bool(answered)

        assert until(there, timeout_s, 0.05), f"no {wanted} path after {timeout_s} s: {self.session()}"
        return time.monotonic() - began

    def switches(self, since: float) -> list[tuple[float, str]]:
        """(seconds after a time, new path) of each switch since then, by the agent's record."""
        found = self.session()
        log = found.switch_log if found is not None else ()
        return [(entry.at - since, entry.new) for entry in log if entry.at >= since]

    @contextlib.contextmanager
    def watching(self, seconds: float, *, size: int = 64) -> Iterator[Callable[[], Watched]]:
        """Echo at a steady pace beside the block; the function it gives waits for the end."""
        port = self.bed.port(SERVICE)
        future = self.bed.insides[AGENT].begin("watch", port=port, interval_ms=INTERVAL_MS, seconds=seconds, size=size)

        def result() -> Watched:
            found = future.result(seconds + 60)
            return Watched(tuple((at, rtt) for at, rtt in found["samples"]), found["twice"])

        yield result

    def begin_stream(
        self, seconds: float, *, size: int = 1000, interval_ms: float = 20.0
    ) -> Callable[[], dict[str, Any]]:
        """Records over one TCP connection beside other things; the function it gives waits for the end."""
        future = self.bed.insides[AGENT].begin(
            "stream", port=self.bed.port(SERVICE, "tcp"), seconds=seconds, size=size, interval_ms=interval_ms
        )
        return lambda: dict(future.result(seconds + 120))

    def transfer(self, size: int, timeout_s: float = 120.0) -> dict[str, Any]:
        """Bytes there and back over TCP."""
        found: dict[str, Any] = self.bed.insides[AGENT].ask(
            "transfer", timeout_s=timeout_s + 30, port=self.bed.port(SERVICE, "tcp"), size=size, wait_s=timeout_s
        )
        return found

    # -- breaking -----------------------------------------------------------------------------------------------

    def router(self, side: str) -> Router:
        """The home router of a side, as asked for."""
        return next(router for router in self.topology.routers if router.name == f"nat-{side}")

    def nft(self, host: str, rules: str) -> None:
        """Change rules in a host or router."""
        self.bed.lab.run(host, ["nft", rules])

    def drop(self, side: str, *addresses: str) -> None:
        """Drop UDP between a side's network and some addresses, outside its own rules; `pass_again` ends it."""
        there = "{ " + ", ".join(addresses) + " }"
        self.nft(
            f"nat-{side}",
            "add table inet fault; add chain inet fault cut { type filter hook forward priority -5; }; "
            f"add rule inet fault cut ip saddr {there} meta l4proto udp drop; "
            f"add rule inet fault cut ip daddr {there} meta l4proto udp drop",
        )

    def pass_again(self, side: str) -> None:
        """End what `drop` began."""
        self.nft(f"nat-{side}", "add table inet fault; delete table inet fault")

    def cut_direct(self) -> float:
        """Drop what goes straight between the two public addresses; returns Unix seconds."""
        at = time.time()
        self.drop(AGENT, OUTSIDE[CONNECTOR])
        self.drop(CONNECTOR, OUTSIDE[AGENT])
        return at

    def mend_direct(self) -> float:
        """Let it pass again; returns Unix seconds."""
        self.pass_again(AGENT)
        self.pass_again(CONNECTOR)
        return time.time()

    def shape(self, side: str, up: Impairment, down: Impairment | None = None) -> None:
        """Change the uplink of a side's NAT."""
        router = self.router(side)
        outside = router.outside
        self.bed.lab.ensure_router(
            Router(router.name, router.inside, replace_link(outside, up, down or up), nat=router.nat)
        )


def replace_link(link: Link, up: Impairment, down: Impairment) -> Link:
    """The same link with other impairments."""
    return Link(link.segment, link.address, up=up, down=down, mtu=link.mtu)


def topology(
    nats: tuple[NatBehavior, NatBehavior], agent_link: Impairment = NO_CHANGE, connector_link: Impairment = NO_CHANGE
) -> Topology:
    """Two homes and the relay."""
    return two_nat_topology(
        (nats[0],), (nats[1],), agent_link=(agent_link, agent_link), connector_link=(connector_link, connector_link)
    )


def keep(number: int, **measured: Any) -> None:
    """Keep what a row measured, so that trends can be seen."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"row-{number:02}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **measured}, indent=1) + "\n")
    print(f"row {number}: {measured}")


def worst(values: Sequence[float | None]) -> float:
    """The largest; infinity where one never came."""
    return max((float("inf") if value is None else value for value in values), default=float("inf"))

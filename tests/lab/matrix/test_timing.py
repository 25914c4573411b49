"""How soon two homes have a direct path: from the session's first path to its first direct one, 25 ms on each leg."""

import json
from pathlib import Path

import pytest

from infra.lab.topology import Impairment, Topology
from infra.verify.stats import median, percentile
from tests.lab.matrix.classes import RELAY_ADDRESS, RELAY_ALTERNATE, NatClass, Seat, matrix_topology
from tests.lab.matrix.rig import time_to_direct
from tests.support.session_bed import SessionBed, SessionBedSpec, run_name, service_of, until

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

RESULTS = Path(__file__).parents[3] / "build" / "reports" / "matrix"
LEG = Impairment(delay_ms=25)
ROUNDS = 20
P50_S, P95_S = 0.4, 1.0


def homes() -> Topology:
    """An agent and a connector behind a home router each; the relay is two legs away from both."""
    return matrix_topology([Seat("agent", NatClass.HOME), Seat("connector", NatClass.HOME)], LEG)


@pytest.mark.timeout(300)
def test_two_homes_are_direct_soon(tmp_path: Path) -> None:
    agent, connector = Seat("agent", NatClass.HOME).host, Seat("connector", NatClass.HOME).host
    spec = SessionBedSpec(homes(), (agent,), (connector,), RELAY_ADDRESS, RELAY_ALTERNATE)
    times = []
    with SessionBed(run_name("timing"), tmp_path, spec) as bed:
        bed.start_all([connector])
        for _ in range(ROUNDS):
            bed.start_all([agent])
            bed.echoes(agent, [service_of(connector)], count=2, wait_s=0.5)

            def direct() -> bool:
                return time_to_direct(bed.session(agent, connector)) is not None

            assert until(direct, 15.0)
            found = time_to_direct(bed.session(agent, connector))
            assert found is not None
            times.append(found)
            bed.stop(agent)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "time-to-direct.json").write_text(json.dumps(times) + "\n")
    p50, p95 = median(times), percentile(times, 95)
    print(f"time to direct: p50 {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms over {len(times)}")
    assert p50 <= P50_S, times
    assert p95 <= P95_S, times

"""The relay's benchmark: what its rows say, and that a TURN allocation carries packets as it does."""

from typing import Any

import pytest

from tests.bench.relay import RELAYERS, arrived, blast, one_way, prepare, rate_rows, relayer
from tests.support.relay_rig import relay_rig


def entry(rate: float, delivered: float, loss: float, cpu: float) -> dict[str, Any]:
    return {"offered_rate": rate, "packets_per_s": delivered, "loss": loss, "relay_cpu_s_per_100k": cpu}


def test_targets_are_judged_against_the_best_rate_and_coturn_is_the_baseline() -> None:
    rows = rate_rows(
        {
            "kernel": [entry(40_000, 40_000, 0.0, 0.0), entry(80_000, 79_000, 0.0125, 0.0)],
            "userspace": [entry(40_000, 39_000, 0.025, 0.5)],
            "coturn": [entry(40_000, 20_000, 0.5, 1.0)],
        }
    )
    found: dict[str, Any] = {row.name: (row.value, row.baseline, row.met) for row in rows}
    assert found["delivered, kernel"] == (79_000, 20_000, True)
    assert found["delivered with at most 1 % lost, kernel"] == (40_000, None, None)
    assert found["CPU of the process, kernel"] == (0.0, None, True)
    assert found["delivered, userspace"] == (39_000, 20_000, False)
    assert found["delivered by coturn"] == (20_000, None, None)


@pytest.mark.lab
@pytest.mark.root
@pytest.mark.parametrize("name", RELAYERS)
def test_each_relay_delivers_what_is_sent(name: str) -> None:
    with relay_rig() as rig:
        prepare(rig)
        with relayer(rig, name) as running:
            seen = one_way(rig, running, rate=2000, seconds=0.2)
            assert seen["delivered"] == seen["sent"] == arrived(rig) > 100
            if name == "kernel":
                assert seen["relay_cpu_s"] == 0
            assert blast(rig, "rtt", running, "--count", "0") == {"rtt_us": [], "lost": 0}

"""A long TCP transfer in user mode while its path keeps changing beneath it: all bytes come back, in one session."""

import threading
import time
from pathlib import Path

import pytest

from infra.lab.nat import NatBehavior
from infra.verify.sessions import DIRECT, RELAY
from tests.lab.faults.rig import AGENT, RANDOM_HOME, SERVICE, FaultBed
from tests.support.session_bed import until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

REBIND_S = 5.0
RECORD = 32768


class Rebinding:
    """The agent's NAT forgets its mappings every 5 s; new ones have other ports."""

    def __init__(self, rig: FaultBed) -> None:
        self.count = 0
        self._rig = rig
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Rebinding":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(REBIND_S):
            self._rig.bed.lab.forget_mappings(f"nat-{AGENT}")
            self.count += 1


def switch_paths(rig: FaultBed, count: int) -> None:
    """Block and open the direct path in turns; each makes the session change."""
    for number in range(count):
        wanted, change = (DIRECT, rig.mend_direct) if number % 2 else (RELAY, rig.cut_direct)
        change()
        assert until(lambda: rig.path() == wanted, 30), f"no {wanted} path at switch {number + 1}: {rig.session()}"  # noqa: B023
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("megabytes", "seconds", "switches"),
    [(10, 20.0, 3), pytest.param(100, 100.0, 10, marks=pytest.mark.slow)],
)
def test_a_transfer_survives_switches_of_path_and_rebindings(
    tmp_path: Path, megabytes: int, seconds: float, switches: int
) -> None:
    records = -(-megabytes * 1_000_000 // RECORD)
    with FaultBed(tmp_path, nats=(RANDOM_HOME, NatBehavior())) as rig:
        rig.wait_path(DIRECT)
        before = rig.session()
        began = time.time()
        transfer = rig.bed.insides[AGENT].begin(
            "stream", port=rig.bed.port(SERVICE, "tcp"), seconds=seconds, size=RECORD,
            interval_ms=seconds * 1000 / records, wait_s=60.0,
        )  # fmt: skip
        with Rebinding(rig) as rebinding:
            switch_paths(rig, switches)
            during = not transfer.done()
            found = transfer.result(seconds + 180)
        after = rig.session()
        changes = rig.switches(began)
    assert before is not None
    assert after is not None
    assert during, "the transfer outlasts the changes"
    assert found["received"] >= megabytes * 1_000_000 - RECORD, found
    assert found["equal"], found
    assert after.session == before.session
    assert len(changes) >= switches, changes
    assert rebinding.count >= int(seconds / REBIND_S) - 1

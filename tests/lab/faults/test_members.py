"""Rows 15 and 16: connectors that die, freeze or vanish, and two that claim one service."""

import json
import signal
import time
from pathlib import Path

import pytest

from infra import pki
from infra.lab.topology import Topology
from infra.verify.sessions import DIRECT
from tests.lab.faults.rig import AGENT, CONNECTOR, OUTSIDE, RUNS, FaultBed, keep, worst
from tests.lab.faults.rows import row
from tests.lab.matrix.classes import NatClass, Seat, matrix_topology
from tests.support.session_bed import STACK, SessionBed, SessionBedSpec, run_name, until

pytestmark = [pytest.mark.lab, pytest.mark.matrix, pytest.mark.timeout(400)]

RELAY_ADDRESS = "172.20.0.2"


def noticed(rig: FaultBed, dead: str) -> bool:
    """Whether the agent no longer claims a path by the session that died."""
    session = rig.session()
    return session is None or session.session != dead or session.path == "none"


def test_row_15_a_killed_connector_serves_again_after_its_start(tmp_path: Path) -> None:
    serves = []
    with FaultBed(tmp_path) as rig:
        for _ in range(RUNS):
            rig.wait_path(DIRECT)
            with rig.watching(12.0) as watched:
                time.sleep(1.0)
                rig.bed.signal(CONNECTOR, signal.SIGKILL)
                rig.bed.start_all([CONNECTOR])
                ready = time.time()
                seen = watched()
            serves.append(seen.first_answer(ready))
    keep(15, killed_serves=serves)
    assert worst(serves) <= row(15).limits["serve"], serves


def test_row_15_a_killed_connector_is_noticed(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)
        session = rig.session()
        assert session is not None
        with rig.watching(20.0) as watched:
            rig.bed.signal(CONNECTOR, signal.SIGKILL)
            began = time.monotonic()
            found = until(lambda: noticed(rig, session.session), 10, 0.05)
            notice = time.monotonic() - began if found else None
            watched()
    keep(15, killed_noticed=notice)
    assert worst([notice]) <= row(15).limits["notice"]


def test_row_15_a_frozen_connector_is_noticed_and_goes_on(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)
        with rig.watching(45.0) as watched:
            time.sleep(1.0)
            rig.bed.signal(CONNECTOR, signal.SIGSTOP)
            stopped = time.time()
            noticed_s = time.time() - stopped if until(lambda: rig.path() != DIRECT, 15, 0.05) else None
            time.sleep(max(0.0, stopped + 30 - time.time()))
            rig.bed.signal(CONNECTOR, signal.SIGCONT)
            continued = time.time()
            seen = watched()
    keep(15, frozen_noticed=noticed_s, frozen_serves=seen.first_answer(continued))
    assert worst([noticed_s]) <= row(15).limits["notice"]
    assert worst([seen.first_answer(continued)]) <= row(15).limits["serve"]


def test_row_15_a_vanished_connector_is_noticed(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)
        with rig.watching(20.0) as watched:
            time.sleep(1.0)
            rig.drop(CONNECTOR, OUTSIDE[AGENT], RELAY_ADDRESS, "172.20.0.3")
            at = time.time()
            noticed_s = time.time() - at if until(lambda: rig.path() != DIRECT, 15, 0.05) else None
            rig.pass_again(CONNECTOR)
            back = time.time()
            seen = watched()
    keep(15, vanished_noticed=noticed_s, vanished_serves=seen.first_answer(back))
    assert worst([noticed_s]) <= row(15).limits["notice"]
    assert worst([seen.first_answer(back)]) <= row(15).limits["serve"]


# row 16

SEATS = [Seat("agent", NatClass.HOME), Seat("connector", NatClass.HOME), Seat("connector", NatClass.PUBLIC)]
ONE, TWO = (seat.host for seat in SEATS[1:])
SHARED = "shared"


def claims(directory: Path, *, granted: tuple[str, ...]) -> SessionBed:
    """Two connectors that both have the service in their configuration; `granted` may serve it."""
    topology: Topology = matrix_topology(SEATS)
    spec = SessionBedSpec(topology, (SEATS[0].host,), (ONE, TWO), services={SHARED: granted})
    return SessionBed(run_name("claims"), directory, spec)


def answered(bed: SessionBed, wait_s: float = 0.5) -> bool:
    return bool(bed.echoes(SEATS[0].host, [SHARED], count=1, wait_s=wait_s)[SHARED]["answered"])


def states(bed: SessionBed, host: str) -> dict[str, str]:
    """Registrations of a role."""
    return {entry["id"]: entry["state"] for entry in bed.status(host).get("services", [])}


def test_row_16_two_granted_connectors_fail_over(tmp_path: Path) -> None:
    times = []
    with claims(tmp_path, granted=(ONE, TWO)) as bed:
        agent = SEATS[0].host
        bed.start_all([ONE, TWO])
        bed.start_all([agent])
        for _ in range(RUNS):
            assert until(lambda: answered(bed), 20)
            assert until(lambda: all(bed.status(host).get("state") == "ready" for host in (ONE, TWO)), 30)
            serving = next(
                peer for peer, entry in bed.sessions(agent).items() if SHARED in entry.services and entry.path != "none"
            )
            bed.signal(serving, signal.SIGKILL)
            began = time.monotonic()
            times.append(time.monotonic() - began if until(lambda: answered(bed, 0.2), 20, 0.02) else None)
            bed.start_all([serving])
    keep(16, failover=times)
    assert worst(times) <= row(16).limits["failover"], times


def test_row_16_the_same_identity_twice_has_one_winner(tmp_path: Path) -> None:
    with claims(tmp_path, granted=(ONE,)) as bed:
        agent = SEATS[0].host
        bed.start_all([ONE])
        bed.start_all([agent])
        assert until(lambda: answered(bed), 20)
        # The other host runs a copy of the first one's files: same name, same certificate.
        for name in ("cert.pem", "key.pem", "connector.json"):
            text = (bed.directory / ONE / name).read_text().replace(str(bed.directory / ONE), str(bed.directory / TWO))
            (bed.directory / TWO / name).write_text(text)
        bed.start(TWO)
        assert until(lambda: states(bed, TWO).get(SHARED) == "registered", 20), bed.log_tail(TWO)
        time.sleep(10.0)
        loser = states(bed, ONE).get(SHARED)
        reasons = json.dumps(bed.status(ONE))
        assert until(lambda: answered(bed), 20)
        switches = max((entry.switches for entry in bed.sessions(agent).values()), default=0)
    keep(16, twin_loser=loser, twin_switches=switches)
    assert loser != "registered", reasons


def test_row_16_an_unauthorised_claim_hurts_nobody(tmp_path: Path) -> None:
    with claims(tmp_path, granted=(ONE,)) as bed:
        agent = SEATS[0].host
        bed.start_all([ONE])
        bed.start_all([agent])
        assert until(lambda: answered(bed), 20)
        # It is of this stack, and has the service in its configuration, but neither grant nor policy.
        config = json.loads((bed.directory / ONE / "connector.json").read_text())
        text = json.dumps(config | {"name": TWO}).replace(str(bed.directory / ONE), str(bed.directory / TWO))
        bed.write(TWO, pki.client_names(STACK, "connector", TWO, ()), json.loads(text))
        port = bed.port(SHARED)
        future = bed.insides[agent].begin("watch", port=port, interval_ms=20.0, seconds=8.0)
        bed.start(TWO)
        assert until(lambda: states(bed, TWO).get(SHARED) == "denied", 15), bed.log_tail(TWO)
        seen = future.result(60)
        log = (bed.directory / "relay-intermediate.log").read_text()
    lost = sum(rtt is None for _, rtt in seen["samples"])
    keep(16, unauthorised_lost=lost)
    assert lost == 0
    assert TWO in log
    assert "refused" in log

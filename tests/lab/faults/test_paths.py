"""Rows 1 to 8: paths that vanish and return, relays that die, NATs and links that forget."""

import signal
import time
from pathlib import Path

import pytest

from infra.lab.nat import NatBehavior
from infra.lab.nft import nat_ruleset
from infra.verify.sessions import DIRECT, RELAY
from infra.verify.stats import median
from tests.lab.faults.rig import AGENT, RANDOM_HOME, RTT_50_MS, RUNS, FaultBed, keep, worst
from tests.lab.faults.rows import row
from tests.lab.matrix.classes import NatClass, Seat, matrix_topology
from tests.support.session_bed import RELAY as RELAY_HOST
from tests.support.session_bed import SessionBed, SessionBedSpec, run_name, service_of, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
RELAY_ONLY = {"direct": "off"}
SIX = (
    NatClass.PUBLIC, NatClass.FIREWALLED, NatClass.FULL_CONE, NatClass.HOME, NatClass.SYMMETRIC, NatClass.CARRIER
)  # fmt: skip


def cut_and_mend(rig: FaultBed, *, stream: bool = True) -> dict[str, float | bool | None]:
    """Rows 1 and 2 once: gap and switches of a cut of 4 s under traffic, and of the return."""
    rig.wait_path(DIRECT)
    finish = rig.begin_stream(9.0) if stream else None
    with rig.watching(9.5) as watched:
        time.sleep(1.0)
        cut = rig.cut_direct()
        time.sleep(3.5)
        mended = rig.mend_direct()
        seen = watched()
    switches = rig.switches(mended)
    back = next((at for at, path in switches if path == DIRECT), None)
    found: dict[str, float | bool | None] = {
        "gap": seen.gap(cut, mended), "back": back, "switches": len(switches),
        "to_relay": next((at for at, path in rig.switches(cut) if path == RELAY), None),
    }  # fmt: skip
    if finish is not None:
        found["stream_whole"] = bool(finish()["equal"])
    return found


def test_rows_1_and_2_once(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        found = cut_and_mend(rig)
    assert found["stream_whole"], found
    assert float(found["gap"] or 0) <= row(1).limits["gap"], found
    assert found["to_relay"] is not None
    assert worst([found["back"]]) <= row(2).limits["back"], found
    assert found["switches"] == row(2).limits["switches"], found


@pytest.mark.matrix
def test_rows_1_and_2(tmp_path: Path) -> None:
    with FaultBed(tmp_path, agent_link=RTT_50_MS, connector_link=RTT_50_MS) as rig:
        found = [cut_and_mend(rig) for _ in range(RUNS)]
    keep(1, gaps=[run["gap"] for run in found], streams_whole=[run["stream_whole"] for run in found])
    keep(2, back=[run["back"] for run in found], switches=[run["switches"] for run in found])
    gaps = [float(run["gap"] or 0) for run in found]
    assert all(run["stream_whole"] for run in found)
    assert max(gaps) <= row(1).limits["gap"]
    assert median(gaps) <= row(1).limits["gap_p50"]
    assert worst([run["back"] for run in found]) <= row(2).limits["back"]
    assert all(run["switches"] == row(2).limits["switches"] for run in found)


def test_row_3_the_relay_dies_while_direct(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)
        before = rig.session()
        with rig.watching(6.0) as watched:
            time.sleep(1.0)
            killed = time.time()
            rig.bed.signal(RELAY_HOST, signal.SIGKILL)
            seen = watched()
        after = rig.session()
    assert before is not None
    assert after is not None
    keep(3, lost=seen.lost, switches=sum(entry.at >= killed for entry in after.switch_log))
    assert seen.lost == row(3).limits["lost"]
    assert (after.path, after.session, after.switches) == (DIRECT, before.session, before.switches)


@pytest.mark.matrix
def test_row_4_the_relay_dies_and_returns(tmp_path: Path) -> None:
    backs = []
    with FaultBed(tmp_path, config=RELAY_ONLY) as rig:
        for _ in range(RUNS):
            rig.wait_path(RELAY, 40)
            with rig.watching(12.0) as watched:
                time.sleep(1.0)
                rig.bed.signal(RELAY_HOST, signal.SIGKILL)
                time.sleep(1.0)
                rig.bed.start(RELAY_HOST)
                rig.bed.wait_ready(RELAY_HOST)
                listening = time.time() - float(rig.bed.status(RELAY_HOST).get("uptime_s", 0.0))
                seen = watched()
            backs.append(seen.first_answer(listening))
    keep(4, back=backs)
    assert worst(backs) <= row(4).limits["back"], backs


@pytest.mark.matrix
def test_row_4_all_sessions_return(tmp_path: Path) -> None:
    sides = ([Seat("agent", nat) for nat in SIX], [Seat("connector", nat) for nat in SIX])
    agents, connectors = ([seat.host for seat in seats] for seats in sides)
    seats = [seat for side in sides for seat in side]
    spec = SessionBedSpec(
        matrix_topology(seats), tuple(agents), tuple(connectors), agent_config=RELAY_ONLY, connector_config=RELAY_ONLY
    )
    services = [service_of(name) for name in connectors]
    with SessionBed(run_name("fault-all"), tmp_path, spec) as bed:

        def answered() -> int:
            found = [bed.echoes(agent, services, count=1, wait_s=1.0) for agent in agents]
            return sum(entry["answered"] for echoes in found for entry in echoes.values())

        bed.start_all(connectors)
        bed.start_all(agents)
        total = len(agents) * len(connectors)
        assert until(lambda: answered() == total, 40)
        bed.signal(RELAY_HOST, signal.SIGKILL)
        bed.start(RELAY_HOST)
        bed.wait_ready(RELAY_HOST)
        began, course = time.monotonic(), []
        while time.monotonic() - began < 3 * row(4).limits["all"]:
            course.append((round(time.monotonic() - began, 1), answered()))
            if course[-1][1] == total:
                break
    keep(4, sessions=total, course=course)
    took = next((at for at, count in course if count == total), None)
    assert worst([took]) <= row(4).limits["all"], course


@pytest.mark.matrix
@pytest.mark.parametrize("backend", ["kernel", "userspace"])
def test_row_5_the_relay_restarts_as_planned(tmp_path: Path, backend: str) -> None:
    gaps, whole, absent = [], [], []
    with FaultBed(tmp_path, config=RELAY_ONLY, relay_config={"relay": backend}) as rig:
        for _ in range(RUNS):
            rig.wait_path(RELAY, 40)
            finish = rig.begin_stream(12.0)
            with rig.watching(12.0) as watched:
                time.sleep(1.0)
                at = time.time()
                rig.bed.stop(RELAY_HOST)
                stopped = time.time()
                rig.bed.start(RELAY_HOST)
                rig.bed.wait_ready(RELAY_HOST)
                absent.append((stopped - at, time.time() - stopped))
                seen = watched()
            gaps.append(seen.gap(at))
            whole.append(bool(finish()["equal"]))
    keep(5, **{backend: {"gaps": gaps, "streams_whole": whole, "stop_and_start": absent}})
    assert all(whole)
    if backend == "kernel":
        assert max(gaps) <= row(5).limits["gap"], (gaps, absent)
    else:
        beyond = [gap - sum(times) for gap, times in zip(gaps, absent, strict=True)]
        assert max(beyond) <= row(5).limits["beyond"], (gaps, absent)


@pytest.mark.matrix
def test_row_6_mappings_are_forgotten_each_second(tmp_path: Path) -> None:
    rebinds = 12
    with FaultBed(tmp_path, nats=(RANDOM_HOME, NatBehavior()), agent_link=RTT_50_MS, connector_link=RTT_50_MS) as rig:
        rig.wait_path(DIRECT)
        before = rig.session()
        stalls = []
        finish = rig.begin_stream(rebinds + 4.0)
        with rig.watching(rebinds + 4.0) as watched:
            times = []
            for _ in range(rebinds):
                time.sleep(max(0.0, 1.0 - (time.time() % 1.0)))
                times.append(time.time())
                rig.bed.lab.forget_mappings(f"nat-{AGENT}")
            seen = watched()
        stalls = [seen.gap(at, at + 0.9) for at in times]
        whole = bool(finish()["equal"])
        after = rig.session()
    keep(6, stalls=stalls, stream_whole=whole)
    assert before is not None
    assert after is not None
    assert after.session == before.session
    assert whole
    assert max(stalls) <= row(6).limits["stall"], stalls


@pytest.mark.matrix
def test_row_6_the_public_address_changes(tmp_path: Path) -> None:
    with FaultBed(tmp_path, nats=(RANDOM_HOME, NatBehavior())) as rig:
        rig.wait_path(DIRECT)
        before = rig.session()
        finish = rig.begin_stream(20.0)
        for number in range(3):
            time.sleep(5.0)
            change_public_address(rig, f"172.20.0.{60 + number}")
        whole = bool(finish()["equal"])
        rig.wait_path(DIRECT)
        after = rig.session()
    keep(6, address_stream_whole=whole)
    assert before is not None
    assert after is not None
    assert whole
    assert after.session == before.session


def change_public_address(rig: FaultBed, address: str) -> None:
    """Give the agent's NAT another public address, and forget all that went by the old one."""
    nat = f"nat-{AGENT}"
    rules = nat_ruleset(RANDOM_HOME, inside=["lan0"], outside="wan", external=address)
    script = f"ip addr flush dev wan && ip addr add {address}/24 dev wan && nft -f - <<'E'\n{rules}\nE"
    rig.bed.lab.run(nat, ["sh", "-ec", script])


@pytest.mark.matrix
def test_row_7_the_agents_own_address_changes(tmp_path: Path) -> None:
    relays, directs = [], []
    with FaultBed(tmp_path) as rig:
        for number in range(RUNS):
            rig.wait_path(DIRECT)
            with rig.watching(8.0) as watched:
                time.sleep(1.0)
                at = time.time()
                script = (
                    f"ip addr flush dev eth0; ip addr add 172.21.0.{70 + number}/24 dev eth0; "
                    "ip route replace default via 172.21.0.1"
                )
                rig.bed.lab.run(AGENT, ["sh", "-ec", script])
                seen = watched()
            relays.append(seen.first_answer(at))
            direct = next((when for when, path in reversed(rig.switches(at)) if path == DIRECT), None)
            directs.append(direct if direct is not None else (0.0 if rig.path() == DIRECT else None))
    keep(7, relay=relays, direct=directs)
    assert worst(relays) <= row(7).limits["relay"], relays
    assert worst(directs) <= row(7).limits["direct"], directs


@pytest.mark.matrix
@pytest.mark.parametrize("down_s", [5.0, 30.0, 120.0])
def test_row_8_the_link_goes_down(tmp_path: Path, down_s: float) -> None:
    backs = []
    with FaultBed(tmp_path) as rig:
        for _ in range(RUNS if down_s < 10 else 1):
            rig.wait_path(DIRECT)
            with rig.watching(down_s + 8.0) as watched:
                time.sleep(1.0)
                rig.bed.lab.run(f"nat-{AGENT}", ["ip", "link", "set", "wan", "down"])
                time.sleep(down_s)
                rig.bed.lab.run(f"nat-{AGENT}", ["ip", "link", "set", "wan", "up"])
                at = time.time()
                seen = watched()
            backs.append(seen.first_answer(at))
    keep(8, **{f"down_{down_s:g}": backs})
    assert worst(backs) <= row(8).limits["back"], backs

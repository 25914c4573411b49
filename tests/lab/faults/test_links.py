"""Rows 9 to 12: links that lose, reorder, double, damage, delay, and swallow large packets."""

import time
from pathlib import Path

import pytest

from infra.lab.topology import Impairment
from infra.verify.sessions import DIRECT
from tests.lab.faults.rig import AGENT, RUNS, FaultBed, keep, worst
from tests.lab.faults.rows import row
from tests.support.session_bed import until

pytestmark = [pytest.mark.lab, pytest.mark.matrix, pytest.mark.timeout(500)]

MEGABYTE = 1_000_000
BLACK_HOLE = Impairment(mtu_bytes=1280)


@pytest.mark.parametrize(("loss", "burst"), [(0.1, 1.0), (0.2, 1.0), (0.06, 4.0), (0.12, 8.0), (0.25, 4.0)])
def test_row_9_data_is_whole_and_direct_is_reached_under_loss(tmp_path: Path, loss: float, burst: float) -> None:
    lossy = Impairment(loss=loss, loss_burst=burst, delay_ms=10)
    limit = row(9).limits["direct_12" if loss <= 0.12 else "direct_25"]
    with FaultBed(tmp_path, agent_link=lossy) as rig:
        took = rig.wait_path(DIRECT, limit)
        moved = rig.transfer(MEGABYTE // 4 if burst > 1 else MEGABYTE, 240)
    keep(9, **{f"loss_{loss:g}_burst_{burst:g}": {"direct": took, "transfer": moved}})
    assert moved["equal"], moved


def test_row_9_every_session_comes_about_at_30_percent(tmp_path: Path) -> None:
    wanted = int(row(9).limits["handshakes"])
    times = []
    with FaultBed(tmp_path, agent_link=Impairment(loss=0.3, delay_ms=5)) as rig:
        for _ in range(wanted):
            rig.bed.stop(AGENT)
            rig.bed.start(AGENT)
            began = time.monotonic()

            def ready() -> bool:
                rig.bed.echoes(AGENT, rig.bed.services, count=1, wait_s=0.2)
                session = rig.session()
                return session is not None and session.state == "ready"

            times.append(time.monotonic() - began if until(ready, 40) else None)
    keep(9, sessions_at_30=times)
    assert None not in times, times


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("reorder", Impairment(delay_ms=10, reorder=0.25)),
        ("duplicate", Impairment(duplicate=0.05)),
        ("damage-2", Impairment(corrupt=0.02)),
        ("damage-30", Impairment(corrupt=0.30)),
    ],
)
def test_row_10_data_is_whole_and_each_datagram_comes_once(tmp_path: Path, name: str, link: Impairment) -> None:
    with FaultBed(tmp_path, agent_link=link) as rig:
        rig.wait_path(DIRECT, 60)
        with rig.watching(5.0) as watched:
            seen = watched()
        moved = rig.transfer(MEGABYTE // 4 if name == "damage-30" else MEGABYTE, 240)
    keep(10, **{name: {"twice": seen.twice, "lost": seen.lost, "transfer": moved}})
    assert seen.twice == row(10).limits["twice"]
    assert moved["equal"], moved


@pytest.mark.parametrize(("name", "delay_ms"), [("750-one-way", 750.0), ("600-rtt", 300.0)])
def test_row_11_a_session_comes_about_over_a_long_path(tmp_path: Path, name: str, delay_ms: float) -> None:
    # All of the delay on the agent's uplink: one way is that, and a round trip twice as much.
    times = []
    with FaultBed(tmp_path, agent_link=Impairment(delay_ms=delay_ms)) as rig:
        for _ in range(RUNS):
            rig.bed.start_all([AGENT], wait_s=60)
            began = time.monotonic()

            def ready() -> bool:
                rig.bed.echoes(AGENT, rig.bed.services, count=1, wait_s=0.05)
                session = rig.session()
                return session is not None and session.state == "ready"

            times.append(time.monotonic() - began if until(ready, 60, 0.05) else None)
        answered = rig.bed.echoes(AGENT, rig.bed.services, count=20, wait_s=5.0)[rig.bed.services[0]]["answered"]
    keep(11, **{name: times})
    assert answered == 20
    limits = row(11).limits
    assert worst(times) <= limits["rtts"] * 2 * delay_ms / 1000 + limits["extra"], times


def test_row_12_a_black_hole_from_the_start(tmp_path: Path) -> None:
    with FaultBed(tmp_path, agent_link=BLACK_HOLE) as rig:
        rig.wait_path(DIRECT, 30)
        with rig.watching(6.0, size=1100) as watched:
            seen = watched()
        moved = rig.transfer(MEGABYTE)
    keep(12, start={"gap": seen.gap(seen.samples[0][0]), "transfer": moved})
    assert seen.gap(seen.samples[0][0]) <= row(12).limits["stall"]
    assert moved["equal"], moved


def test_row_12_a_black_hole_in_the_middle(tmp_path: Path) -> None:
    with FaultBed(tmp_path) as rig:
        rig.wait_path(DIRECT)
        time.sleep(3.0)  # the path's MTU has been probed by now, so there is something to lose
        finish = rig.begin_stream(8.0, size=4000)
        with rig.watching(8.0, size=1100) as watched:
            time.sleep(1.0)
            at = time.time()
            rig.shape(AGENT, BLACK_HOLE)
            seen = watched()
        stream = finish()
    keep(12, middle={"gap": seen.gap(at), "stream": stream})
    assert stream["equal"], stream
    assert stream["stall_s"] <= row(12).limits["stall"]
    assert seen.gap(at) <= row(12).limits["stall"]

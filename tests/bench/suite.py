"""All benchmarks in one run: one bed without loss, one with, then the deployment times. Prints a table, writes JSON."""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infra.lab.rungs import Rung, detect
from tests.bench import cores, deploy, direct, faults, path, relay, sessions
from tests.bench.model import Outcome, Row, busy_share, conditions, cpu_times
from tests.support.bed import AGENT, Bed

Group = Callable[..., tuple[list[Row], dict[str, Any]]]

PLAIN: dict[str, Group] = {
    "round-trip": path.round_trips,
    "ping": path.pings,
    "throughput": path.delivered,
    "cpu": path.cpu_per_packet,
    "memory": sessions.memory,
    "cpu-with-idle": sessions.cpu_with_idle,
    "handshakes": sessions.handshakes,
    "relay-gap": faults.relay_gap,
}
LOSSY: dict[str, Group] = {"lossy-body": faults.lossy_body}
OWN_RIG: dict[str, Callable[..., tuple[list[Row], dict[str, Any]]]] = {
    "relay-forwarding": relay.forwarding,
    "relay-round-trip": relay.added_round_trip,
    "direct": direct.measure,
}
"""Groups that make namespaces of their own, for which it takes root."""
IN_MEMORY: dict[str, Callable[..., tuple[list[Row], dict[str, Any]]]] = {"cores": cores.measure}
DEPLOY = "deploy"
NAMES = (*PLAIN, *LOSSY, *OWN_RIG, *IN_MEMORY, DEPLOY)
OUTPUT = Path("build/bench")

_QUIET_SHARE = 0.15


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; 0 every target met, 1 one missed or not measured, 2 nothing could be run."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure the overlay beside plain UDP in the same lab.")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer rounds, smaller bodies")
    parser.add_argument("--only", action="append", choices=NAMES, default=[], help="a group; may be given repeatedly")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where bench-MODE.json and .md go")
    arguments = parser.parse_args(argv)
    left_out = {DEPLOY} if arguments.quick else set()
    left_out |= set() if detect().rung is Rung.ROOT else set(OWN_RIG)
    wanted = arguments.only or [name for name in NAMES if name not in left_out]
    outcome = Outcome("quick" if arguments.quick else "full", conditions(detect().rung.value))
    _note_others(outcome)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ztna-bench-") as directory:
        _with_bed(outcome, {name: PLAIN[name] for name in PLAIN if name in wanted}, Path(directory) / "plain", 0.0)
        _with_bed(
            outcome, {name: LOSSY[name] for name in LOSSY if name in wanted}, Path(directory) / "loss", faults.LOSS
        )
        for name, measure in (OWN_RIG | IN_MEMORY).items():
            if name in wanted:
                _measure(outcome, name, lambda measure=measure: measure(quick=arguments.quick))  # type: ignore[misc]
        if DEPLOY in wanted:
            _measure(outcome, DEPLOY, lambda: deploy.times(Path(directory) / "deploy"))
    outcome.conditions["load average after"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    outcome.conditions["duration"] = f"{time.monotonic() - started:.0f} s"
    written = outcome.write(arguments.output)
    sys.stdout.write(outcome.to_markdown() + "\n" + "\n".join(map(str, written)) + "\n")
    if not outcome.rows:
        return 2
    return 1 if outcome.missed or outcome.failures else 0


def _note_others(outcome: Outcome) -> None:
    """Say how busy the machine was before anything was measured: others' work lowers every absolute figure."""
    before = cpu_times()
    time.sleep(1.0)
    share = busy_share(before, cpu_times())
    note = "" if share < _QUIET_SHARE else " (busy: absolute figures are too low, ratios of one run still hold)"
    outcome.conditions["CPU in use before"] = f"{share:.0%}{note}"


def _with_bed(outcome: Outcome, groups: dict[str, Group], directory: Path, loss: float) -> None:
    """Bring up a bed and measure these groups on it; a bed that fails is the failure of all of them."""
    if not groups:
        return
    name = f"bench-{os.getpid()}-{directory.name}"
    quick = outcome.mode == "quick"
    try:
        # About DATAGRAM frames through the intermediate's own process; sessions have rigs of their own.
        with Bed(
            name, directory, agents=(AGENT, "load"), agent_loss=loss, limits=sessions.LIMITS, protocol="v1"
        ) as bed:
            for group, measure in groups.items():
                _measure(outcome, group, lambda measure=measure: measure(bed, quick=quick))  # type: ignore[misc]
    except Exception as error:
        for group in groups:
            outcome.failures.setdefault(group, f"the bed failed: {error}")


def _measure(outcome: Outcome, group: str, measure: Callable[[], tuple[list[Row], dict[str, Any]]]) -> None:
    sys.stderr.write(f"{group} ... ")
    sys.stderr.flush()
    started = time.monotonic()
    try:
        rows, raw = measure()
    except Exception as error:  # one group that cannot be measured must not hide the others
        outcome.failures[group] = f"{type(error).__name__}: {error}"
        sys.stderr.write(f"failed: {error}\n")
        if os.environ.get("ZTNA_BENCH_TRACEBACK"):
            traceback.print_exc()
        return
    outcome.rows += rows
    outcome.raw[group] = raw
    sys.stderr.write(f"{time.monotonic() - started:.1f} s\n")

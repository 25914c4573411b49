"""What sessions cost the intermediate: memory and CPU of idle ones, handshakes per second."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from infra.verify.stats import median, percentile
from tests.bench.model import Row, limited
from tests.bench.path import cpu_of_flow
from tests.support.bed import AGENT, RELAY, ROOT, Bed, BedError

_IDLE_LIMIT_KIB = 64.0
_CPU_RATIO_LIMIT = 1.3
LIMITS = {
    "handshake_rate": 100_000, "handshake_burst": 100_000, "retry_rate": 100_000, "retry_burst": 100_000,
}  # fmt: skip
"""The load comes from one address; without these its own token bucket would be what is measured."""


def _load_argv(bed: Bed, mode: str, amount: float) -> list[str]:
    profile = str(bed.path("load.json"))
    prefix = bed.lab.exec_prefix(AGENT)
    arguments = [mode, str(amount), "--profile", profile, "--bind", bed.address(AGENT)]
    return [*prefix, sys.executable, "-m", "tests.bench.load", *arguments]


@contextlib.contextmanager
def idle_sessions(bed: Bed, count: int) -> Iterator[dict[str, Any]]:
    """Hold `count` idle sessions of a second agent around the body."""
    if not count:
        yield {"open": 0}
        return
    bed.path("load.json").write_text(json.dumps(bed.agent_profile("load")))
    process = subprocess.Popen(
        _load_argv(bed, "idle", count), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise BedError(f"the load generator ended: {process.communicate()[1][-600:]}")
        opened: dict[str, Any] = json.loads(line)
        yield opened
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate("", timeout=15)
        process.kill()
        process.wait()


def memory(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """RSS of the intermediate at 0, 1, 100 and 1000 idle sessions, measured 2 s after the last was registered."""
    time.sleep(1.0)
    rss: dict[int, int] = {0: bed.rss_bytes(RELAY)}
    raw: dict[str, Any] = {}
    for count in (1, 100, 1000):
        with idle_sessions(bed, count) as opened:
            time.sleep(1.0 if quick else 2.0)
            rss[count] = bed.rss_bytes(RELAY)
            raw[str(count)] = opened
    rows = [Row("Idle sessions", f"RSS of the intermediate at {count}", size / 2**20, "MiB", rss[0] / 2**20)
            for count, size in rss.items() if count]  # fmt: skip
    each = (rss[1000] - rss[0]) / 1000 / 1024
    rows.append(limited("Idle sessions", "memory of each of 1000", each, "KiB", at_most=_IDLE_LIMIT_KIB))
    return rows, raw | {"rss_bytes": rss}


def cpu_with_idle(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """CPU of the intermediate per relayed packet with 0 and with 1000 idle sessions, in alternating rounds."""
    rounds, seconds = (1, 2.0) if quick else (4, 3.0)
    spent: dict[int, list[float]] = {0: [], 1000: []}
    for number in range(rounds):
        for count in spent:
            with idle_sessions(bed, count):
                time.sleep(0.5)
                seen = cpu_of_flow(bed, 1200, 4000.0, seconds, stream=900 + number * 2 + bool(count))
            if number or quick:
                spent[count].append(seen["cpu_s_per_100k"][RELAY])
    none, many = median(spent[0]), median(spent[1000])
    rows = [
        limited("Idle sessions", "CPU per packet with 1000, as a share of that with none", round(many / none, 3), "",
                at_most=_CPU_RATIO_LIMIT, note=f"{none:.2f} and {many:.2f} CPU s per 100,000 packets"),
    ]  # fmt: skip
    return rows, {str(count): values for count, values in spent.items()}


def handshakes(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Handshakes with client certificates and Retry: per second as seen, and what each costs the intermediate."""
    bed.path("load.json").write_text(json.dumps(bed.agent_profile("load")))
    seconds = 3.0 if quick else 8.0
    before = bed.cpu_s(RELAY)
    done = subprocess.run(
        _load_argv(bed, "handshakes", seconds), capture_output=True, text=True, timeout=seconds + 60, check=False,
        cwd=ROOT,
    )  # fmt: skip
    spent = bed.cpu_s(RELAY) - before
    if done.returncode or not done.stdout:
        raise BedError(f"the load generator failed: {done.stderr[-600:]}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    each_ms = 1000 * spent / max(seen["handshakes"], 1)
    note = f"one client process; {seen['failed']} failed"
    rows = [
        Row("Handshakes", "completed", seen["per_s"], "per s", note=note),
        Row("Handshakes", "CPU of the intermediate each", round(each_ms, 3), "ms"),
        Row("Handshakes", "per CPU second of the intermediate", round(1000 / each_ms, 1) if each_ms else None, ""),
        Row("Handshakes", "time to complete, p50", median(seen["ms"]), "ms", note="24 at a time"),
        Row("Handshakes", "time to complete, p99", percentile(seen["ms"], 99), "ms", note="24 at a time"),
    ]
    return rows, {key: value for key, value in seen.items() if key != "ms"}

"""Faults: a large body over a lossy link, and the gap when the relay dies and returns."""

import time
from typing import Any

from infra import ports
from tests.bench.model import Row, limited
from tests.support.bed import AGENT, ECHO, HTTP, RELAY, Bed

LOSS = 0.03
_BODY_BYTES = 10_000_000
_RESTART_LIMIT_S = 5.0


def lossy_body(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """A 10 MB body there and back through a bed whose agent link loses 3 % in each direction."""
    bed.spawn_http()
    target = bed.target(HTTP, "tcp", ports.HTTP)
    size = 1_000_000 if quick else _BODY_BYTES
    seen = bed.probe(AGENT, "http-body", "--target", target, "--bytes", size, "--timeout-s", 200, timeout_s=240.0)
    intact = seen["status"] == 200 and seen["sha256_sent"] == seen["sha256_returned"]
    group = f"HTTP body at {LOSS:.0%} loss each way"
    note = f"{size:,} bytes up and back; status {seen['status']} {seen['failure'] or ''}".strip()
    rows = [
        limited(group, "arrived intact", float(intact), "1 = yes", at_least=1, note=note),
        Row(group, "time", seen["seconds"], "s"),
        Row(group, "both directions", seen["mbit_per_s"], "Mbit/s"),
    ]
    return rows, seen


def relay_gap(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """SIGKILL the relay, start it after a second; the time from its socket being there to the first echo."""
    seconds = 20.0
    target = bed.target(ECHO, "udp", ports.ECHO)
    watch = bed.start_probe(
        AGENT, "udp-watch", "--target", target, "--interval-ms", 10, "--seconds", seconds, "--settle-s", 1
    )
    try:
        time.sleep(1.0)
        bed.kill(RELAY)
        killed = time.time()
        time.sleep(1.0)
        bed.start(RELAY)
        bed.wait_ready(RELAY)
        ready = time.time() - float(bed.status(RELAY)["uptime_s"])  # when it was there, by its own uptime
        seen = watch.result(seconds + 30)
    finally:
        watch.stop()
    gaps = [gap for gap in seen["gaps"] if gap["to"] > killed]
    back = max((gap["to"] for gap in gaps), default=None)
    recovered = back is not None and back < seen["ended"] - 0.2
    after = max(back - ready, 0.0) if back is not None and recovered else None
    total = max((gap["seconds"] for gap in gaps), default=None)
    rows = [
        limited("Relay SIGKILL and restart", "traffic back after the relay's socket", after, "s",
                at_most=_RESTART_LIMIT_S, note="" if recovered else "no traffic until the end of the measurement"),
        Row("Relay SIGKILL and restart", "longest spell without traffic", total, "s",
            note=f"of it {ready - killed:.2f} s without a relay"),
    ]  # fmt: skip
    return rows, {"gaps": seen["gaps"], "killed": killed, "ready": ready}

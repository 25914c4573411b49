"""Round-trip time and delivered rate through the relay, beside plain UDP between the same hosts; CPU per packet."""

import time
from typing import Any

from infra import ports
from infra.verify.stats import median, percentile
from tests.bench.model import Row, limited
from tests.support.bed import AGENT, BACKEND, CONNECTOR, ECHO, RELAY, SINK, SINK_PORT, Bed, BedError

SIZES = (64, 512, 1200)
ROLES = (AGENT, RELAY, CONNECTOR)

_P50_LIMIT_MS = 2.0
_RATE_LIMIT = 6000.0
_LOSS_ALLOWED = 0.01


def paths(bed: Bed, service: Any, port: int) -> dict[str, str]:
    """Targets of the overlay and of the baseline: the same backend socket, from the same host."""
    return {"overlay": bed.target(service, "udp", port), "raw": f"{bed.address(BACKEND)}:{port}"}


def round_trips(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """RTT p50 and p99 per size; rounds of overlay and raw alternate and the first is dropped."""
    rounds, count = (2, 200) if quick else (5, 500)
    targets = paths(bed, ECHO, ports.ECHO)
    rows, raw = [], {}
    for size in SIZES:
        samples: dict[str, list[float]] = {path: [] for path in targets}
        lost = dict.fromkeys(targets, 0)
        for number in range(rounds):
            for path, target in targets.items():
                seen = bed.probe(AGENT, "udp-rtt", "--target", target, "--size", size, "--count", count)
                if number:
                    samples[path] += [us / 1000 for us in seen["rtt_us"]]
                    lost[path] += seen["lost"]
        overlay, plain = samples["overlay"], samples["raw"]
        note = f"{len(overlay)} answers, {lost['overlay']} lost"
        rows += [
            limited("Round trip", f"p50, {size} bytes", _ms(median(overlay)), "ms", at_most=_P50_LIMIT_MS,
                    baseline=_ms(median(plain)), note=note),
            Row("Round trip", f"p99, {size} bytes", _ms(percentile(overlay, 99)), "ms", _ms(percentile(plain, 99))),
        ]  # fmt: skip
        raw[str(size)] = {"lost": lost, "overlay_ms": overlay, "raw_ms": plain}
    return rows, raw


def pings(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """ICMP echo through the overlay and beside it, by iputils' ping, from ten packets in 0.1 s to one a second."""
    rows, raw = [], {}
    targets = {"overlay": ECHO.virtual_ip, "raw": bed.address(BACKEND)}
    for interval, count in ((0.01, 300), (0.05, 100)) if quick else ((0.01, 500), (0.05, 200), (0.2, 60), (1.0, 20)):
        samples = {path: bed.ping(AGENT, address, count, interval) for path, address in targets.items()}
        overlay, plain = samples["overlay"], samples["raw"]
        every = f"one per {interval * 1000:g} ms"
        rows += [
            limited("Ping", f"p50, {every}", _ms(median(overlay)), "ms", at_most=_P50_LIMIT_MS,
                    baseline=_ms(median(plain)), note=f"{len(overlay)} of {count} answered"),
            Row("Ping", f"p99, {every}", _ms(percentile(overlay, 99)), "ms", _ms(percentile(plain, 99))),
        ]  # fmt: skip
        raw[f"{interval:g}"] = {"overlay_ms": overlay, "raw_ms": plain}
    return rows, raw


def _ms(value: float) -> float | None:
    return None if value != value else round(value, 4)


def one_way(bed: Bed, target: str, size: int, rate: float, seconds: float, stream: int) -> dict[str, Any]:
    """Send from the agent's host at a rate, count at the sink on the backend."""
    sink = bed.start_probe(
        BACKEND, "udp-sink", "--listen", f"{bed.address(BACKEND)}:{SINK_PORT}", "--stream", stream,
        "--idle-s", 0.4, "--wait-s", seconds + 8,
    )  # fmt: skip
    try:
        _wait_for_sink(bed)
        sent = bed.probe(
            AGENT, "udp-send", "--target", target, "--size", size, "--rate", rate, "--seconds", seconds,
            "--stream", stream,
        )  # fmt: skip
        seen = sink.result(seconds + 30)
    finally:
        sink.stop()
    offered = sent["sent"] + sent["refused"]
    return {"offered_rate": rate, "sent": offered, "delivered": seen["delivered"], "size": size,
            "loss": 1 - seen["delivered"] / max(offered, 1), "packets_per_s": seen["packets_per_s"],
            "mbit_per_s": seen["mbit_per_s"], "sent_rate": sent["packets_per_s"]}  # fmt: skip


def _wait_for_sink(bed: Bed) -> None:
    """Wait until the sink's port is bound, as /proc/net/udp shows it."""
    wanted = f":{SINK_PORT:04X} "
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if wanted in bed.lab.run(BACKEND, ["cat", "/proc/self/net/udp"]).stdout:
            return
        time.sleep(0.02)
    raise BedError("the sink did not bind its port within 5 s")


def delivered(bed: Bed, *, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """The highest delivered rate per size at rising offered rates, and the highest with at most 1 % lost."""
    seconds = 0.8 if quick else 2.0
    steps = {"overlay": (6_000, 10_000) if quick else (3_000, 6_000, 9_000, 12_000, 16_000, 24_000),
             "raw": (50_000,) if quick else (20_000, 50_000, 100_000)}  # fmt: skip
    rounds = 1 if quick else 2
    targets = paths(bed, SINK, SINK_PORT)
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    stream = 100
    one_way(bed, targets["overlay"], 1200, 3000, 0.5, stream)  # warms up, dropped
    for size in SIZES:
        seen: dict[str, list[dict[str, Any]]] = {path: [] for path in targets}
        for _ in range(rounds):
            for path, target in targets.items():
                for rate in steps[path]:
                    stream += 1
                    seen[path].append(one_way(bed, target, size, rate, seconds, stream))
        rows += _rate_rows(size, seen)
        raw[str(size)] = seen
    return rows, raw


def _rate_rows(size: int, seen: dict[str, list[dict[str, Any]]]) -> list[Row]:
    best = {path: max(entries, key=lambda entry: float(entry["packets_per_s"])) for path, entries in seen.items()}
    clean = [entry for entry in seen["overlay"] if entry["loss"] <= _LOSS_ALLOWED]
    overlay, plain = best["overlay"], best["raw"]
    note = f"offered {overlay['offered_rate']:,}, lost {overlay['loss']:.1%}"
    name = f"delivered, {size} bytes"
    at_least = _RATE_LIMIT if size == 1200 else None
    return [
        limited("Throughput, one way", name, overlay["packets_per_s"], "packets/s", at_least=at_least,
                baseline=plain["packets_per_s"], note=note)
        if at_least
        else Row("Throughput, one way", name, overlay["packets_per_s"], "packets/s", plain["packets_per_s"], note=note),
        Row("Throughput, one way", name, overlay["mbit_per_s"], "Mbit/s", plain["mbit_per_s"]),
        Row("Throughput, one way", f"delivered with at most 1 % lost, {size} bytes",
            max((entry["packets_per_s"] for entry in clean), default=None), "packets/s"),
    ]  # fmt: skip


def cpu_per_packet(bed: Bed, *, quick: bool, rate: float = 4000.0) -> tuple[list[Row], dict[str, Any]]:
    """CPU seconds per 100,000 delivered packets of each role's process, at a rate that loses nothing."""
    seconds = 2.0 if quick else 6.0
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    for size in (1200,) if quick else SIZES:
        seen = cpu_of_flow(bed, size, rate, seconds, stream=700 + size)
        raw[str(size)] = seen
        note = f"{rate:,.0f} packets/s offered, {seen['loss']:.1%} lost"
        rows += [
            Row("CPU", f"{role}, {size} bytes", seen["cpu_s_per_100k"][role], "CPU s per 100,000 packets", note=note)
            for role in ROLES
        ]
    return rows, raw


def cpu_of_flow(bed: Bed, size: int, rate: float, seconds: float, stream: int) -> dict[str, Any]:
    """One paced flow with the CPU time that each role spent on it."""
    target = paths(bed, SINK, SINK_PORT)["overlay"]
    before = {role: bed.cpu_s(role) for role in ROLES}
    seen = one_way(bed, target, size, rate, seconds, stream)
    spent = {role: bed.cpu_s(role) - before[role] for role in ROLES}
    share = 100_000 / max(seen["delivered"], 1)
    return seen | {"cpu_s": spent, "cpu_s_per_100k": {role: round(value * share, 3) for role, value in spent.items()}}

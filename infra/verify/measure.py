"""Latency and throughput through the overlay, beside the untunnelled baseline of the same run.

The baseline is the same probe from the same place to the service's `untunnelled` address, the way the stack's outputs
give it: what the network underneath gives without the overlay. Overlay and baseline alternate, so that a busy moment
of the machine meets both.
"""

from infra import ports
from infra.verify.context import Context, Json
from infra.verify.model import LatencySeries, Result, ThroughputSeries, judged, not_shown

OVERLAY, BASELINE = "overlay", "untunnelled"

_ROUNDS = 3
_ANSWERED_PERCENT = 99.0
# Limits that only a broken overlay misses, also on a small or busy machine; `make bench` has the targets.
_ADDED_P50_LIMIT_MS = 50.0
_PACKETS_PER_S_LIMIT = 200.0
_THROUGHPUT_BYTES = 1200


def _paths(context: Context) -> dict[str, str]:
    """The targets measured: the overlay's, and the baseline's where the stack has one."""
    service = context.echo_service
    if service is None:
        return {}
    overlay, baseline = context.target(service, "udp", ports.ECHO), context.untunnelled(service, "udp")
    found = {OVERLAY: overlay, BASELINE: baseline}
    return {path: target for path, target in found.items() if target is not None}


def describe(context: Context, path: str, target: str) -> str:
    """One sentence: from where to where, and by which way."""
    if path == OVERLAY:
        return f"from place {context.agent_place} to {target} through agent, relay and connector"
    return f"from place {context.agent_place} to {target} by plain UDP, without the overlay"


def latency(context: Context) -> Result:
    """Round-trip time of single UDP packets, p50 and p99."""
    paths = _paths(context)
    if OVERLAY not in paths:
        return not_shown(f"the agent reaches no echo service on UDP port {ports.ECHO}")
    per_round = 100 if context.quick or context.has_shaping else 300
    samples: dict[str, list[float]] = {path: [] for path in paths}
    lost = dict.fromkeys(paths, 0)
    for number in range(_ROUNDS + 1):
        for path, target in paths.items():
            seen = context.probe(
                context.agent_place, "udp-rtt", "--target", target, "--size", 64, "--count", per_round,
                "--interval-ms", 1, "--timeout-s", 0.4, timeout_s=per_round * 1.1 + 20,
            )  # fmt: skip
            if number:  # the first round warms caches and is dropped
                samples[path] += seen["rtt_us"]
                lost[path] += seen["lost"]
    series = tuple(
        LatencySeries(path, describe(context, path, target), 64, lost[path], tuple(samples[path]))
        for path, target in paths.items()
    )
    return _judge_latency(context, series, per_round * _ROUNDS)


def _judge_latency(context: Context, series: tuple[LatencySeries, ...], sent: int) -> Result:
    by_path = {entry.path: entry for entry in series}
    overlay, baseline = by_path[OVERLAY], by_path.get(BASELINE)
    answered = 100 * len(overlay.rtt_us) / sent
    measured = "; ".join(
        f"{entry.path} p50 {entry.p50_us / 1000:.2f} ms, p99 {entry.p99_us / 1000:.2f} ms" for entry in series
    )
    needed = _ANSWERED_PERCENT if not context.has_loss else 50.0
    expected, passed = f"{needed:g} % answered", answered >= needed
    if baseline is not None and baseline.rtt_us:
        added_ms = (overlay.p50_us - baseline.p50_us) / 1000
        if not context.has_shaping:
            expected += f", p50 at most {_ADDED_P50_LIMIT_MS:g} ms above untunnelled"
            passed = passed and added_ms <= _ADDED_P50_LIMIT_MS
        measured += f"; added p50 {added_ms:.2f} ms"
    return judged(passed, measured, expected, f"{answered:.1f} % of {sent} answered", latency=series)


def throughput(context: Context) -> Result:
    """Echoed 1200-byte packets per second with a window of packets outstanding, counted as they come back."""
    paths = _paths(context)
    if OVERLAY not in paths:
        return not_shown(f"the agent reaches no echo service on UDP port {ports.ECHO}")
    best: dict[str, Json] = {}
    for number, seconds in enumerate((0.3, *([1.0] * (1 if context.quick else 2)))):  # the first one warms up
        for path, target in paths.items():
            seen = context.probe(
                context.agent_place, "udp-window", "--target", target, "--size", _THROUGHPUT_BYTES,
                "--seconds", seconds, "--window", 64, timeout_s=seconds + 20,
            )  # fmt: skip
            if number and seen["packets_per_s"] >= best.get(path, {}).get("packets_per_s", 0):
                best[path] = seen
    series = tuple(
        ThroughputSeries(
            path, describe(context, path, paths[path]), _THROUGHPUT_BYTES, seen["packets_per_s"], seen["mbit_per_s"],
            seen["lost"], seen["sent"], tuple(seen["per_100_ms"]),
        )
        for path, seen in best.items()
    )  # fmt: skip
    overlay = series[0]
    limit = 1.0 if context.has_shaping else _PACKETS_PER_S_LIMIT
    measured = "; ".join(
        f"{entry.path} {entry.packets_per_s:,.0f} packets/s, {entry.mbit_per_s:.1f} Mbit/s" for entry in series
    )
    expected = f"at least {limit:,.0f} packets/s echoed"
    return judged(overlay.packets_per_s >= limit, measured, expected, "better of two rounds of each", throughput=series)

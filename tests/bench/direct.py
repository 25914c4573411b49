"""The end-to-end session from TUN to TUN: both paths, both QUIC cores, in turns with nebula in the same hosts."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infra.verify.stats import median, percentile
from tests.bench import nebula
from tests.bench.direct_rig import HOSTS, NEBULA, RAW, Rig
from tests.bench.model import Row, limited
from tests.support.bed import AGENT

PATHS: Final = ("direct", "relay")
CORES: Final = ("qh3", "aioquic")
SIZE: Final = 1200
CPU_RATE: Final = 10_000.0

_TCP_BY_NEBULA: Final = 1.5
_PING_BY_NEBULA: Final = 1.3
_AIOQUIC_TCP_MBIT: Final = 150.0
_AIOQUIC_PACKETS: Final = 16_000.0

Samples = dict[str, dict[str, list[Any]]]


def measure(*, quick: bool) -> tuple[list[Row], dict[str, Any]]:
    """Every system on every path; rounds alternate, so that a busy spell of the machine meets all of them."""
    rows: list[Row] = []
    raw: dict[str, Any] = {"nebula": nebula.missing() or nebula.version()}
    for path in PATHS:
        with (
            tempfile.TemporaryDirectory(prefix="ztna-direct-") as directory,
            Rig(f"bench-{os.getpid()}-{path}", Path(directory), path) as rig,
        ):
            seen = _rounds(rig, quick)
        rows += _rows(path, seen)
        raw[path] = seen
    return rows, raw


def _rounds(rig: Rig, quick: bool) -> Samples:
    rounds, seconds = (1, 2.0) if quick else (3, 6.0)
    rates = (20_000, 40_000) if quick else (10_000, 20_000, 30_000, 40_000, 60_000)
    systems = [*CORES, *([] if rig.nebula is None else [NEBULA]), RAW]
    seen: Samples = {system: {"tcp": [], "reverse": [], "udp": [], "ping": [], "cpu": []} for system in systems}
    for _ in range(rounds):
        for system in systems:
            if system in CORES:
                rig.choose(system)
            into = seen[system]
            into["ping"] += rig.bed.ping(AGENT, rig.target(system), 100 if quick else 300, 0.01)
            into["tcp"].append(rig.tcp(system, seconds))
            into["reverse"].append(rig.tcp(system, seconds, reverse=True))
            into["udp"] += [rig.udp(system, rate, SIZE, seconds / 2) for rate in rates]
            into["cpu"].append(_cpu(rig, system, seconds / 2))
    return seen


def _cpu(rig: Rig, system: str, seconds: float) -> dict[str, Any]:
    """CPU seconds per 100,000 delivered packets of each process, at a rate that all of them carry."""
    before = {host: rig.cpu_s(system, host) for host in HOSTS}
    flow = rig.udp(system, CPU_RATE, SIZE, seconds)
    share = 100_000 / max(flow["delivered"], 1)
    spent = {host: (rig.cpu_s(system, host) - before[host]) * share for host in HOSTS}
    return flow | {"cpu_s_per_100k": {host: round(value, 3) for host, value in spent.items()}}


def _best(seen: Mapping[str, list[Any]]) -> dict[str, float]:
    best: dict[str, float] = max(seen["udp"], key=lambda flow: float(flow["per_s"]))
    return best


def _rows(path: str, seen: Samples) -> list[Row]:
    rows: list[Row] = []
    group = f"Session, {'direct' if path == 'direct' else 'relayed'} path"
    against = seen.get(NEBULA)
    for system, figures in seen.items():
        rows += _speed_rows(group, system, figures, against)
        if system != RAW:
            last = figures["cpu"][-1]
            note = f"{CPU_RATE:,.0f} packets/s offered, {last['loss']:.1%} lost"
            other = None if against is None or system == NEBULA else against
            rows += [
                Row(group, f"{system}: CPU of {host}", _cpu_of(figures, host), "CPU s per 100,000 packets",
                    None if other is None else _cpu_of(other, host), note=note)
                for host in HOSTS
            ]  # fmt: skip
    return rows


def _cpu_of(figures: Mapping[str, list[Any]], host: str) -> float:
    return median([flow["cpu_s_per_100k"][host] for flow in figures["cpu"]])


def _speed_rows(
    group: str, system: str, figures: dict[str, list[Any]], against: Mapping[str, list[Any]] | None
) -> list[Row]:
    """The baseline of each figure is nebula's; that of nebula and of no overlay is left out."""
    other = None if system in (NEBULA, RAW) else against
    tcp, reverse, best = median(figures["tcp"]), median(figures["reverse"]), _best(figures)
    ping = figures["ping"]
    note = f"offered {best['offered']:,.0f}, lost {best['loss']:.1%}"
    base = {
        "tcp": None if other is None else median(other["tcp"]),
        "reverse": None if other is None else median(other["reverse"]),
        "udp": None if other is None else round(_best(other)["per_s"]),
        "ping": None if other is None else median(other["ping"]),
    }
    bound: dict[str, float | None] = {"tcp": None, "udp": None, "ping": None}
    if system == "aioquic":
        bound |= {"tcp": _AIOQUIC_TCP_MBIT, "udp": _AIOQUIC_PACKETS}
    elif other is not None:
        bound = {
            "tcp": _TCP_BY_NEBULA * (base["tcp"] or 0),
            "udp": base["udp"],
            "ping": _PING_BY_NEBULA * (base["ping"] or 0),
        }

    def row(key: str, name: str, value: float, unit: str, text: str = "", *, most: bool = False) -> Row:
        limit = bound.get(key)
        if limit is None:
            return Row(group, name, value, unit, base.get(key), note=text)
        if most:
            return limited(group, name, value, unit, at_most=limit, baseline=base.get(key), note=text)
        return limited(group, name, value, unit, at_least=limit, baseline=base.get(key), note=text)

    return [
        row("tcp", f"{system}: TCP, from the agent", tcp, "Mbit/s"),
        Row(group, f"{system}: TCP, to the agent", reverse, "Mbit/s", base["reverse"]),
        row("udp", f"{system}: UDP delivered, {SIZE} bytes", round(best["per_s"]), "packets/s", note),
        row("ping", f"{system}: ping, p50", round(median(ping), 3), "ms", f"{len(ping)} answers", most=True),
        Row(group, f"{system}: ping, p99", round(percentile(ping, 99), 3), "ms",
            None if other is None else percentile(other["ping"], 99)),
    ]  # fmt: skip

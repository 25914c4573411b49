"""What a verification is made of: checks as data, their results, the measured series, the report."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.verify.stats import median, percentile

if TYPE_CHECKING:
    from infra.verify.context import Context

SCHEMA_VERSION = 1


class Status(enum.StrEnum):
    """PASSED and FAILED are verdicts; NOT_SHOWN: this stack cannot show it; ERROR: the check itself could not run."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_SHOWN = "not shown"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LatencySeries:
    """Round-trip times over one path, in microseconds, in the order they were measured."""

    path: str
    description: str
    size_bytes: int
    lost: int
    rtt_us: tuple[float, ...]

    @property
    def p50_us(self) -> float:
        return median(self.rtt_us)

    @property
    def p99_us(self) -> float:
        return percentile(self.rtt_us, 99)


@dataclass(frozen=True, slots=True)
class ThroughputSeries:
    """Packets delivered over one path; `per_100_ms` is the course in time and may be empty."""

    path: str
    description: str
    size_bytes: int
    packets_per_s: float
    mbit_per_s: float
    lost: int
    sent: int
    per_100_ms: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NatObservation:
    """One place's NAT as configured and as classified (RFC 4787 words, found by the RFC 5780 tests)."""

    place: str
    expected_mapping: str
    expected_filtering: str
    mapping: str
    filtering: str
    public_address: str
    observed_address: str
    ports_seen: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What one check measured beside what was expected. `detail` explains a failure and its likely cause."""

    status: Status
    measured: str
    expected: str
    detail: str = ""
    latency: tuple[LatencySeries, ...] = ()
    throughput: tuple[ThroughputSeries, ...] = ()
    nat: tuple[NatObservation, ...] = ()


def judged(passed: bool, measured: str, expected: str, detail: str = "", **series: Any) -> Result:
    """A verdict; `detail` is kept for failures only unless it stands by itself."""
    return Result(Status.PASSED if passed else Status.FAILED, measured, expected, detail, **series)


def not_shown(reason: str) -> Result:
    """This stack or rung cannot show it: counted apart, never a failure."""
    return Result(Status.NOT_SHOWN, "not shown", "-", reason)


@dataclass(frozen=True, slots=True)
class Check:
    """One named question to a running stack.

    `disruptive` ones stop or restart something and run last; those with `needs_path` make no sense where the stack
    itself says that no path can exist.
    """

    id: str
    title: str
    run: "Callable[[Context], Result]"
    disruptive: bool = False
    needs_path: bool = True


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check with its result and the seconds it took."""

    id: str
    title: str
    result: Result
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one verification found; the writers in `infra.verify.report` need nothing else."""

    stack: str
    run: str
    started_at: str
    seconds: float
    conditions: dict[str, str]
    services: tuple[dict[str, Any], ...]
    results: tuple[CheckResult, ...]
    limits: tuple[str, ...] = ()
    topology: dict[str, Any] = field(default_factory=dict)

    def count(self, status: Status) -> int:
        return sum(entry.result.status is status for entry in self.results)

    @property
    def exit_code(self) -> int:
        """0 all passed (or not shown), 1 some failed, 2 could not run."""
        if not self.results or self.count(Status.ERROR) == len(self.results):
            return 2
        return 1 if self.count(Status.FAILED) or self.count(Status.ERROR) else 0

    @property
    def latency(self) -> tuple[LatencySeries, ...]:
        return tuple(series for entry in self.results for series in entry.result.latency)

    @property
    def throughput(self) -> tuple[ThroughputSeries, ...]:
        return tuple(series for entry in self.results for series in entry.result.throughput)

    @property
    def nat(self) -> tuple[NatObservation, ...]:
        return tuple(seen for entry in self.results for seen in entry.result.nat)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; series keep their samples."""
        return {
            "schema_version": SCHEMA_VERSION, "stack": self.stack, "run": self.run, "started_at": self.started_at,
            "seconds": round(self.seconds, 2), "exit_code": self.exit_code, "conditions": self.conditions,
            "counts": {status.value: self.count(status) for status in Status},
            "checks": [_check_json(entry) for entry in self.results],
            "latency": [_latency_json(series) for series in self.latency],
            "throughput": [_fields(series) for series in self.throughput],
            "nat": [_fields(seen) for seen in self.nat],
            "services": list(self.services), "limits": list(self.limits),
        }  # fmt: skip


def _check_json(entry: CheckResult) -> dict[str, Any]:
    result = entry.result
    return {"id": entry.id, "title": entry.title, "status": result.status.value, "measured": result.measured,
            "expected": result.expected, "detail": result.detail, "seconds": round(entry.seconds, 3)}  # fmt: skip


def _fields(value: Any) -> dict[str, Any]:
    plain = {name: getattr(value, name) for name in value.__slots__}
    return {name: list(item) if isinstance(item, tuple) else item for name, item in plain.items()}


def _latency_json(series: LatencySeries) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 1)

    return _fields(series) | {"p50_us": number(series.p50_us), "p99_us": number(series.p99_us)}

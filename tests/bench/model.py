"""What a benchmark yields: rows with a value, its baseline of the same run and a target; conditions; table and JSON."""

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.verify.markdown import table
from infra.verify.runner import cpu_model


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `baseline` is the same figure without the overlay, or before a change, in the same run."""

    group: str
    name: str
    value: float | None
    unit: str
    baseline: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Value by baseline, None without one."""
        return self.value / self.baseline if self.value is not None and self.baseline else None


def limited(
    group: str, name: str, value: float | None, unit: str, *, at_most: float | None = None,
    at_least: float | None = None, baseline: float | None = None, note: str = "",
) -> Row:  # fmt: skip
    """A row with a target; a value that could not be measured does not meet it."""
    bounds = [f"<= {at_most:g}" for _ in range(at_most is not None)] + [
        f">= {at_least:g}" for _ in range(at_least is not None)
    ]
    met = value is not None and (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    return Row(group, name, value, unit, baseline, " ".join(bounds), met, note)


@dataclass(slots=True)
class Outcome:
    """All rows of one run, and what went wrong in groups that could not be measured."""

    mode: str
    conditions: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> list[Row]:
        return [row for row in self.rows if row.met is False]

    def to_json(self) -> dict[str, Any]:
        rows = [asdict(row) | {"ratio": row.ratio} for row in self.rows]
        return {"schema_version": 1, "mode": self.mode, "conditions": self.conditions, "rows": rows, "raw": self.raw,
                "failures": self.failures}  # fmt: skip

    def to_markdown(self) -> str:
        """The rows as tables per group, the conditions below."""
        parts = [f"# Benchmarks ({self.mode})"]
        for group in dict.fromkeys(row.group for row in self.rows):
            rows = [_cells(row) for row in self.rows if row.group == group]
            header = ("figure", "value", "unit", "baseline", "ratio", "target", "", "note")
            parts.append(f"## {group}\n\n" + table(header, rows))
        if self.failures:
            parts.append("## Not measured\n\n" + "\n".join(f"- {name}: {why}" for name, why in self.failures.items()))
        parts.append("## Conditions\n\n" + table(("", ""), list(self.conditions.items())))
        return "\n\n".join(parts) + "\n"

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write bench.json and bench.md."""
        directory.mkdir(parents=True, exist_ok=True)
        as_json, as_markdown = directory / f"bench-{self.mode}.json", directory / f"bench-{self.mode}.md"
        as_json.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        as_markdown.write_text(self.to_markdown())
        return as_json, as_markdown


def _cells(row: Row) -> tuple[str, ...]:
    met = {None: "", True: "met", False: "MISSED"}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    return (row.name, number(row.value), row.unit, number(row.baseline), ratio, row.target, met, row.note)


def number(value: float | None) -> str:
    """At most four significant digits, thousands separated; a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def busy_share(before: list[int], after: list[int]) -> float:
    """The share of all CPU time between two readings of `cpu_times` in which a CPU was not idle."""
    spent = [later - earlier for earlier, later in zip(before, after, strict=True)]
    idle = spent[3] + spent[4]
    return 1 - idle / max(sum(spent), 1)


def cpu_times() -> list[int]:
    """User, nice, system, idle, iowait, irq, softirq and steal ticks of all CPUs (proc(5), /proc/stat)."""
    return [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def conditions(rung: str) -> dict[str, str]:
    """Under what is measured."""
    return {
        "kernel": platform.release(),
        "CPU": f"{cpu_model()} x {os.cpu_count()}",
        "load average before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "Python": platform.python_version(),
        "aioquic": importlib.metadata.version("aioquic"),
        "lab rung": rung,
    }

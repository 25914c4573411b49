"""Prometheus text from plain counters: the roles keep integers, this names them.

A role hands over a list of `Sample`; dataclasses of counters become samples by `counters_of`, where fields that begin
with `dropped_` or `drop_` become one metric with a `reason` label.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class Sample:
    """One value. `name` of a counter may end in `_total` or not; the text always has it."""

    name: str
    help: str
    value: float
    kind: Literal["counter", "gauge", "unknown"] = "counter"
    labels: Mapping[str, str] | None = None


class _Samples(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """Group samples of one name into one metric."""
        metrics: dict[str, Metric] = {}
        for sample in self._samples:
            base = sample.name.removesuffix("_total") if sample.kind == "counter" else sample.name
            metric = metrics.get(base)
            if metric is None:
                metric = metrics[base] = Metric(base, sample.help, sample.kind)
            name = f"{base}_total" if sample.kind == "counter" else base
            metric.add_sample(name, dict(sample.labels or {}), sample.value)
        yield from metrics.values()


def render(samples: Iterable[Sample]) -> bytes:
    """The text exposition of some samples."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(list(samples)))
    return generate_latest(registry)


def counters_of(prefix: str, what: str, counters: Any) -> list[Sample]:
    """Samples of a dataclass of integers: `<prefix>_<field>_total`, drops as `<prefix>_dropped_total{reason=...}`."""
    samples = []
    for field in fields(counters):
        value = getattr(counters, field.name)
        for drop in ("dropped_", "drop_"):
            if field.name.startswith(drop):
                reason = {"reason": field.name.removeprefix(drop)}
                samples.append(Sample(f"{prefix}_dropped", f"{what}: dropped, by reason", value, labels=reason))
                break
        else:
            words = field.name.replace("_", " ")
            samples.append(Sample(f"{prefix}_{field.name}", f"{what}: {words}", value))
    return samples

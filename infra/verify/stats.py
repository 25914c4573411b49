"""Order statistics of measured samples: percentiles, distribution function, histogram."""

import math
from collections.abc import Sequence


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank); nan without samples."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    rank = max(1, math.ceil(percent / 100 * len(ordered)))
    return ordered[rank - 1]


def median(samples: Sequence[float]) -> float:
    """The mean of the two middle samples, nan without samples."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def distribution(samples: Sequence[float], points: int = 200) -> list[tuple[float, float]]:
    """Points (value, fraction not exceeding it) of the empirical distribution function, at most `points` + 1."""
    ordered = sorted(samples)
    if not ordered:
        return []
    step = max(1, len(ordered) // points)
    indices = [*range(0, len(ordered), step), len(ordered) - 1]
    return [(ordered[index], (index + 1) / len(ordered)) for index in dict.fromkeys(indices)]


def histogram(samples: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Counts per bin [edge i, edge i+1); what lies outside goes to the first or last bin."""
    counts = [0] * (len(edges) - 1)
    for sample in samples:
        index = next((i for i in range(len(counts)) if sample < edges[i + 1]), len(counts) - 1)
        counts[index] += 1
    return counts


def log_edges(low: float, high: float, bins: int) -> list[float]:
    """`bins` + 1 bin edges, evenly spaced on a logarithmic scale."""
    low, high = max(low, 1e-9), max(high, low * 1.001, 2e-9)
    ratio = (high / low) ** (1 / bins)
    return [low * ratio**index for index in range(bins + 1)]

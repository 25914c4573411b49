"""Order statistics against values worked out by hand."""

import math

import pytest

from infra.verify.stats import distribution, histogram, log_edges, median, percentile


def test_percentiles_are_nearest_rank() -> None:
    samples = list(range(100, 0, -1))
    assert [percentile(samples, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_median_of_even_and_odd() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == pytest.approx(2.5)
    assert math.isnan(median(()))


def test_distribution_ends_at_one() -> None:
    points = distribution(list(range(1000)), points=10)
    assert [points[0], points[-1]] == [(0, 0.001), (999, 1.0)]
    assert distribution([]) == []


def test_histogram_keeps_every_sample() -> None:
    assert histogram([-1, 0, 1, 1.5, 9], [0, 1, 2, 3]) == [2, 2, 1]


def test_log_edges_span_the_range() -> None:
    edges = log_edges(0.1, 10, 4)
    assert len(edges) == 5
    assert edges[0] == pytest.approx(0.1)
    assert edges[-1] == pytest.approx(10)

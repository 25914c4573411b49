"""Rows, targets and the report of a benchmark run."""

import json
from pathlib import Path

import pytest

from tests.bench.model import Outcome, Row, busy_share, limited, number


@pytest.mark.parametrize(
    ("value", "at_most", "at_least", "met"),
    [(2.0, 2, None, True), (2.1, 2, None, False), (6000, None, 6000, True), (5999, None, 6000, False),
     (None, 5, None, False)],
)  # fmt: skip
def test_a_target_is_met_or_missed(value: float | None, at_most: float, at_least: float, met: bool) -> None:
    row = limited("g", "n", value, "ms", at_most=at_most, at_least=at_least)
    assert row.met is met


def test_ratios_need_both_sides() -> None:
    assert Row("g", "n", 3.0, "", baseline=2.0).ratio == 1.5
    assert Row("g", "n", None, "", baseline=2.0).ratio is None
    assert Row("g", "n", 3.0, "").ratio is None


def test_numbers_stay_readable() -> None:
    assert [number(value) for value in (None, 0.00123456, 12.3456, 12345.6)] == ["-", "0.001235", "12.35", "12,346"]


def test_an_outcome_is_written_as_json_and_table(tmp_path: Path) -> None:
    outcome = Outcome("quick", {"kernel": "6"}, [limited("Round trip", "p50", 2.5, "ms", at_most=2, baseline=0.05)])
    outcome.failures["memory"] = "no bed"
    as_json, as_markdown = outcome.write(tmp_path / "bench")
    value = json.loads(as_json.read_text())
    assert value["rows"][0] | {"ratio": 50.0, "met": False} == value["rows"][0]
    text = as_markdown.read_text()
    assert "| p50 | 2.5 | ms | 0.05 | 50 | <= 2 | MISSED |  |" in text
    assert "- memory: no bed" in text
    assert outcome.missed == outcome.rows


def test_the_busy_share_counts_everything_but_idle_and_iowait() -> None:
    assert busy_share([0] * 8, [20, 0, 10, 60, 10, 0, 0, 0]) == pytest.approx(0.3)

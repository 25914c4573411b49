"""The written report: complete, escaped, self-contained."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from infra.verify import markdown
from infra.verify.html import index_html
from infra.verify.model import Report
from infra.verify.plots import bar_plot, line_plot, log_ticks, nice_ticks
from infra.verify.report import write_report
from infra.verify.topology_svg import topology_svg
from tests.infra.verify.synthetic import TOPOLOGY, report


def empty() -> Report:
    return Report(stack="lab", run="", started_at="", seconds=0, conditions={}, services=(), results=())


class Balanced(HTMLParser):
    """Fails on a tag closed out of order and collects what the page would load."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_all_files_are_written(tmp_path: Path) -> None:
    paths = write_report(report(), tmp_path / "deep" / "lab")
    assert [path.name for path in paths] == [
        "index.html", "results.md", "performance.md", "nat-classification.md", "report.json",
    ]  # fmt: skip
    assert all(path.stat().st_size > 100 for path in paths)
    assert sorted(path.name for path in (tmp_path / "deep" / "lab").iterdir()) == sorted(path.name for path in paths)


def test_the_page_is_balanced_and_loads_nothing() -> None:
    page = Balanced()
    page.feed(index_html(report()))
    assert page.open == []
    assert page.loads == []


def test_the_page_escapes_what_was_measured() -> None:
    text = index_html(report())
    assert "3 of 4 &lt;i&gt;" in text
    assert "<i>" not in text.replace("<i></i>", "")
    assert text.count("<svg") == 6


def test_an_empty_report_still_makes_pages(tmp_path: Path) -> None:
    assert "<svg" not in index_html(empty())
    assert len(write_report(empty(), tmp_path)) == 5


def test_results_show_measured_beside_expected() -> None:
    text = markdown.results(report())
    assert "| ✗ FAILED | Echo <b>\\| | 3 of 4 <i> | 4 of 4 | 0.1 |" in text
    assert "3 of 6 checks passed, 1 failed, 1 could not run, 1 this stack cannot show" in text
    assert "- no NAT here" in text
    assert "one & lost" in text


def test_performance_compares_with_the_baseline() -> None:
    text = markdown.performance(report())
    assert "| overlay | 64 | 200 | 1 | 0.90 | 1.00 |" in text
    assert "The overlay adds 0.84 ms at p50" in text
    assert "The overlay delivers 14.0% of the untunnelled packets per second." in text
    assert "Nothing was measured" in markdown.performance(empty())


def test_nats_are_explained_in_plain_words() -> None:
    text = markdown.nat_classification(report())
    assert "one public port whoever it talks to" in text
    assert "Direct paths are possible" in text


def test_json_holds_counts_and_samples() -> None:
    value = json.loads(json.dumps(report().to_json()))
    assert value["counts"] == {"passed": 3, "failed": 1, "not shown": 1, "error": 1}
    assert value["exit_code"] == 1
    assert len(value["latency"][0]["rtt_us"]) == 200
    assert value["latency"][1]["p50_us"] == 60.0


def test_the_topology_shows_every_host_nat_and_impairment() -> None:
    svg = topology_svg(TOPOLOGY)
    for text in ("relay", "172.22.0.20", "nat-agent", "EIM / APDF", "↑ 5 ms, 3 % loss", "public  172.20.0.0/24"):
        assert text in svg
    assert topology_svg({}) == ""


def test_plots_stay_inside_their_frame() -> None:
    svg = line_plot("t", [[(0.0, 0.0), (10.0, 3.0)], [(2.0, 9.7)]], "x", "y")
    numbers = [float(number) for points in re.findall(r'points="([^"]*)"', svg) for number in re.split("[ ,]", points)]
    assert all(0 <= number <= 720 for number in numbers)
    assert line_plot("t", [], "x", "y") == ""
    assert bar_plot("t", [], "y") == ""


def test_ticks_enclose_the_values() -> None:
    assert nice_ticks(0, 9.7) == [0, 2.5, 5, 7.5, 10]
    ticks = log_ticks(0.3, 42)
    assert ticks[0] == 0.2
    assert ticks[-1] == 50

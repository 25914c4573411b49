"""The report as one self-contained HTML page: topology, results, latency and throughput plots as inline SVG."""

from itertools import accumulate
from pathlib import Path

import jinja2
from markupsafe import Markup

from infra.verify import markdown, plots
from infra.verify.model import LatencySeries, Report
from infra.verify.stats import distribution, histogram, log_edges, percentile
from infra.verify.topology_svg import topology_svg

_TEMPLATES = Path(__file__).parent / "templates"
_CSS_CLASS = {"passed": "ok", "failed": "bad", "error": "bad", "not shown": "dim"}


def index_html(report: Report) -> str:
    """The whole page; it loads nothing from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(
        report=report,
        summary=markdown.summary(report),
        ok=report.exit_code == 0,
        css_class=_CSS_CLASS,
        topology=Markup(topology_svg(report.topology)),  # noqa: S704 - our own SVG, its texts escaped
        plots=[(title, Markup(svg)) for title, svg in _plots(report) if svg],  # noqa: S704
        ms=markdown.ms,
        plain_words=markdown.plain_words,
    )


def _plots(report: Report) -> list[tuple[str, str]]:
    """(caption, SVG) of each figure; empty SVG where nothing was measured."""
    measured = [series for series in report.latency if series.rtt_us]
    return [
        ("Round-trip time: share of packets at most this slow", _cdf(measured)),
        ("Round-trip time: histogram", _histogram(measured)),
        ("Round-trip time of each packet in order", _course(measured)),
        ("Delivered packets per second", _bars(report)),
        ("Delivered packets in the course of the measurement", _delivered(report)),
    ]


def _cdf(measured: list[LatencySeries]) -> str:
    lines = [[(us / 1000, share) for us, share in distribution(series.rtt_us)] for series in measured]
    return plots.line_plot("Distribution of round-trip times", lines, "ms", "share of packets", log_x=True)


def _histogram(measured: list[LatencySeries]) -> str:
    if not measured:
        return ""
    values = [us / 1000 for series in measured for us in series.rtt_us]
    edges = log_edges(min(values), percentile(values, 99.9), 48)
    counts = [histogram([us / 1000 for us in series.rtt_us], edges) for series in measured]
    return plots.histogram_plot("Histogram of round-trip times", edges, counts, "ms")


def _course(measured: list[LatencySeries]) -> str:
    lines = [[(float(number), us / 1000) for number, us in enumerate(series.rtt_us)] for series in measured]
    return plots.line_plot("Round-trip time in order", lines, "packet", "ms")


def _bars(report: Report) -> str:
    bars = [(series.path, series.packets_per_s, index) for index, series in enumerate(report.throughput)]
    return plots.bar_plot("Delivered packets per second", bars, "packets/s")


def _delivered(report: Report) -> str:
    lines = []
    for series in report.throughput:
        totals = accumulate(series.per_100_ms)
        lines.append([(0.0, 0.0)] + [((index + 1) / 10, float(total)) for index, total in enumerate(totals)])
    return plots.line_plot("Packets delivered", lines, "s", "packets")

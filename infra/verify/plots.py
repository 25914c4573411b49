"""Plots as inline SVG text: distribution lines, bars, courses in time. Colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 44

Points = Sequence[tuple[float, float]]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `count` of them."""
    span = max(high - low, 1e-12)
    raw = span / max(count - 1, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def readable(value: float) -> str:
    """Thousands separated, four significant digits below 1000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 numbers that enclose [low, high]; both must be above 0."""
    ticks: list[float] = []
    for exponent in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1):
        ticks.extend(factor * 10.0**exponent for factor in (1, 2, 5))
    start = max((index for index, tick in enumerate(ticks) if tick <= low), default=0)
    end = next((index for index, tick in enumerate(ticks) if tick >= high), len(ticks) - 1)
    return ticks[start : end + 1]


class _Frame:
    """The axes of one plot: maps values to pixels and draws the grid."""

    def __init__(self, x_ticks: list[float], y_ticks: list[float], *, log_x: bool = False) -> None:
        self.x_ticks, self.y_ticks, self.log_x = x_ticks, y_ticks, log_x

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        if self.log_x:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return _LEFT + (value - low) / ((high - low) or 1) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - _TOP - _BOTTOM)

    def grid(self, x_label: str, y_label: str, *, show_x: bool = True) -> str:
        parts = []
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{readable(tick)}</text>'
            )
        for tick in self.x_ticks if show_x else []:
            x = self.x(tick)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
            )
        middle = (HEIGHT - _BOTTOM + _TOP) / 2
        parts.append(f'<text class="axis" x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')  # fmt: skip  # noqa: E501
        parts.append(f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')  # fmt: skip  # noqa: E501
        return "".join(parts)


def _svg(title: str, body: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def line_plot(title: str, series: Sequence[Points], x_label: str, y_label: str, *, log_x: bool = False) -> str:
    """One line per series, in the colours `series-0`, `series-1`...; empty text without any point."""
    points = [point for line in series for point in line]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if log_x:
        positive = [x for x in xs if x > 0] or [1.0]
        x_ticks = log_ticks(min(positive), max(positive))
    else:
        x_ticks = nice_ticks(min(xs), max(xs), 8)
    frame = _Frame(x_ticks, nice_ticks(0.0, max(ys)), log_x=log_x)
    lines = []
    for index, line in enumerate(series):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)
        lines.append(f'<polyline class="line series-{index}" points="{path}"/>')
    return _svg(title, frame.grid(x_label, y_label) + "".join(lines))


def histogram_plot(title: str, edges: Sequence[float], counts: Sequence[Sequence[int]], x_label: str) -> str:
    """Bars per bin on a logarithmic axis, one translucent set per series."""
    if not counts or not any(map(any, counts)):
        return ""
    shares = [[count / (sum(series) or 1) for count in series] for series in counts]
    frame = _Frame(log_ticks(edges[0], edges[-1]), nice_ticks(0.0, max(map(max, shares))), log_x=True)
    bars = []
    for index, series in enumerate(shares):
        for number, share in enumerate(series):
            if share:
                left, right = frame.x(edges[number]), frame.x(edges[number + 1])
                bars.append(
                    f'<rect class="bar series-{index}" x="{left:.1f}" width="{max(right - left - 1, 1):.1f}" '
                    f'y="{frame.y(share):.1f}" height="{frame.y(0) - frame.y(share):.1f}"/>'
                )
    return _svg(title, frame.grid(x_label, "share of packets") + "".join(bars))


def bar_plot(title: str, bars: Sequence[tuple[str, float, int]], y_label: str) -> str:
    """One labelled bar per (label, value, series number)."""
    if not bars:
        return ""
    frame = _Frame([0, len(bars)], nice_ticks(0.0, max(value for _, value, _ in bars) or 1.0))
    parts = []
    for position, (label, value, index) in enumerate(bars):
        left, right = frame.x(position + 0.15), frame.x(position + 0.85)
        middle, top = (left + right) / 2, frame.y(value)
        parts.append(
            f'<rect class="bar solid series-{index}" x="{left:.1f}" width="{right - left:.1f}" y="{top:.1f}" '
            f'height="{frame.y(0) - top:.1f}" rx="3"/>'
            f'<text class="value" x="{middle:.1f}" y="{max(top - 5, 12):.1f}" text-anchor="middle">'
            f"{readable(value)}</text>"
            f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )
    return _svg(title, frame.grid("", y_label, show_x=False) + "".join(parts))

"""The course of a fallback as a picture: each echo's RTT over time, coloured by the path, with the cut marked."""

import itertools
from pathlib import Path
from typing import Final

from infra.verify.fallback import Course

_COLOURS: Final = {"direct": "#2a7f62", "relay": "#c9762b", "none": "#b23a48"}
_INCHES: Final = (10.0, 4.2)


def write_timeline(course: Course, path: Path, title: str) -> Path:
    """Draw a course as PNG (or what the suffix of the path says) and return the path."""
    # Late, and without a display: the drawing library takes a second to load and would look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    rtt, band = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    end = max((at for at, _ in course.samples), default=course.mended)
    for name, colour in _COLOURS.items():
        points = [(at, ms) for at, ms in course.samples if ms is not None and course.path_at(at) == name]
        if points:
            rtt.scatter(*zip(*points, strict=True), s=5, color=colour, label=name)
    lost = [at for at, ms in course.samples if ms is None]
    if lost:
        rtt.scatter(lost, [0.0] * len(lost), s=14, marker="x", color="black", label="no answer")
    for axis in (rtt, band):
        axis.axvspan(course.cut, course.mended, color="#dddddd", zorder=0)
    rtt.set(title=title, ylabel="RTT, ms", ylim=(0, None))
    rtt.legend(loc="upper right", fontsize="small")
    starts = [*course.paths, (max(end, course.paths[-1][0] if course.paths else end), "none")]
    for (at, name), (until, _) in itertools.pairwise(starts):
        band.barh(0, until - at, left=at, color=_COLOURS.get(name, "black"))
    band.set(yticks=[], ylabel="path", xlabel="seconds; grey: direct path cut")
    figure.savefig(path, dpi=110)
    return path

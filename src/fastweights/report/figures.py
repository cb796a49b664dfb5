"""How our figures look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastweights.report.statistics import mean_interval

__all__ = ["ARM_STYLES", "draw_dots", "new_figure", "own_style"]

# Okabe & Ito's colours, which most colour-blind people can tell apart; line styles for the rest.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
ARM_STYLES: Sequence[tuple[str, str]] = tuple(
    (colour, style) for style in ("-", "--", ":", "-.") for colour in _COLOURS
)


@contextmanager
def own_style() -> Iterator[None]:
    """Make and draw figures in here, so that no ``matplotlibrc`` has a say in them.

    One may lie in the folder that we stand in, which may have come from anyone.
    """
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        matplotlib.rcParams["svg.hashsalt"] = "fastweights"  # the same bytes every time
        yield


def new_figure(width: float = 7.2, height: float = 4.2) -> Figure:
    """An empty figure, in inches, on white; not known to pyplot, so nothing needs closing."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def draw_dots(axes: Axes, rows: Sequence[tuple[str, npt.ArrayLike]]) -> None:
    """A row for each label: a dot per seed, the mean and its 95 % interval.

    Args:
        rows: by label, from the top, the values of the seeds; there may be none.
    """
    for y, (_, values) in enumerate(rows):
        values = np.asarray(values, dtype=float)
        axes.plot(values, [y] * len(values), "o", color=ARM_STYLES[0][0], markersize=4, alpha=0.45)
        if len(values):
            interval = mean_interval(values)
            axes.plot(interval.mean, y, "|", color="0.1", markersize=12, markeredgewidth=2)
            if interval.low is not None and interval.high is not None:
                axes.plot([interval.low, interval.high], [y, y], color="0.1", linewidth=1.5)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)

"""How our figures look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastweights.report.statistics import mean_interval, mean_intervals

# Okabe & Ito's colours, which most colour-blind people can tell apart; line styles for the rest.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
ARM_STYLES: Sequence[tuple[str, str]] = tuple(
    (colour, style) for style in ("-", "--", ":", "-.") for colour in COLOURS
)

MARKERS = ("o", "s", "^", "D", "v", "P")


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


def draw_curve(
    axes: Axes,
    x: npt.ArrayLike,
    values: npt.ArrayLike,
    colour: str,
    style: Any = "-",
    label: str | None = None,
    marker: str = "",
) -> None:
    """The mean over seeds with its 95 % interval as a band.

    Args:
        axes: where.
        x: shape (points,).
        values: shape (seeds, points), in the order of ``x``.
        colour: of line and band.
        style: of the line.
        label: in the legend.
        marker: of the points.
    """
    x, values = np.asarray(x), np.asarray(values, dtype=float)
    ends = [(i.low, i.high) for i in mean_intervals(values.T) if i.low is not None]
    if ends:  # there are none with one seed
        low, high = np.array(ends, dtype=float).T
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(
        x,
        values.mean(0),
        color=colour,
        linestyle=style,
        linewidth=2,
        marker=marker,
        markersize=4,
        label=label,
    )


DOTTED = (0, (1, 1.5))


def draw_level(
    axes: Axes,
    level: float,
    label: str | None = None,
    annotation: str | None = None,
    colour: str | None = None,
) -> None:
    """A dotted line for chance or a ceiling.

    Args:
        axes: where.
        level: at which y.
        label: in the legend.
        annotation: what stands at its right end.
        colour: of line and annotation; grey if None.
    """
    axes.axhline(level, color=colour or "0.35", linewidth=1, linestyle=DOTTED, label=label)
    if annotation is not None:
        axes.annotate(
            annotation,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=colour or "0.25",
            fontsize=9,
        )


def place_legend(figure: Figure, columns: int = 0, of: Axes | None = None) -> None:
    """A legend outside the axes: below them with so many columns, or at their right if 0.

    Args:
        figure: where.
        columns: how many.
        of: the axes whose lines it names, where others repeat them; all of them if None.
    """
    handles = [] if of is None else of.get_legend_handles_labels()
    if columns:
        figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False)
    else:
        figure.legend(*handles, loc="outside right upper", frameon=False)

"""Figures of the deblurring experiment, from arrays (seeds, times).

Thick lines are means over seeds, bands their 95 % intervals, thin lines the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.statistics import mean_intervals

__all__ = ["controls_figure", "ratio_figure", "rehearsal_figure", "return_figure"]

Array = NDArray[np.float64]
Line = str | tuple[int, tuple[int, ...]]
BLUE, ORANGE, GREEN = (colour for colour, _ in ARM_STYLES[:3])
LINES: tuple[Line, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MEASURES = ("mean |y − d|", "bits right")


def rehearsal_figure(panels: Mapping[str, Mapping[str, tuple[Array, Array]]]) -> Figure:
    """The paper's figure 2: error while some of the old items are rehearsed; bits right below.

    Args:
        panels: by title; the error and the bits right of the groups ``retrained`` and
            ``unretrained``, each (seeds, sweeps + 1).
    """
    figure = new_figure(4.3 * len(panels), 6.4)
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for column, (title, groups) in enumerate(panels.items()):
        for row, measure in enumerate(MEASURES):
            axes = grid[row, column]
            for name, colour, style in (("retrained", BLUE, "-"), ("unretrained", ORANGE, "--")):
                values = groups[name][row]
                _curves(axes, np.arange(values.shape[1]), values, colour, style, name)
            if column == 0:
                axes.set_ylabel(measure)
        grid[0, column].set_title(title)
        grid[0, column].set_ylim(bottom=0)
        grid[1, column].set(xlabel="sweeps of rehearsal", ylim=(None, 1.005))
        grid[1, column].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[0, 0].legend(frameon=False, loc="lower left")
    return figure


def ratio_figure(
    panels: Mapping[str, tuple[Array, Array, Array]],
    theory: Sequence[float],
) -> Figure:
    """Unretrained over retrained improvement after each sweep.

    Args:
        panels: by label; the ratio and the ends of its interval, each (sweeps,).
        theory: what the linear theory says for each, at the start.
    """
    figure = new_figure(6.6, 4.2)
    axes = figure.add_subplot()
    pairs = zip(panels.items(), theory, (BLUE, ORANGE, GREEN), ("o", "s", "^"), strict=False)
    for (label, (ratio, low, high)), expected, colour, marker in pairs:
        sweeps = np.arange(1, len(ratio) + 1)
        axes.fill_between(sweeps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(sweeps, ratio, color=colour, marker=marker, markersize=4, label=label)
        axes.axhline(expected, color=colour, linewidth=1, linestyle=(0, (1, 1.5)))
        axes.annotate(
            f"linear theory at the start: {expected:.3f}",
            (1, expected),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=colour,
            fontsize=9,
        )
    axes.set(
        xlabel="sweeps of rehearsal",
        ylabel="improvement, unretrained / retrained",
        ylim=(0, 1.08),
        title="How much of the improvement transfers",
    )
    axes.set_xticks([1, *range(5, max(len(r) for r, _, _ in panels.values()) + 1, 5)])
    axes.legend(frameon=False, loc="lower left")
    return figure


def controls_figure(panels: Mapping[str, Mapping[str, Array]]) -> Figure:
    """What rehearsal gives the old items that are not rehearsed, by condition.

    Args:
        panels: by title; per condition the gain in mean \\|y − d\\|, (seeds, sweeps + 1).
    """
    figure = new_figure(4.5 * len(panels), 4.8)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, conditions) in zip(grid, panels.items(), strict=True):
        styles = zip(ARM_STYLES, LINES, strict=False)
        for (label, values), ((colour, _), style) in zip(conditions.items(), styles, strict=False):
            _curves(axes, np.arange(values.shape[1]), values, colour, style, label, seeds=False)
        axes.axhline(0, color="0.35", linewidth=0.8)
        axes.set(title=title, xlabel="sweeps of rehearsal")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[0].set_ylabel("error removed from old items not rehearsed")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def return_figure(
    panels: Mapping[str, tuple[Array, Mapping[str, Array], Mapping[str, Array]]],
    before: Array,
) -> Figure:
    """Rehearsal and the decay after it: bits right of the new pairs and of the old ones.

    Args:
        panels: by title; the numbers of updates of decay, (times,), then by group (``new``,
            ``unretrained``, ``retrained``) bits right during rehearsal, (seeds, sweeps + 1), and
            during decay, (seeds, times).
        before: bits right of the new pairs when the old ones were blurred, (seeds,).
    """
    figure = new_figure(4.1 * len(panels), 4.0)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    styles = (("new", GREEN, "-"), ("retrained", BLUE, "-."), ("unretrained", ORANGE, "--"))
    for axes, (title, (times, rehearsed, relaxed)) in zip(grid, panels.items(), strict=True):
        sweeps = rehearsed["new"].shape[1] - 1
        for name, colour, style in styles:
            # Rehearsal lies before 0; updates of either kind have one width.
            values = np.concatenate([rehearsed[name], relaxed[name][:, 1:]], axis=1)
            x = np.concatenate([np.arange(-sweeps, 1), times[1:]])
            _curves(axes, x, values, colour, style, f"{name} pairs", seeds=name == "new")
        axes.axvspan(-sweeps, 0, color="0.9", linewidth=0)
        axes.axhline(before.mean(), color=GREEN, linewidth=1, linestyle=(0, (1, 1.5)))
        axes.set(title=title, xlabel="updates of decay after rehearsal (grey)", ylim=(None, 1.01))
    grid[0].set_ylabel("bits right")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _curves(
    axes: Axes,
    x: NDArray[np.generic],
    values: Array,
    colour: str,
    style: Line,
    label: str,
    seeds: bool = True,
) -> None:
    if seeds:
        axes.plot(x, values.T, color=colour, linewidth=0.5, alpha=0.25)
    ends = [(i.low, i.high) for i in mean_intervals(values.T) if i.low is not None]
    if ends:  # there are none with one seed
        band = np.array(ends, dtype=float).T
        axes.fill_between(x, *band, color=colour, alpha=0.25, linewidth=0)
    axes.plot(x, values.mean(0), color=colour, linestyle=style, linewidth=2, label=label)

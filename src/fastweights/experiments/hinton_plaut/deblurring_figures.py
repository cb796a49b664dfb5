"""Figures of deblurring.

Thick lines are means over seeds, bands their 95 % intervals, thin lines the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fastweights.experiments.hinton_plaut.deblurring_simulation import (
    CONDITIONS,
    RETURNING,
    DeblurringResult,
    Rehearsal,
    improvement_ratios,
)
from fastweights.report.figures import (
    COLOURS,
    DOTTED,
    MARKERS,
    draw_curve,
    draw_level,
    new_figure,
    place_legend,
)
from fastweights.report.section import Picture
from fastweights.theory.transfer import retrained_set_ratio

BLUE, ORANGE, GREEN = COLOURS[:3]
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def pictures(result: DeblurringResult) -> list[Picture]:
    """All figures that the conditions in ``result`` allow."""
    total = result.config.associations
    main = {
        f"{m} rehearsed, {total - m} not": result.rehearsals["fast", m]
        for m in result.config.rehearsed
        if ("fast", m) in result.rehearsals
    }
    if not main:
        return [controls_picture(result)]
    n = len(result.seeds)
    return [
        rehearsal_picture(main, n),
        ratio_picture(main, n),
        controls_picture(result),
        return_picture(result),
    ]


def rehearsal_picture(main: Mapping[str, Rehearsal], n: int) -> Picture:
    """The paper's figure 2: error while some of the old items are rehearsed; bits right below."""
    figure = new_figure(4.3 * len(main), 6.4)
    grid = figure.subplots(2, len(main), sharex=True, sharey="row", squeeze=False)
    for column, (title, r) in enumerate(main.items()):
        groups = (
            ("retrained", r.retrained, BLUE, "-"),
            ("unretrained", r.unretrained, ORANGE, "--"),
        )
        for name, score, colour, style in groups:
            for row, values in enumerate((score.error, score.bits)):
                sweeps = np.arange(values.shape[1])
                _draw_seeds(grid[row, column], sweeps, values, colour)
                draw_curve(grid[row, column], sweeps, values, colour, style, name)
        grid[0, column].set(title=title, ylim=(0, None))
        grid[1, column].set(xlabel="sweeps of rehearsal", ylim=(None, 1.005))
        grid[1, column].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[0, 0].set_ylabel("mean |y − d|")
    grid[1, 0].set_ylabel("bits right")
    grid[0, 0].legend(frameon=False, loc="lower left")
    return Picture(
        name="deblurring-rehearsal",
        figure=figure,
        alt=(
            "Mean absolute error and bits right of rehearsed and unrehearsed old associations "
            f"over the sweeps of rehearsal, {n} networks: {'; '.join(main)}."
        ),
        caption=(
            "Figure 2 of the paper, redone: some old associations are rehearsed in the fast "
            "weights (solid), the others are not (dashed). Thin lines are networks."
        ),
    )


def ratio_picture(main: Mapping[str, Rehearsal], n: int) -> Picture:
    """Unretrained over retrained improvement after each sweep, and what the linear theory says."""
    figure = new_figure(6.6, 4.2)
    axes = figure.add_subplot()
    curves = {title: improvement_ratios(rehearsal) for title, rehearsal in main.items()}
    styles = zip(curves.items(), main.values(), COLOURS, MARKERS, strict=False)
    for (label, ratios), rehearsal, colour, marker in styles:
        sweeps = np.arange(1, len(ratios) + 1)
        low, high = np.array([(i.low, i.high) for i in ratios], dtype=float).T
        axes.fill_between(sweeps, low, high, color=colour, alpha=0.2, linewidth=0)
        means = [i.mean for i in ratios]
        axes.plot(sweeps, means, color=colour, marker=marker, markersize=4, label=label)
        theory = retrained_set_ratio(rehearsal.rehearsed, 0.25)
        words = f"linear theory at the start: {theory:.3f}"
        draw_level(axes, theory, annotation=words, colour=colour)
    axes.set(
        xlabel="sweeps of rehearsal",
        ylabel="improvement, unretrained / retrained",
        ylim=(0, 1.08),
        title="How much of the improvement transfers",
    )
    axes.set_xticks([1, *range(5, max(map(len, curves.values())) + 1, 5)])
    axes.legend(frameon=False, loc="lower left")
    first = "; ".join(f"{title}: {c[0].text()} at the first" for title, c in curves.items())
    return Picture(
        name="deblurring-ratio",
        figure=figure,
        alt=(
            "Improvement of unrehearsed over that of rehearsed associations by sweep: "
            + first
            + "."
        ),
        caption=(
            f"Ratio of mean improvements in |y − d| over {n} networks with its 95 % bootstrap "
            "interval. The theory is for linear networks and the first small step."
        ),
    )


def controls_picture(result: DeblurringResult) -> Picture:
    """What rehearsal gives the old items that are not rehearsed, by condition."""
    panels = list(dict.fromkeys(m for _, m in result.rehearsals))
    figure = new_figure(4.5 * len(panels), 4.8)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, m in zip(grid, panels, strict=True):
        shown = [r for (_, rehearsed), r in result.rehearsals.items() if rehearsed == m]
        for rehearsal, colour, style in zip(shown, COLOURS, LINES, strict=False):
            error = rehearsal.unretrained.error
            label = CONDITIONS[rehearsal.condition]
            sweeps = np.arange(error.shape[1])
            draw_curve(axes, sweeps, error[:, :1] - error, colour, style, label)
        axes.axhline(0, color="0.35", linewidth=0.8)
        axes.set(title=f"{m} rehearsed", xlabel="sweeps of rehearsal")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[0].set_ylabel("error removed from old items not rehearsed")
    place_legend(figure, 2, of=grid[0])
    return Picture(
        name="deblurring-controls",
        figure=figure,
        alt="Error removed from old associations that are not rehearsed, by condition and sweep.",
        caption=(
            "What rehearsal gives old associations that are not rehearsed. Below zero it does "
            "harm. Bands are 95 % intervals over networks."
        ),
    )


def return_picture(result: DeblurringResult) -> Picture:
    """Rehearsal and the decay after it: bits right of the new pairs and of the old ones."""
    m, before = result.config.rehearsed[0], result.phases[2].new.bits.mean()
    shown = [result.rehearsals[c, m] for c in RETURNING if (c, m) in result.rehearsals]
    figure = new_figure(4.1 * len(shown), 4.0)
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, r in zip(grid, shown, strict=True):
        # Rehearsal lies before 0; updates of either kind have one width.
        sweeps = r.new.bits.shape[1] - 1
        x = np.concatenate([np.arange(-sweeps, 1), r.relaxation[1:]])
        groups = (
            ("new", r.new, GREEN, "-"),
            ("retrained", r.retrained, BLUE, "-."),
            ("unretrained", r.unretrained, ORANGE, "--"),
        )
        for name, score, colour, style in groups:
            bits = np.concatenate([score.bits, r.relaxed[name].bits[:, 1:]], axis=1)
            if name == "new":
                _draw_seeds(axes, x, bits, colour)
            draw_curve(axes, x, bits, colour, style, f"{name} pairs")
        axes.axvspan(-sweeps, 0, color="0.9", linewidth=0)
        axes.axhline(before, color=GREEN, linewidth=1, linestyle=DOTTED)
        axes.set(
            title=CONDITIONS[r.condition],
            xlabel="updates of decay after rehearsal (grey)",
            ylim=(None, 1.01),
        )
    grid[0].set_ylabel("bits right")
    place_legend(figure, 3, of=grid[0])
    return Picture(
        name="deblurring-return",
        figure=figure,
        alt=(
            "Bits right of the new, the rehearsed and the unrehearsed associations during "
            "rehearsal and while the fast weights decay, by condition."
        ),
        caption=(
            f"{m} old associations are rehearsed (grey), then nothing is learned and the fast "
            "weights decay. With the slow weights frozen the new associations return and the old "
            "ones blur again. Dotted: the new associations before rehearsal."
        ),
    )


def _draw_seeds(axes: Axes, x: Any, values: Any, colour: str) -> None:
    axes.plot(x, values.T, color=colour, linewidth=0.5, alpha=0.25)

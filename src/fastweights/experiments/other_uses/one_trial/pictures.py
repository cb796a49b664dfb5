"""The figures of the one-trial experiment, with the words that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fastweights.experiments.other_uses.one_trial.model import OneTrialConfig
from fastweights.experiments.other_uses.one_trial.simulation import ARMS, TIMES
from fastweights.experiments.other_uses.shared import draw_curve, draw_level
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Picture

__all__ = ["course_picture", "stream_picture"]


def course_picture(config: OneTrialConfig, values: Mapping[str, Any]) -> Picture:
    """One new association: stored at once, faded later."""
    figure = new_figure(8.6, 4.4)
    grid = figure.subplots(1, 2)
    # The state before the trial is drawn as a stretch of time that leads up to it.
    shown = [i for i, time in enumerate(values["times"]) if time <= 600]
    x = [-60, *(values["times"][i] for i in shown)]
    panels = (
        ("whole", "new associations right (%)"),
        ("old", "bits of old associations right (%)"),
    )
    for axes, (name, label) in zip(grid, panels, strict=True):
        styles = zip(ARMS.items(), ARM_STYLES, ("-", "--", (0, (1, 1.2))), strict=False)
        for (arm, words), (colour, _), style in styles:
            curve = 100 * np.array(values["curves"][arm][name])[:, [0, *shown]]
            draw_curve(axes, x, curve, colour, style, words)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set(xlabel="updates since the trial", title=label)
    grid[0].set_ylim(-3, 103)
    low, high = grid[1].get_ylim()
    grid[1].set_ylim(low - 0.05 * (high - low), 100 + 0.03 * (100 - low))
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name="one-trial",
        figure=figure,
        alt="Left: a new association is right at once after one trial in the fast weights and "
        "fades within a few hundred updates; in the slow weights the same change stays, and their "
        "own rate does not store it. Right: the old associations suffer while the overlay is "
        "fresh and recover fully; in the slow weights the harm stays.",
        caption="A new association, presented once (at 0). In the fast weights it is there at "
        "once, and gone when they have decayed; so is the harm to the old ones. Bands are 95 % "
        f"intervals over seeds; decay {config.decay:g} per update.",
    )


def stream_picture(config: OneTrialConfig, values: Mapping[str, Any]) -> Picture:
    """New associations one after another: the latest, and the old ones."""
    figure = new_figure(8.6, 4.4)
    left, right = figure.subplots(1, 2)
    ages, trials = np.arange(config.stream), np.arange(config.stream + 1)
    pairs: list[tuple[str, str, Any]] = [("fast", "o", "-"), ("kept", "s", "--")]
    for (arm, marker, style), (colour, _) in zip(pairs, ARM_STYLES, strict=False):
        stream = {name: 100 * np.array(rows) for name, rows in values["stream"][arm].items()}
        draw_curve(left, ages, stream["bits_by_age"], colour, style, ARMS[arm], marker)
        draw_curve(right, trials, stream["old"][:, :-1], colour, style, None, marker)
        _after(right, config.stream + 2, stream["old"][:, -1], colour, marker)
    draw_level(left, 50)
    left.annotate("chance", (0, 50), xytext=(0, 3), textcoords="offset points", color="0.25")
    left.set(title="bits of new associations right (%)", xlabel="trials ago", ylim=(46, 102))
    right.set(title="bits of old associations right (%)", xlabel="trials so far")
    ticks = list(range(0, config.stream + 1, 5))
    left.set_xticks([t for t in ticks if t < config.stream])
    right.set_xticks([*ticks, config.stream + 2.0], [*map(str, ticks), "later"])
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name="one-trial-stream",
        figure=figure,
        alt="Left: the latest of a stream of new associations are known, earlier ones fade in the "
        "fast weights. Right: old associations lose with every change kept in the slow weights; "
        "under the fast weights they settle, and are whole again later.",
        caption=f"{config.stream} new associations, each presented once, {config.pause} updates "
        f"apart. “Later”: {TIMES[-1]:,} updates after the last.",
    )


def _after(axes: Axes, x: float, values: Any, colour: str, marker: str) -> None:
    axes.plot([x], [values.mean()], color=colour, marker=marker, markersize=7, linestyle="")

"""The table and the figure of mnist_deblurring.py, from the results it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Table
from fastweights.report.statistics import mean_interval

Results = Mapping[str, Any]

ARMS = {
    "fast weights": "rehearsed in the fast weights",
    "same updates": "the same updates, in the weights",
    "fine-tuning": "gentle fine-tuning",
    "replay": "plain replay",
    "stranger": "fast weights, old digits never learned",
}
OLD, NEW, STRANGER = (colour for colour, _ in ARM_STYLES[:3])
SHOWN = 300  # updates of decay in the figure
LATER = (25, 1000)  # and in the table


def table(results: Results) -> Table:
    """Accuracies in per cent with 95 % intervals over the networks."""
    networks, decay = results["networks"], results["decay"]
    rows = [
        _row("", "old digits learned", [network["before"] for network in networks]),
        _row("", "then the new ones", [network["forgotten"] for network in networks]),
    ]
    for share in networks[0]["shares"]:
        runs = [network["shares"][share] for network in networks]
        for arm, label in ARMS.items():
            rows.append(_row(share, label, [run[arm]["after"] for run in runs]))
            for wait in LATER if arm == "fast weights" else ():
                courses = [run[arm]["decay"] for run in runs]
                moment = decay.index(wait)
                then = [{name: c[moment] for name, c in course.items()} for course in courses]
                rows.append(_row(share, f"… {wait:,} updates of decay later", then))
    columns = ["kept", "what was done", "old", "new", "old, of its five", "new, of its five"]
    return Table("Test accuracy in per cent", columns, rows)


def _row(kept: str, label: str, accuracies: list[dict[str, float]]) -> list[str]:
    digits = ("old", "new", "old within", "new within")
    cells = [mean_interval([found[name] for found in accuracies]) for name in digits]
    return [kept, label, *(cell.text(1, 100) for cell in cells)]


def figure(results: Results) -> Figure:
    """Accuracy while kept images are rehearsed, and while the fast weights decay."""
    shares = results["networks"][0]["shares"]
    picture = new_figure(4.1 * len(shares), 4.4)
    panels = picture.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    for axes, share in zip(panels, shares, strict=True):
        runs = [network["shares"][share] for network in results["networks"]]
        _panel(axes, [time for time in results["decay"] if time <= SHOWN], runs)
        axes.set_title(f"{share} of the old images kept: {runs[0]['images']:,}")
    panels[0].set_ylabel(f"accuracy on {results['judged on']} images, %")
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return picture


def _panel(axes: Axes, decay: list[int], runs: list[dict[str, Any]]) -> None:
    updates = runs[0]["fast weights"]["updates"]
    x = np.array(updates[:-1] + [updates[-1] + time for time in decay]) - updates[-1]

    def line(arm: str, digits: str, colour: str, style: str, label: str) -> None:
        values = np.array([_course(run[arm], digits, len(decay)) for run in runs])
        _curve(axes, x, 100 * values, colour, style, label)

    line("fast weights", "old", OLD, "-", "old, fast weights")
    line("fast weights", "new", NEW, "-", "new, fast weights")
    line("same updates", "old", OLD, "--", "old, same updates in the weights")
    line("same updates", "new", NEW, "--", "new, same updates in the weights")
    for digits, colour, place in (("old", OLD, SHOWN + 14), ("new", NEW, SHOWN + 30)):
        mean = 100 * np.mean([run["replay"]["after"][digits] for run in runs])
        axes.plot(place, mean, "D", color=colour, label=f"{digits}, plain replay")
    line("stranger", "old", STRANGER, ":", "old, fast weights, never learned")
    axes.axvspan(x[0], 0, color="0.92", linewidth=0)
    axes.set(xlabel="updates of decay after rehearsal (grey)", ylim=(-2, 102))


def _course(run: dict[str, Any], digits: str, times: int) -> list[float]:
    """While rehearsing, then at as many times of decay; without fast weights nothing decays."""
    rehearsed = run["course"][digits]
    decayed = run["decay"][digits][:times] if "decay" in run else [rehearsed[-1]] * times
    return [*rehearsed[:-1], *decayed]


def _curve(
    axes: Axes,
    x: NDArray[np.int64],
    values: NDArray[np.float64],
    colour: str,
    style: str,
    label: str,
) -> None:
    intervals = [mean_interval(column) for column in values.T]
    if len(values) > 1:
        band = np.array([(interval.low, interval.high) for interval in intervals], dtype=float)
        axes.fill_between(x, band[:, 0], band[:, 1], color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, values.mean(0), color=colour, linestyle=style, linewidth=2, label=label)

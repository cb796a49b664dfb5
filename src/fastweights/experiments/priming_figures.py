"""Figures of the priming study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.ticker import MaxNLocator

from fastweights.experiments.priming_networks import ARMS, PrimingConfig, benefit
from fastweights.lab.findings import Values
from fastweights.nn import FastWeightsRNN
from fastweights.report.figures import ARM_STYLES, DOTTED, draw_curve, draw_dots, new_figure
from fastweights.report.section import Picture

DECAYS = ("fast-weights", "decay-0.9", "decay-0.7", "power-law")
BLUE, ORANGE = (colour for colour, _ in ARM_STYLES[:2])

Runs = Sequence[Values]  # the finished runs of an arm


def pictures_of(config: PrimingConfig, arms: Mapping[str, Runs]) -> list[Picture]:
    """What the runs allow: accuracy against noise, priming against the delay, every seed.

    Args:
        config: of all runs.
        arms: the finished runs of every arm that has some.
    """
    found = []
    if "fast-weights" in arms:
        found.append(_noise(config, arms["fast-weights"]))
    if any(arm in arms for arm in DECAYS):
        found.append(_delay(config, arms))
    if arms:
        found.append(_seeds(config, arms))
    return found


def _gained(runs: Runs, kind: str = "clean", observer: str = "network") -> npt.NDArray[np.float64]:
    """Points of accuracy by priming at every delay, shape (seeds, delays)."""
    return 100 * np.array([benefit(values, kind, observer) for values in runs])


def _noise(config: PrimingConfig, runs: Runs) -> Picture:
    figure = new_figure(8.6, 4.2)
    noises = 100 * np.array(config.probe_noises)
    panels = (("network", "fast weights"), ("wiped", "the same, fast memory wiped"))
    for axes, (observer, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        lines = (("primed", BLUE, "-"), ("unprimed", ORANGE, "--"))
        for past, colour, style in lines:
            curve = [v[observer]["noise"][f"{past}, clean"] for v in runs]
            words = "seen a moment ago" if past == "primed" else "not seen"
            draw_curve(axes, noises, 100 * np.array(curve), colour, style, words, "o")
            ideal = [v["ideal"]["noise"][f"{past}, clean"] for v in runs]
            label = f"ideal observer, {words}"
            axes.plot(
                noises,
                100 * np.mean(ideal, 0),
                color=colour,
                linewidth=0.9,
                linestyle=DOTTED,
                label=label,
            )
        axes.set(xlabel="flipped bits of the probe (%)", title=title, ylim=(0, 102))
    figure.axes[0].set_ylabel("words recognised (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name="priming-noise",
        figure=figure,
        alt="Words recognised against the noise. Left: with fast weights the curve of words seen a "
        "moment ago lies above that of the others. Right: with the memory wiped there is one "
        "curve.",
        caption=f"A word in noise, shown {config.fixed_between} patterns ago without noise or not "
        "at all. Bands are 95 % intervals over seeds.",
    )


def _delay(config: PrimingConfig, arms: Mapping[str, Runs]) -> Picture:
    shown = [arm for arm in DECAYS if arm in arms]
    figure = new_figure(9.2, 3.9)
    between = np.array(config.between)
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, arm in zip(grid, shown, strict=True):
        for kind, colour, style in (("clean", BLUE, "-"), ("noisy", ORANGE, "--")):
            gained = _gained(arms[arm], kind)
            draw_curve(axes, between, gained, colour, style, f"{kind} exposure", "o")
            left = _remaining(config, arm)
            start = int(np.argmax(between > 0))  # at 0 the units themselves remember
            axes.plot(
                between,
                gained[:, start].mean() * left / left[start],
                color=colour,
                linewidth=1,
                linestyle=DOTTED,
                label=f"decay r(k), through {between[start]}, {kind}",
            )
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set(title=ARMS[arm].label.replace("fast weights, ", ""), xlabel="patterns between")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    grid[0].set_ylabel("points of accuracy by priming")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name="priming-delay",
        figure=figure,
        alt="What priming adds to accuracy against the number of patterns between exposure and "
        f"probe, a panel for each decay: {', '.join(ARMS[arm].label for arm in shown)}.",
        caption="Priming against the delay. Dotted: what it would be if it fell as the decay r(k) "
        "does from the first delay with a pattern between; the power law is (k + 1)^−½. Bands "
        "are 95 % intervals over seeds.",
    )


def _remaining(config: PrimingConfig, arm: str) -> npt.NDArray[np.float64]:
    layer = ARMS[arm].build(dataclasses.replace(config, bits=1, hidden_size=2))  # as small as any
    assert isinstance(layer, FastWeightsRNN)
    with torch.no_grad():
        return layer.decay(torch.tensor(config.between)).double().numpy()


def _seeds(config: PrimingConfig, arms: Mapping[str, Runs]) -> Picture:
    at = config.between.index(config.fixed_between)
    rows: list[tuple[str, npt.NDArray[np.float64]]] = []
    for arm, runs in arms.items():
        rows.append((ARMS[arm].label, _gained(runs)[:, at]))
        if arm == "fast-weights":
            for name in ("wiped", "swapped"):
                gained = _gained(runs, observer=name)[:, at]
                rows.append((f"– its memory {name}", gained))
    some = next(iter(arms.values()))
    rows.append(("ideal observer", _gained(some, observer="ideal")[:, at]))
    figure = new_figure(7.6, 1.2 + 0.3 * len(rows))
    axes = figure.add_subplot()
    draw_dots(axes, rows)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel=f"points of accuracy by priming, {config.fixed_between} patterns between")
    return Picture(
        name="priming-seeds",
        figure=figure,
        alt="What a clean exposure adds to accuracy, a row for each network and control, a dot for "
        "each seed.",
        caption="What a clean exposure adds: a dot per seed, the mean and its 95 % interval.",
    )

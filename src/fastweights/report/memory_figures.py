"""Figures of the theory of memory: formulas as lines, simulations as points.

Error bars are three standard errors to either side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastweights.decay import Decay
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.statistics import mean_interval
from fastweights.theory.memory import (
    LIFETIME_DECAYS,
    SHOWN_DECAYS,
    STORED,
    lifetime,
    snr,
    weights,
)
from fastweights.theory.memory.sweeps import MEMORIES
from fastweights.theory.transfer import Series

__all__ = [
    "decays_figure",
    "lifetime_figure",
    "positions_figure",
    "snr_figure",
    "stored_figure",
]

COLOURS = tuple(colour for colour, _ in ARM_STYLES[:6])
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "0.35"


def decays_figure(readings: Mapping[str, Decay], steps: int) -> Figure:
    """What is left of a memory against its age, after so many steps, on two scales.

    Args:
        readings: decays by name.
        steps: how many memories have been written.
    """
    figure = new_figure(9.0, 4.0)
    linear, logarithmic = figure.subplots(1, 2)
    ages = np.arange(steps)
    for (name, decay), colour, marker in zip(readings.items(), COLOURS, MARKERS, strict=False):
        left = weights(decay, ages, steps)
        for axes in (linear, logarithmic):
            axes.plot(
                ages, left, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=name
            )
    linear.set(ylabel="r(k)", ylim=(0, 1.03), title="Figure 1 of the paper, every reading")
    logarithmic.set(yscale="log", ylim=(1e-6, 1.6), title="The same, logarithmic")
    for axes in (linear, logarithmic):
        axes.set_xlabel("age k in steps")
    figure.legend(
        *linear.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def snr_figure(curves: Mapping[str, Series]) -> Figure:
    """SNR against age for every decay, predicted and simulated.

    Args:
        curves: from `fastweights.theory.memory.sweeps`.
    """
    figure = new_figure(7.6, 4.4)
    axes = figure.add_subplot()
    ages = np.arange(MEMORIES)
    for (name, decay), colour, marker in zip(SHOWN_DECAYS.items(), COLOURS, MARKERS, strict=True):
        axes.plot(ages + 1, snr(decay, 100, ages, MEMORIES), color=colour, linewidth=1.2)
        _points(axes, curves[f"snr {name}"], colour, marker, name, right=1)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.1, 200),
        xlabel="age k + 1 in steps",
        ylabel="signal to noise",
        title=f"100 synapses of ±1, {MEMORIES} memories",
    )
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def lifetime_figure(curves: Mapping[str, Series]) -> Figure:
    """Lifetime against the number of synapses, predicted and simulated.

    Args:
        curves: from `fastweights.theory.memory.sweeps`.
    """
    figure = new_figure(7.6, 4.4)
    axes = figure.add_subplot()
    sizes = np.unique(np.geomspace(8, 1200, 120).round().astype(int))
    styles = zip(LIFETIME_DECAYS.items(), COLOURS, MARKERS, strict=True)
    for (name, decay), colour, marker in styles:
        lives = [lifetime(decay, int(n), MEMORIES) for n in sizes]
        known = [np.nan if age is None else age + 1 for age in lives]
        axes.plot(sizes, known, color=colour, linewidth=1.2)
        _points(axes, curves[f"lifetime {name}"], colour, marker, name, up=1)
    axes.plot(sizes, sizes + 1, color=GREY, linewidth=0.8, linestyle=":", label="N, the bound")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.8, 130),
        xlabel="synapses N",
        ylabel="lifetime + 1 in steps",
        title=f"Largest age with a signal above the noise, {MEMORIES} memories",
    )
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def stored_figure(curves: Mapping[str, Series]) -> Figure:
    """SNR against age for memories of different kinds.

    Args:
        curves: from `fastweights.theory.memory.sweeps`.
    """
    figure = new_figure(8.2, 4.4)
    axes = figure.add_subplot()
    for name, colour, marker in zip(STORED, COLOURS, MARKERS, strict=False):
        series = curves[f"stored {name}"]
        axes.plot(series.x, series.expected, color=colour, linewidth=1.2)
        _points(axes, series, colour, marker, name)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(
        yscale="log",
        ylim=(0.1, 10),
        xlabel="age k in steps",
        ylabel="signal to noise",
        title=f"What is stored makes a difference: 0.95^k, {MEMORIES} memories",
    )
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def positions_figure(
    predicted: Mapping[str, Sequence[float]],
    measured: Mapping[str, Sequence[Sequence[float]]],
    ceiling: float,
) -> Figure:
    """Predicted SNR and measured error by the position of the pair that is asked for.

    Args:
        predicted: SNR of each pair by decay, (K,) each.
        measured: accuracy of each pair by decay, (seeds, K) each.
        ceiling: the accuracy without binding.
    """
    figure = new_figure(9.2, 4.2)
    theory, networks = figure.subplots(1, 2)
    for (name, line), colour, marker in zip(predicted.items(), COLOURS, MARKERS, strict=False):
        pairs = np.arange(1, len(line) + 1)
        style = {"color": colour, "marker": marker}
        theory.plot(pairs, line, label=name, **style)
        errors = 100 * (1 - np.array(measured[name]).T)
        intervals = [mean_interval(seeds) for seeds in errors]
        networks.plot(pairs, [i.mean for i in intervals], **style)
        for pair, interval in zip(pairs, intervals, strict=True):
            if interval.low is not None:
                networks.plot([pair, pair], [interval.low, interval.high], color=colour)
    networks.axhline(100 * (1 - ceiling), color=GREY, linewidth=1, linestyle=":")
    networks.annotate(
        "without binding",
        (1, 100 * (1 - ceiling)),
        xytext=(0, 4),
        textcoords="offset points",
        color="0.25",
        fontsize=9,
    )
    theory.set(ylabel="signal to noise", title="Predicted, for random memories", ylim=(0, None))
    networks.set(
        yscale="log", ylim=(0.5, 100), ylabel="test error (%)", title="Measured, trained networks"
    )
    for axes in (theory, networks):
        axes.set(xlabel="which pair is asked for, in order", xticks=pairs)
    figure.legend(
        *theory.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def _points(
    axes: Axes, series: Series, colour: str, marker: str, label: str, *, up: int = 0, right: int = 0
) -> None:
    """Points with their errors, moved by so much where a logarithmic axis has no room for 0."""
    axes.errorbar(
        np.array(series.x) + right,
        np.array([y.value for y in series.y]) + up,
        yerr=[3 * y.standard_error for y in series.y],
        color=colour,
        marker=marker,
        markersize=4.5,
        markerfacecolor="white",
        linestyle="none",
        capsize=2,
        linewidth=1,
        label=label,
    )

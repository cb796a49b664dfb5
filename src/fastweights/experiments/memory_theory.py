"""What the theory of memory says of the paper's decays: tables, rows of the ledger, figures.

In the figures, lines are formulas and points the curves of `fastweights.theory.memory.sweeps`, with
three standard errors to either side.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fastweights.decay import Decay, Exponential, Factorial, PowerLaw, StepIndexed
from fastweights.lab.simulation import draw_series
from fastweights.report.figures import COLOURS, MARKERS, new_figure, place_legend
from fastweights.report.section import Claim, Picture, Table
from fastweights.theory.estimates import Series
from fastweights.theory.memory import (
    LIFETIME_DECAYS,
    SHOWN_DECAYS,
    STORED,
    best_exponential,
    best_power_law,
    energy,
    lifetime,
    pair_snr,
    snr,
    weights,
)
from fastweights.theory.memory.sweeps import MEMORIES

GREY = "0.35"
OLD = "0.95^k, before"
READINGS: Mapping[str, Decay] = MappingProxyType(
    {
        OLD: Exponential(0.95),
        "(a) (k + 1)^−½": PowerLaw(0.5),
        "(b) ((k + 1)!)^−½": Factorial(0.5),
        "(c) t^−½ at step t": StepIndexed(0.5),
    }
)
# K = 26 with 50 units: 54 vectors are written before the answer is read.
_PAIRS, _UNITS = 26, 50
_STEPS = 2 * _PAIRS + 2
_SIZES = (19, 190, 400, 2_500, 10_000, 1_000_000)


def _below(decay: Decay) -> np.ndarray:
    """At which ages less is left than of 0.95^k."""
    ages = np.arange(_STEPS)
    less = weights(decay, ages, _STEPS) < weights(READINGS[OLD], ages, _STEPS)
    return ages[less]


def reading_table() -> Table:
    """What each reading of the printed decay would mean for 26 pairs."""
    rows = []
    for name, decay in READINGS.items():
        below = _below(decay)
        first = pair_snr(decay, _UNITS**2, _PAIRS)[0]
        rows.append(
            [
                name,
                *(f"{r:.2g}" for r in weights(decay, [1, 10, 50], _STEPS)),
                f"{below[0]} to {below[-1]}" if below.size else "–",
                f"{energy(decay, _STEPS):.2f}",
                f"{lifetime(decay, _UNITS**2, _STEPS)}",
                f"{first:.2g}",
            ]
        )
    return Table(
        caption=f"Readings of the printed decay after {_STEPS} steps, as in sequences of {_PAIRS} "
        f"pairs: what is left at three ages, the ages at which that is less than of 0.95^k, Σ r², "
        f"the lifetime and the SNR of the first pair with N = {_UNITS}² synapses.",
        columns=(
            "reading",
            "r(1)",
            "r(10)",
            "r(50)",
            "below 0.95^k",
            "Σ r²",
            "lifetime",
            "SNR, first pair",
        ),
        rows=rows,
    )


def reading_claims() -> list[Claim]:
    """Which reading decays “much faster”, and which keeps what 100 % at K = 26 needs."""
    claims = []
    for name, decay in list(READINGS.items())[1:]:
        below = _below(decay)
        always = below.size == _STEPS - 1
        ours = f"below at ages {below[0]} to {below[-1]} of {_STEPS - 1}"
        claims.append(
            Claim(
                f"figure 1, reading {name}: decays much faster than 0.95^k",
                "much faster",
                ours,
                1,
                "fits" if always else "fits young memories only",
            )
        )
        first = float(pair_snr(decay, _UNITS**2, _PAIRS)[0])
        claims.append(
            Claim(
                f"table 1, K = 26, reading {name}: the first of 26 random pairs can be read, "
                f"SNR ≥ 1 with N = {_UNITS}²",
                "100 % right",
                f"SNR {first:.2g}",
                1,
                "fits" if first >= 1 else "does not fit",
            )
        )
    return claims


def lifetime_table() -> Table:
    """Lifetimes by closed form, for some numbers of synapses."""

    def cell(decay: Decay, synapses: int, memories: int | None = None) -> str:
        age = lifetime(decay, synapses, memories)
        return "none" if age is None else f"{age:,}"

    rows = [
        [
            f"{n:,}",
            cell(Exponential(0.95), n),
            cell(Exponential(0.99), n),
            cell(PowerLaw(0.75), n),
            cell(PowerLaw(0.5), n),
            cell(PowerLaw(0.5), n, 10_000),
            cell(Factorial(0.5), n),
            cell(StepIndexed(0.5), n, 100),
            f"{best_exponential(n)[1]:,.0f}",
            f"{best_power_law(n)[1]:,.0f}",
        ]
        for n in _SIZES
    ]
    return Table(
        caption="Lifetimes after an endless past, but for those with a number of memories; on the "
        "right the longest that any exponential and any power law can have.",
        columns=(
            "N",
            "0.95^k",
            "0.99^k",
            "(k + 1)^−¾",
            "(k + 1)^−½",
            "(k + 1)^−½, 10,000 memories",
            "((k + 1)!)^−½",
            "t^−½, step 100",
            "best λ^k",
            "best (k + 1)^−γ",
        ),
        rows=rows,
    )


def decays_picture() -> Picture:
    """What is left of a memory against its age, by every reading, on two scales."""
    figure = new_figure(9.0, 4.0)
    linear, logarithmic = figure.subplots(1, 2)
    ages = np.arange(_STEPS)
    for (name, decay), colour, marker in zip(READINGS.items(), COLOURS, MARKERS, strict=False):
        left = weights(decay, ages, _STEPS)
        for axes in (linear, logarithmic):
            axes.plot(
                ages, left, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=name
            )
    linear.set(ylabel="r(k)", ylim=(0, 1.03), title="Figure 1 of the paper, every reading")
    logarithmic.set(yscale="log", ylim=(1e-6, 1.6), title="The same, logarithmic")
    for axes in (linear, logarithmic):
        axes.set_xlabel("age k in steps")
    place_legend(figure, 4, of=linear)
    return Picture(
        name="memory-decays",
        figure=figure,
        alt="What is left of a memory against its age: 0.95 to the power k, and three readings of "
        "the printed power law; two fall at once to nothing, one crosses 0.95^k at age 35.",
        caption="The decay curves of figure 1, with every reading of the printed product, at the "
        f"end of {_STEPS} steps ({_PAIRS} pairs).",
    )


def snr_picture(curves: Mapping[str, Series]) -> Picture:
    """SNR against age for every decay, predicted and simulated."""
    figure = new_figure(7.6, 4.4)
    axes = figure.add_subplot()
    ages = np.arange(MEMORIES)
    for (name, decay), colour, marker in zip(SHOWN_DECAYS.items(), COLOURS, MARKERS, strict=False):
        axes.plot(ages + 1, snr(decay, 100, ages, MEMORIES), color=colour, linewidth=1.2)
        draw_series(axes, curves[f"snr {name}"], colour, marker, name, right=1)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.1, 200),
        xlabel="age k + 1 in steps",
        ylabel="signal to noise",
        title=f"100 synapses of ±1, {MEMORIES} memories",
    )
    place_legend(figure)
    return Picture(
        name="memory-snr",
        figure=figure,
        alt="Signal to noise against age for six decays: lines by equation 7 run through the "
        "simulated points.",
        caption="Equation 7 (lines) and simulations (points, three standard errors).",
    )


def lifetime_picture(curves: Mapping[str, Series]) -> Picture:
    """Lifetime against the number of synapses, predicted and simulated."""
    figure = new_figure(7.6, 4.4)
    axes = figure.add_subplot()
    sizes = np.unique(np.geomspace(8, 1200, 120).round().astype(int))
    styles = zip(LIFETIME_DECAYS.items(), COLOURS, MARKERS, strict=False)
    for (name, decay), colour, marker in styles:
        lives = [lifetime(decay, int(n), MEMORIES) for n in sizes]
        known = [np.nan if age is None else age + 1 for age in lives]
        axes.plot(sizes, known, color=colour, linewidth=1.2)
        draw_series(axes, curves[f"lifetime {name}"], colour, marker, name, up=1)
    axes.plot(sizes, sizes + 1, color=GREY, linewidth=0.8, linestyle=":", label="N, the bound")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.8, 130),
        xlabel="synapses N",
        ylabel="lifetime + 1 in steps",
        title=f"Largest age with a signal above the noise, {MEMORIES} memories",
    )
    place_legend(figure)
    return Picture(
        name="memory-lifetime",
        figure=figure,
        alt="Lifetime against the number of synapses for six decays: logarithmic for "
        "exponentials, a power for power laws, nearly constant for the others.",
        caption="The largest age with an SNR of at least 1. Steps in the lines are whole ages.",
    )


def stored_picture(curves: Mapping[str, Series]) -> Picture:
    """SNR against age for memories of different kinds."""
    figure = new_figure(8.2, 4.4)
    axes = figure.add_subplot()
    for name, colour, marker in zip(STORED, COLOURS, MARKERS, strict=False):
        series = curves[f"stored {name}"]
        axes.plot(series.x, series.expected, color=colour, linewidth=1.2)
        draw_series(axes, series, colour, marker, name)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(
        yscale="log",
        ylim=(0.1, 10),
        xlabel="age k in steps",
        ylabel="signal to noise",
        title=f"What is stored makes a difference: 0.95^k, {MEMORIES} memories",
    )
    place_legend(figure)
    return Picture(
        name="memory-stored",
        figure=figure,
        alt="Signal to noise against age for independent synapses, outer products of ±1 "
        "vectors, of rectified vectors, and for one unit that reads: each lower than the one "
        "before.",
        caption="The theory's independent synapses, and what fast weights have in their place. "
        "All have 400 entries, or 20 of them.",
    )


CURVES = (snr_picture, lifetime_picture, stored_picture)

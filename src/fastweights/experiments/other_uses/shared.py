"""What the experiments on the other uses share: rows of the ledger, curves, seeds.

Verdicts come from the interval of `mean_interval` and bounds that the row itself names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes

from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Claim
from fastweights.report.statistics import Interval, mean_interval, mean_intervals
from fastweights.training.config import ConfigError

__all__ = [
    "CONTROL",
    "QUALITATIVE",
    "VERDICT_RULE",
    "draw_curve",
    "draw_level",
    "finished",
    "judge",
    "ledger_row",
    "one_unit",
    "use_one_core",
]

QUALITATIVE, CONTROL = "qualitative", "— (control)"

VERDICT_RULE = (
    "Verdicts come from the 95 % interval over seeds and the bound named in the row: “holds” if "
    "the whole interval keeps it, “does not hold” if none of it does, “undecided” if part of it "
    "does, or with a single seed."
)


def judge(interval: Interval, *, at_least: float = -np.inf, at_most: float = np.inf) -> str:
    """Whether an interval lies between two bounds, both included.

    Example:
        >>> judge(Interval(0.9, 0.8, 0.95, n=20), at_least=0.5)
        'holds'
        >>> judge(Interval(0.9, 0.8, 0.95, n=20), at_least=0.85)
        'undecided'
        >>> judge(Interval(0.9, 0.8, 0.95, n=20), at_most=0.5)
        'does not hold'
    """
    low, high = interval.low, interval.high
    if low is None or high is None:
        return "undecided"
    if at_least <= low and high <= at_most:
        return "holds"
    return "does not hold" if high < at_least or low > at_most else "undecided"


def ledger_row(
    words: str,
    published: str,
    values: npt.ArrayLike,
    *,
    at_least: float = -np.inf,
    at_most: float = np.inf,
    scale: float = 100,
) -> Claim:
    """A row of the ledger from one number per seed and the bounds that its words name.

    Args:
        scale: what the printed figure is multiplied by; the bounds are not.
    """
    interval = mean_interval(np.asarray(values, dtype=float))
    verdict = judge(interval, at_least=at_least, at_most=at_most)
    return Claim(words, published, interval.text(1, scale), interval.n, verdict)


def draw_level(axes: Axes, level: float, label: str | None = None) -> None:
    """A dotted line for chance or a ceiling."""
    axes.axhline(level, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)), label=label)


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
        values: (seeds, points), in the order of ``x``.
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


def one_unit(name: str, first_seed: int, seeds: int) -> list[Unit]:
    """All seeds at once, in one process.

    Raises:
        ConfigError: there is no seed, or the first is negative.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}")
    if first_seed < 0:
        raise ConfigError(f"first_seed must be at least 0, got {first_seed}")
    numbers = list(range(first_seed, first_seed + seeds))
    return [Unit(name, f"{seeds} seeds", name, seed=None, options={"seeds": numbers})]


def finished(results: Sequence[Result]) -> dict[str, Any] | None:
    """The values of the only unit; None if it did not finish."""
    return next((r.values for r in results if r.values is not None), None)


def use_one_core(device: str) -> None:
    """For networks so small that a second thread only waits for the first.

    Raises:
        ValueError: the device is not the CPU.
    """
    if device != "cpu":
        raise ValueError(f"the networks are small and run on the cpu, got device {device!r}")
    torch.set_num_threads(1)

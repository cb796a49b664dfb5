"""Intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Interval", "mean_interval", "mean_intervals", "ratio_intervals"]

_Array = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean over n seeds with its 95 % bootstrap interval, absent when n = 1.

    Example:
        >>> Interval(mean=0.9998, low=0.9997, high=0.9999, n=10).text(scale=100)
        '99.98 [99.97, 99.99]'
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """The mean and its interval: "99.98 [99.97, 99.99]", or "99.98 (n = 1)" without one."""
        mean = f"{self.mean * scale:.{digits}f}"
        if self.low is None or self.high is None:
            return f"{mean} (n = {self.n})"
        return f"{mean} [{self.low * scale:.{digits}f}, {self.high * scale:.{digits}f}]"


def mean_interval(values: npt.ArrayLike) -> Interval:
    """The mean and its 95 % bootstrap interval (percentile, 10,000 resamples, fixed seed).

    With few values such intervals are too narrow: for 3, 5, 10 and 30 draws from a normal
    distribution they hold the true mean in about 76, 84, 91 and 93 % of cases.

    Args:
        values: one finite number per seed, at least one.

    Raises:
        ValueError: there is no value, or one is not finite.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5, n=3)
    """
    return mean_intervals(np.asarray(values, dtype=float)[None])[0]


def mean_intervals(values: npt.ArrayLike) -> list[Interval]:
    """As `mean_interval`, for every row of an array at once, which is quicker.

    Args:
        values: (rows, seeds).

    Example:
        >>> mean_intervals([[0.5, 0.5], [1.0, 1.0]])[1]
        Interval(mean=1.0, low=1.0, high=1.0, n=2)
    """
    rows = np.asarray(values, dtype=float)
    if rows.ndim != 2:
        raise ValueError(f"values must be a row for each interval, got shape {rows.shape}")
    if rows.shape[1] == 0 or not np.isfinite(rows).all():
        raise ValueError(f"values must be finite numbers, at least one, got {rows.tolist()}")
    n = rows.shape[1]
    if n == 1:
        return [Interval(float(mean), None, None, 1) for mean in rows[:, 0]]
    low, high = _bootstrap((rows,), np.mean)
    same = np.ptp(rows, axis=1) == 0  # nothing to resample, and the mean may be off by rounding
    means = np.where(same, rows[:, 0], rows.mean(1))
    ends = (np.where(same, rows[:, 0], end) for end in (low, high))
    return [
        Interval(float(mean), float(below), float(above), n)
        for mean, below, above in zip(means, *ends, strict=True)
    ]


def ratio_intervals(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> list[Interval]:
    """The ratio of two means over the same seeds, for every row, with its bootstrap interval.

    Args:
        numerators, denominators: (rows, seeds) each.

    Returns:
        For each row the ratio of the means, not the mean of the ratios; its ends come from
        resampled seeds. It is not finite where the denominators' mean is zero.

    Example:
        >>> ratio_intervals([[1.0, 3.0]], [[2.0, 6.0]])
        [Interval(mean=0.5, low=0.5, high=0.5, n=2)]
    """
    u, v = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    n = u.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _ratio_of_means(u, v)
        if n == 1:
            return [Interval(float(one), None, None, 1) for one in ratio]
        low, high = ratio.copy(), ratio.copy()
        differ = (np.ptp(u, axis=1) > 0) | (np.ptp(v, axis=1) > 0)  # else nothing to resample
        if differ.any():
            low[differ], high[differ] = _bootstrap((u[differ], v[differ]), _ratio_of_means)
    ends = zip(ratio, low, high, strict=True)
    return [Interval(float(mean), float(below), float(above), n) for mean, below, above in ends]


def _ratio_of_means(u: _Array, v: _Array, axis: int = -1) -> _Array:
    ratio: _Array = u.mean(axis) / v.mean(axis)
    return ratio


def _bootstrap(samples: tuple[_Array, ...], statistic: Callable[..., Any]) -> tuple[Any, Any]:
    """Ends of the 95 % percentile intervals of a statistic, for rows of seeds."""
    low, high = stats.bootstrap(
        samples,
        statistic,
        axis=-1,
        paired=len(samples) > 1,
        vectorized=True,
        n_resamples=10_000,
        batch=1_000,  # fits a cache; the draws are the same
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return low, high

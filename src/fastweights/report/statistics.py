"""Intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Interval", "mean_interval"]


class Interval(NamedTuple):
    """A mean over n seeds with its 95 % bootstrap interval, absent when n = 1."""

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


def mean_interval(values: Sequence[float] | npt.NDArray[np.floating]) -> Interval:
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
    sample = np.asarray(values, dtype=float)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"values must be finite numbers, at least one, got {list(values)}")
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, None, None, 1)
    if np.ptp(sample) == 0:  # nothing to resample, and the mean may be off by rounding
        value = float(sample[0])
        return Interval(value, value, value, int(sample.size))
    interval = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=10_000,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), int(sample.size))

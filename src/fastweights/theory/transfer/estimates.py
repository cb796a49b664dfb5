"""Estimates with standard errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "mean", "ratio_of_means"]

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """What a simulation measured, from n independent draws.

    Example:
        >>> Estimate(value=0.26, standard_error=0.01, n=100).agrees(0.25)
        True
    """

    value: float
    standard_error: float
    n: int

    def agrees(self, theory: float, errors: float = 3.0) -> bool:
        """Whether a theoretical value lies within so many standard errors."""
        return bool(abs(self.value - theory) <= errors * self.standard_error)


def mean(sample: Array) -> Estimate:
    """The mean of independent numbers, (n,).

    Example:
        >>> import numpy as np
        >>> mean(np.array([1.0, 2.0, 3.0])).value
        2.0
    """
    n = len(sample)
    return Estimate(float(sample.mean()), float(sample.std(ddof=1) / np.sqrt(n)), n)


def ratio_of_means(u: Array, v: Array) -> Estimate:
    """The ratio of two means over the same draws, (n,) each; its error by the delta method.

    .. math::
        r = \\bar u / \\bar v, \\qquad \\mathrm{SE}(r) = \\mathrm{SD}(u - r v) / (\\bar v \\sqrt n)

    Example:
        >>> import numpy as np
        >>> ratio_of_means(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
        Estimate(value=0.5, standard_error=0.0, n=2)
    """
    n = len(u)
    ratio = float(u.mean() / v.mean())
    spread = (u - ratio * v).std(ddof=1)
    return Estimate(ratio, float(spread / (abs(v.mean()) * np.sqrt(n))), n)

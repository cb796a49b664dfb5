"""Estimates with standard errors, and the verdicts on formulas that they give."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "Finding", "Series"]

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


def draws_at(effort: float) -> Callable[[int], int]:
    """Scales numbers of draws by an effort, to 20 at least.

    Raises:
        ValueError: ``effort`` is not positive.

    Example:
        >>> draws = draws_at(0.5)
        >>> draws(1000), draws(30)
        (500, 20)
    """
    if not effort > 0:
        raise ValueError(f"effort must be positive, got {effort}")
    return lambda number: max(20, round(number * effort))


def verdict_rule(tested: str) -> str:
    """By what rule a `Finding` is confirmed or rejected, in words; what is ``tested`` comes first.

    Example:
        >>> verdict_rule("formula")
        'A formula is “confirmed” if it lies within three standard errors of the simulation, ...'
    """
    return (
        f"A {tested} is “confirmed” if it lies within three standard errors of the simulation, "
        "and “rejected” if not; a decline is “confirmed” if the later value lies below the earlier "
        "one by more than three standard errors of both, and “rejected” if above by as much."
    )


@dataclasses.dataclass(frozen=True)
class Finding:
    """A statement, and the simulation that checks it.

    Attributes:
        claim: what is claimed, and where.
        published: the paper's figure as printed, or a dash.
        theory: the value under test.
        simulated: what the simulation of it gave.
        verdict: "confirmed" or "rejected"; of a decline also "undecided".

    Example:
        >>> Finding.of("a fair coin", "½", 0.5, Estimate(0.497, 0.005, 10_000)).verdict
        'confirmed'
    """

    claim: str
    published: str
    theory: float
    simulated: Estimate
    verdict: str

    @classmethod
    def of(cls, claim: str, published: str, theory: float, simulated: Estimate) -> Finding:
        """A value under test beside its simulation."""
        verdict = "confirmed" if simulated.agrees(theory) else "rejected"
        return cls(claim, published, theory, simulated, verdict)

    @classmethod
    def of_decline(
        cls, claim: str, published: str, theory: float, start: Estimate, end: Estimate
    ) -> Finding:
        """A claim that a number falls; ``theory`` is the value at its end."""
        error = 3 * math.hypot(start.standard_error, end.standard_error)
        fall = start.value - end.value
        verdict = "confirmed" if fall > error else "rejected" if fall < -error else "undecided"
        return cls(claim, published, theory, end, verdict)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Finding:
        """From the plain lists that ``dataclasses.asdict`` and JSON make of a finding."""
        return cls(**{**values, "simulated": Estimate(*values["simulated"])})

    @property
    def interval(self) -> tuple[float, float]:
        """Three standard errors to either side."""
        wide = 3 * self.simulated.standard_error
        return self.simulated.value - wide, self.simulated.value + wide

    def ours(self, digits: int = 4) -> str:
        """The simulated value and its interval: ".2501 [.2480, .2522]"."""
        low, high = self.interval
        return f"{self.simulated.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


@dataclasses.dataclass(frozen=True)
class Series:
    """Simulated points of a curve.

    Attributes:
        x: what was varied.
        y: what was measured at each x.
        expected: what a formula gives there, where it depends on the inputs that were drawn.
    """

    x: tuple[float, ...]
    y: tuple[Estimate, ...]
    expected: tuple[float, ...] = ()

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Series:
        """From the plain lists that ``dataclasses.asdict`` and JSON make of a series.

        Example:
            >>> series = Series((1.0,), (Estimate(0.5, 0.1, 9),))
            >>> Series.from_values({"x": [1.0], "y": [[0.5, 0.1, 9]], "expected": []}) == series
            True
        """
        points = tuple(Estimate(*point) for point in values["y"])
        return cls(tuple(values["x"]), points, tuple(values["expected"]))

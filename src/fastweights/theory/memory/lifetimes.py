"""At which age the signal has sunk to the noise, against the number of synapses.

The age at which SNR = 1 as a real number, for an endless past; its whole part is
`fastweights.theory.memory.lifetime`.
"""

from __future__ import annotations

import math

from scipy import optimize, special

from fastweights.decay import Factorial
from fastweights.theory.memory.ratio import energy

__all__ = [
    "best_exponential",
    "best_power_law",
    "exponential_lifetime",
    "factorial_lifetime",
    "power_law_lifetime",
]


def exponential_lifetime(rate: float, synapses: int) -> float:
    """Of λ^k: logarithmic in N, negative if even the newest memory is below the noise.

    .. math:: k = \\frac{\\ln[(N + 1)(1 - λ^2)]}{2 \\ln(1 / λ)}

    Raises:
        ValueError: ``rate`` is outside (0, 1), or ``synapses`` below 1.

    Example:
        >>> [round(exponential_lifetime(0.95, n), 1) for n in (100, 1000, 10_000)]
        [22.3, 44.7, 67.1]
    """
    _check("rate", rate, 0, 1)
    _check("synapses", synapses, 0, math.inf)
    return math.log((synapses + 1) * (1 - rate**2)) / (-2 * math.log(rate))


def power_law_lifetime(exponent: float, synapses: int) -> float:
    """Of (k + 1)^−γ, γ > ½: a power of N.

    .. math:: k = \\left(\\frac{N + 1}{ζ(2γ)}\\right)^{1 / 2γ} - 1

    Raises:
        ValueError: ``exponent`` is not above ½, or ``synapses`` below 1.

    Example:
        >>> [round(power_law_lifetime(0.75, n), 1) for n in (100, 1000, 10_000)]
        [10.4, 51.8, 243.7]
    """
    _check("exponent", exponent, 0.5, math.inf)
    _check("synapses", synapses, 0, math.inf)
    total = float(special.zeta(2 * exponent))
    return ((synapses + 1) / total) ** (1 / (2 * exponent)) - 1


def factorial_lifetime(exponent: float, synapses: int) -> float:
    """Of ((k + 1)!)^−γ, by Stirling's formula: ln N / ln ln N in the end.

    With W Lambert's function, and n! ≈ √(2π) ((n + ½)/e)^(n + ½),

    .. math::
        k = \\frac{x}{W(x / e)} - \\frac32, \\qquad
        x = \\frac{1}{2γ} \\ln\\frac{N + 1}{\\sum r^2} - \\ln\\sqrt{2π}

    Raises:
        ValueError: ``exponent`` is not positive, or ``synapses`` below 1.

    Example:
        >>> [round(factorial_lifetime(0.5, n), 1) for n in (100, 1000, 10_000)]
        [3.6, 4.9, 6.1]
    """
    _check("exponent", exponent, 0, math.inf)
    _check("synapses", synapses, 0, math.inf)
    total = energy(Factorial(exponent))
    x = math.log((synapses + 1) / total) / (2 * exponent) - math.log(2 * math.pi) / 2
    return float((x / special.lambertw(x / math.e)).real) - 1.5


def best_exponential(synapses: int) -> tuple[float, float]:
    """The λ whose memories last longest, and how long: N/e, but with an SNR of √e at best.

    For large N, where it is 1 − λ² = e/(N + 1).

    Raises:
        ValueError: ``synapses`` is below 3.

    Example:
        >>> rate, age = best_exponential(10_000)
        >>> round(rate, 5), round(age), round(exponential_lifetime(rate, 10_000))
        (0.99986, 3679, 3679)
    """
    _check("synapses", synapses, 2, math.inf)
    return math.sqrt(1 - math.e / (synapses + 1)), (synapses + 1) / math.e


def best_power_law(synapses: int) -> tuple[float, float]:
    """The γ whose memories last longest, and how long.

    For large N it is near ½ + 1/(2 ln N), with a lifetime near N/(e ln N) and a newest memory with
    an SNR near √(N / ln N).

    Raises:
        ValueError: ``synapses`` is below 3.

    Example:
        >>> [round(x, 3) for x in best_power_law(10_000)]
        [0.573, 536.1]
    """
    _check("synapses", synapses, 2, math.inf)
    found = optimize.minimize_scalar(
        lambda exponent: -math.log1p(power_law_lifetime(exponent, synapses)),
        bounds=(0.5 + 1e-6, 2.0),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(found.x), power_law_lifetime(float(found.x), synapses)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"{name} must be in ({low:g}, {high:g}), got {value}")

"""The network with two weights (Hinton & Plaut 1987, figures 3 and 4, sections 4.1 and 5.3).

Each of two associations is solved on a line in weight space, at a right angle to its input; the
lines cross in the solution O at the angle φ between the inputs. Noise puts the weights on a circle
around O. Retraining association 1 moves them straight towards line 1 until a fraction k of the
distance remains, which makes the circle an ellipse. With the first axis along input 1 and the
weights at (k cos ψ, sin ψ), a further step improves association 2 where both errors have one sign:

.. math::
    k \\cos ψ\\,(k \\cos φ \\cos ψ + \\sin φ \\sin ψ) > 0
    \\Leftrightarrow \\tan ψ > -k \\cot φ \\quad (φ < π/2),

.. math:: P(k) = \\frac12 + \\frac1π \\arctan(k \\cot φ) .

That is 1 − φ/π on the circle and ½ in the end. The paper's P = .667 is φ = 60°, cos φ = ½: the
angle between two long random 0/1 vectors with p = ½, for which c² = .25. (Two inputs that are 0
or 1 can only make 45°, P = .75, 0° or 90°.)
"""

from __future__ import annotations

import numpy as np
from scipy import special

from fastweights.theory.estimates import Estimate, mean
from fastweights.theory.transfer.inputs import RandomInputs

__all__ = [
    "circumference_fraction",
    "positive_transfer",
    "remaining_transfer",
    "simulate_positive_pairs",
    "simulate_two_weights",
]


def positive_transfer(angle: float, remaining: float = 1.0) -> float:
    """Probability that a further step on association 1 improves association 2.

    .. math:: P = \\frac12 + \\frac1π \\arctan(k \\cot φ)

    Args:
        angle: φ between the two lines, in radians, in (0, π/2].
        remaining: k, what retraining has left of the error of association 1: 1 at the start.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> round(positive_transfer(np.pi / 3), 3), positive_transfer(np.pi / 3, remaining=0.0)
        (0.667, 0.5)
    """
    _check(angle, remaining)
    return float(0.5 + np.arctan(remaining / np.tan(angle)) / np.pi)


def circumference_fraction(angle: float, remaining: float = 1.0) -> float:
    """Share of the ellipse's circumference on which transfer is positive, by length.

    Section 5.3 takes it for the probability. It is not, between circle and end: the points of the
    circle do not lie evenly on the ellipse. With ψ = arctan(k cot φ) and elliptic integrals of
    the second kind,

    .. math:: \\frac12 + \\frac{E(ψ \\mid 1 - k^2)}{2 E(1 - k^2)}

    Args:
        angle: φ between the two lines, in radians, in (0, π/2].
        remaining: k, in [0, 1].

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> [round(f(np.pi / 3, 0.5), 3) for f in (circumference_fraction, positive_transfer)]
        [0.615, 0.589]
    """
    _check(angle, remaining)
    border, m = np.arctan(remaining / np.tan(angle)), 1 - remaining**2
    return float(0.5 + special.ellipeinc(border, m) / (2 * special.ellipe(m)))


def remaining_transfer(cosine: float, remaining: float = 1.0) -> float:
    """Expected improvement of B by a step on A, over that by a step on B, when A was retrained.

    For inputs of one length and noise in any number of dimensions, with a fraction k of A's error
    left; steps are down the gradient.

    .. math:: \\frac{c^2 k^2}{c^2 k^2 + 1 - c^2}

    Raises:
        ValueError: ``cosine`` is outside [−1, 1], or ``remaining`` outside [0, 1]; or both
            errors are gone.

    Example:
        >>> remaining_transfer(0.5), remaining_transfer(0.5, remaining=0.0)
        (0.25, 0.0)
    """
    if not -1 <= cosine <= 1 or not 0 <= remaining <= 1:
        raise ValueError(
            f"cosine must be in [-1, 1] and remaining in [0, 1], got {cosine} and {remaining}"
        )
    left = (cosine * remaining) ** 2
    if left + 1 - cosine**2 == 0:
        raise ValueError("nothing is left to improve: |cosine| = 1 and remaining = 0")
    return left / (left + 1 - cosine**2)


def simulate_two_weights(angle: float, remaining: float, points: int, seed: int) -> Estimate:
    """Networks with two weights, noise on a circle, retrained until ``remaining``: one more step.

    Returns:
        How often the step on association 1 improves association 2.

    Raises:
        ValueError: an argument is out of range; ``remaining`` must be positive here.

    Example:
        >>> simulate_two_weights(np.pi / 3, 1.0, 20_000, seed=0).agrees(2 / 3)
        True
    """
    _check(angle, remaining)
    if remaining == 0 or points < 2:
        raise ValueError(
            f"remaining must be positive and points at least 2, got {remaining} and {points}"
        )
    rng = np.random.default_rng(seed)
    turn, direction = rng.uniform(0, 2 * np.pi, (2, points))
    a = np.stack([np.cos(turn), np.sin(turn)])
    b = np.stack([np.cos(turn + angle), np.sin(turn + angle)])
    solution = rng.standard_normal((2, points))
    targets = [(x * solution).sum(0) for x in (a, b)]
    weights = solution + np.stack([np.cos(direction), np.sin(direction)])
    weights -= (1 - remaining) * ((a * weights).sum(0) - targets[0]) * a  # retrain association 1
    error_a, error_b = ((x * weights).sum(0) - d for x, d in zip((a, b), targets, strict=True))
    moved = weights - 1e-6 * error_a * a
    better = np.abs((b * moved).sum(0) - targets[1]) < np.abs(error_b)
    return mean(better.astype(np.float64))


def simulate_positive_pairs(inputs: RandomInputs, n: int, samples: int, seed: int) -> Estimate:
    """How often a first step on A improves B, for random inputs of length n and Gaussian noise.

    Raises:
        ValueError: n is below 2 or ``samples`` below 2.

    Example:
        >>> from fastweights.theory.transfer import binary
        >>> abs(simulate_positive_pairs(binary(), 400, 5_000, seed=0).value - 2 / 3) < 0.03
        True
    """
    if n < 2 or samples < 2:
        raise ValueError(f"n and samples must be at least 2, got n = {n}, samples = {samples}")
    rng = np.random.default_rng(seed)
    positive = np.empty(samples)
    for start in range(0, samples, 5_000):
        count = min(5_000, samples - start)
        a, b = (inputs.sample_nonzero(rng, count, n) for _ in range(2))
        g = rng.standard_normal((count, n))
        gain = (a * g).sum(1) * (b * g).sum(1) * (a * b).sum(1)
        positive[start : start + count] = gain > 0
    return mean(positive)


def _check(angle: float, remaining: float) -> None:
    if not 0 < angle <= np.pi / 2:
        raise ValueError(f"angle must be in (0, π/2], got {angle}")
    if not 0 <= remaining <= 1:
        raise ValueError(f"remaining must be in [0, 1], got {remaining}")

"""Transfer from one association to another (Hinton & Plaut 1987, equations 1 to 3).

A linear unit has learned y = w·x for a and b exactly; Gaussian noise g is added to its weights, so
that it errs by a·g and b·g. A step of fixed length down the gradient of A's error then goes along
∓a / ``|a|``, and improves B by

.. math::
    u = \\mathrm{sign}(a \\cdot g)\\,(b \\cdot g)\\,\\frac{a \\cdot b}{|a|}, \\qquad
    v = |b \\cdot g|\\,|b|

where v is what the same step on B itself would have given. Their ratio u/v is the cosine of the
angle θ between the two descents (equation 1). With c = a·b / (``|a| |b|``), and because a·g and b·g
are jointly Gaussian with correlation c,

.. math::
    \\frac{E[u]}{E[v]} = c^2, \\qquad
    E[\\cos θ] = c\\,E[\\mathrm{sign}(a \\cdot g)\\,\\mathrm{sign}(b \\cdot g)]
    = \\frac{2}{π}\\,c\\,\\arcsin c .

Equation 2 states c² as the expected cosine; it is the ratio of the expected improvements.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastweights.theory.estimates import Estimate, mean, ratio_of_means
from fastweights.theory.transfer.inputs import RandomInputs

__all__ = [
    "expected_cosine",
    "pair_ratio",
    "pair_ratio_limit",
    "simulate_angle",
    "simulate_pairs",
]

Array = NDArray[np.float64]


def expected_cosine(cosine: float) -> float:
    """E[cos θ] between the two descents, where ``cosine`` is that between the inputs.

    .. math:: E[\\cos θ] = (2/π)\\,c\\,\\arcsin c

    Raises:
        ValueError: ``cosine`` is outside [−1, 1].

    Example:
        >>> round(expected_cosine(0.5), 6)  # where equation 2 has .25
        0.166667
    """
    if not -1 <= cosine <= 1:
        raise ValueError(f"cosine must be in [-1, 1], got {cosine}")
    return float(2 / np.pi * cosine * np.arcsin(cosine))


def pair_ratio(inputs: RandomInputs, n: int) -> float:
    """Expected ratio of improvements E[c²] = E[(a·b)² / (a·a b·b)] for random pairs, exactly.

    Given how many components n_a and n_b are not 0, how many they share is hypergeometric, with
    mean n_a n_b / n. Signs make (a·b)² equal that mean on average (ternary); without signs its
    square and variance are what counts (binary), and over vectors that are not all 0

    .. math::
        E[c^2] = \\frac1n \\ \\text{(ternary, any p)}, \\qquad
        E[c^2] = r^2 + \\frac{(1 - r)^2}{n - 1}, \\quad r = \\frac{p}{1 - (1 - p)^n}
        \\ \\text{(binary)}.

    At p = ½ that is .25 + .25/(n − 1) to within 2^−n.

    Args:
        inputs: the distribution of a and b.
        n: their length, at least 2.

    Raises:
        ValueError: n is below 2.

    Example:
        >>> from fastweights.theory.transfer import binary, ternary
        >>> pair_ratio(ternary(), 100), round(pair_ratio(binary(), 100), 4)
        (0.01, 0.2525)
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    if inputs.kind == "ternary":
        return 1 / n
    r = inputs.p / (1 - (1 - inputs.p) ** n)
    return r**2 + (1 - r) ** 2 / (n - 1)


def pair_ratio_limit(inputs: RandomInputs) -> float:
    """E[c²] as n → ∞: p² for 0/1 inputs, .25 at p = ½, and 0 for −1/0/1 ones.

    Example:
        >>> from fastweights.theory.transfer import binary
        >>> pair_ratio_limit(binary())
        0.25
    """
    return inputs.mean_share**2


def simulate_pairs(
    inputs: RandomInputs, n: int, samples: int, seed: int
) -> tuple[Estimate, Estimate]:
    """Random pairs, random noise, a step on A: ratio of mean improvements, and mean cosine.

    Improvements are those of the unit vector along b, so that every pair counts alike.

    Args:
        inputs: the distribution of a and b.
        n: their length, at least 2.
        samples: how many pairs, each with noise of its own; at least 2.
        seed: of all draws.

    Returns:
        E[u]/E[v], which `pair_ratio` predicts, and E[u/v], the expected cosine.

    Raises:
        ValueError: n or ``samples`` is below 2.

    Example:
        >>> from fastweights.theory.transfer import binary
        >>> ratio, cosine = simulate_pairs(binary(), n=20, samples=20_000, seed=0)
        >>> ratio.agrees(pair_ratio(binary(), 20)), cosine.agrees(pair_ratio(binary(), 20))
        (True, False)
    """
    if n < 2 or samples < 2:
        raise ValueError(f"n and samples must be at least 2, got n = {n}, samples = {samples}")
    rng = np.random.default_rng(seed)
    u, v = [], []
    for count in _parts(samples, size=n):
        a, b = (_unit(inputs.sample_nonzero(rng, count, n)) for _ in range(2))
        improved, own = _improvements(a, b, rng.standard_normal((count, n)))
        u.append(improved)
        v.append(own)
    improvement, alone = np.concatenate(u), np.concatenate(v)
    return ratio_of_means(improvement, alone), mean(improvement / alone)


def simulate_angle(cosine: float, samples: int, seed: int) -> tuple[Estimate, Estimate]:
    """`simulate_pairs` for two inputs that are fixed, at an angle with this cosine.

    Raises:
        ValueError: ``cosine`` is outside [−1, 1], or ``samples`` below 2.

    Example:
        >>> ratio, cosine = simulate_angle(0.5, samples=20_000, seed=0)
        >>> ratio.agrees(0.25), cosine.agrees(expected_cosine(0.5))
        (True, True)
    """
    if not -1 <= cosine <= 1 or samples < 2:
        raise ValueError(
            f"cosine must be in [-1, 1] and samples at least 2, got {cosine} and {samples}"
        )
    rng = np.random.default_rng(seed)
    a = np.array([[1.0, 0.0]])
    b = np.array([[cosine, np.sqrt(1 - cosine**2)]])
    u, v = _improvements(a, b, rng.standard_normal((samples, 2)))
    return ratio_of_means(u, v), mean(u / v)


def _improvements(a: Array, b: Array, noise: Array) -> tuple[Array, Array]:
    """Of B, by a step of fixed length down A's gradient, and down its own."""
    error_a, error_b = (a * noise).sum(axis=1), (b * noise).sum(axis=1)
    step = -error_a[:, None] * a  # down the gradient of ½ (a·g)²
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    own = -error_b[:, None] * b
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    gradient = error_b[:, None] * b
    return -(gradient * step).sum(axis=1), -(gradient * own).sum(axis=1)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _parts(total: int, size: int, memory: int = 2_000_000) -> list[int]:
    """``total`` in parts of which each needs at most so many numbers at a time."""
    part = max(1, memory // size)
    return [min(part, total - start) for start in range(0, total, part)]

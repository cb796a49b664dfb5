"""Transfer from a retrained set to the rest (Hinton & Plaut 1987, section 5.1 and 5.2).

The gradient of m retrained associations together moves the weights by −ε Σ_k (a_k·g) a_k. For
noise of unit variance the error ½ (b·g)² of an association b then falls by ε Σ_k (a_k·b)² on
average. With c the ratio of (a·b)² to (b·b)² on average, an unretrained association is worth m c
and a retrained one, which is among the m, 1 + (m − 1) c:

.. math:: \\text{unretrained/retrained} = \\frac{m c}{1 + (m - 1) c}
"""

from __future__ import annotations

import numpy as np

from fastweights.theory.estimates import Estimate, ratio_of_means
from fastweights.theory.transfer.inputs import RandomInputs

__all__ = ["load_limit", "retrained_set_ratio", "set_overlap", "simulate_set"]


def retrained_set_ratio(m: int, overlap: float) -> float:
    """Unretrained over retrained improvement when m associations are retrained a little.

    Args:
        m: how many are retrained, at least 1.
        overlap: c, expected transfer between two of them: .25 in the paper, `set_overlap` exactly.

    Raises:
        ValueError: m is below 1, or ``overlap`` outside [0, 1].

    Example:
        >>> round(retrained_set_ratio(50, 0.25), 3), round(retrained_set_ratio(10, 0.25), 3)
        (0.943, 0.769)
    """
    if m < 1 or not 0 <= overlap <= 1:
        raise ValueError(f"m must be at least 1 and overlap in [0, 1], got {m} and {overlap}")
    return m * overlap / (1 + (m - 1) * overlap)


def set_overlap(inputs: RandomInputs, n: int) -> float:
    """c for steps down the gradient, exactly: E[(a·b)²] / E[\\|b\\|⁴].

    With μ_1 the mean and μ_2 the mean square of a component, whose fourth moment is μ_2 too,

    .. math:: c = \\frac{n μ_2^2 + n (n - 1) μ_1^4}{n μ_2 + n (n - 1) μ_2^2}

    For 0/1 inputs at p = ½ that is .25 + .5/(n + 1), for −1/0/1 inputs 2p / (1 + 2p (n − 1)).

    Raises:
        ValueError: n is below 1.

    Example:
        >>> from fastweights.theory.transfer import binary, ternary
        >>> set_overlap(binary(), 9), round(set_overlap(ternary(0.5), 100), 3)
        (0.3, 0.01)
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    m1, m2 = inputs.mean, inputs.mean_square
    return (m2**2 + (n - 1) * m1**4) / (m2 + (n - 1) * m2**2)


def load_limit(inputs: RandomInputs, load: float) -> float:
    """The ratio as n → ∞ when m = ``load`` · n are retrained: section 5.2's invariance.

    .. math:: \\frac{ρ}{1 + ρ} \\ \\text{(ternary, any p)}, \\qquad 1 \\ \\text{(binary)}

    Raises:
        ValueError: ``load`` is not positive.

    Example:
        >>> from fastweights.theory.transfer import ternary
        >>> load_limit(ternary(0.1), 0.25)
        0.2
    """
    if load <= 0:
        raise ValueError(f"load must be positive, got {load}")
    return load / (1 + load) if inputs.mean == 0 else 1.0


def simulate_set(
    inputs: RandomInputs, n: int, m: int, networks: int, seed: int, unretrained: int | None = None
) -> Estimate:
    """Linear networks learn, get noise, and retrain m associations by an infinitesimal step.

    Args:
        inputs: the distribution of the input vectors.
        n: their length.
        m: how many are retrained.
        networks: how many networks, each with associations and noise of its own; at least 2.
        seed: of all draws.
        unretrained: how many others are measured in each network; m if None.

    Returns:
        The ratio of mean improvements, with its error over networks.

    Raises:
        ValueError: a number is too small.

    Example:
        >>> from fastweights.theory.transfer import binary
        >>> ratio = simulate_set(binary(), n=50, m=20, networks=500, seed=0)
        >>> ratio.agrees(retrained_set_ratio(20, set_overlap(binary(), 50)))
        True
    """
    others = m if unretrained is None else unretrained
    if min(n, m, others) < 1 or networks < 2:
        raise ValueError(
            "n, m and unretrained must be at least 1 and networks at least 2, "
            f"got n = {n}, m = {m}, unretrained = {others}, networks = {networks}"
        )
    rng = np.random.default_rng(seed)
    u, v = np.empty(networks), np.empty(networks)
    for i in range(networks):
        x = inputs.sample(rng, (m + others, n))
        noise = rng.standard_normal(n)
        wrong = x @ noise
        step = -(wrong[:m] @ x[:m])  # down the gradient of the retrained associations
        improvement = -wrong * (x @ step)  # of ½ (y − d)², per unit of ε
        v[i], u[i] = improvement[:m].mean(), improvement[m:].mean()
    return ratio_of_means(u, v)

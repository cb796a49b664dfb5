"""How transfer changes while retraining goes on (Hinton & Plaut 1987, section 5.3), for sets.

Retraining by gradient descent on inputs A, (m, n), multiplies the noise g by (1 − ε AᵀA)^t. With
λ_i the eigenvalues and e_i the eigenvectors of AᵀA, and M = E[b bᵀ] the second moment of an
unretrained input, the expected errors per association are, for noise of unit variance,

.. math::
    E_\\text{retrained}(t) = \\frac{1}{2m} \\sum_i λ_i (1 - ελ_i)^{2t}, \\qquad
    E_\\text{unretrained}(t) = \\frac12 \\sum_i e_i^T M e_i\\,(1 - ελ_i)^{2t} .

The cumulative ratio is what the unretrained have improved so far over what the retrained have.

In the limit n → ∞, m = ρ n, all directions but the common mean are alike, with eigenvalues
n μ_2 (1 − κ) x where x follows Marchenko and Pastur's law of ratio ρ; κ = μ_1² / μ_2 is the mean's
share. The mean is learned at once, for all items, and afterwards, in units of time τ,

.. math::
    R(τ) = \\frac{κ + (1 - κ)\\,ρ\\,(1 - E[e^{-2τx}])}{κ + (1 - κ)\\,(1 - E[x e^{-2τx}])} .

With κ = 0 it *rises* from ρ/(1 + ρ) to min(ρ, 1): directions in which many retrained items lie are
learned first, and they are the least use to others. With κ > 0 it falls from 1 to κ + (1 − κ) ρ
(for ρ ≤ 1): what the mean has to give is soon used up.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import integrate

from fastweights.theory.estimates import Estimate, ratio_of_means
from fastweights.theory.transfer.inputs import RandomInputs

__all__ = ["Course", "course_limit", "simulate_course"]

Array = NDArray[np.float64]


def course_limit(mean_share: float, load: float, time: float) -> tuple[float, float]:
    """The limit n → ∞: how much of the retrained items' error is gone, and the ratio R(τ).

    Args:
        mean_share: κ: 0 for −1/0/1 inputs, p for 0/1 inputs.
        load: ρ = m / n, positive.
        time: τ, positive.

    Returns:
        The removed fraction of the retrained items' error, and the cumulative ratio.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> [round(course_limit(0.0, 0.5, τ)[1], 2) for τ in (1e-6, 1e6)]  # ρ/(1 + ρ), then ρ
        [0.33, 0.5]
        >>> [round(course_limit(0.5, 0.5, τ)[1], 2) for τ in (1e-6, 1e6)]
        [1.0, 0.75]
    """
    if not 0 <= mean_share <= 1 or load <= 0 or time <= 0:
        raise ValueError(
            "mean_share must be in [0, 1], load and time positive, "
            f"got {mean_share}, {load} and {time}"
        )
    low, high = (1 - np.sqrt(load)) ** 2, (1 + np.sqrt(load)) ** 2

    def over_spectrum(power: int) -> float:
        """∫ x^power (1 − e^(−2τx)) over the law without its mass at 0, by x on a half circle."""

        def integrand(angle: float) -> float:
            x = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
            density = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * load)
            return float(density * x ** (power - 1) * -np.expm1(-2 * time * x))

        return float(integrate.quad(integrand, 0, np.pi, limit=200)[0])

    # ρ times the law of the m × m matrix is that of the n × n one, but for eigenvalues of 0.
    others = load * over_spectrum(0)
    removed = mean_share + (1 - mean_share) * over_spectrum(1)
    return removed, (mean_share + (1 - mean_share) * others) / removed


@dataclasses.dataclass(frozen=True)
class Course:
    """Retraining, measured and expected, after each of ``sweeps``.

    Attributes:
        sweeps: how many, from 1, (times,).
        removed: measured fraction of the retrained items' error that is gone, (times,).
        ratio: measured cumulative ratio of improvements, one per time.
        expected_removed: the same by the formulas, for the same inputs, (times,).
        expected_ratio: likewise, (times,).
    """

    sweeps: NDArray[np.int64]
    removed: Array
    ratio: tuple[Estimate, ...]
    expected_removed: Array
    expected_ratio: Array


def simulate_course(
    inputs: RandomInputs,
    n: int,
    m: int,
    sweeps: int,
    networks: int,
    seed: int,
    unretrained: int | None = None,
    noises: int = 8,
    step: float = 1.0,
) -> Course:
    """Linear networks with noise on their weights retrain m associations by gradient descent.

    The learning rate is ``step`` over the largest eigenvalue of AᵀA, in each network.

    Args:
        inputs: the distribution of the input vectors.
        n: their length.
        m: how many are retrained.
        sweeps: how long; about 20 of them, evenly on a logarithmic scale, are looked at.
        networks: how many networks, at least 2.
        seed: of all draws.
        unretrained: how many others are measured in each network; m if None.
        noises: how many times each network is noised and retrained; averaged before errors are
            estimated over networks.
        step: in (0, 1]; a small one shows how retraining begins.

    Raises:
        ValueError: a number is too small, or ``step`` out of range.

    Example:
        >>> from fastweights.theory.transfer import ternary
        >>> course = simulate_course(ternary(0.1), n=40, m=20, sweeps=200, networks=50, seed=0)
        >>> course.ratio[0].value < course.ratio[-1].value  # it rises
        True
    """
    others = m if unretrained is None else unretrained
    if min(n, m, others, sweeps, noises) < 1 or networks < 2:
        raise ValueError(
            "n, m, sweeps, unretrained and noises must be at least 1 and networks at least 2, got "
            f"n = {n}, m = {m}, sweeps = {sweeps}, unretrained = {others}, noises = {noises}, "
            f"networks = {networks}"
        )
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], got {step}")
    rng = np.random.default_rng(seed)
    a = inputs.sample(rng, (networks, m, n))
    b = inputs.sample(rng, (networks, others, n))
    g = rng.standard_normal((networks, n, noises))
    gram_values, gram_vectors = np.linalg.eigh(a @ a.swapaxes(1, 2))
    lr = step / gram_values[:, -1:, None]
    times = np.unique(np.geomspace(1, sweeps, 20).round().astype(np.int64))

    def errors(x: Array) -> Array:
        wrong: Array = x @ g
        return (wrong**2).mean(axis=(1, 2)) / 2

    start_a, start_b = errors(a), errors(b)
    measured_a, measured_b = [], []
    for sweep in range(1, sweeps + 1):
        g = g - lr * (a.swapaxes(1, 2) @ (a @ g))
        if sweep in times:
            measured_a.append(start_a - errors(a))
            measured_b.append(start_b - errors(b))

    # e_iᵀ M e_i for M = (μ_2 − μ_1²) 1 + μ_1² 𝟏𝟏ᵀ, where e_i = Aᵀ v_i / √λ_i with λ_i, v_i of AAᵀ.
    positive = gram_values > 1e-9 * gram_values[:, -1:]
    sums = (a.sum(axis=2)[:, None, :] @ gram_vectors)[:, 0] ** 2
    sums = np.divide(sums, gram_values, out=np.zeros_like(sums), where=positive)
    moment = (inputs.mean_square - inputs.mean**2) * positive + inputs.mean**2 * sums
    shrunk = (1 - lr[:, 0] * gram_values) ** 2
    gone = [1 - shrunk**t for t in times]
    expected_a = np.array([(gram_values * part).sum(1).mean() / (2 * m) for part in gone])
    expected_b = np.array([(moment * part).sum(1).mean() / 2 for part in gone])
    return Course(
        sweeps=times,
        removed=np.array([part.mean() for part in measured_a]) / start_a.mean(),
        ratio=tuple(ratio_of_means(u, v) for u, v in zip(measured_b, measured_a, strict=True)),
        expected_removed=expected_a / (gram_values.sum(1).mean() / (2 * m)),
        expected_ratio=expected_b / expected_a,
    )

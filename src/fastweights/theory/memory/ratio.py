"""Signal to noise of a fading memory (Xu, Ba & Zemel 2017, equations 4–8, after Benna & Fusi 2016).

N synapses each hold the sum of everything that was written to them, faded by its age:

.. math:: w_a = \\sum_k r(k)\\, Δw_a(k)

The memory of age k is looked for by its overlap with the synapses, (1/N) Σ_a w_a Δw_a(k). Where
the Δw are independent, with mean 0 and variance 1, this is r(k) on average (the signal), and every
other memory k' adds r(k')² / N to its variance (the noise):

.. math:: \\mathrm{SNR}(k) = \\sqrt{\\frac{N r^2(k)}{\\sum_{k' \\ne k} r^2(k')}}

It is exact for Δw = ±1. The write rate η scales signal and noise alike and drops out.

Ages are counted as in `fastweights.decay`: 0 for the memory written last, where the paper, in
which t' < t, has 1. The sum runs over the memories that are there: ``memories`` of them, or those
of an endless past.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from scipy import special

from fastweights.decay import Decay, Exponential, Factorial, PowerLaw, made_anew

__all__ = ["energy", "lifetime", "snr", "weights"]

Array = NDArray[np.float64]


def weights(decay: Decay, ages: npt.ArrayLike, memories: int | None = None) -> Array:
    """What is left of memories of these ages, when ``memories`` have been written.

    A decay by the clock (`fastweights.decay.StepIndexed`) needs to know how many: memory s of T has
    the age T − s, and T is the step at which all of them are looked at.

    Args:
        decay: how memories fade.
        ages: whole numbers from 0, any shape, below ``memories``.
        memories: T; None for an endless past.

    Returns:
        r, shaped like ``ages``.

    Raises:
        ValueError: an age is negative or no smaller than ``memories``, or ``memories`` is missing
            for a decay that depends on it.

    Example:
        >>> from fastweights.decay import PowerLaw, StepIndexed
        >>> weights(PowerLaw(1.0), [0, 1, 3])
        array([1.  , 0.5 , 0.25])
        >>> weights(StepIndexed(1.0), [0, 1, 2], memories=4).round(3)
        array([1.   , 0.25 , 0.083])
    """
    given = np.asarray(ages, dtype=np.float64)
    if given.size and (given.min() < 0 or (memories is not None and given.max() >= memories)):
        raise ValueError(f"ages must be in [0, {memories or '∞'}), got {ages!r}")
    if memories is None and not decay.stationary:
        raise ValueError(
            f"memories must be given: what {type(decay).__name__} leaves of a memory depends on "
            "how many were written, not on its age alone"
        )
    age = torch.from_numpy(given)
    with torch.no_grad(), torch.device("cpu"):  # whatever the device of layers that are made now
        if any(tensor.is_meta for tensor in (*decay.parameters(), *decay.buffers())):
            decay = made_anew(decay, torch.device("cpu"))
        left = decay(age) if memories is None else decay.between(memories - age, _scalar(memories))
    return left.double().numpy()


def energy(decay: Decay, memories: int | None = None) -> float:
    """Σ r²(k) over all memories; infinite where an endless past never stops to matter.

    .. math::
        \\sum_k λ^{2k} = \\frac{1}{1 - λ^2}, \\qquad
        \\sum_k (k + 1)^{-2γ} = ζ(2γ) \\text{ for } γ > \\frac12, \\qquad
        \\sum_k \\frac{1}{(k + 1)!} = e - 1

    Args:
        decay: how memories fade.
        memories: how many there are; None for an endless past.

    Raises:
        ValueError: ``memories`` is below 1, or missing for a decay whose endless sum is unknown.

    Example:
        >>> from fastweights.decay import Exponential, PowerLaw
        >>> round(energy(Exponential(0.95)), 4), energy(PowerLaw(0.5))
        (10.2564, inf)
        >>> energy(Exponential(1.0), memories=7)
        7.0
    """
    if memories is not None:
        if memories < 1:
            raise ValueError(f"memories must be at least 1, got {memories}")
        return float((weights(decay, np.arange(memories), memories) ** 2).sum())
    with torch.no_grad():
        if isinstance(decay, Exponential):
            rate = float(decay.rate)
            return 1 / (1 - rate**2) if rate < 1 else math.inf
        if isinstance(decay, PowerLaw):
            power = 2 * float(decay.exponent)
            return float(special.zeta(power)) if power > 1 else math.inf
    if isinstance(decay, Factorial):
        terms = 64
        while weights(decay, terms) > 1e-9:  # whose square is lost beside r(0) = 1
            terms *= 2
        return energy(decay, terms)
    if decay.horizon is not None:
        return energy(decay, decay.horizon)
    raise ValueError(f"memories must be given for {type(decay).__name__}")


def snr(decay: Decay, synapses: int, ages: npt.ArrayLike, memories: int | None = None) -> Array:
    """Signal to noise at these ages (equation 7, without the approximation of equation 8).

    Args:
        decay: how memories fade.
        synapses: N, at least 1.
        ages: whole numbers from 0, any shape.
        memories: how many were written; None for an endless past.

    Returns:
        SNR, shaped like ``ages``; infinite for a memory without rivals.

    Raises:
        ValueError: a number is out of range, or ``memories`` missing.

    Example:
        >>> from fastweights.decay import Exponential
        >>> snr(Exponential(0.95), 2500, [0, 50]).round(3)
        array([16.434,  1.202])
    """
    _check_synapses(synapses)
    power = weights(decay, ages, memories) ** 2
    others = np.maximum(energy(decay, memories) - power, 0.0)
    with np.errstate(divide="ignore"):
        ratio = np.sqrt(synapses * np.divide(power, others))
    return np.where(power > 0, ratio, 0.0)


def lifetime(decay: Decay, synapses: int, memories: int | None = None) -> int | None:
    """The largest age with SNR ≥ 1; None if no memory has it.

    SNR(k) ≥ 1 wherever (N + 1) r²(k) ≥ Σ r². No decay that never rises keeps a memory beyond the
    age N: its k + 1 youngest are all as strong as the k-th.

    Args:
        decay: how memories fade.
        synapses: N, at least 1.
        memories: how many were written; None for an endless past.

    Raises:
        ValueError: a number is out of range, or ``memories`` missing.

    Example:
        >>> from fastweights.decay import Exponential, Factorial, PowerLaw
        >>> [lifetime(decay, 2500) for decay in (Exponential(0.95), PowerLaw(0.6), Factorial())]
        [53, 160, 5]
        >>> lifetime(Exponential(1.0), 100) is None  # nothing fades, so everything drowns
        True
        >>> lifetime(Exponential(1.0), 100, memories=101)
        100
    """
    _check_synapses(synapses)
    total = energy(decay, memories)
    if memories is None:
        memories = decay.horizon
    if memories is not None:
        power = weights(decay, np.arange(memories), memories) ** 2
        alive = np.flatnonzero((synapses + 1) * power >= total)
        return int(alive[-1]) if alive.size else None

    def is_alive(age: int) -> bool:
        return bool((synapses + 1) * weights(decay, age) ** 2 >= total)

    if not is_alive(0):
        return None
    dead = 1
    while is_alive(dead):
        dead *= 2
    last = dead // 2
    while dead - last > 1:  # these decays never rise
        middle = (last + dead) // 2
        last, dead = (middle, dead) if is_alive(middle) else (last, middle)
    return last


def _check_synapses(synapses: int) -> None:
    if synapses < 1:
        raise ValueError(f"synapses must be at least 1, got {synapses}")


def _scalar(value: int) -> torch.Tensor:
    return torch.tensor(float(value), dtype=torch.float64)

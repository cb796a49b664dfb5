"""Memories written one after another, each fading, and what is found of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from fastweights.decay import Decay
from fastweights.theory.estimates import Estimate
from fastweights.theory.memory.patterns import Patterns
from fastweights.theory.memory.ratio import weights

__all__ = ["simulate_lifetime", "simulate_snr"]

Array = NDArray[np.float64]
# Patterns never stored, looked for in each memory: what they find is what any pattern would.
_FOILS = 4


def simulate_snr(
    decay: Decay,
    patterns: Patterns,
    ages: npt.ArrayLike,
    memories: int,
    samples: int,
    seed: int,
) -> list[Estimate]:
    """Fill many memories with random patterns and measure equations 4 to 6.

    The signal is the mean overlap of a stored pattern beyond that of one never stored (which is 0
    for independent synapses), the noise the overlap's standard deviation over samples.

    Args:
        decay: how memories fade.
        patterns: what is stored.
        ages: whole numbers from 0 at which to look, (A,).
        memories: T, how many are written, at least 2.
        samples: how many times all of it is done, at least 10.
        seed: of all draws.

    Returns:
        SNR at each age; its standard error is that of a ratio of a mean to a standard deviation.

    Raises:
        ValueError: a number is too small, or an age out of range.

    Example:
        >>> from fastweights.decay import PowerLaw
        >>> from fastweights.theory.memory import snr
        >>> found = simulate_snr(PowerLaw(), Patterns("signs", 50), [0, 9], 30, 2000, seed=0)
        >>> [e.agrees(s) for e, s in zip(found, snr(PowerLaw(), 50, [0, 9], 30))]
        [True, True]
    """
    if memories < 2 or samples < 10:
        raise ValueError(
            f"memories must be at least 2 and samples at least 10, got {memories} and {samples}"
        )
    ages = np.asarray(ages, dtype=np.int64)
    weights(decay, ages, memories)  # names an age that is out of range
    left = weights(decay, np.arange(memories), memories)
    rng = np.random.default_rng(seed)
    found, foils = [], []
    for count in _parts(samples, memories * patterns.size):
        stored = patterns.sample(rng, (count, memories))
        new = patterns.sample(rng, (count, _FOILS))
        found.append(patterns.overlaps(stored[:, ages], stored) @ left)
        foils.append((patterns.overlaps(new, stored) @ left).mean(axis=1))
    overlap, foil = np.concatenate(found), np.concatenate(foils)
    signs = np.where(left[ages] < 0, -1, 1)  # a memory turned over is as readable
    return [_signal_to_noise(s * x, s * foil) for s, x in zip(signs, overlap.T, strict=True)]


def simulate_lifetime(
    decay: Decay, patterns: Patterns, memories: int, samples: int, seed: int
) -> Estimate:
    """The largest age whose simulated SNR is at least 1; −1 if there is none.

    The same with every SNR three standard errors lower, or higher, gives an interval; three of the
    standard errors returned reach its further end.

    Args: as those of `simulate_snr`.

    Raises:
        ValueError: a number is too small.

    Example:
        >>> from fastweights.decay import Exponential
        >>> from fastweights.theory.memory import lifetime
        >>> found = simulate_lifetime(Exponential(0.8), Patterns("signs", 30), 30, 2000, seed=0)
        >>> found.agrees(lifetime(Exponential(0.8), 30))
        True
    """
    found = simulate_snr(decay, patterns, np.arange(memories), memories, samples, seed)
    last, *ends = (
        max((k for k, e in enumerate(found) if e.value + z * e.standard_error >= 1), default=-1)
        for z in (0, -3, 3)
    )
    return Estimate(float(last), max(abs(last - end) for end in ends) / 3, samples)


def _signal_to_noise(overlap: Array, foil: Array) -> Estimate:
    """Mean of overlap − foil over the overlap's standard deviation; error by the delta method."""
    n = len(overlap)
    excess = overlap - foil
    signal, noise = excess.mean(), overlap.std(ddof=1)
    change = (excess - signal) / noise - signal / (2 * noise**3) * (
        (overlap - overlap.mean()) ** 2 - noise**2
    )
    return Estimate(float(signal / noise), float(change.std(ddof=1) / np.sqrt(n)), n)


def _parts(total: int, size: int, numbers: int = 2_000_000) -> list[int]:
    """``total`` in parts of which each needs at most so many numbers at a time."""
    part = max(1, numbers // size)
    return [min(part, total - start) for start in range(0, total, part)]

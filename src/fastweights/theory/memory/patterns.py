"""What is stored: independent synapses, as the theory assumes, or outer products, as fast weights.

However a memory is looked for, what is found is a sum over all that are stored,

.. math:: x_k = \\sum_{k'} r(k')\\, φ(k, k'),

with an overlap φ that depends on two memories: Δw·Δw' for independent synapses, (h·h')² for outer
products Δw = h hᵀ. If memories are drawn one like another, five numbers about φ decide everything
(`Overlap`), and the noise of the memory of age k is

.. math::
    \\mathrm{noise}^2 = \\text{own}\\; r_k^2 + \\text{cross} \\sum_{k' \\ne k} r_{k'}^2
    + \\text{common} \\left(\\sum_{k' \\ne k} r_{k'}\\right)^2
    + 2\\, \\text{shared}\\; r_k \\sum_{k' \\ne k} r_{k'} .

Equation 7 is the case in which there is nothing but cross, and signal²/cross = N.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from fastweights.decay import Decay
from fastweights.theory.memory.ratio import weights

__all__ = ["KINDS", "Kind", "Overlap", "Patterns", "exact_overlap", "measured_overlap"]

Array = NDArray[np.float64]
Kind = Literal["signs", "normal", "outer signs", "outer rectified", "recall"]
KINDS: tuple[Kind, ...] = ("signs", "normal", "outer signs", "outer rectified", "recall")


@dataclasses.dataclass(frozen=True)
class Patterns:
    """How memories are drawn and compared.

    =================  ==========================================  ==========================
    kind               a memory                                    φ
    =================  ==========================================  ==========================
    "signs"            size synapses, each ±1                      Δw·Δw'
    "normal"           size synapses, each normal                  Δw·Δw'
    "outer signs"      h hᵀ, h of size units, each ±1              (h·h')²
    "outer rectified"  h hᵀ, h = relu(layer norm(normal vector))   (h·h')²
    "recall"           h hᵀ as "outer signs", cued with all of h   what unit 0 reads, times h_0
    =================  ==========================================  ==========================

    Args:
        kind: one of the above.
        size: N or H, at least 2.

    Raises:
        ValueError: an unknown kind, or a size below 2.

    Example:
        >>> patterns = Patterns("outer signs", 20)
        >>> patterns.synapses, patterns.sample(np.random.default_rng(0), (7,)).shape
        (400, (7, 20))
    """

    kind: Kind
    size: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.size < 2:
            raise ValueError(f"size must be at least 2, got {self.size}")

    @property
    def synapses(self) -> int:
        """How many entries the memory has, N, or H² for outer products."""
        return self.size if self.kind in ("signs", "normal") else self.size**2

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Vectors of independent memories, shape ``(*shape, size)``."""
        full = (*shape, self.size)
        if self.kind not in ("normal", "outer rectified"):
            return 2 * rng.integers(0, 2, full, dtype=np.int8).astype(np.float64) - 1
        drawn: Array = rng.standard_normal(full)
        if self.kind == "outer rectified":
            np.subtract(drawn, drawn.mean(axis=-1, keepdims=True), out=drawn)
            np.divide(drawn, drawn.std(axis=-1, keepdims=True), out=drawn)
            np.maximum(drawn, 0.0, out=drawn)
        return drawn

    def overlaps(self, cues: Array, stored: Array) -> Array:
        """φ of every cue (…, C, size) with everything stored (…, T, size): (…, C, T)."""
        dot = cues @ stored.swapaxes(-1, -2)
        if self.kind in ("signs", "normal"):
            return dot
        if self.kind == "recall":
            return dot * cues[..., :, None, 0] * stored[..., None, :, 0]
        return dot**2


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Five numbers of a law of memories; a stored memory k, another k', φ their overlap.

    Attributes:
        signal: E φ(k, k) − E φ(k, k'): what a memory adds to its own overlap beyond what any other
            would.
        own: variance of φ(k, k).
        cross: variance of φ(k, k') over k', on average over k: it adds up like independent noise.
        common: variance over k of the mean of φ(k, k') over k': the part of the noise in which all
            other memories agree.
        shared: covariance of φ(k, k) with that mean.
    """

    signal: float
    own: float
    cross: float
    common: float
    shared: float

    def snr(self, decay: Decay, ages: npt.ArrayLike, memories: int) -> Array:
        """Signal to noise at these ages, of memories that fade with this decay.

        Args:
            decay: how memories fade.
            ages: whole numbers from 0, any shape, below ``memories``.
            memories: how many were written, at least 2.

        Returns:
            SNR, shaped like ``ages``.

        Raises:
            ValueError: an age is out of range, or ``memories`` below 2.

        Example:
            >>> from fastweights.decay import Exponential
            >>> from fastweights.theory.memory import snr
            >>> law, decay = exact_overlap(Patterns("outer signs", 50)), Exponential(0.95)
            >>> law.snr(decay, [0], 200).round(3), snr(decay, 50 * 49 // 2, [0], 200).round(3)
            (array([11.504]), array([11.504]))
        """
        if memories < 2:
            raise ValueError(f"memories must be at least 2, got {memories}")
        all_left = weights(decay, np.arange(memories), memories)
        left = weights(decay, ages, memories)
        others = all_left.sum() - left
        squares = (all_left**2).sum() - left**2
        noise = (
            self.own * left**2
            + self.cross * squares
            + self.common * others**2
            + 2 * self.shared * left * others
        )
        return self.signal * np.abs(left) / np.sqrt(noise)


def exact_overlap(patterns: Patterns) -> Overlap:
    """The five numbers where they are known exactly; `measured_overlap` serves the rest.

    Independent synapses with kurtosis κ have signal = cross = N and own = (κ − 1) N: for ±1 that is
    equation 7, and anything else has a noise of its own that equation 7 leaves out. With ±1 units
    (h·h')² has mean H and variance 2H(H − 1), and φ(k, k) = H², so that signal²/cross is
    H(H − 1)/2, the number of different synapses, though they are not independent. A unit that
    reads sees H − 1 of them.

    Raises:
        ValueError: the kind is "outer rectified".

    Example:
        >>> law = exact_overlap(Patterns("outer signs", 20))
        >>> law.signal**2 / law.cross == 20 * 19 / 2
        True
    """
    n = float(patterns.size)
    if patterns.kind == "signs":
        return Overlap(n, 0.0, n, 0.0, 0.0)
    if patterns.kind == "normal":
        return Overlap(n, 2 * n, n, 0.0, 0.0)
    if patterns.kind == "outer signs":
        return Overlap(n * (n - 1), 0.0, 2 * n * (n - 1), 0.0, 0.0)
    if patterns.kind == "recall":
        return Overlap(n - 1, 0.0, n - 1, 0.0, 0.0)
    raise ValueError(f"kind must have known numbers, got {patterns.kind!r}: use measured_overlap")


def measured_overlap(patterns: Patterns, samples: int, seed: int, others: int = 32) -> Overlap:
    """The five numbers from pairs of memories; nothing is stored, nothing fades.

    Args:
        patterns: how memories are drawn.
        samples: memories k, at least 2.
        seed: of all draws.
        others: memories k' for each of them, at least 2.

    Raises:
        ValueError: ``samples`` or ``others`` is below 2.

    Example:
        >>> law = measured_overlap(Patterns("outer signs", 20), samples=4000, seed=0)
        >>> round(law.signal), abs(law.cross / (2 * 20 * 19) - 1) < 0.05
        (380, True)
    """
    if min(samples, others) < 2:
        raise ValueError(f"samples and others must be at least 2, got {samples} and {others}")
    rng = np.random.default_rng(seed)
    one = patterns.sample(rng, (samples, 1))
    crossed = patterns.overlaps(one, patterns.sample(rng, (samples, others)))[:, 0]
    own = patterns.overlaps(one, one)[:, 0, 0]
    mean, within = crossed.mean(axis=1), crossed.var(axis=1, ddof=1)
    return Overlap(
        signal=float(own.mean() - mean.mean()),
        own=float(own.var(ddof=1)),
        cross=float(within.mean()),
        common=float(mean.var(ddof=1) - within.mean() / others),
        shared=float(np.cov(own, mean)[0, 1]),
    )

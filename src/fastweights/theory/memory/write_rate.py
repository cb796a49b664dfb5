r"""How strongly to write: η from the length of the sequence.

What a layer writes is h = relu(LN(…)). Taken at random such vectors have

.. math:: E[h h^\top] = σ² I + μ² 1 1^\top, \quad σ² = \frac12 - 1/2π, \quad μ² = 1/2π,

up to terms in 1/H, since their entries are normal numbers with the negative ones cut off. So a
memory of T of them reads a vector v that belongs to none of them as

.. math:: A v = η \sum_{k<T} r(k) \, (σ² v + μ² (1 \cdot v) 1)

on average. The second part is the same number for every unit and layer norm takes it out. The
first is the query itself, back again, and says nothing: it only makes what the network sees now,
and what it wrote last, weigh more against everything else. It grows with the length of the
sequence and with η, and not with H. Holding η Σ r(k) fixed holds it fixed, at σ² = .34 of v if the
sum is 1: that is the rule.
"""

from __future__ import annotations

import math

import numpy as np

from fastweights.decay import Decay
from fastweights.theory.memory.ratio import weights

__all__ = ["balanced_write_rate", "unspecific_gain"]

_VARIANCE = 0.5 - 0.5 / math.pi


def unspecific_gain(decay: Decay, write_rate: float, length: int) -> float:
    """How much of a query that matches no memory a full memory gives back: σ² η Σ r(k).

    Args:
        decay: how memories fade.
        write_rate: η.
        length: T, memories written, at least 1.

    Example:
        >>> from fastweights.decay import Exponential
        >>> round(unspecific_gain(Exponential(0.99), 0.1, 11), 2)
        0.36
    """
    return _VARIANCE * write_rate * float(weights(decay, np.arange(length), length).sum())


def balanced_write_rate(decay: Decay, length: int) -> float:
    """η = 1 / Σ r(k) over the ages k of a sequence.

    A rule for layers with ReLU and layer norm that meet sequences of one length; the module tells
    where it comes from, and docs/retrieval.md what it gives.

    Args:
        decay: how memories fade.
        length: T, steps of a sequence, at least 1.

    Example:
        >>> from fastweights.decay import Exponential, PowerLaw
        >>> round(balanced_write_rate(Exponential(0.99), 11), 3)
        0.096
        >>> round(balanced_write_rate(PowerLaw(0.5), 55), 3)
        0.074
    """
    return _VARIANCE / unspecific_gain(decay, 1.0, length)

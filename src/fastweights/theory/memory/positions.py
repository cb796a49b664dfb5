"""What the theory says about associative retrieval: which pair is remembered best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastweights.decay import Decay
from fastweights.theory.memory.ratio import snr

__all__ = ["pair_ages", "pair_snr"]


def pair_ages(num_pairs: int) -> NDArray[np.int64]:
    """Ages of the K pairs of ``c9k8j3f1??c`` when the answer is read, first pair first: (K,).

    A pair is bound when its digit comes, at step 2p of 2K + 3 for pair p = 1 … K; the last letter
    is read with the matrix of the step before it. That leaves 2(K + 1 − p) steps.

    Raises:
        ValueError: ``num_pairs`` is below 1.

    Example:
        >>> pair_ages(4)
        array([8, 6, 4, 2])
    """
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be at least 1, got {num_pairs}")
    return 2 * np.arange(num_pairs, 0, -1)


def pair_snr(decay: Decay, synapses: int, num_pairs: int) -> NDArray[np.float64]:
    """SNR of each pair when the answer is read, first pair first: (K,).

    All 2K + 2 vectors written so far count as memories, as random as one another. Those of a
    trained network are not: it can keep apart what it must tell apart.

    Args:
        decay: how memories fade.
        synapses: N; a unit of H that reads its row has N = H − 1.
        num_pairs: K, at least 1.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> from fastweights.decay import Exponential
        >>> pair_snr(Exponential(0.95), 19, 4).round(2)
        array([1.17, 1.3 , 1.46, 1.64])
    """
    return snr(decay, synapses, pair_ages(num_pairs), memories=2 * num_pairs + 2)

"""Sorting by priority: symbols come with priorities, and are asked for from the highest down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastweights.tasks.streams import below, check_integer
from fastweights.tasks.symbols import SymbolBatch, as_batch, draw

__all__ = ["PrioritySort"]


@dataclass(frozen=True)
class PrioritySort:
    """n symbols, each with a priority; then n times "go": answer with them in order of priority.

    A step shows a symbol, 0 … ``num_symbols`` − 1, and its priority, 0 … ``num_levels`` − 1, side
    by side. Symbols are drawn with replacement, priorities without. In a step that asks, both
    fields hold a token of their own, ``num_symbols`` and ``num_levels``. T = 2n, A = n.

    Graves, Wayne & Danihelka show binary vectors with a real number for a priority, twenty of
    them, and ask for the first sixteen. Ours are symbols and levels, and all are asked for.

    Every batch is a function of the configuration, the seed, the split, its number and n, the same
    on every platform. No sequence is in two splits (:func:`fastweights.tasks.symbols.split_of`).

    Args:
        num_symbols: 2 … 32.
        num_levels: 2 … 32, the largest n.

    Raises:
        TypeError, ValueError: an argument is not an integer or out of range.

    Source: Graves, Wayne & Danihelka, "Neural Turing machines" (2014), section 4.5; Xu, Ba & Zemel
    (2017) announce it for fast weights.

    Example:
        >>> task = PrioritySort(num_symbols=8, num_levels=16)
        >>> batch = task.batch(seed=0, split="train", number=0, length=3, size=1)
        >>> batch.inputs[0].tolist()
        [[0, 1], [6, 10], [7, 6], [8, 16], [8, 16], [8, 16]]
        >>> batch.targets[0].tolist()
        [6, 7, 0]
    """

    num_symbols: int = 8
    num_levels: int = 16

    def __post_init__(self) -> None:
        check_integer("num_symbols", self.num_symbols, 2, 32)
        check_integer("num_levels", self.num_levels, 2, 32)

    @property
    def fields(self) -> tuple[int, ...]:
        """How many different tokens each field has."""
        return self.num_symbols + 1, self.num_levels + 1

    @property
    def num_classes(self) -> int:
        """How many different answers there are."""
        return self.num_symbols

    @property
    def longest(self) -> int:
        """The largest n."""
        return self.num_levels

    def batch(self, seed: int, split: str, number: int, length: int, size: int) -> SymbolBatch:
        """``size`` sequences of ``length`` symbols.

        Args:
            seed: 0 … 2^64 − 1.
            split: "train", "validation" or "test".
            number: which batch, 0 … 2^64 − 1.
            length: n, 2 … ``num_levels``.
            size: N.

        Raises:
            TypeError, ValueError: an argument is not of its type or out of range.
        """
        check_integer("length", length, 2, self.longest)

        def make(words: NDArray[np.uint64]) -> NDArray[np.int64]:
            levels = np.argsort(words[:, length:], axis=1, kind="stable")[:, :length]
            return np.concatenate([below(words[:, :length], self.num_symbols), levels], axis=1)

        rows = draw(
            make,
            length + self.num_levels,
            purpose="sorting",
            seed=seed,
            split=split,
            number=number,
            length=length,
            size=size,
        )
        symbols, levels = rows[:, :length], rows[:, length:]
        inputs = np.empty((size, 2 * length, 2), dtype=np.int64)
        inputs[:, :length, 0], inputs[:, :length, 1] = symbols, levels
        inputs[:, length:] = self.num_symbols, self.num_levels
        order = np.argsort(-levels, axis=1)
        return as_batch(inputs, np.take_along_axis(symbols, order, axis=1))

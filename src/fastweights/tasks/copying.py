"""Repeated copying: a sequence and a number, to be given back that many times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastweights.tasks.streams import below, check_integer
from fastweights.tasks.symbols import IGNORED, SymbolBatch, as_batch, draw

__all__ = ["RepeatCopy"]


@dataclass(frozen=True)
class RepeatCopy:
    """n symbols, a number c, then "go": answer with the symbols c times over, and an end.

    Tokens are 0 … ``num_symbols`` − 1 for the symbols, then one for every c = 1 … ``max_repeats``,
    then "go". Symbols are drawn with replacement, every c is equally likely. The answer ends with a
    class of its own, ``num_symbols``, so that the number has to be counted. A batch holds all c:
    A = n · ``max_repeats`` + 1, T = n + 1 + A, and targets beyond the end are ``IGNORED``.

    Graves, Wayne & Danihelka show random binary vectors and the number on a channel of its own, n
    and c up to ten. Ours are symbols, and the number is a token, so that only lengths can be longer
    than those of the training.

    Every batch is a function of the configuration, the seed, the split, its number and n, the same
    on every platform. No sequence is in two splits (:func:`fastweights.tasks.symbols.split_of`).

    Args:
        num_symbols: 2 … 32.
        max_repeats: the largest c, 1 … 32.

    Raises:
        TypeError, ValueError: an argument is not an integer or out of range.

    Source: Graves, Wayne & Danihelka, "Neural Turing machines" (2014), section 4.2; Xu, Ba & Zemel
    (2017) announce it for fast weights.

    Example:
        >>> task = RepeatCopy(num_symbols=8, max_repeats=2)
        >>> batch = task.batch(seed=0, split="train", number=0, length=3, size=1)
        >>> batch.inputs[0, :, 0].tolist()
        [1, 4, 3, 9, 10, 10, 10, 10, 10, 10, 10]
        >>> batch.targets[0].tolist()
        [1, 4, 3, 1, 4, 3, 8]
    """

    num_symbols: int = 8
    max_repeats: int = 3

    def __post_init__(self) -> None:
        check_integer("num_symbols", self.num_symbols, 2, 32)
        check_integer("max_repeats", self.max_repeats, 1, 32)

    @property
    def fields(self) -> tuple[int, ...]:
        """How many different tokens the field has."""
        return (self.num_symbols + self.max_repeats + 1,)

    @property
    def num_classes(self) -> int:
        """How many different answers there are, the end included."""
        return self.num_symbols + 1

    @property
    def longest(self) -> int:
        """The largest n, chosen so that sequences stay short enough to train on."""
        return 64

    def batch(self, seed: int, split: str, number: int, length: int, size: int) -> SymbolBatch:
        """``size`` sequences of ``length`` symbols.

        Args:
            seed: 0 … 2^64 − 1.
            split: "train", "validation" or "test".
            number: which batch, 0 … 2^64 − 1.
            length: n, 2 … 64.
            size: N.

        Raises:
            TypeError, ValueError: an argument is not of its type or out of range.
        """
        check_integer("length", length, 2, self.longest)

        def make(words: NDArray[np.uint64]) -> NDArray[np.int64]:
            symbols = below(words[:, :length], self.num_symbols)
            return np.concatenate([symbols, below(words[:, length:], self.max_repeats)], axis=1)

        rows = draw(
            make,
            length + 1,
            purpose="copying",
            seed=seed,
            split=split,
            number=number,
            length=length,
            size=size,
        )
        answer = length * self.max_repeats + 1
        inputs = np.full((size, length + 1 + answer, 1), self.fields[0] - 1, dtype=np.int64)
        inputs[:, :length, 0] = rows[:, :length]
        inputs[:, length, 0] = rows[:, length] + self.num_symbols
        end = length * (rows[:, length:] + 1)
        place = np.arange(answer)
        targets = np.where(
            place < end,
            np.tile(rows[:, :length], self.max_repeats + 1)[:, :answer],
            np.where(place == end, self.num_symbols, IGNORED),
        )
        return as_batch(inputs, targets)

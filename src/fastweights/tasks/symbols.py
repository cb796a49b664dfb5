"""What sorting and repeated copying share: batches of symbols, and splits that cannot overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastweights.tasks.associative_retrieval import SPLITS
from fastweights.tasks.streams import MAX_SEED, check_integer, stream

__all__ = ["IGNORED", "SymbolBatch", "draw", "split_of"]

IGNORED = -1  # a target that nobody asks for, as of a shorter answer in a longer batch
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, eq=False)
class SymbolBatch:
    """Sequences of one length, and what to answer in their last steps.

    Attributes:
        inputs: tokens, int64, shape (N, T, fields): a step shows one token of every field.
        targets: classes to give in the last A of the T steps, int64, shape (N, A); ``IGNORED``
            where nothing is asked.
    """

    inputs: Tensor
    targets: Tensor

    def digest(self) -> str:
        """SHA-256 of inputs, then targets, as little-endian 64-bit integers, in hexadecimal."""
        total = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            total.update(tensor.numpy().astype("<i8").tobytes())
        return total.hexdigest()


def split_of(sequences: NDArray[np.int64]) -> NDArray[np.int64]:
    """The split that a sequence belongs to: 0 train (80 %), 1 validation, 2 test (10 % each).

    The sequence alone decides, by a hash of its numbers, so no sequence is in two splits, whatever
    the seeds.

    Args:
        sequences: non-negative integers, shape (N, numbers).

    Returns:
        Indices of ``SPLITS``, shape (N,).

    Source: the mixing function of SplitMix64 (Steele, Lea & Flood 2014), a number at a time.

    Example:
        >>> split_of(np.arange(8)[:, None]).tolist()
        [0, 0, 2, 0, 0, 0, 0, 0]
    """
    mixed = np.zeros(len(sequences), dtype=np.uint64)
    for number in sequences.T.astype(np.uint64):
        mixed = mixed + _GOLDEN * (number + np.uint64(1))
        for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
            mixed = (mixed ^ (mixed >> shift)) * multiplier
        mixed = mixed ^ (mixed >> _SHIFTS[-1])
    tenth = mixed % np.uint64(10)
    return np.where(tenth < 8, 0, tenth.astype(np.int64) - 7)


def draw(
    make: Callable[[NDArray[np.uint64]], NDArray[np.int64]],
    words: int,
    *,
    purpose: str,
    seed: int,
    split: str,
    number: int,
    length: int,
    size: int,
) -> NDArray[np.int64]:
    """Random sequences of one split, as many as asked for.

    Args:
        make: sequences (n, numbers) from random words (n, ``words``).
        words: how many a sequence takes.
        purpose: of the random stream.
        seed: 0 … 2^64 − 1.
        split: "train", "validation" or "test".
        number: of the batch; every one is its own draw.
        length: of the sequences; every one has its own stream.
        size: N.

    Returns:
        Shape (N, numbers).

    Raises:
        TypeError, ValueError: an argument is not of its type or out of range, or the split has no
            sequence of this length.
    """
    check_integer("seed", seed, 0, MAX_SEED)
    check_integer("size", size, 1)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    which = SPLITS.index(split)
    source = stream(seed, purpose, first=3 * length + which, second=number)
    found: list[NDArray[np.int64]] = []
    tried = 0
    while (count := sum(map(len, found))) < size:
        if tried > 1000 and not count:
            raise ValueError(
                f"length {length} has so few different sequences that none is of the {split} split;"
                " the task needs more symbols"
            )
        tries = size if which == 0 else 10 * size
        tried += tries
        candidates = make(source.random_raw((tries, words)))
        found.append(candidates[split_of(candidates) == which][: size - count])
    return np.concatenate(found)


def as_batch(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> SymbolBatch:
    """A batch from arrays of shapes (N, T, fields) and (N, A)."""
    return SymbolBatch(torch.from_numpy(inputs), torch.from_numpy(targets))

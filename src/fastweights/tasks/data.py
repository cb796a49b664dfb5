"""What a task hands to training: splits, and their mini-batches in an order without state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastweights.tasks.streams import check_integer, stream

__all__ = ["Split", "Splits", "batch_indices", "batches"]


@dataclass(frozen=True, eq=False)
class Split:
    """Sequences of tokens, each with one class to predict after its last token.

    Attributes:
        inputs: tokens, int64, shape (N, T).
        targets: classes, int64, shape (N,).

    Raises:
        ValueError, TypeError: the shapes or dtypes are not these.

    Example:
        >>> split = Split(torch.zeros(5, 11, dtype=torch.int64), torch.arange(5))
        >>> len(split)
        5
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        for name, dims in (("inputs", 2), ("targets", 1)):
            tensor = getattr(self, name)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
            if tensor.dtype != torch.int64:
                raise TypeError(f"{name} must be torch.int64, got {tensor.dtype}")
            if tensor.dim() != dims:
                raise ValueError(f"{name} must have {dims} dimension(s), got {tensor.dim()}")
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"inputs and targets must be equally many, got {len(self.inputs)} and "
                f"{len(self.targets)}"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def digest(self) -> str:
        """SHA-256 of inputs, then targets, as little-endian 64-bit integers, in hexadecimal."""
        total = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            total.update(tensor.cpu().numpy().astype("<i8").tobytes())
        return total.hexdigest()


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits of a task."""

    train: Split
    validation: Split
    test: Split


def batch_indices(
    size: int, batch_size: int, *, seed: int, epoch: int, drop_last: bool = False
) -> tuple[Tensor, ...]:
    """The indices of every mini-batch of an epoch, in an order that (seed, epoch) alone decides.

    Nothing is remembered between calls, so a run that resumes at batch i of an epoch continues
    with ``batch_indices(...)[i:]`` and sees what an uninterrupted run sees. The order is that of
    one random 64-bit word per sample (a tie, one in 10^9 for 100,000 samples, leaves the lower
    index first).

    Args:
        size: number of samples.
        batch_size: samples in a batch; the last batch may have fewer.
        seed: 0 … 2^64 − 1.
        epoch: 0 … 2^64 − 1; every epoch has its own order.
        drop_last: leave out a last batch that is not full.

    Returns:
        int64 tensors that together hold 0 … size − 1 once (less what ``drop_last`` leaves out).

    Raises:
        TypeError, ValueError: an argument is not an integer or out of range.

    Example:
        >>> [batch.tolist() for batch in batch_indices(5, 2, seed=0, epoch=0)]
        [[4, 1], [0, 2], [3]]
        >>> [batch.tolist() for batch in batch_indices(5, 2, seed=0, epoch=1, drop_last=True)]
        [[4, 2], [3, 1]]
    """
    size = check_integer("size", size, 1)
    batch_size = check_integer("batch_size", batch_size, 1)
    words = stream(seed, "batches", second=check_integer("epoch", epoch, 0)).random_raw(size)
    order = torch.from_numpy(np.argsort(words, kind="stable").astype(np.int64))
    if drop_last:
        order = order[: size - size % batch_size]
    return order.split(batch_size) if len(order) else ()


def batches(
    split: Split, batch_size: int, *, seed: int, epoch: int, drop_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The mini-batches (inputs, targets) of an epoch; see :func:`batch_indices`.

    Example:
        >>> split = Split(torch.arange(10).view(5, 2), torch.arange(5))
        >>> [targets.tolist() for _, targets in batches(split, 2, seed=0, epoch=0)]
        [[4, 1], [0, 2], [3]]
    """
    indices = batch_indices(len(split), batch_size, seed=seed, epoch=epoch, drop_last=drop_last)
    return ((split.inputs[index], split.targets[index]) for index in indices)

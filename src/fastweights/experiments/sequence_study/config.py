"""The settings of the experiments on sorting and on repeated copying."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Protocol

from pydantic import Field

from fastweights.tasks import PrioritySort, RepeatCopy, SymbolBatch

__all__ = ["CopyingConfig", "SequenceConfig", "SortingConfig", "Task"]

Positive = Annotated[int, Field(ge=1)]
Symbols = Annotated[int, Field(ge=2, le=32)]


class Task(Protocol):
    """What both tasks are: batches of sequences of n symbols, n = 2 … ``longest``."""

    @property
    def fields(self) -> tuple[int, ...]:
        """How many different tokens each field of a step has."""

    @property
    def num_classes(self) -> int:
        """How many different answers there are."""

    @property
    def longest(self) -> int:
        """The largest n."""

    def batch(self, seed: int, split: str, number: int, length: int, size: int) -> SymbolBatch:
        """Sequences of ``length`` symbols; ``number`` tells one batch from another."""


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """Settings that both have; see docs/sorting-and-copying.md for how they were chosen.

    Seeds are ``first_seed``, ``first_seed`` + 1, …; settings were chosen on seeds below 300. An
    update draws its length between 2 and a longest one, which grows from 2 to ``train_length``
    during the first ``curriculum`` of the updates and stays there; tests go on to ``test_length``.
    Where ``learning_rate`` or ``write_rate`` is None, each arm has its own.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "exponential",
        "power-law",
        "factorial",
        "layer-norm-rnn",
        "lstm",
    )
    num_symbols: Symbols = 8
    train_length: Annotated[int, Field(ge=2)] = 6
    test_length: Annotated[int, Field(ge=2)] = 12
    curriculum: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    hidden_size: Annotated[int, Field(ge=1, le=4096)] = 64
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    updates: Positive = 4_000
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 200
    gradient_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    evaluate_every: Positive = 250
    test_size: Positive = 500
    write_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


@dataclasses.dataclass(frozen=True)
class SortingConfig(SequenceConfig):
    """Settings of the experiment on sorting."""

    num_levels: Symbols = 16

    def task(self) -> PrioritySort:
        return PrioritySort(self.num_symbols, self.num_levels)


@dataclasses.dataclass(frozen=True)
class CopyingConfig(SequenceConfig):
    """Settings of the experiment on repeated copying."""

    max_repeats: Annotated[int, Field(ge=1, le=32)] = 3

    def task(self) -> RepeatCopy:
        return RepeatCopy(self.num_symbols, self.max_repeats)

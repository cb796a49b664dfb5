"""Schedules of training: how many updates, at which learning rates, validated how often."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol


class Settings(Protocol):
    """What the configuration of every experiment that trains says of it."""

    @property
    def updates(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def gradient_clip(self) -> float: ...
    @property
    def evaluate_every(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        updates: number of parameter updates.
        batch_size: sequences per update.
        learning_rate: its highest value.
        warmup: updates over which it rises from zero.
        shape: "cosine" (to zero) or "linear" (constant for half of the updates, then to zero).
        gradient_clip: largest norm of the gradient.
        evaluate_every: updates between validations, each followed by a checkpoint.
        weight_decay: AdamW's, on every parameter.

    Raises:
        ValueError: a count below 1, a negative weight decay, or an unknown shape.

    Example:
        >>> schedule = Schedule(updates=100, batch_size=32, learning_rate=0.01, warmup=10,
        ...                     shape="linear", gradient_clip=0.5, evaluate_every=50)
        >>> [round(schedule.rate(update), 4) for update in (0, 9, 50, 75)]
        [0.001, 0.01, 0.01, 0.005]
    """

    updates: int
    batch_size: int
    learning_rate: float
    warmup: int
    shape: str
    gradient_clip: float
    evaluate_every: int
    weight_decay: float = 0.0

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        batch_size: int,
        learning_rate: float,
        weight_decay: float = 0.0,
        shape: str = "cosine",
    ) -> Schedule:
        """A schedule with everything else as the settings have it."""
        return cls(
            updates=settings.updates,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup=settings.warmup,
            shape=shape,
            gradient_clip=settings.gradient_clip,
            evaluate_every=settings.evaluate_every,
            weight_decay=weight_decay,
        )

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.shape not in ("cosine", "linear"):
            raise ValueError(f'shape must be "cosine" or "linear", got {self.shape!r}')

    def rate(self, update: int) -> float:
        """The learning rate of an update, counted from 0."""
        done = update / self.updates
        fall = 0.5 * (1 + math.cos(math.pi * done)) if self.shape == "cosine" else 2 * (1 - done)
        rise = (update + 1) / self.warmup if self.warmup else 1.0
        return self.learning_rate * min(1.0, rise) * min(1.0, fall)

"""The settings of the priming experiment."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from fastweights.tasks.priming import Priming

__all__ = ["PrimingConfig", "task_of"]

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Noise = Annotated[float, Field(ge=0, le=0.5)]


@dataclasses.dataclass(frozen=True)
class PrimingConfig:
    """Settings; chosen on seeds below 300.

    ``between`` are the delays, in patterns between exposure and probe; the curves against the
    noise are taken at ``fixed_between``, those against the delay at ``probe_noise``. A noisy
    exposure has ``exposure_noise``.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "fast-weights",
        "decay-0.9",
        "decay-0.7",
        "power-law",
        "no-repeats",
        "layer-norm-rnn",
    )
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    words: Annotated[int, Field(ge=3, le=2**20)] = 64
    bits: Annotated[int, Field(ge=1, le=62)] = 40
    length: Annotated[int, Field(ge=2, le=4096)] = 11
    repeat: Annotated[float, Field(ge=0, le=1)] = 0.5
    noises: Annotated[tuple[Noise, ...], Field(min_length=1)] = (0.0, 0.1, 0.2, 0.3, 0.4)
    hidden_size: Width = 64
    train_size: Count = 100_000
    validation_size: Count = 4_000
    test_size: Count = 10_000
    updates: Count = 3_000
    batch_size: Count = 128
    learning_rate: Rate = 5e-3
    warmup: Annotated[int, Field(ge=0)] = 200
    gradient_clip: Rate = 0.5
    evaluate_every: Count = 500
    write_rate: Rate = 0.03
    trials: Count = 2_000
    between: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2, 3, 4, 6, 8)
    fixed_between: Annotated[int, Field(ge=0)] = 4
    probe_noise: Noise = 0.3
    exposure_noise: Noise = 0.3
    probe_noises: Annotated[tuple[Noise, ...], Field(min_length=1)] = (
        0.15,
        0.2,
        0.25,
        0.3,
        0.35,
        0.4,
    )


def task_of(config: PrimingConfig, repeat: float) -> Priming:
    return Priming(
        words=config.words,
        bits=config.bits,
        length=config.length,
        repeat=repeat,
        noises=config.noises,
        train_size=config.train_size,
        validation_size=config.validation_size,
        test_size=config.test_size,
    )

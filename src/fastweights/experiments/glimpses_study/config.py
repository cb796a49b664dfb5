"""The settings of the glimpses experiment."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

__all__ = ["GlimpsesConfig"]

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True)
class GlimpsesConfig:
    """Settings, chosen in short runs on validation images and on seeds below 300.

    ``data`` is the folder of MNIST's files; None is ``mnist`` in the folder that the environment
    variable FASTWEIGHTS_DATA names. Which training images are for validation is the same for every
    seed. ``places`` tells the networks what each glimpse shows; with one order for all images they
    can also know it from the step. Where ``learning_rate`` is None, each arm has its own for each
    size.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "fast-weights",
        "multi-level",
        "layer-norm-rnn",
        "irnn",
        "lstm",
        "convnet",
    )
    hidden_sizes: Annotated[tuple[Width, ...], Field(min_length=1)] = (100,)
    orders: Annotated[tuple[str, ...], Field(min_length=1)] = ("published",)
    places: bool = False
    data: str | None = None
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    validation_size: Annotated[int, Field(ge=1, lt=60_000)] = 5_000
    updates: Count = 6_435
    batch_size: Count = 128
    learning_rate: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 200
    gradient_clip: Rate = 0.5
    evaluate_every: Count = 429
    decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.99
    write_rate: Rate = 0.01
    inner_steps: Annotated[int, Field(ge=0, le=1000)] = 1
    input_scale: Rate = 0.3
    recurrent_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    inspected: Count = 2_000

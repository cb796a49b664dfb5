"""The settings of an experiment on associative retrieval."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from fastweights.tasks import AssociativeRetrieval

__all__ = ["RetrievalConfig", "task_of"]


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Settings of the experiment; see docs/LOG.md for how they were chosen.

    Seeds are ``first_seed``, ``first_seed`` + 1, …; settings were chosen on seeds below 300.
    The fast weights' settings and every learning rate were chosen on validation data. Where
    ``learning_rate`` or ``weight_decay`` is None, each arm has its own; where ``write_rate`` is,
    it follows from decay and length by `fastweights.theory.memory.balanced_write_rate`.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "fast-weights",
        "identity",
        "layer-norm-rnn",
        "lstm",
    )
    hidden_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1)
    ] = (50,)
    num_pairs: Annotated[int, Field(ge=1, le=26)] = 4
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    train_size: Annotated[int, Field(ge=1)] = 100_000
    validation_size: Annotated[int, Field(ge=1)] = 10_000
    test_size: Annotated[int, Field(ge=1)] = 20_000
    updates: Annotated[int, Field(ge=1)] = 4_000
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    warmup: Annotated[int, Field(ge=0)] = 200
    schedule: Literal["cosine", "linear"] = "cosine"
    gradient_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    evaluate_every: Annotated[int, Field(ge=1)] = 250
    head_size: Annotated[int, Field(ge=1, le=4096)] = 100
    decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.99
    write_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    inner_steps: Annotated[int, Field(ge=0, le=1000)] = 1
    input_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    recurrent_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2


def task_of(config: RetrievalConfig) -> AssociativeRetrieval:
    return AssociativeRetrieval(
        num_pairs=config.num_pairs,
        train_size=config.train_size,
        validation_size=config.validation_size,
        test_size=config.test_size,
    )

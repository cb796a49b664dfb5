"""The settings of the experiment on language."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

__all__ = ["LanguageConfig"]

Positive = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Settings of the experiment; see docs/language.md for how they were chosen.

    Seeds are ``first_seed``, ``first_seed`` + 1, …; settings were chosen on seeds below 300.
    ``text`` is a UTF-8 file, or None for tiny Shakespeare. ``hidden_size`` is that of fast weights;
    the others match their parameters or their multiply-adds. An update reads ``segment`` characters
    of ``streams`` places in the text. Where ``learning_rate`` is None, each arm has its own.
    """

    text: str | None = None
    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "fast-weights",
        "layer-norm-rnn",
        "lstm-parameters",
        "lstm-compute",
        "gru-parameters",
        "gru-compute",
    )
    hidden_size: Width = 128
    num_layers: Annotated[int, Field(ge=1, le=64)] = 2
    embedding_size: Width = 64
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    streams: Positive = 32
    segment: Positive = 64
    updates: Positive = 1_000
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 100
    gradient_clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    evaluate_every: Positive = 200
    decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.9
    write_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.003

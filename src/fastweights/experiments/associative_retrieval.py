"""Associative retrieval, for every study on it: settings, networks, training, tables and curves.

The task, and the recipe that the settings begin with, are those of Ba, Hinton, Mnih, Leibo &
Ionescu, "Using fast weights to attend to the recent past" (2016), section 4.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.decay import Exponential
from fastweights.lab.experiment import Unit
from fastweights.lab.study import Arm, Run
from fastweights.nn import FastWeightsRNN
from fastweights.tasks import AssociativeRetrieval, binding_free_ceiling
from fastweights.theory.memory import balanced_write_rate
from fastweights.training.loop import Classification
from fastweights.training.schedule import Schedule

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Settings of a study; see docs/LOG.md for how they were chosen.

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
    hidden_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (50,)
    num_pairs: Annotated[int, Field(ge=1, le=26)] = 4
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    train_size: Positive = 100_000
    validation_size: Positive = 10_000
    test_size: Positive = 20_000
    updates: Positive = 4_000
    batch_size: Positive = 128
    learning_rate: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    warmup: Annotated[int, Field(ge=0)] = 200
    schedule: Literal["cosine", "linear"] = "cosine"
    gradient_clip: Rate = 0.5
    evaluate_every: Positive = 250
    head_size: Positive = 100
    decay: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.99
    write_rate: Rate | None = None
    inner_steps: Annotated[int, Field(ge=0)] = 1
    input_scale: Rate = 1.0
    recurrent_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.2

    def task(self) -> AssociativeRetrieval:
        return AssociativeRetrieval(
            num_pairs=self.num_pairs,
            train_size=self.train_size,
            validation_size=self.validation_size,
            test_size=self.test_size,
        )

    @property
    def ceiling(self) -> float:
        """The accuracy of one who knows a sequence's digits but not their letters."""
        return float(binding_free_ceiling(self.num_pairs))


Build = Callable[[RetrievalConfig, int, int], nn.Module]  # from inputs and hidden size, a layer


def fast_weights(*, input_scale: float | None = None, **options: Any) -> Build:
    """Builds the fast-weights layer of the configuration, but for these options of the layer.

    ``input_scale``, too, is the configuration's unless it is given.

    Example:
        >>> fast_weights(memory="identity")(RetrievalConfig(), 38, 20).memory
        'identity'
    """

    def build(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
        given: dict[str, Any] = {
            "inner_steps": config.inner_steps,
            "decay": Exponential(config.decay),
            "write_rate": config.write_rate,
            **options,
        }
        if given["write_rate"] is None:
            given["write_rate"] = balanced_write_rate(given["decay"], config.task().length)
        layer = FastWeightsRNN(inputs, hidden_size, **given)
        layer.reset_parameters(
            input_scale=input_scale or config.input_scale, recurrent_scale=config.recurrent_scale
        )
        return layer

    return build


FAST_WEIGHTS = Arm("fast weights", fast_weights(), 5e-3, 0.1)


class Retriever(nn.Module):
    """One-hot tokens, a recurrent layer, and a small head that reads its last output."""

    def __init__(self, layer: nn.Module, vocabulary: int, head: int, classes: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.layer = layer
        width = int(layer.hidden_size)  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Linear(width, head), nn.ReLU(), nn.Linear(head, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, classes) for tokens (N, T)."""
        return self.head(self.hidden(tokens)[-1])

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the layer puts out at every step, (T, N, H), for tokens (N, T)."""
        one_hot = F.one_hot(tokens.t(), self.vocabulary).to(torch.get_default_dtype())
        output, _ = self.layer(one_hot)
        return output


def build_network(config: RetrievalConfig, arm: Arm, hidden_size: int) -> Retriever:
    """An arm's network for the configuration's task, its parameters drawn."""
    task = config.task()
    layer = arm.build(config, task.vocabulary_size, hidden_size)
    return Retriever(layer, task.vocabulary_size, config.head_size, task.num_classes)


def schedule_of(config: RetrievalConfig, arm: Arm, hidden_size: int) -> Schedule:
    """How an arm is trained; what the configuration leaves open is the arm's."""
    return Schedule.of(
        config,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or arm.learning_rate_at(hidden_size),
        weight_decay=arm.weight_decay if config.weight_decay is None else config.weight_decay,
        shape=config.schedule,
    )


class RetrievalRun(Classification, Run):
    """A network that learns which digit came with the letter."""

    model: Retriever

    def __init__(self, config: RetrievalConfig, arm: Arm, unit: Unit, device: torch.device) -> None:
        assert unit.seed is not None
        self.config = config
        hidden_size = unit.options["hidden_size"]
        self.schedule = schedule_of(config, arm, hidden_size)
        super().__init__(
            build_network(config, arm, hidden_size),
            config.task().build(unit.seed),
            batch_size=config.batch_size,
            seed=unit.seed,
            device=device,
        )

    def test(self) -> dict[str, Any]:
        """The test accuracy, and the parameters of the recurrent layer."""
        layer = sum(p.numel() for p in self.model.layer.parameters())
        return {**super().test(), "layer_parameters": layer}

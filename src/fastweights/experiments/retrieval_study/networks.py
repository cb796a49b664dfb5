"""The networks that are trained on associative retrieval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.decay import Exponential
from fastweights.experiments.retrieval_study.config import RetrievalConfig, task_of
from fastweights.nn import FastWeightsRNN
from fastweights.theory.memory import balanced_write_rate

__all__ = ["Arm", "Retriever", "fast_weights"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A network to train: how it is made, and the learning rate and weight decay that suit it."""

    label: str
    learning_rate: float
    weight_decay: float
    build: Callable[[RetrievalConfig, int, int], nn.Module]


def fast_weights(
    *, input_scale: float | None = None, **options: Any
) -> Callable[[RetrievalConfig, int, int], nn.Module]:
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
            length = task_of(config).length
            given["write_rate"] = balanced_write_rate(given["decay"], length)
        layer = FastWeightsRNN(inputs, hidden_size, **given)
        layer.reset_parameters(
            input_scale=input_scale or config.input_scale, recurrent_scale=config.recurrent_scale
        )
        return layer

    return build


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

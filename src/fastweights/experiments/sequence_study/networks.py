"""The networks that sort and copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.decay import Decay, Exponential, Factorial, PowerLaw, StepIndexed
from fastweights.experiments.sequence_study.config import SequenceConfig
from fastweights.nn import FastWeightsRNN

__all__ = ["ARMS", "Answerer", "Arm"]

Build = Callable[[SequenceConfig, int], nn.Module]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A network to train: the learning rate that suits it, and how its layer is made."""

    label: str
    learning_rate: float
    build: Build


def _fast_weights(decay: Callable[[], Decay], write_rate: float, memory: str = "hebbian") -> Build:
    """A layer of fast weights, with the write rate of the configuration if that has one."""

    def build(config: SequenceConfig, inputs: int) -> nn.Module:
        layer = FastWeightsRNN(
            inputs,
            config.hidden_size,
            decay=decay(),
            write_rate=config.write_rate or write_rate,
            memory=memory,
        )
        layer.reset_parameters(recurrent_scale=0.2)
        return layer

    return build


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "exponential": Arm("exponential 0.99", 2e-2, _fast_weights(lambda: Exponential(0.99), 0.1)),
        "power-law": Arm("power law", 2e-2, _fast_weights(lambda: PowerLaw(0.5), 0.5)),
        "factorial": Arm("factorial", 2e-2, _fast_weights(Factorial, 0.1)),
        "step-indexed": Arm("step-indexed", 2e-2, _fast_weights(StepIndexed, 0.1)),
        "layer-norm-rnn": Arm("layer-norm RNN", 2e-2, _fast_weights(Exponential, 0.1, "none")),
        "lstm": Arm("LSTM", 2e-2, lambda config, inputs: nn.LSTM(inputs, config.hidden_size)),
    }
)


class Answerer(nn.Module):
    """One-hot tokens of every field side by side, a recurrent layer, and logits of the answers.

    Nothing of an answer comes back as input, as in Graves, Wayne & Danihelka (2014).

    Args:
        layer: recurrent, (T, N, inputs) to (T, N, H).
        fields: how many different tokens each field of a step has.
        classes: how many different answers there are.
    """

    def __init__(self, layer: nn.Module, fields: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.fields = fields
        self.layer = layer
        width = int(layer.hidden_size)  # type: ignore[arg-type]
        self.output = nn.Linear(width, classes)

    def forward(self, inputs: Tensor, asked: int) -> Tensor:
        """Logits (N, A, classes) of the last A = ``asked`` steps of inputs (N, T, fields)."""
        tokens = inputs.transpose(0, 1)
        one_hot = [F.one_hot(tokens[..., i], size) for i, size in enumerate(self.fields)]
        hidden, _ = self.layer(torch.cat(one_hot, -1).to(torch.get_default_dtype()))
        return self.output(hidden[-asked:]).transpose(0, 1)

"""The networks that recognise words in noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastweights.decay import PowerLaw
from fastweights.experiments.priming_study.config import PrimingConfig
from fastweights.nn import FastWeightsRNN, FastWeightsState
from fastweights.tasks.priming import unpack

__all__ = ["ARMS", "Arm", "Recogniser", "swapped", "wiped"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A network to train, its learning rate over that of the others, and whether words repeat."""

    label: str
    build: Callable[[PrimingConfig], nn.Module]
    rate: float = 1.0
    repeats: bool = True


def _fast_weights(decay: Any = 0.99, **options: Any) -> Callable[[PrimingConfig], nn.Module]:
    def build(config: PrimingConfig) -> nn.Module:
        return FastWeightsRNN(
            config.bits,
            config.hidden_size,
            decay=decay() if callable(decay) else decay,
            write_rate=config.write_rate,
            form="attention",  # keeps what was written apart, so that it can be exchanged
            **options,
        )

    return build


ARMS: Mapping[str, Arm] = {
    "fast-weights": Arm("fast weights, λ = 0.99", _fast_weights()),
    "decay-0.9": Arm("fast weights, λ = 0.9", _fast_weights(0.9)),
    "decay-0.7": Arm("fast weights, λ = 0.7", _fast_weights(0.7)),
    "power-law": Arm("fast weights, power law", _fast_weights(PowerLaw)),
    "tanh": Arm("fast weights, λ = 0.99, tanh", _fast_weights(nonlinearity="tanh")),
    "no-repeats": Arm("fast weights that never met a repeat", _fast_weights(), repeats=False),
    "layer-norm-rnn": Arm("layer-norm RNN, no fast weights", _fast_weights(memory="none")),
    "lstm": Arm("LSTM", lambda c: nn.LSTM(c.bits, c.hidden_size), rate=2.0),
}


class Recogniser(nn.Module):
    """Patterns of ±1 scaled to unit length, a recurrent layer, and a linear readout of its last
    output."""

    def __init__(self, layer: nn.Module, bits: int, words: int) -> None:
        super().__init__()
        self.layer, self.bits = layer, bits
        self.readout = nn.Linear(int(layer.hidden_size), words)  # type: ignore[arg-type]

    def forward(self, patterns: Tensor) -> Tensor:
        """Logits (N, words) for the last of the presented patterns (N, length)."""
        output, _ = self.layer(self.present(patterns))
        return self.readout(output[-1])

    def present(self, patterns: Tensor) -> Tensor:
        """What the layer sees: (length, N, bits)."""
        return (2.0 * unpack(patterns.t(), self.bits) - 1) / math.sqrt(self.bits)

    def with_memory(
        self, patterns: Tensor, change: Callable[[FastWeightsState], FastWeightsState]
    ) -> Tensor:
        """As :meth:`forward`, but the state is changed between the past and the probe."""
        x = self.present(patterns)
        _, state = self.layer(x[:-1])
        output, _ = self.layer(x[-1:], change(state))
        return self.readout(output[-1])


def wiped(state: FastWeightsState) -> FastWeightsState:
    """No fast memory; the activity of the units stays."""
    assert state.history is not None
    return dataclasses.replace(state, history=torch.zeros_like(state.history))


def swapped(state: FastWeightsState) -> FastWeightsState:
    """The fast memory of the neighbour in the batch; the activity of the units is one's own."""
    assert state.history is not None
    return dataclasses.replace(state, history=state.history.roll(1, dims=2))

"""The networks that classify an image from its glimpses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastweights.experiments.glimpses_study.config import GlimpsesConfig
from fastweights.nn import FastWeightsRNN, FastWeightsState
from fastweights.nn.baselines import irnn
from fastweights.tasks.glimpses import FIXED_ORDERS, FULL, PIXELS, QUADRANTS

__all__ = ["ARMS", "Arm", "Classifier", "ConvNet", "MultiLevel"]

Build = Callable[[GlimpsesConfig, int, int, str], nn.Module]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A network: the learning rates found for the sizes tried, how it is made (configuration,
    features, size, order), and the orders in which it can see an image."""

    label: str
    learning_rates: Mapping[int, float]
    build: Build
    orders: tuple[str, ...] = (*FIXED_ORDERS, "scrambled")

    def learning_rate(self, hidden_size: int) -> float:
        """That of the nearest size tried."""
        return self.learning_rates[min(self.learning_rates, key=lambda h: abs(h - hidden_size))]


def _fast_weights(
    config: GlimpsesConfig, features: int, size: int, memory: str = "hebbian"
) -> FastWeightsRNN:
    layer = FastWeightsRNN(
        features,
        size,
        inner_steps=config.inner_steps,
        decay=config.decay,
        write_rate=config.write_rate,
        memory=memory,
        form="attention",  # keeps what was written apart, for whoever wants to see it
    )
    layer.reset_parameters(input_scale=config.input_scale, recurrent_scale=config.recurrent_scale)
    return layer


class MultiLevel(nn.Module):
    """Fast weights that outlive the hidden vector: it is wiped between the levels.

    Where a fine glimpse follows a coarse one or the other way round, the hidden vector is written
    into the fast weights and starts from zero again. What the network knows of the level it left
    has to come back from the fast weights. The memory ages by a step as that happens.

    Args:
        layer: reads the glimpses.
        order: one of ``FIXED_ORDERS``.
    """

    def __init__(self, layer: FastWeightsRNN, order: str) -> None:
        super().__init__()
        self.layer, self.hidden_size = layer, layer.hidden_size
        coarse = [place < QUADRANTS for place in FIXED_ORDERS[order]]
        changes = [t for t, (one, other) in enumerate(pairwise(coarse), 1) if one != other]
        ends = [0, *changes, len(coarse)]
        self.lengths = [end - start for start, end in pairwise(ends)]

    def forward(self, x: Tensor) -> tuple[Tensor, FastWeightsState]:
        """Outputs (24, N, H) for glimpses (24, N, features), and the state after the last."""
        state, outputs = None, []
        for part in x.split(self.lengths):
            output, state = self.layer(part, None if state is None else _wiped(state))
            outputs.append(output)
        assert state is not None
        return torch.cat(outputs), state


def _wiped(state: FastWeightsState) -> FastWeightsState:
    """The hidden vector written and forgotten."""
    assert state.history is not None
    return FastWeightsState(
        hidden=torch.zeros_like(state.hidden),
        steps=state.steps + 1,
        history=torch.cat([state.history, state.hidden[:, None]], dim=1),
    )


class ConvNet(nn.Module):
    """Three layers with shared weights over all glimpses at once.

    The first is a convolution of 7 × 7 over both levels, the second joins the five views of a
    quadrant, the third the four quadrants; each has ``hidden_size`` channels and rectifiers.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.views = nn.Linear(PIXELS, hidden_size)
        self.quadrants = nn.Linear((1 + QUADRANTS) * hidden_size, hidden_size)
        self.whole = nn.Linear(QUADRANTS * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Features (1, N, H) for glimpses (24, N, features) in the published order."""
        glimpses = x[..., :PIXELS].unflatten(0, (QUADRANTS, 2 + QUADRANTS))
        seen = torch.relu(self.views(glimpses[:, :-1]))  # the last view is the first once more
        parts = torch.relu(self.quadrants(seen.permute(0, 2, 1, 3).flatten(2)))
        return torch.relu(self.whole(parts.transpose(0, 1).flatten(1)))[None], None


_OF_FAST_WEIGHTS = {50: 2e-2, 100: 1e-2, 200: 2e-2}

ARMS: Mapping[str, Arm] = {
    "fast-weights": Arm(
        "fast weights", _OF_FAST_WEIGHTS, lambda c, i, h, o: _fast_weights(c, i, h)
    ),
    "multi-level": Arm(
        "fast weights, multi-level",
        _OF_FAST_WEIGHTS,
        lambda c, i, h, o: MultiLevel(_fast_weights(c, i, h), o),
        tuple(FIXED_ORDERS),
    ),
    "layer-norm-rnn": Arm(
        "layer-norm RNN",
        {50: 2e-2, 100: 1e-2, 200: 1e-2},
        lambda c, i, h, o: _fast_weights(c, i, h, memory="none"),
    ),
    "irnn": Arm("IRNN", {50: 1e-2, 100: 3e-3, 200: 3e-3}, lambda c, i, h, o: irnn(i, h)),
    "lstm": Arm("LSTM", {50: 2e-2, 100: 2e-2, 200: 4e-2}, lambda c, i, h, o: nn.LSTM(i, h)),
    "convnet": Arm(
        "ConvNet", {50: 1e-2, 100: 1e-2, 200: 1e-2}, lambda c, i, h, o: ConvNet(h), ("published",)
    ),
}


class Classifier(nn.Module):
    """Glimpses, a layer that reads them, and a linear readout of its last output."""

    def __init__(self, layer: nn.Module, classes: int = 10) -> None:
        super().__init__()
        self.layer = layer
        self.readout = nn.Linear(int(layer.hidden_size), classes)  # type: ignore[arg-type]

    def forward(self, glimpses: Tensor) -> Tensor:
        """Logits (N, classes) for glimpses (N, 24, features) in units of 1 / FULL."""
        output, _ = self.layer(self.present(glimpses))
        return self.readout(output[-1])

    def present(self, glimpses: Tensor) -> Tensor:
        """What the layer sees: (24, N, features), from 0 to 1."""
        return glimpses.transpose(0, 1).to(torch.get_default_dtype()) / FULL

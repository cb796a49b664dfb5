"""The networks that meet something new once: settings, what they learn, and the single trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.optim import SlowFast

__all__ = [
    "Associator",
    "OneTrialConfig",
    "Pairs",
    "draw_pairs",
    "error",
    "learn",
    "overlay",
    "present",
]

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Pairs = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class OneTrialConfig:
    """Settings; chosen on seeds below 100.

    ``fast_lr`` is the size of the one trial, ``decay`` what a fast weight loses in an update.
    ``stream`` new associations come ``pause`` updates after each other in the last part.
    """

    first_seed: Annotated[int, Field(ge=0)] = 100
    inputs: Size = 30
    hidden: Size = 200
    outputs: Size = 10
    associations: Size = 50
    new_associations: Size = 5
    stream: Size = 20
    pause: Size = 25
    init_range: Rate = 0.3
    learning_sweeps: Size = 300
    slow_lr: Rate = 0.002
    slow_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    fast_lr: Rate = 0.5
    decay: Annotated[float, Field(ge=0, le=1)] = 0.01


class Associator(nn.Module):
    """One network per seed: ±1 inputs, a layer of tanh units, logits of the outputs."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.w1, self.b1, self.w2, self.b2 = (nn.Parameter(w.clone()) for w in weights)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (networks, pairs, outputs) for inputs (networks, pairs, inputs)."""
        return torch.baddbmm(self.b2, torch.baddbmm(self.b1, x, self.w1).tanh(), self.w2)

    @torch.no_grad()
    def right(self, pairs: Pairs) -> Tensor:
        """Which bits are right, (networks, pairs, outputs)."""
        return (self(pairs[0]) > 0) == (pairs[1] > 0.5)


def error(logits: Tensor, targets: Tensor, kind: str = "cross-entropy") -> Tensor:
    """The summed error of all networks, "cross-entropy" or "squared"."""
    if kind == "squared":
        return 0.5 * (logits.sigmoid() - targets).square().sum()
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def draw_pairs(config: OneTrialConfig, seeds: Sequence[int]) -> tuple[Pairs, Pairs]:
    """Old and new associations of every network: ±1 inputs and 0/1 targets."""
    total = config.associations + max(config.new_associations, config.stream)
    drawn = [np.random.default_rng([seed, 0]) for seed in seeds]
    x, d = (
        torch.from_numpy(np.stack([rng.integers(0, 2, (total, width)) for rng in drawn])).double()
        for width in (config.inputs, config.outputs)
    )
    x, cut = 2 * x - 1, config.associations
    return (x[:, :cut], d[:, :cut]), (x[:, cut:], d[:, cut:])


def learn(config: OneTrialConfig, seeds: Sequence[int], old: Pairs) -> list[Tensor]:
    """Slow weights that know the old associations."""
    shapes = [(config.inputs, config.hidden), (1, config.hidden)]
    shapes += [(config.hidden, config.outputs), (1, config.outputs)]
    generators = [np.random.default_rng([seed, 1]) for seed in seeds]
    model = Associator(
        [
            torch.from_numpy(
                np.stack([g.uniform(-1, 1, shape) * config.init_range for g in generators])
            )
            for shape in shapes
        ]
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.slow_lr, momentum=config.slow_momentum
    )
    for _ in range(config.learning_sweeps):
        optimizer.zero_grad()
        error(model(old[0]), old[1]).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def overlay(
    config: OneTrialConfig,
    weights: Sequence[Tensor],
    layers: str = "outputs",
    rate: float | None = None,
) -> tuple[Associator, SlowFast]:
    """Networks with these slow weights and an empty overlay."""
    model = Associator(weights)
    hidden: dict[str, Any] = {"params": [model.w1, model.b1]}
    if layers == "outputs":
        hidden["fast_lr"] = 0.0
    slow = torch.optim.SGD(
        [hidden, {"params": [model.w2, model.b2]}], lr=config.slow_lr, momentum=config.slow_momentum
    )
    size = config.fast_lr if rate is None else rate
    return model, SlowFast(slow, lr=size, momentum=0.0, decay=config.decay)


def present(
    model: Associator, optimizer: SlowFast, pairs: Pairs, kind: str = "cross-entropy"
) -> None:
    """One presentation, one update, of the fast weights only."""
    optimizer.zero_grad()
    error(model(pairs[0]), pairs[1], kind).backward()
    with optimizer.rehearsal():
        optimizer.step()

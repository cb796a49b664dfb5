"""Networks that meet a new association once: what one trial does, at once and later."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.optim import SlowFast

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Pairs = tuple[Tensor, Tensor]

ARMS: Mapping[str, str] = {
    "fast": "one trial in the fast weights",
    "kept": "the same change in the slow weights",
    "usual": "one trial at the slow weights' own rate",
}
TIMES = (1, 10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000)
RATES = {
    "cross-entropy": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    "squared": (0.5, 2.0, 10.0, 50.0, 200.0, 1000.0),
}


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


def simulate(config: OneTrialConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything the report shows, as lists with the seeds in the first dimension."""
    old, new = draw_pairs(config, seeds)
    taught = learn(config, seeds, old)
    times = [0, *TIMES]
    # Every new association meets a network of its own that knows nothing of the others.
    copies = config.new_associations
    start = [w.repeat_interleave(copies, 0) for w in taught]
    one = tuple(a[:, :copies].reshape(-1, 1, a.shape[2]) for a in new)
    known = tuple(a.repeat_interleave(copies, 0) for a in old)

    def measure(model: Associator) -> dict[str, Tensor]:
        bits = model.right(one)  # type: ignore[arg-type]
        rows = {
            "whole": bits.all(2).double().mean(1),
            "bits": bits.double().mean((1, 2)),
            "old": model.right(known).double().mean((1, 2)),  # type: ignore[arg-type]
        }
        return {name: row.view(-1, copies).mean(1) for name, row in rows.items()}

    curves: dict[str, Any] = {}
    for arm in ARMS:
        model, optimizer = overlay(config, start)
        course = [measure(model)]
        with _trial(arm, model, optimizer, one) as wait:
            for now, next_time in zip(TIMES, [*TIMES[1:], TIMES[-1]], strict=True):
                course.append(measure(model))
                wait(next_time - now)
        curves[arm] = {
            name: torch.stack([c[name] for c in course], 1).tolist() for name in course[0]
        }
    sizes = [
        _size(config, start, one, measure, layers, kind, rate)
        for kind, rates in RATES.items()
        for layers in ("outputs", "all")
        for rate in rates
    ]
    return {
        "times": times,
        "curves": curves,
        "sizes": sizes,
        "stream": {arm: _stream(config, taught, old, new, arm) for arm in ("fast", "kept")},
    }


@contextmanager
def _trial(
    arm: str, model: Associator, optimizer: SlowFast, pairs: Any
) -> Iterator[Callable[[int], None]]:
    """Present the pairs once; yields what lets a number of updates pass."""
    if arm != "usual":
        present(model, optimizer, pairs)
        if arm == "kept":
            optimizer.consolidate()
        yield optimizer.relax
        return
    slow = optimizer.slow_optimizer
    slow.zero_grad()
    error(model(pairs[0]), pairs[1]).backward()
    slow.step()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    left = 150  # after which .9 per update has paid out all but a ten-millionth of the momentum

    def wait(updates: int) -> None:
        nonlocal left
        for _ in range(min(updates, left)):
            slow.step()
        left -= min(updates, left)

    yield wait


def _size(
    config: OneTrialConfig,
    start: Sequence[Tensor],
    pairs: Any,
    measure: Callable[[Associator], dict[str, Tensor]],
    layers: str,
    kind: str,
    rate: float,
) -> dict[str, Any]:
    """What one trial of this size does at once."""
    model, optimizer = overlay(config, start, layers, rate)
    present(model, optimizer, pairs, kind)
    values = {name: row.tolist() for name, row in measure(model).items()}
    return {"layers": layers, "error": kind, "rate": rate, **values}


def _stream(
    config: OneTrialConfig, taught: Sequence[Tensor], old: Pairs, new: Pairs, arm: str
) -> dict[str, Any]:
    """New associations one after another: old bits after each, recall by age at the end."""
    model, optimizer = overlay(config, taught)
    course = [model.right(old)]
    for item in range(config.stream):
        present(model, optimizer, (new[0][:, item : item + 1], new[1][:, item : item + 1]))
        if arm == "kept":
            optimizer.consolidate()
        course.append(model.right(old))
        if item < config.stream - 1:
            optimizer.relax(config.pause - 1)
    stream = tuple(a[:, : config.stream] for a in new)
    bits = model.right(stream)  # type: ignore[arg-type]
    optimizer.relax(TIMES[-1])
    course.append(model.right(old))
    return {
        "bits_by_age": bits.double().mean(2).flip(1).tolist(),
        "old": torch.stack([c.double().mean((1, 2)) for c in course], 1).tolist(),
    }

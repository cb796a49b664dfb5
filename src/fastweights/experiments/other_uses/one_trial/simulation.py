"""What one trial does, at once and later, in the fast weights and in the slow ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastweights.experiments.other_uses.one_trial.model import (
    Associator,
    OneTrialConfig,
    Pairs,
    draw_pairs,
    error,
    learn,
    overlay,
    present,
)
from fastweights.optim import SlowFast

__all__ = ["ARMS", "TIMES", "simulate"]

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

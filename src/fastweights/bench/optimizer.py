"""A step of slow and fast weights against the optimizer that moves the slow ones alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fastweights.bench.base import Disagreement, Settings, Unit, label_of, load_text
from fastweights.bench.goals import Goal, goals_table
from fastweights.bench.timing import interleaved, using_threads
from fastweights.optim import SlowFast
from fastweights.report.section import Section, Table
from fastweights.training.config import ConfigError, nearest

__all__ = ["GOALS", "SLOW", "OptimizerStep"]

# With momentum, two weights per connection move 9 arrays where one moves 5; with AdamW 12 and 7.
GOALS: Mapping[str, float] = MappingProxyType({"sgd": 1.8, "adamw": 1.75})
TENSORS = 10  # parameters that the weights are spread over
_FAST: Mapping[str, Any] = MappingProxyType({"lr": 0.02, "momentum": 0.5, "decay": 0.01})
_ALONE = "alone"
SLOW: Mapping[str, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {
        "sgd": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9, foreach=True),
        "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3, foreach=True),
    }
)
_CASES = tuple(f"{slow}-1e{power}" for slow in SLOW for power in range(4, 9))


@dataclasses.dataclass(frozen=True)
class _Case:
    slow: str
    weights: int
    name: str


def _parse(name: str) -> _Case:
    slow, _, number = name.partition("-")
    try:
        weights = float(number)
    except ValueError:
        weights = 0.0
    if slow not in SLOW or not TENSORS <= weights <= 1e12 or not weights.is_integer():
        raise ConfigError(
            f"a case is sgd-WEIGHTS or adamw-WEIGHTS, at least {TENSORS} of them, got {name!r}: "
            f"{nearest(name, _CASES)}"
        )
    return _Case(slow, int(weights), name)


class OptimizerStep:
    """The benchmark."""

    name = "optimizer"
    summary = "a step of SlowFast against its slow optimizer alone"

    def units(self, settings: Settings) -> Sequence[Unit]:
        if settings.peers or settings.compile:
            raise ConfigError("the optimizer is timed against its slow optimizer alone: no peers")
        cases = [_parse(name) for name in settings.cases or _CASES]
        return [
            Unit(
                key={"case": case.name, "threads": threads},
                weight=max(1.0, case.weights / 1e6),
                measure=functools.partial(measure, case, threads, settings),
            )
            for case in cases
            for threads in settings.threads
        ]

    def section(self, report: dict[str, Any]) -> Section:
        return _section(report)


def measure(case: _Case, threads: int, settings: Settings) -> dict[str, Any]:
    """Milliseconds of one step: the slow optimizer alone, and with fast weights by each backend.

    Raises:
        Disagreement: a backend does not do what the reference does.
    """
    backends = ["foreach"]
    if settings.device == "cpu":  # what "auto" takes there
        backends.append("native")
    for backend in backends:
        _check(case.slow, backend)
    build = SLOW[case.slow]
    optimizers = {_ALONE: build(_parameters(case.weights, 0, device=settings.device))}
    for backend in backends:
        params = _parameters(case.weights, 0, device=settings.device)
        optimizers[backend] = SlowFast(build(params), **_FAST, backend=backend)
    gradients = [1e-3 * g.detach() for g in _parameters(case.weights, 1, device=settings.device)]
    for optimizer in optimizers.values():
        for p, g in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            p.grad = g
    with using_threads(threads):
        times = interleaved(
            {name: optimizer.step for name, optimizer in optimizers.items()},
            rounds=settings.rounds,
            budget=settings.budget,
            device=settings.device,
        )
    return {"slow": case.slow, "weights": case.weights, "milliseconds": times}


def _parameters(count: int, seed: int, **where: Any) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [count // TENSORS + (i < count % TENSORS) for i in range(TENSORS)]
    return [nn.Parameter(torch.randn(n, generator=generator).to(**where)) for n in sizes]


def _check(slow: str, backend: str) -> None:
    """Raise unless this optimizer does in float64 what the reference does."""
    results = []
    for name in (backend, "reference"):
        params = _parameters(3000, 0, dtype=torch.float64)
        optimizer = SlowFast(SLOW[slow](params), **_FAST, backend=name)
        for step in range(5):
            gradients = _parameters(3000, step + 1, dtype=torch.float64)
            for p, g in zip(params, gradients, strict=True):
                p.grad = g.detach()
            optimizer.step()
        results.append(params)
    for ours, expected in zip(*results, strict=True):
        error = (ours - expected).abs().max().item()
        if not error <= 1e-12:
            raise Disagreement(f"{backend}, {slow}: weights are off by {error:.2g}, allowed 1e-12")


def _section(report: dict[str, Any]) -> Section:
    timed = [row for row in report["rows"] if "disagrees" not in row]
    goals = []
    lines = []
    for row in timed:
        times = row["milliseconds"]
        alone = times[_ALONE]
        ratios = {b: t["median"] / alone["median"] for b, t in times.items() if b != _ALONE}
        lines.append(
            [
                row["case"],
                str(row["threads"]),
                f"{alone['median']:.3g} ({alone['low']:.3g} to {alone['high']:.3g})",
                *(f"{ratios[b]:.2f}×" if b in ratios else "–" for b in ("foreach", "native")),
                load_text(row),
            ]
        )
        taken, limit = ratios.get("native", ratios["foreach"]), GOALS[row["slow"]]
        alone_is = {"sgd": "SGD with momentum", "adamw": "AdamW"}[row["slow"]]
        goal = f"a step, beside {alone_is} alone"
        goals.append(Goal(label_of(row), goal, f"≤ {limit}×", f"{taken:.2f}×", taken <= limit))
    times_table = Table(
        caption=(
            "Milliseconds of a step of the slow optimizer alone (SGD with momentum, or AdamW, both "
            "foreach), median and quartiles; how many times as long a step of slow and fast "
            "weights takes by backend; how many processes wanted to run."
        ),
        columns=("case", "threads", "ms alone", "foreach", "fused", "load"),
        rows=lines,
    )
    return Section(
        title="A step of slow and fast weights",
        intro="",
        claims=[],
        tables=[goals_table(goals), times_table],
        pictures=[],
    )

"""How fast tasks are made, against how fast the fastest network learns from them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from fastweights.bench.base import Settings, Unit, label_of, load_text
from fastweights.bench.goals import Goal, goals_table
from fastweights.bench.timing import interleaved, using_threads
from fastweights.experiments.associative_retrieval import RetrievalConfig, build_network
from fastweights.experiments.retrieval import ARMS
from fastweights.report.section import Section, Table
from fastweights.tasks import AssociativeRetrieval
from fastweights.training.config import ConfigError, nearest

__all__ = ["GOAL", "Generators"]

GOAL = 10.0
_BATCH = 128
_MADE = 20_000  # sequences made at a time
_WIDTH = 20  # the narrowest network of the experiments, hence the fastest
_PAIRS = {f"retrieval-k{pairs}": pairs for pairs in (3, 4, 8, 26)}


class Generators:
    """The benchmark."""

    name = "tasks"
    summary = "generators of tasks against the fastest network that learns from them"

    def units(self, settings: Settings) -> Sequence[Unit]:
        if settings.peers or settings.compile:
            raise ConfigError("tasks are timed against the networks of their experiment: no peers")
        for name in settings.cases:
            if name not in _PAIRS:
                raise ConfigError(f"unknown case {name!r}: {nearest(name, list(_PAIRS))}")
        return [
            Unit(
                key={"case": name, "threads": threads},
                weight=_PAIRS[name],
                measure=functools.partial(measure, _PAIRS[name], threads, settings),
            )
            for name in settings.cases or _PAIRS
            for threads in settings.threads
        ]

    def section(self, report: dict[str, Any]) -> Section:
        return _section(report)


def measure(pairs: int, threads: int, settings: Settings) -> dict[str, Any]:
    """Milliseconds of making sequences, and of an update of every network of the experiment."""
    task = AssociativeRetrieval(num_pairs=pairs, train_size=_MADE)
    data = task.split(seed=0, name="train")
    tokens = data.inputs[:_BATCH].to(settings.device)
    targets = data.targets[:_BATCH].to(settings.device)
    config = RetrievalConfig(num_pairs=pairs, hidden_sizes=(_WIDTH,))
    calls: dict[str, Any] = {"make": lambda: task.split(seed=0, name="train")}
    with torch.random.fork_rng(), using_threads(threads):
        torch.manual_seed(0)
        for name, arm in ARMS.items():
            model = build_network(config, arm, _WIDTH).to(settings.device)
            calls[name] = functools.partial(
                _update, model, torch.optim.AdamW(model.parameters()), tokens, targets
            )
        times = interleaved(
            calls, rounds=settings.rounds, budget=settings.budget, device=settings.device
        )
    return {"made": _MADE, "batch": _BATCH, "milliseconds": times}


def _update(
    model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, targets: torch.Tensor
) -> None:
    """As the experiments train."""
    loss = F.cross_entropy(model(tokens), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def _section(report: dict[str, Any]) -> Section:
    goals, lines = [], []
    for row in report["rows"]:
        times = row["milliseconds"]
        made = row["made"] / times["make"]["median"]  # thousands a second
        learned = {n: row["batch"] / t["median"] for n, t in times.items() if n != "make"}
        fastest = max(learned, key=lambda name: learned[name])
        factor = made / learned[fastest]
        goal = "sequences made, beside the fastest network"
        goals.append(Goal(label_of(row), goal, f"≥ {GOAL:g}×", f"{factor:.1f}×", factor >= GOAL))
        lines.append(
            [
                row["case"],
                str(row["threads"]),
                f"{made:.0f}",
                f"{learned['fast-weights']:.1f}",
                ARMS[fastest].label,
                f"{learned[fastest]:.1f}",
                f"{factor:.1f}×",
                load_text(row),
            ]
        )
    rates = Table(
        caption=(
            "Thousands of sequences a second: made by the generator, learned by fast weights, and "
            f"learned by the fastest of the networks of the experiment, {_WIDTH} units each."
        ),
        columns=(
            "case",
            "threads",
            "made",
            "fast weights",
            "fastest",
            "learns",
            "made / learned",
            "load",
        ),
        rows=lines,
    )
    return Section(
        title="Generators of tasks",
        intro="",
        claims=[],
        tables=[goals_table(goals), rates],
        pictures=[],
    )

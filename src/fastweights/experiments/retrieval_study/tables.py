"""Tables of an experiment on associative retrieval."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fastweights.experiments.base import Result
from fastweights.experiments.by_arm import mean_seconds, seed_table, why_missing
from fastweights.experiments.retrieval_study.config import RetrievalConfig, task_of
from fastweights.experiments.retrieval_study.networks import Arm
from fastweights.report.section import Table
from fastweights.report.statistics import mean_interval
from fastweights.training.loop import updates_to

__all__ = ["by_seed", "finished", "sizes_begun", "tables_of"]

Cell = tuple[str, int]
SMALL = 100  # units


def finished(results: Sequence[Result]) -> dict[Cell, list[dict[str, Any]]]:
    """The values of the finished runs by (arm, hidden size)."""
    cells: dict[Cell, list[dict[str, Any]]] = {}
    for result in results:
        cell = (result.unit.arm, int(result.unit.options["hidden_size"]))
        values = cells.setdefault(cell, [])
        if result.values is not None:
            values.append(result.values)
    return cells


def sizes_begun(config: RetrievalConfig, results: Sequence[Result]) -> list[int]:
    """The hidden sizes of which there is anything to show."""
    begun = {result.unit.options["hidden_size"] for result in results if result.has_begun}
    return [size for size in config.hidden_sizes if size in begun]


def by_seed(arm: str, size: int, results: Sequence[Result]) -> dict[int | None, dict[str, Any]]:
    """The values of the finished runs of one network."""
    return {
        r.unit.seed: r.values
        for r in results
        if r.unit.arm == arm and r.unit.options["hidden_size"] == size and r.values is not None
    }


def tables_of(
    arms: Mapping[str, Arm], config: RetrievalConfig, results: Sequence[Result]
) -> list[Table]:
    """What came out, the networks, and every run."""
    return [
        _summary_table(arms, results),
        _network_table(arms, config, results),
        seed_table(results, "Every run.", _accuracies, " accuracy", digits=1),
    ]


def _summary_table(arms: Mapping[str, Arm], results: Sequence[Result]) -> Table:
    rows = []
    for (arm, size), values in finished(results).items():
        started = sum(r.unit.arm == arm and r.unit.options["hidden_size"] == size for r in results)
        row = [arms[arm].label, str(size), f"{len(values)}/{started}"]
        if values:
            accuracy = mean_interval([v["test_accuracy"] for v in values])
            row.append(accuracy.text(scale=100))
            for level in (0.5, 0.9, 0.99):
                reached = [updates_to(v["curve"], level) for v in values]
                known = [u for u in reached if u is not None]
                middle = f"{median(known):,.0f}" if len(known) == len(reached) else "–"
                row.append(middle if known else "never")
        else:
            row += [why_missing(results, arm), *["–"] * 3]
        rows.append(row)
    return Table(
        caption=(
            "Test accuracy, mean over seeds with its 95 % bootstrap interval; median number of "
            "updates to a validation accuracy (– where only some seeds reach it)."
        ),
        columns=(
            "network",
            "R",
            "seeds",
            "accuracy %",
            "to 50 %",
            "to 90 %",
            "to 99 %",
        ),
        rows=rows,
    )


def _network_table(
    arms: Mapping[str, Arm], config: RetrievalConfig, results: Sequence[Result]
) -> Table:
    rows = [
        [
            arms[arm].label,
            str(size),
            f"{values[0]['learning_rate']:g}",
            f"{values[0]['weight_decay']:g}",
            f"{values[0]['layer_parameters']:,}",
            f"{values[0]['parameters']:,}",
            f"{_state_size(arms[arm], config, size):,}",
            mean_seconds(values, 1),
        ]
        for (arm, size), values in finished(results).items()
        if values
    ]
    return Table(
        caption=(
            "The networks: highest learning rate, weight decay, parameters of the recurrent layer "
            "and of the whole, numbers the layer carries when it has read a sequence (fast weights "
            "keep the vectors they wrote; as a matrix they would be R × R), mean seconds of "
            "training on one thread beside the other workers."
        ),
        columns=("network", "R", "learning rate", "decay", "layer", "whole", "state", "seconds"),
        rows=rows,
    )


def _state_size(arm: Arm, config: RetrievalConfig, hidden_size: int) -> int:
    """How many numbers a layer carries for one sequence, after its last token."""
    task = task_of(config)
    config = dataclasses.replace(config, inner_steps=min(config.inner_steps, 1))  # carry nothing
    device = "cpu" if hidden_size <= SMALL else "meta"  # slower, but holds and computes nothing
    with torch.device(device), torch.no_grad():
        layer = arm.build(config, task.vocabulary_size, hidden_size)
        _, state = layer(torch.zeros(task.length, 2, task.vocabulary_size))
    return _numbers(state) // 2  # one network needs two samples


def _numbers(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() if state.is_floating_point() else 0
    parts = vars(state).values() if dataclasses.is_dataclass(state) else state
    return sum(_numbers(part) for part in parts if part is not None)


def _accuracies(values: dict[str, Any]) -> tuple[str, str]:
    return f"{100 * values['validation_accuracy']:.2f}", f"{100 * values['test_accuracy']:.3f}"

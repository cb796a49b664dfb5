"""Experiments that run every arm with every seed: their units, and their results as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fastweights.experiments.base import Result, Unit
from fastweights.report.section import Table
from fastweights.training.config import ConfigError, nearest

__all__ = [
    "arm_rows",
    "check_arms",
    "check_distinct",
    "finished",
    "mean_seconds",
    "seed_table",
    "units_of",
    "why_missing",
]


class _Arm(Protocol):
    @property
    def label(self) -> str: ...


class _Config(Protocol):
    @property
    def arms(self) -> tuple[str, ...]: ...
    @property
    def first_seed(self) -> int: ...
    @property
    def updates(self) -> int: ...


def units_of(
    arms: Mapping[str, _Arm], config: _Config, seeds: int, *, note: str = ""
) -> list[Unit]:
    """A run for every arm and seed of the configuration.

    Raises:
        ConfigError: an arm is not known, or comes twice.
    """
    check_arms(arms, config.arms)
    check_distinct(config, "arms")
    return [
        Unit(
            name=f"{arm}-seed{seed}",
            label=arms[arm].label,
            arm=arm,
            seed=seed,
            total=config.updates,
            note=note,
        )
        for seed in range(config.first_seed, config.first_seed + seeds)
        for arm in config.arms
    ]


def check_arms(known: Mapping[str, Any], arms: Sequence[str]) -> None:
    """See that every arm is known.

    Raises:
        ConfigError: one is not; the message has the nearest name.
    """
    for arm in arms:
        if arm not in known:
            raise ConfigError(f"unknown arm {arm!r}: {nearest(arm, list(known))}")


def check_distinct(config: object, *keys: str) -> None:
    """See that nothing comes twice under these keys of a configuration.

    Raises:
        ConfigError: something does.
    """
    for key in keys:
        values = getattr(config, key)
        if len(set(values)) < len(values):
            raise ConfigError(f"{key} must not repeat itself, got {list(values)}")


def finished(results: Sequence[Result], arm: str) -> dict[int, dict[str, Any]]:
    """The values of an arm's finished runs by seed."""
    return {
        result.unit.seed: result.values
        for result in results
        if result.unit.arm == arm and result.values is not None and result.unit.seed is not None
    }


def why_missing(results: Sequence[Result], arm: str) -> str:
    """What to say of an arm without a finished run: "withdrawn" where its results were, because
    they turned out to be wrong and are yet to be had again, else "failed".

    Results are withdrawn by putting a ``failure.json`` in the place of each ``result.json``, with a
    reason that begins so; ``--resume`` then runs them again.
    """
    failures = [result.failure or "" for result in results if result.unit.arm == arm]
    withdrawn = bool(failures) and all(text.startswith("withdrawn") for text in failures)
    return "withdrawn" if withdrawn else "failed"


def arm_rows(
    known: Mapping[str, _Arm],
    arms: Sequence[str],
    results: Sequence[Result],
    cells: Callable[[Sequence[dict[str, Any]]], Sequence[str]],
    width: int,
) -> list[list[str]]:
    """Rows of a table, one for each arm: its label, how many of its runs finished, and what came
    out.

    Args:
        known: all arms.
        arms: those of the table.
        results: of every run.
        cells: from the values of an arm's finished runs, of which there is at least one.
        width: how many cells.
    """
    rows = []
    for arm in arms:
        values = list(finished(results, arm).values())
        started = sum(result.unit.arm == arm for result in results)
        found = cells(values) if values else [why_missing(results, arm), *["–"] * (width - 1)]
        rows.append([known[arm].label, f"{len(values)}/{started}", *found])
    return rows


def mean_seconds(values: Sequence[Mapping[str, Any]], digits: int = 0) -> str:
    """How long the runs took."""
    return f"{sum(v['seconds'] for v in values) / len(values):.{digits}f}"


def seed_table(
    results: Sequence[Result],
    caption: str,
    scores: Callable[[dict[str, Any]], tuple[str, str]],
    unit: str = "",
    digits: int = 0,
) -> Table:
    """A row for every run.

    Args:
        results: of every run.
        caption: of the table.
        scores: on validation and on test data, from the values of a run.
        unit: of the scores, for the heads of their columns.
        digits: of the seconds.
    """
    rows = []
    for result in results:
        if result.values is None:
            found = ["failed", result.failure or "did not finish", "–"]
        else:
            found = [*scores(result.values), mean_seconds([result.values], digits)]
        rows.append([result.unit.label, str(result.unit.seed), *found])
    columns = ("run", "seed", f"validation{unit}", f"test{unit}", "seconds")
    return Table(caption=caption, columns=columns, rows=rows)

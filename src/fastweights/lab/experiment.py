"""What an experiment is, and the list of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fastweights.report.section import Section

__all__ = ["Experiment", "ReadsFiles", "Result", "Unit"]

NOT_FINISHED = "not finished"  # what there is to say of a run that says nothing itself


@dataclasses.dataclass(frozen=True)
class Unit:
    """One run: what a worker does at a time, in a folder of its own.

    Attributes:
        name: of its folder, unique in the experiment.
        label: what people call it, e.g. "fast weights, R = 50".
        arm: which variant runs.
        seed: its seed; None if it is not one run of several, or does all seeds at once.
        options: what else sets it apart, JSON values.
        total: how many steps it takes, for the progress bar.
        note: what to hold its accuracy against while it runs, e.g. "ceiling 38.4 %".
    """

    name: str
    label: str
    arm: str
    seed: int | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    total: int = 1
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a unit: ``values`` if it finished, ``failure`` if it did not.

    ``curve`` holds the validations of one that did not finish, as far as it came.
    """

    unit: Unit
    values: dict[str, Any] | None
    failure: str | None = None
    curve: Sequence[dict[str, Any]] = ()

    @property
    def has_begun(self) -> bool:
        """Whether the unit left anything to show."""
        return self.values is not None or bool(self.curve) or self.failure != NOT_FINISHED


class Experiment(Protocol):
    """A published result to redo.

    Attributes:
        name: on the command line.
        title: in reports.
        summary: one line for ``fastweights list``.
        presets: named functions, each returning a frozen configuration.
        seeds: how many seeds each preset runs by default.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Dice:
        ...     throws: int = 60
        >>> class Sixes:
        ...     name, title, summary = "sixes", "Sixes", "How often does a die show six?"
        ...     presets, seeds = {"quick": Dice}, {"quick": 3}
        ...     def units(self, config, seeds):
        ...         return [Unit(f"seed{s}", f"seed {s}", "die", s) for s in range(seeds)]
        ...     def run(self, config, unit, folder, device, writer):
        ...         thrown = np.random.default_rng(unit.seed).integers(1, 7, config.throws)
        ...         return {"share": float((thrown == 6).mean())}
        ...     def section(self, config, results, folder):
        ...         rows = [[r.unit.label, f"{r.values['share']:.2f}"] for r in results if r.values]
        ...         table = Table("Every seed.", ("run", "share of sixes"), rows)
        ...         return Section(self.title, self.summary, (), (table,), ())
        >>> import numpy as np
        >>> from fastweights.report.section import Table
        >>> sixes, dice = Sixes(), Dice()
        >>> results = [Result(unit, sixes.run(dice, unit, Path(), "cpu", None))
        ...            for unit in sixes.units(dice, seeds=3)]
        >>> len(sixes.section(dice, results, Path()).tables[0].rows)
        3
    """

    name: str
    title: str
    summary: str
    presets: Mapping[str, Callable[[], Any]]
    seeds: Mapping[str, int]

    def units(self, config: Any, seeds: int) -> Sequence[Unit]:
        """All runs; an impossible configuration raises before any of them starts."""

    def run(self, config: Any, unit: Unit, folder: Path, device: str, writer: Any) -> Any:
        """Do one run and return its result as JSON values; resume from what ``folder`` holds."""

    def section(self, config: Any, results: Sequence[Result], folder: Path) -> Section:
        """Tables, figures and ledger rows from all results, the failed ones included."""


@runtime_checkable
class ReadsFiles(Protocol):
    """An experiment whose runs read files that do not come with the package."""

    def check_files(self, config: Any) -> None:
        """See that the files are there and whole, and large enough for the configuration.

        Raises:
            ConfigError: they are not; the message names the setting and the file.
        """

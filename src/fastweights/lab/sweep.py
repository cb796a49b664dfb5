"""A grid of settings: one run for each combination, in a folder of its own."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastweights.files import is_there, read_json
from fastweights.lab.experiment import Unit
from fastweights.lab.plan import (
    LIMIT,
    MAX_UNITS,
    RUN,
    SWEEP,
    Plan,
    as_text,
    check,
    check_free,
    describe,
    load_plan,
    read_plan,
    settle,
)
from fastweights.lab.runner import locked
from fastweights.report.section import Section, Table
from fastweights.training.config import ConfigError, with_overrides

__all__ = [
    "Cell",
    "Sweep",
    "holds",
    "load_sweep",
    "prepare_sweep",
    "read_grid",
    "runs_in",
    "seeds_in",
]


MAX_CELLS = 1_000  # of a grid: each has a section in the report


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination of settings.

    Attributes:
        name: of its folder, e.g. "decay=0.9,hidden_sizes=20"; empty if there is no grid.
        values: of the grid's keys, as text.
        plan: its run.
    """

    name: str
    values: Sequence[str]
    plan: Plan


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One run for each cell of a grid.

    Attributes:
        base: what the cells share; their folders are in its folder.
        grid: values by key. Without any, the sweep is the run ``base`` itself.
    """

    base: Plan
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def cells(self) -> Sequence[Cell]:
        """Every combination, the last key changing fastest.

        Raises:
            ConfigError: a key that nobody knows, an impossible value, a cell that comes twice, or
                too many of them.
        """
        count = math.prod(len(values) for values in self.grid.values())
        if count > MAX_CELLS or count * len(self.base.units) > MAX_UNITS:
            raise ConfigError(
                f"the grid has {count} combinations of {len(self.base.units)} runs; at most "
                f"{MAX_CELLS} combinations and {MAX_UNITS} runs are made"
            )
        for key in self.grid:
            # It becomes part of a folder's name and of a "key=value".
            if not re.fullmatch(r"[\w.]+", key):
                raise ConfigError(f"--grid: {key!r} is not the name of a setting")
        cells = []
        for values in itertools.product(*self.grid.values()):
            texts = [as_text(value) for value in values]
            pairs = list(zip(self.grid, texts, strict=True))
            name = ",".join(f"{key}={_in_a_name(text)}" for key, text in pairs)
            config = with_overrides(self.base.config, [f"{key}={text}" for key, text in pairs])
            root = self.base.folder
            plan = dataclasses.replace(self.base, config=config, folder=root / name, root=root)
            cells.append(Cell(name, texts, plan))
        counts = Counter(cell.name for cell in cells)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ConfigError(f"--grid asks twice for the same run: {'; '.join(twice)}")
        return cells

    @functools.cached_property
    def runs(self) -> Mapping[str, Unit]:
        """Every unit of every cell by its folder, an absolute path, with the cell in its label."""
        return {
            home: dataclasses.replace(
                unit, name=home, label=f"{cell.name}: {unit.label}" if cell.name else unit.label
            )
            for cell in self.cells
            for unit in cell.plan.units
            for home in [str(cell.plan.unit_folder(unit).absolute())]
        }

    def command(self) -> str:
        """The command that redoes it from scratch, as a shell takes it."""
        words = []
        for key, values in self.grid.items():
            words += ["--grid", f"{key}={_as_list(values)}"]
        return " ".join([self.base.command("sweep"), *([shlex.join(words)] if words else [])])

    def section(self, sections: Sequence[Section]) -> Section:
        """The first tables of the cells' sections, joined where they have the same columns."""
        first = [
            (cell, section.tables[0])
            for cell, section in zip(self.cells, sections, strict=True)
            if section.tables
        ]
        tables = []
        for columns, group in itertools.groupby(first, lambda pair: tuple(pair[1].columns)):
            pairs = list(group)
            rows = [[*cell.values, *row] for cell, table in pairs for row in table.rows]
            tables.append(Table(pairs[0][1].caption, [*self.grid, *columns], rows))
        every = "; ".join(
            f"{key} = {', '.join(as_text(value) for value in values)}"
            for key, values in self.grid.items()
        )
        return Section(
            title=f"{self.base.experiment.title}: sweep",
            intro=f"Every combination of {every}: {len(self.runs)} runs. Each combination has a "
            "section below.",
            claims=[],
            tables=tables,
            pictures=[],
        )


def _as_list(values: Sequence[Any]) -> str:
    """Values as :func:`read_grid` reads them."""
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))[1:-1]


def _in_a_name(text: str) -> str:
    """A value as a folder's name may hold it: ``[20, 50]`` is ``20-50``."""
    return re.sub(r"[^\w.+-]+", "-", text.strip('[]"'))


def read_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """A grid from ``key=v1,v2`` strings.

    Values are read as JSON where all of them are (so that a list among them keeps its commas),
    otherwise as text.

    Raises:
        ConfigError: a string without a key or without values, or a key that comes twice.

    Example:
        >>> read_grid(["decay=0.9,0.99", "arms=lstm,gru", "hidden_sizes=[20,50],[100]"])
        {'decay': [0.9, 0.99], 'arms': ['lstm', 'gru'], 'hidden_sizes': [[20, 50], [100]]}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        key = key.strip()
        if not key or not values.strip():
            raise ConfigError(f"--grid takes key=value,value,… got {text!r}")
        if key in grid:
            raise ConfigError(f"--grid has {key!r} twice; give all its values at once")
        try:
            grid[key] = json.loads(f"[{values}]")
        except ValueError:
            grid[key] = [value.strip() for value in values.split(",")]
    return grid


def prepare_sweep(sweep: Sweep, *, resume: bool) -> None:
    """Check every cell and the folders, and write down what they are, before any work starts.

    Raises:
        ConfigError: a cell is impossible or a file that it reads is missing, and nothing has been
            written; or a folder holds something else, or this and ``resume`` is off, or another
            process is at work in it. A run that goes on may add seeds to those it was started
            with; all else must be the same.
    """
    for cell in sweep.cells:
        check(cell.plan)
    folder = sweep.base.folder
    if not holds(folder):
        check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", folder, wait=False):
        if sweep.grid:
            now = {**describe(sweep.base), "grid": sweep.grid}
            settle(folder / SWEEP, now, resume=resume)
        for cell in sweep.cells:
            now = describe(cell.plan)
            settle(cell.plan.folder / RUN, now, resume=resume, root=cell.plan.root)


def load_sweep(folder: Path) -> Sweep:
    """The sweep, or the run, that a folder was started with.

    Raises:
        ConfigError: the folder holds neither, or none that this version can read.
    """
    path = folder / SWEEP
    if not is_there(path):
        return Sweep(load_plan(folder))
    base, grid = read_plan(path), read_json(path, limit=LIMIT).get("grid")
    if not isinstance(grid, dict) or not all(isinstance(v, list) for v in grid.values()):
        raise ConfigError(f"{path} does not describe a sweep: its grid is {grid!r}")
    sweep = Sweep(base, grid)
    try:
        sweep.cells  # noqa: B018  (made now, and kept)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not describe a sweep: {error}") from None
    return sweep


def runs_in(folder: Path) -> list[Path]:
    """A folder of a run or a sweep itself, or those below one that holds several.

    Links among those below are left out: they lead elsewhere.

    Raises:
        ConfigError: there is none.
    """
    if holds(folder) or not folder.is_dir():
        return [folder]
    found = sorted(path for path in folder.iterdir() if not path.is_symlink() and holds(path))
    if not found:
        raise ConfigError(
            f"{folder} holds no run (there is no {RUN} in it or in a folder below it)"
        )
    return found


def holds(folder: Path) -> bool:
    """Whether a folder is that of a run or a sweep."""
    return any(is_there(folder / name) for name in (SWEEP, RUN))


def seeds_in(folder: Path) -> int | None:
    """How many seeds the sweep or run in a folder has; None if the folder holds neither.

    Raises:
        ConfigError: the folder's description is damaged.
    """
    return load_sweep(folder).base.seeds if holds(folder) else None

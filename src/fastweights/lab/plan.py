"""What runs where, and the folder that says so."""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastweights.files import has_checksum, is_temporary, is_there, read_json, write_json
from fastweights.lab.experiment import NOT_FINISHED, Experiment, ReadsFiles, Result, Unit
from fastweights.lab.registry import find
from fastweights.training.config import ConfigError, as_dict, differences, from_dict
from fastweights.training.metrics import read_validations

__all__ = [
    "RUN",
    "SWEEP",
    "Plan",
    "as_text",
    "check",
    "check_free",
    "describe",
    "load_plan",
    "read_plan",
    "read_result",
    "results_of",
    "settle",
]

RUN = "experiment.json"  # what a folder holds a run of
SWEEP = "sweep.json"  # what a folder holds a sweep of
LIMIT = 2**18  # bytes of a description
MAX_UNITS = 10_000  # runs of a plan or a sweep


@dataclasses.dataclass(frozen=True)
class Plan:
    """What runs where.

    Attributes:
        experiment: which.
        preset: the preset its configuration came from.
        config: its configuration.
        seeds: how many seeds.
        folder: where; each unit has a folder below ``units``.
        root: the folder that the user named, of which ``folder`` may be a part; below it no link
            is followed. ``folder`` itself if it is None.
        device: where to compute; another may give other numbers, so a run keeps to its own.
        has_checksums: whether every file of the folder has to have a checksum, as its description
            has; in folders of earlier versions none does.
    """

    experiment: Experiment
    preset: str
    config: Any
    seeds: int
    folder: Path
    device: str = "cpu"
    root: Path | None = dataclasses.field(default=None, compare=False)
    has_checksums: bool = dataclasses.field(default=False, compare=False)

    @functools.cached_property
    def units(self) -> Sequence[Unit]:
        """All runs of the plan.

        Raises:
            ConfigError: they are impossible, or too many.
        """
        if not 1 <= self.seeds <= MAX_UNITS:
            raise ConfigError(f"seeds must be in 1 … {MAX_UNITS}, got {self.seeds}")
        each = len(self.experiment.units(self.config, 1))
        if each * self.seeds > MAX_UNITS:
            raise ConfigError(
                f"these settings ask for {each} runs with each of {self.seeds} seeds; at most "
                f"{MAX_UNITS} runs are made"
            )
        units = self.experiment.units(self.config, self.seeds)
        for unit in units:
            if unit.name in ("", "..") or Path(unit.name).name != unit.name or "\0" in unit.name:
                raise ConfigError(f"{unit.name!r} cannot be the name of a folder")
        return units

    def unit_folder(self, unit: Unit) -> Path:
        """Where a unit keeps its files."""
        return self.folder / "units" / unit.name

    def command(self, verb: str = "run") -> str:
        """The command that redoes it from scratch, as a shell takes it."""
        given = as_dict(self.experiment.presets[self.preset]())
        words = ["fastweights", verb, self.experiment.name, "--preset", self.preset]
        words += ["--seeds", str(self.seeds)]
        if self.device != "cpu":
            words += ["--device", self.device]
        for key, value in as_dict(self.config).items():
            if given[key] != value:
                words += ["--set", f"{key}={as_text(value)}"]
        return shlex.join(words)


def as_text(value: Any) -> str:
    """A value as ``--set`` reads it: JSON, but for text that cannot be mistaken for JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False)


def check(plan: Plan) -> None:
    """See that the plan's units can be made and told apart, and find the files they read.

    Raises:
        ConfigError: there is nothing to run, or something twice, or the configuration is
            impossible, or a file is missing or damaged.
    """
    names = [unit.name for unit in plan.units]
    if not names:
        raise ConfigError("these settings leave nothing to run")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError(f"these settings ask twice for the same run: {', '.join(twice)}")
    if isinstance(plan.experiment, ReadsFiles):
        plan.experiment.check_files(plan.config)


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as JSON holds it."""
    return {
        "experiment": plan.experiment.name,
        "preset": plan.preset,
        "seeds": plan.seeds,
        "device": plan.device,
        "config": as_dict(plan.config),
    }


def settle(path: Path, now: dict[str, Any], *, resume: bool, root: Path | None = None) -> None:
    """Write a description into a new folder, or compare it with the one that is there.

    Raises:
        ConfigError: the folder holds something else, or this and ``resume`` is off.
    """
    folder, checksum = path.parent, True
    if _has(path, root):
        stored = _stored(path, root)
        checksum = has_checksum(path, root, limit=LIMIT)  # the files beside an old one have none
        if not resume:
            raise ConfigError(
                f"{folder} already holds a run of {stored['experiment']}: go on with it by "
                "--resume, or choose another folder with --out"
            )
        flat = [{**d, **d["config"], "config": None, "seeds": None} for d in (stored, now)]
        if changed := differences(*flat):
            raise ConfigError(
                f"--resume needs the configuration that {folder} was started with; "
                + "; ".join(changed)
            )
        if now["seeds"] < stored["seeds"]:
            raise ConfigError(
                f"{folder} holds {stored['seeds']} seeds; --resume may add seeds, not drop "
                f"them, got --seeds {now['seeds']}"
            )
    else:
        check_free(folder)
    write_json(path, now, root, checksum=checksum)


def check_free(folder: Path) -> None:
    """See that a folder can take a new run or sweep: it is not there, or nothing is in it.

    Raises:
        ConfigError: it is something else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; choose another with --out")
    found = {path.name for path in folder.iterdir() if not is_temporary(path)}
    for name, kind in ((SWEEP, "sweep"), (RUN, "run")):
        if name in found:
            raise ConfigError(
                f"{folder} holds a {kind}: go on with it by fastweights {kind} … --resume, or "
                "choose another folder with --out"
            )
    if found - {".lock"}:  # a process killed at its very first step leaves that
        raise ConfigError(f"{folder} is not empty and holds no run; choose another with --out")


def _has(path: Path, root: Path | None) -> bool:
    try:
        return is_there(path, root)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _stored(path: Path, root: Path | None) -> dict[str, Any]:
    """What ``settle`` wrote.

    Raises:
        ConfigError: it wrote nothing there, or the file is damaged.
    """
    if not _has(path, root):
        raise ConfigError(f"{path.parent} holds no run (there is no {path.name} in it)")
    try:
        stored = {"device": "cpu", **read_json(path, root, limit=LIMIT)}
    except TypeError:
        raise ConfigError(f"{path} does not describe a run: expected an object") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        find(stored["experiment"]).presets[stored["preset"]]
        kinds = {"seeds": int, "config": dict, "device": str}
        for key, kind in kinds.items():
            if type(stored[key]) is not kind:
                raise TypeError(f"{key} = {stored[key]!r}")
    except ConfigError as error:
        raise ConfigError(f"{path} does not describe a run: {error}") from None
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} does not describe a run: {error} is wrong") from None
    return stored


def load_plan(folder: Path) -> Plan:
    """The plan that a folder was started with.

    Raises:
        ConfigError: the folder holds no run, or none that this version can read.
    """
    return read_plan(folder / RUN)


def read_plan(path: Path, root: Path | None = None) -> Plan:
    """The plan that a file describes; no link below ``root`` is followed.

    Raises:
        ConfigError: there is no such file, or none that this version can read.
    """
    stored = _stored(path, root)
    experiment = find(stored["experiment"])
    kind = type(experiment.presets[stored["preset"]]())
    try:
        config = from_dict(kind, stored["config"])
    except ValueError as error:
        raise ConfigError(f"{path} does not describe a run: {error}") from None
    plan = Plan(
        experiment,
        stored["preset"],
        config,
        stored["seeds"],
        folder=path.parent,
        device=stored["device"],
        root=root,
        has_checksums=has_checksum(path, root, limit=LIMIT),
    )
    try:
        plan.units  # noqa: B018  (made now, and kept)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not describe a run: {error}") from None
    return plan


def read_result(home: Path, root: Path | None = None, *, checksum: bool = False) -> Any:
    """What a finished unit wrote.

    Args:
        home: its folder.
        root: the folder that the user named.
        checksum: refuse a result without a checksum.

    Raises:
        ValueError: the file is damaged, or no result; the message names it.
    """
    path = home / "result.json"
    values = read_json(path, root, checksum=checksum)
    if not values or not isinstance(values, dict | list):
        raise ValueError(f"{path} is no result: it holds {str(values)[:20]}")
    return values


def results_of(plan: Plan) -> list[Result]:
    """What became of every unit, in order; a result that cannot be read is a failure."""
    return [_result_of(plan, unit) for unit in plan.units]


def _result_of(plan: Plan, unit: Unit) -> Result:
    home, root, checksum = plan.unit_folder(unit), plan.root or plan.folder, plan.has_checksums
    failure, reason = home / "failure.json", NOT_FINISHED
    try:
        if is_there(home / "result.json", root):
            return Result(unit, read_result(home, root, checksum=checksum))
        if is_there(failure, root):
            described = read_json(failure, root, checksum=checksum)
            if not isinstance(described, dict) or not isinstance(described.get("reason"), str):
                raise ValueError(f"{failure} does not say why the run failed")
            reason = described["reason"]
        return Result(unit, None, reason, read_validations(home, checksum=checksum))
    except FileNotFoundError:  # it failed before, and is being done again just now
        return Result(unit, None, NOT_FINISHED)
    except ValueError as error:
        return Result(unit, None, str(error))

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

from fastweights.experiments.base import Experiment, ReadsFiles, Result, Unit
from fastweights.experiments.registry import find
from fastweights.training.config import ConfigError, as_dict, differences, from_dict
from fastweights.training.files import is_temporary, read_json, write_json

__all__ = [
    "RUN",
    "Plan",
    "as_text",
    "check",
    "describe",
    "load_plan",
    "read_plan",
    "results_of",
    "settle",
]

RUN = "experiment.json"  # what a folder holds a run of


@dataclasses.dataclass(frozen=True)
class Plan:
    """What runs where.

    Attributes:
        experiment: which.
        preset: the preset its configuration came from.
        config: its configuration.
        seeds: how many seeds.
        folder: where; each unit has a folder below ``units``.
        device: where to compute; another may give other numbers, so a run keeps to its own.
    """

    experiment: Experiment
    preset: str
    config: Any
    seeds: int
    folder: Path
    device: str = "cpu"

    @functools.cached_property
    def units(self) -> Sequence[Unit]:
        """All runs of the plan."""
        return self.experiment.units(self.config, self.seeds)

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


def settle(path: Path, now: dict[str, Any], *, resume: bool) -> None:
    """Write a description into a new folder, or compare it with the one that is there.

    Raises:
        ConfigError: the folder holds something else, or this and ``resume`` is off.
    """
    folder = path.parent
    if path.exists():
        stored = _stored(path)
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
    elif folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; choose another with --out")
    elif folder.exists() and any(not is_temporary(p) for p in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no run; choose another with --out")
    write_json(path, now)


def _stored(path: Path) -> dict[str, Any]:
    """What ``settle`` wrote.

    Raises:
        ConfigError: it wrote nothing there, or the file is damaged.
    """
    if not path.exists():
        raise ConfigError(f"{path.parent} holds no run (there is no {path.name} in it)")
    try:
        stored = {"device": "cpu", **read_json(path)}
        find(stored["experiment"]).presets[stored["preset"]]
        if not isinstance(stored["seeds"], int) or not isinstance(stored["config"], dict):
            raise TypeError("seeds or config")
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} does not describe a run: {error} is wrong") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return stored


def load_plan(folder: Path) -> Plan:
    """The plan that a folder was started with.

    Raises:
        ConfigError: the folder holds no run, or none that this version can read.
    """
    return read_plan(folder / RUN)


def read_plan(path: Path) -> Plan:
    """The plan that a file describes.

    Raises:
        ConfigError: there is no such file, or none that this version can read.
    """
    stored = _stored(path)
    experiment = find(stored["experiment"])
    kind = type(experiment.presets[stored["preset"]]())
    config = from_dict(kind, stored["config"])
    return Plan(
        experiment, stored["preset"], config, stored["seeds"], path.parent, stored["device"]
    )


def results_of(plan: Plan) -> list[Result]:
    """What became of every unit, in order."""
    results = []
    for unit in plan.units:
        home = plan.unit_folder(unit)
        if (home / "result.json").exists():
            results.append(Result(unit, read_json(home / "result.json"), None, home))
        elif (home / "failure.json").exists():
            reason = read_json(home / "failure.json")["reason"]
            results.append(Result(unit, None, reason, home))
        else:
            results.append(Result(unit, None, "not finished", home))
    return results

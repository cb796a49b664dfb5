"""Run an experiment into a folder, and read such a folder again."""

from __future__ import annotations

import dataclasses
import functools
import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastweights.experiments.base import Experiment, Result, Unit
from fastweights.experiments.registry import find
from fastweights.training.config import ConfigError, as_dict, differences, from_dict
from fastweights.training.environment import environment
from fastweights.training.files import read_json, write_json
from fastweights.training.pool import run_all

__all__ = ["Plan", "load_plan", "prepare", "results_of", "run_plan"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What runs where.

    Attributes:
        experiment: which.
        preset: the preset its configuration came from.
        config: its configuration.
        seeds: how many seeds.
        folder: where; each unit has a folder below ``units``.
    """

    experiment: Experiment
    preset: str
    config: Any
    seeds: int
    folder: Path

    @functools.cached_property
    def units(self) -> Sequence[Unit]:
        """All runs of the plan."""
        return self.experiment.units(self.config, self.seeds)

    def unit_folder(self, unit: Unit) -> Path:
        """Where a unit keeps its files."""
        return self.folder / "units" / unit.name

    def command(self) -> str:
        """The command that redoes it from scratch."""
        given = as_dict(self.experiment.presets[self.preset]())
        changed = [
            f" --set '{key}={_shown(value)}'"
            for key, value in as_dict(self.config).items()
            if given[key] != value
        ]
        return (
            f"fastweights run {self.experiment.name} --preset {self.preset} --seeds {self.seeds}"
            + "".join(changed)
        )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def prepare(plan: Plan, *, resume: bool) -> None:
    """Check the plan against its folder and write down what it is, before any work starts.

    Raises:
        ConfigError: the folder holds another experiment, or this one and ``resume`` is off.
    """
    _ = plan.units  # an impossible configuration shows here
    path = plan.folder / "experiment.json"
    now: dict[str, Any] = {
        "experiment": plan.experiment.name,
        "preset": plan.preset,
        "seeds": plan.seeds,
        "config": as_dict(plan.config),
    }
    if path.exists():
        stored = read_json(path)
        if not resume:
            raise ConfigError(
                f"{plan.folder} already holds a run of {stored['experiment']}: go on with it by "
                "--resume, or choose another folder with --out"
            )
        flat = [{**d, **d["config"], "config": None, "seeds": None} for d in (stored, now)]
        if changed := differences(*flat):
            raise ConfigError(
                f"--resume needs the configuration that {plan.folder} was started with; "
                + "; ".join(changed)
            )
    elif plan.folder.exists() and any(plan.folder.iterdir()):
        raise ConfigError(f"{plan.folder} is not empty and holds no run; choose another with --out")
    write_json(path, now)


def load_plan(folder: Path) -> Plan:
    """The plan that a folder was started with.

    Raises:
        ConfigError: the folder holds no run.
    """
    path = folder / "experiment.json"
    if not path.exists():
        raise ConfigError(f"{folder} holds no run (there is no experiment.json in it)")
    stored = read_json(path)
    experiment = find(stored["experiment"])
    kind = type(experiment.presets[stored["preset"]]())
    config = from_dict(kind, stored["config"])
    return Plan(experiment, stored["preset"], config, stored["seeds"], folder)


def run_plan(
    plan: Plan,
    *,
    workers: int,
    device: str,
    tensorboard: bool,
    tick: Callable[[Sequence[str]], None],
) -> None:
    """Do every unit that has no result yet."""
    todo = [u.name for u in plan.units if not (plan.unit_folder(u) / "result.json").exists()]
    for unit in plan.units:
        (plan.unit_folder(unit) / "failure.json").unlink(missing_ok=True)
    work = functools.partial(_run_unit, str(plan.folder), device=device, tensorboard=tensorboard)
    failures = run_all(work, todo, workers=workers, tick=tick)
    for unit in plan.units:
        if unit.name in failures:
            path = plan.unit_folder(unit) / "failure.json"
            if not path.exists():
                write_json(path, {"reason": failures[unit.name]})


def _run_unit(folder: str, name: str, *, device: str, tensorboard: bool) -> None:
    """One unit, in a worker process."""
    plan = load_plan(Path(folder))
    unit = next(u for u in plan.units if u.name == name)
    home = plan.unit_folder(unit)
    home.mkdir(parents=True, exist_ok=True)
    described = {**dataclasses.asdict(unit), "config": as_dict(plan.config)}
    write_json(home / "config.json", described)
    write_json(home / "environment.json", environment())
    writer = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(home / "tensorboard"))
    try:
        result = plan.experiment.run(plan.config, unit, home, device, writer)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        write_json(home / "failure.json", {"reason": reason, "traceback": traceback.format_exc()})
        raise
    finally:
        if writer is not None:
            writer.close()
    write_json(home / "result.json", result)


def results_of(plan: Plan) -> list[Result]:
    """What became of every unit, in order."""
    results = []
    for unit in plan.units:
        home = plan.unit_folder(unit)
        if (home / "result.json").exists():
            results.append(Result(unit, read_json(home / "result.json")))
        elif (home / "failure.json").exists():
            results.append(Result(unit, None, read_json(home / "failure.json")["reason"]))
        else:
            results.append(Result(unit, None, "not finished"))
    return results

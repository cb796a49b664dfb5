"""Run an experiment into a folder, and read such a folder again."""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastweights.experiments.base import Experiment, Result, Unit
from fastweights.experiments.registry import find
from fastweights.training.config import ConfigError, as_dict, differences, from_dict
from fastweights.training.environment import environment
from fastweights.training.files import is_temporary, read_json, write_json
from fastweights.training.pool import run_all

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Plan", "load_plan", "prepare", "results_of", "run_plan", "stored_seeds"]


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

    def command(self) -> str:
        """The command that redoes it from scratch, as a shell takes it."""
        given = as_dict(self.experiment.presets[self.preset]())
        words = ["fastweights", "run", self.experiment.name, "--preset", self.preset]
        words += ["--seeds", str(self.seeds)]
        if self.device != "cpu":
            words += ["--device", self.device]
        for key, value in as_dict(self.config).items():
            if given[key] != value:
                words += ["--set", f"{key}={_shown(value)}"]
        return shlex.join(words)


def _shown(value: Any) -> str:
    """A value as ``--set`` reads it: JSON, but for text that cannot be mistaken for JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False)


def prepare(plan: Plan, *, resume: bool) -> None:
    """Check the plan against its folder and write down what it is, before any work starts.

    A run that goes on may add seeds to those it was started with; all else must be the same.

    Raises:
        ConfigError: there is nothing to run, or the folder holds something else, or it holds this
            run and ``resume`` is off.
    """
    names = [unit.name for unit in plan.units]  # an impossible configuration shows here
    if not names:
        raise ConfigError("these settings leave nothing to run")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"these settings ask twice for the same run: {', '.join(twice)}")
    path = plan.folder / "experiment.json"
    now: dict[str, Any] = {
        "experiment": plan.experiment.name,
        "preset": plan.preset,
        "seeds": plan.seeds,
        "device": plan.device,
        "config": as_dict(plan.config),
    }
    if path.exists():
        stored = _stored(plan.folder)
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
        if plan.seeds < stored["seeds"]:
            raise ConfigError(
                f"{plan.folder} holds {stored['seeds']} seeds; --resume may add seeds, not drop "
                f"them, got --seeds {plan.seeds}"
            )
    elif plan.folder.exists() and not plan.folder.is_dir():
        raise ConfigError(f"{plan.folder} is not a folder; choose another with --out")
    elif plan.folder.exists() and any(not is_temporary(p) for p in plan.folder.iterdir()):
        raise ConfigError(f"{plan.folder} is not empty and holds no run; choose another with --out")
    write_json(path, now)


def _stored(folder: Path) -> dict[str, Any]:
    """What ``prepare`` wrote.

    Raises:
        ConfigError: it wrote nothing there, or the file is damaged.
    """
    path = folder / "experiment.json"
    if not path.exists():
        raise ConfigError(f"{folder} holds no run (there is no experiment.json in it)")
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


def stored_seeds(folder: Path) -> int | None:
    """How many seeds the run in a folder has; None if the folder holds no run.

    Raises:
        ConfigError: the folder's description of the run is damaged.
    """
    return _stored(folder)["seeds"] if (folder / "experiment.json").exists() else None


def load_plan(folder: Path) -> Plan:
    """The plan that a folder was started with.

    Raises:
        ConfigError: the folder holds no run, or none that this version can read.
    """
    stored = _stored(folder)
    experiment = find(stored["experiment"])
    kind = type(experiment.presets[stored["preset"]]())
    config = from_dict(kind, stored["config"])
    return Plan(experiment, stored["preset"], config, stored["seeds"], folder, stored["device"])


def run_plan(
    plan: Plan,
    *,
    workers: int,
    tensorboard: bool,
    tick: Callable[[Sequence[str]], None],
) -> None:
    """Do every unit that has no result yet.

    Raises:
        ConfigError: another process is at work in the folder.
    """
    with _alone(plan.folder):
        todo = [u.name for u in plan.units if not (plan.unit_folder(u) / "result.json").exists()]
        for unit in plan.units:
            (plan.unit_folder(unit) / "failure.json").unlink(missing_ok=True)
        work = functools.partial(_run_unit, str(plan.folder), tensorboard=tensorboard)
        failures = run_all(work, todo, workers=workers, tick=tick)
        for unit in plan.units:
            path = plan.unit_folder(unit) / "failure.json"
            if unit.name in failures and not path.exists():
                with suppress(OSError):  # a full disk: it counts as not finished
                    write_json(path, {"reason": failures[unit.name]})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of it when this process ends, however it ends."""
    if fcntl is None:
        yield
        return
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder} is in use: another process runs it") from None
        yield


def _run_unit(folder: str, name: str, *, tensorboard: bool) -> None:
    """One unit, in a worker process."""
    plan = load_plan(Path(folder))
    unit = next(u for u in plan.units if u.name == name)
    home = plan.unit_folder(unit)
    home.mkdir(parents=True, exist_ok=True)
    for path in home.iterdir():
        if is_temporary(path):  # of a process that was killed
            path.unlink()
    described = {**dataclasses.asdict(unit), "config": as_dict(plan.config)}
    write_json(home / "config.json", described)
    write_json(home / "environment.json", {**environment(), "device": plan.device})
    writer = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(home / "tensorboard", ignore_errors=True)  # written again, from the metrics
        writer = SummaryWriter(str(home / "tensorboard"))
    try:
        result = plan.experiment.run(plan.config, unit, home, plan.device, writer)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        failure = {"reason": reason, "traceback": traceback.format_exc()}
        with suppress(OSError):  # a full disk must not hide the reason
            write_json(home / "failure.json", failure)
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
            results.append(Result(unit, read_json(home / "result.json"), None, home))
        elif (home / "failure.json").exists():
            reason = read_json(home / "failure.json")["reason"]
            results.append(Result(unit, None, reason, home))
        else:
            results.append(Result(unit, None, "not finished", home))
    return results

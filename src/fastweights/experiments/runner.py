"""Do the units of an experiment, each in its folder."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastweights.experiments.base import Unit
from fastweights.experiments.plan import RUN, Plan, read_plan
from fastweights.training.config import ConfigError, as_dict
from fastweights.training.environment import environment
from fastweights.training.files import is_temporary, write_json
from fastweights.training.pool import Execute, run_all

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["run_units"]


def run_units(
    homes: Sequence[Path],
    *,
    folder: Path,
    workers: int | None,
    tensorboard: bool,
    tick: Callable[[Sequence[str]], None],
    execute: Execute | None = None,
) -> None:
    """Do every unit that has no result yet.

    Args:
        homes: the units' folders, all of prepared plans.
        folder: of the whole, which is held meanwhile.
        workers: how many at a time; None leaves it to ``execute``.
        tensorboard: whether to write events.
        tick: called now and then with the folders, absolute, of the units that are running.
        execute: how to do many; on processes of this machine if it is not given.

    Raises:
        ConfigError: another process is at work in the folder.
    """
    with _locked(folder / ".lock", wait=False):
        # A worker need not start in our directory.
        homes = [home.absolute() for home in homes]
        for home in homes:
            (home / "failure.json").unlink(missing_ok=True)
        todo = [str(home) for home in homes if not (home / "result.json").exists()]
        work = functools.partial(_run_unit, tensorboard=tensorboard)
        failures = (execute or run_all)(work, todo, workers=workers, tick=tick)
        for name, reason in failures.items():
            path = Path(name) / "failure.json"
            if not path.exists():
                with suppress(OSError):  # a full disk: it counts as not finished
                    write_json(path, {"reason": reason})


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a file; the system lets go of it when this process ends, however it ends.

    Raises:
        ConfigError: another process holds it, and we do not wait.
    """
    if fcntl is None:
        yield
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path.parent} is in use: another process runs it") from None
        yield


def _run_unit(folder: str, *, tensorboard: bool) -> None:
    """One unit, in a worker process.

    A worker that was thought dead may still be at it, on a machine that only lost its connection:
    then this one waits, and finds the result.
    """
    home = Path(folder)
    described = home.parent.parent / RUN
    plan = _plan_in(described, described.stat().st_mtime_ns)
    unit = next(u for u in plan.units if u.name == home.name)
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / ".lock", wait=True):
        if not (home / "result.json").exists():
            _run_alone(plan, unit, home, tensorboard=tensorboard)


@functools.lru_cache(maxsize=16)
def _plan_in(path: Path, modified: int) -> Plan:
    """The plan a file describes, read once by a worker that does many of its units."""
    return read_plan(path)


def _run_alone(plan: Plan, unit: Unit, home: Path, *, tensorboard: bool) -> None:
    for path in home.iterdir():
        if is_temporary(path):  # of a process that was killed
            path.unlink()
    (home / "failure.json").unlink(missing_ok=True)  # of an attempt before this one
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

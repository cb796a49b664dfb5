"""Do the units of an experiment, each in its folder."""

from __future__ import annotations

import dataclasses
import errno
import functools
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fastweights.files import (
    is_there,
    lock,
    make_folder,
    printable,
    remove,
    remove_temporaries,
    write_json,
)
from fastweights.lab.environment import environment
from fastweights.lab.experiment import Unit
from fastweights.lab.plan import RUN, Plan, read_plan, read_result
from fastweights.lab.pool import Execute, run_all
from fastweights.training.checkpoint import read_progress
from fastweights.training.config import ConfigError, as_dict

__all__ = ["locked", "run_units", "taken_away"]

_LOG = logging.getLogger(__name__)


def run_units(
    homes: Sequence[Path],
    *,
    folder: Path,
    workers: int | None,
    tensorboard: bool,
    tick: Callable[[Sequence[str]], None],
    execute: Execute | None = None,
) -> dict[str, str]:
    """Do every unit that has no result yet, or a damaged one.

    Args:
        homes: the units' folders, all of prepared plans.
        folder: of the whole, which is held meanwhile.
        workers: how many at a time; None leaves it to ``execute``.
        tensorboard: whether to write events.
        tick: called now and then with the folders, absolute, of the units that are running.
        execute: how to do many; on processes of this machine if it is not given.

    Returns:
        Why a unit failed the last time it was tried, for those that did, by folder.

    Raises:
        ConfigError: another process is at work in the folder, or a folder in it leads elsewhere,
            and nothing has been run.
        OSError: the folder cannot be written, or is no longer there.
    """
    # A worker need not start in our directory.
    homes, root = [home.absolute() for home in homes], folder.absolute()
    with locked(folder / ".lock", folder, wait=False) as held:

        def watch(running: Sequence[str]) -> None:
            _check_still_there(root, held)
            tick(running)

        todo = []
        try:
            for place in {root, *(home.parent.parent for home in homes)}:
                remove_temporaries(place, root)
            for home in homes:
                remove(home / "failure.json", root)
                if not _is_done(home, root):
                    todo.append(str(home))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        work = functools.partial(_run_unit, root=str(root), tensorboard=tensorboard)
        failures = (execute or run_all)(work, todo, workers=workers, tick=watch)
        for name, reason in failures.items():
            path = Path(name) / "failure.json"
            with suppress(OSError, ValueError):  # a full disk, a link: it counts as not finished
                if not is_there(path, root):
                    write_json(path, {"reason": printable(reason)}, root, checksum=True)
        return failures


def _check_still_there(folder: Path, held: int) -> None:
    """See that nobody took the folder away under us, and made another perhaps.

    Raises:
        FileNotFoundError: somebody did.
    """
    with suppress(OSError):
        if os.path.samestat(os.fstat(held), os.stat(folder / ".lock")):
            return
    raise taken_away(folder)


def taken_away(folder: Path) -> FileNotFoundError:
    """The error to raise where a folder is no longer there."""
    told = "the folder was removed, moved or replaced while it was in use"
    return FileNotFoundError(errno.ENOENT, told, str(folder))


def _is_done(home: Path, root: Path) -> bool:
    """Whether a unit has a result; a damaged one is taken away."""
    result = home / "result.json"
    if not is_there(result, root):
        return False
    checksum = _plan_of(home, root).has_checksums
    try:
        read_result(home, root, checksum=checksum)
    except ValueError as error:
        _LOG.warning("%s", printable(f"{error}; this run is done again"))
        remove(result, root)
        return False
    return True


@contextmanager
def locked(path: Path, root: Path, *, wait: bool) -> Iterator[int]:
    """Hold a file; its descriptor.

    Raises:
        ConfigError: another process holds it, and we do not wait; or it is a link or no file.
    """
    with ExitStack() as held:
        try:
            descriptor = held.enter_context(lock(path, root, wait=wait))
        except BlockingIOError:
            raise ConfigError(f"{path.parent} is in use: another process runs it") from None
        except ValueError as error:
            raise ConfigError(str(error)) from None
        yield descriptor


def _run_unit(folder: str, *, root: str, tensorboard: bool) -> None:
    """One unit, in a worker process.

    A worker that was thought dead may still be at it, on a machine that only lost its connection:
    then this one waits, and finds the result.
    """
    home, top = Path(folder), Path(root)
    plan = _plan_of(home, top)
    unit = next(u for u in plan.units if u.name == home.name)
    make_folder(home, top)
    with locked(home / ".lock", top, wait=True):
        if not is_there(home / "result.json", top):
            _run_alone(plan, unit, home, tensorboard=tensorboard)


def _plan_of(home: Path, root: Path) -> Plan:
    """The plan of a unit, read once by who does many of its units."""
    described = home.parent.parent / RUN
    return _plan_in(described, root, described.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _plan_in(path: Path, root: Path, modified: int) -> Plan:
    return read_plan(path, root)


def _run_alone(plan: Plan, unit: Unit, home: Path, *, tensorboard: bool) -> None:
    # From here on the folder is one of ours: it was reached without following a link.
    remove_temporaries(home)  # of a process that was killed
    remove(home / "failure.json")  # of an attempt before this one
    if plan.has_checksums:
        _remove_altered(home / "checkpoint.safetensors")
    described = {**dataclasses.asdict(unit), "config": as_dict(plan.config)}
    write_json(home / "config.json", described, checksum=True)
    about = {**environment(), "device": plan.device}
    write_json(home / "environment.json", about, checksum=True)
    writer = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        remove(home / "tensorboard")  # written again, from the metrics
        writer = SummaryWriter(str(home / "tensorboard"))
    try:
        result = plan.experiment.run(plan.config, unit, home, plan.device, writer)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        failure = {"reason": printable(reason), "traceback": printable(traceback.format_exc())}
        with suppress(OSError):  # a full disk must not hide the reason
            _conclude(home / "failure.json", failure)
        raise
    finally:
        if writer is not None:
            writer.close()
    _conclude(home / "result.json", result)


def _remove_altered(checkpoint: Path) -> None:
    """Begin again where the checkpoint has lost its checksum."""
    try:
        if is_there(checkpoint):
            read_progress(checkpoint, checksum=True)
    except ValueError as error:
        _LOG.warning("%s", printable(f"{error}; this run is done again from its beginning"))
        remove(checkpoint)


def _conclude(path: Path, content: Any) -> None:
    """Write how a unit ended; if its folder was taken away meanwhile, it does not come back."""
    if not path.parent.is_dir():
        raise taken_away(path.parent)
    write_json(path, content, checksum=True)

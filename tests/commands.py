"""The command as people start it: interrupted in every way, and what it leaves compared."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from fastweights.__main__ import main
from fastweights.files import is_temporary
from fastweights.lab import pool, runner
from fastweights.lab.plan import results_of
from fastweights.lab.pool import Tick, Tries, Work
from fastweights.lab.sweep import load_sweep
from fastweights.report import html
from fastweights.report.html import Chapter, write_report
from fastweights.training.checkpoint import read_progress

# Whatever the command starts inherits this; so it is found again.
MARK = "FASTWEIGHTS_STARTED_BY_TEST"

SMALL = [
    "arms=gru,lstm",
    "num_pairs=2",
    "hidden_sizes=6",
    "head_size=8",
    "train_size=256",
    "validation_size=64",
    "test_size=64",
    "batch_size=16",
    "evaluate_every=10",
]
TINY = [  # trained in no time
    *SMALL,
    "arms=lstm",
    "train_size=64",
    "validation_size=16",
    "test_size=16",
    "updates=2",
    "evaluate_every=1",
]


def command(verb: str, name: str, folder: Path, settings: Sequence[str], *more: str) -> list[str]:
    """``fastweights run`` or ``sweep`` with one seed."""
    start = [sys.executable, "-m", "fastweights", verb, name, "--seeds", "1", "--out", str(folder)]
    return [*start, *(part for setting in settings for part in ("--set", setting)), *more]


class AtWrites:
    """Counts the steps of this process that write, and raises an error in place of some.

    Args:
        error: makes it.
        first: the first step that it meets, counted from 0.
        last: the last one.
    """

    def __init__(
        self, error: Callable[[], BaseException], first: int, last: int = sys.maxsize
    ) -> None:
        self.struck: list[str] = []
        self._error, self._first, self._last = error, first, last
        self._steps = 0

    @contextlib.contextmanager
    def strike(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        writing = os.O_CREAT | os.O_WRONLY | os.O_RDWR
        with monkeypatch.context() as patch:
            for name in ("open", "mkdir", "replace", "fsync"):
                real = getattr(os, name)

                def step(*given: Any, name: str = name, real: Any = real, **more: Any) -> Any:
                    if name != "open" or given[1] & writing:
                        self._count(name, given[0])
                    return real(*given, **more)

                patch.setattr(os, name, step)
            yield

    def _count(self, name: str, path: Any) -> None:
        number, self._steps = self._steps, self._steps + 1
        if self._first <= number <= self._last:
            self.struck.append(name)
            error = self._error()
            if isinstance(error, OSError) and name != "fsync":  # as the system's own
                error.filename = str(path)
            raise error


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a command came to."""

    code: int
    told: str


def call(*words: str) -> Ended:
    """The command in this process, with its runs and without its figures: a tenth of a second."""
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", ["fastweights", *words]))
        stack.enter_context(mock.patch.object(pool, "run_all", _run_all_here))
        stack.enter_context(mock.patch.object(runner, "run_all", _run_all_here))
        stack.enter_context(mock.patch.object(html, "_as_data", _no_figure))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(contextlib.redirect_stderr(printed))
        try:
            main()
        except SystemExit as end:
            return Ended(end.code if isinstance(end.code, int) else 0, printed.getvalue())
    return Ended(0, printed.getvalue())


def _no_figure(picture: object) -> str:
    return ""


def _run_all_here(
    work: Work, names: Sequence[str], *, workers: int | None, tick: Tick, attempts: int = 3
) -> dict[str, str]:
    tries = Tries(names, attempts)
    while tries.todo:
        name = tries.todo.popleft()
        tick([name])
        try:
            work(name)
        except Exception as error:
            tries.failed(name, f"{type(error).__name__}: {error}")
    tick([])
    return tries.failures


def numbers_in(folder: Path) -> dict[str, Any]:
    """Every result without its seconds, and every curve."""
    found: dict[str, Any] = {}
    for cell in load_sweep(folder).cells:
        for result in results_of(cell.plan):
            name = f"{cell.name}/{result.unit.name}"
            metrics = cell.plan.unit_folder(result.unit) / "metrics.jsonl"
            found[name] = (_timeless(result.values), metrics.read_bytes())
    return found


@dataclasses.dataclass
class Started:
    """A command in a process group of its own, as a terminal makes one.

    What it prints goes to a file, so that processes that outlive it hold nobody up.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def of(cls, words: Sequence[str], log: Path, **options: Any) -> Started:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: str(log)}
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        with log.open("wb") as file:
            given = {"stdout": file, "stderr": file, "env": environment, **options}
            return cls(subprocess.Popen(words, start_new_session=True, **given), log)

    @property
    def told(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def end(self, timeout: float = 600) -> int:
        """Wait for its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.told}") from None

    def until(
        self, happened: Callable[[], bool], timeout: float = 300, every: float = 0.02
    ) -> bool:
        """Wait for something; False if the command ended before it happened."""
        limit = time.monotonic() + timeout
        while not happened():
            if not self.is_running:
                return False
            assert time.monotonic() < limit, f"it does not come:\n{self.told}"
            time.sleep(every)
        return True

    def workers(self) -> list[int]:
        """The processes that do its runs."""
        return [pid for pid in processes(self.log) if is_worker(pid) and pid != self.process.pid]


def processes(log: Path) -> list[int]:
    """Everything that runs and was started, by whomever, for a command with this log."""
    wanted = f"{MARK}={log}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue  # it ended meanwhile, or is not ours
    return found


def is_worker(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"spawn_main" in line or line.startswith(b"ray::_serve")


def lines_in(folder: Path) -> int:
    """How many validations have been written."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("metrics.jsonl"))


def assert_same(folder: Path, undisturbed: Path) -> None:
    """Everything is the same, bit for bit, but the seconds it took."""
    assert files_in(folder) == files_in(undisturbed)
    for path in undisturbed.rglob("*"):
        other = folder / path.relative_to(undisturbed)
        if path.name in ("config.json", "metrics.jsonl", "experiment.json", "sweep.json"):
            assert path.read_bytes() == other.read_bytes(), other
        elif path.name == "checkpoint.safetensors":
            expected, found = load_file(path), load_file(other)
            assert expected.keys() == found.keys(), other
            for name, tensor in expected.items():
                assert torch.equal(tensor, found[name]), (other, name)
            assert _timeless(read_progress(path)) == _timeless(read_progress(other))
    pages = []
    for place in (undisturbed, folder):
        chapters = [_chapter(cell) for cell in load_sweep(place).cells]
        page = place.with_name(f"{place.name}-timeless.html")
        write_report(page, chapters)
        pages.append(page.read_text())
    assert pages[0] == pages[1]


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def temporaries_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if is_temporary(path)]


def _chapter(cell: Any) -> Chapter:
    """What the report says of a run, its results word for word, as if it had taken no time."""
    plan = cell.plan
    results = [
        dataclasses.replace(result, values=_timeless(result.values)) for result in results_of(plan)
    ]
    assert all(result.values is not None for result in results), results
    return Chapter(
        name=cell.name,
        section=plan.experiment.section(plan.config, results, folder=plan.folder),
        command=plan.command(),
        settings={"results": [result.values for result in results]},
        environments=[],
        failures={},
    )


def _timeless(values: Any) -> Any:
    if isinstance(values, dict):
        return {k: 0.0 if k == "seconds" else _timeless(v) for k, v in values.items()}
    return [_timeless(v) for v in values] if isinstance(values, list) else values


INTERRUPTED = {
    signal.SIGKILL: (-9,),
    signal.SIGTERM: (-15, 143, 15, -6),  # the last two are Ray's, which handles it itself
    signal.SIGINT: (130, -2),
}


def run_all_here(work: Callable[[str], None], names: Sequence[str], **_: Any) -> dict[str, str]:
    """In the place of the pool: the runs in this process, one after another."""
    failures = {}
    for name in names:
        try:
            work(name)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
    return failures

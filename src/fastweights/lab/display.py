"""The progress of many runs, read from their folders: a live display, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fastweights.files import is_there, printable
from fastweights.training.metrics import read_metrics

__all__ = ["Display"]

SECONDS_PER_LINE = 15.0


class _Unit(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def total(self) -> int: ...
    @property
    def note(self) -> str: ...


class Display:
    """One bar for everything with an ETA, and one for each run under way with its accuracy.

    A note that all runs share (their ceiling, mostly) stands beside the bar for everything, others
    beside their run's accuracy. Without a terminal it prints a line now and then.

    Args:
        units: the runs.
        folders: of the runs, by name.
        console: where to; standard error if it is not given.
    """

    def __init__(
        self,
        units: Sequence[_Unit],
        folders: Mapping[str, Path],
        console: Console | None = None,
    ) -> None:
        self._units = {unit.name: unit for unit in units}
        self._folders = folders
        notes = {unit.note for unit in units}
        self._note = printable(notes.pop()) if len(notes) == 1 else ""
        self._console = console or Console(stderr=True)
        self._bars: dict[str, TaskID] = {}
        self._steps: dict[str, int] = {}
        self._last_line = -SECONDS_PER_LINE
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=600,  # validations may be minutes apart
        )
        self._all = self._progress.add_task(
            "everything", total=sum(u.total for u in units), state=self._note
        )

    def __enter__(self) -> Display:
        self._progress.start()
        self.tick([])
        return self

    def __exit__(self, *_: object) -> None:
        self.tick([])
        self._progress.stop()

    def tick(self, running: Sequence[str]) -> None:
        """Read how far the runs are, and show it.

        At first it reads them all, later those that run or have just stopped: a sweep has many.
        """
        states = {}
        for name in [*running, *(self._bars if self._steps else self._units)]:
            unit = self._units[name]
            self._steps[name], states[name] = self._state_of(unit)
            if name in running and name not in self._bars:
                self._bars[name] = self._progress.add_task(_title(unit), total=unit.total, state="")
        for name in [*self._bars]:
            if name in running:
                bar, step = self._bars[name], self._steps[name]
                self._progress.update(bar, completed=step, state=states[name])
            else:
                self._progress.remove_task(self._bars.pop(name))
        self._progress.update(self._all, completed=sum(self._steps.values()))
        if not self._console.is_terminal and time.monotonic() - self._last_line > SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            self._print(running, states)

    def _print(self, running: Sequence[str], states: Mapping[str, str]) -> None:
        everything = next(task for task in self._progress.tasks if task.id == self._all)
        parts = [f"{everything.percentage:3.0f} % done"]
        if (left := everything.time_remaining) is not None:
            parts.append(f"about {left // 60:.0f}:{left % 60:02.0f} left")
        if self._note:
            parts.append(self._note)
        parts += [f"{_title(self._units[n])}: {states[n] or 'starting'}" for n in running]
        self._console.print("; ".join(parts), markup=False, highlight=False, soft_wrap=True)

    def _state_of(self, unit: _Unit) -> tuple[int, str]:
        folder = self._folders[unit.name]
        metrics = folder / "metrics.jsonl"
        try:
            if is_there(folder / "result.json"):
                return unit.total, ""
            last = read_metrics(metrics)[-1]
        except (IndexError, OSError, ValueError):  # none yet; whoever needs them will complain
            return 0, ""
        update, accuracy = last.get("update"), last.get("validation_accuracy")
        parts = [f"{100 * accuracy:.1f} %"] if isinstance(accuracy, int | float) else []
        if (note := printable(unit.note)) != self._note:
            parts.append(note)
        return min(update, unit.total) if type(update) is int else 0, ", ".join(parts)


def _title(unit: _Unit) -> str:
    return printable(unit.label if unit.seed is None else f"{unit.label}, seed {unit.seed}")

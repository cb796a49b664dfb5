"""The progress of many runs, read from their folders: a live display, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fastweights.training.loop import read_metrics

__all__ = ["Display"]

SECONDS_PER_LINE = 15.0


class _Unit(Protocol):
    name: str
    label: str
    seed: int
    total: int


class Display:
    """One bar for everything with an ETA, and one for each run under way.

    Without a terminal it prints a line now and then.
    """

    def __init__(self, units: Sequence[Any], folders: Mapping[str, Path], note: str = "") -> None:
        self._units = {unit.name: unit for unit in units}
        self._folders = folders
        self._note = note
        self._console = Console(stderr=True)
        self._bars: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task(
            "everything", total=sum(u.total for u in units), state=note
        )

    def __enter__(self) -> Display:
        self._progress.start()
        self.tick([])
        return self

    def __exit__(self, *_: object) -> None:
        self.tick([])
        self._progress.stop()

    def tick(self, running: Sequence[str]) -> None:
        """Read how far every run is, and show it."""
        done = 0
        for name, unit in self._units.items():
            step, state = self._state_of(unit)
            done += step
            if name in running and name not in self._bars:
                label = f"{unit.label}, seed {unit.seed}"
                self._bars[name] = self._progress.add_task(label, total=unit.total, state="")
            if name in self._bars:
                if name in running:
                    self._progress.update(self._bars[name], completed=step, state=state)
                else:
                    self._progress.remove_task(self._bars.pop(name))
        self._progress.update(self._all, completed=done)
        if not self._console.is_terminal and time.monotonic() - self._last_line > SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            total = sum(u.total for u in self._units.values())
            under_way = ", ".join(
                f"{self._units[n].label} seed {self._units[n].seed}" for n in running
            )
            self._console.print(
                f"{100 * done / max(total, 1):3.0f} % done; {under_way or 'starting'} {self._note}",
                highlight=False,
                soft_wrap=True,
            )

    def _state_of(self, unit: _Unit) -> tuple[int, str]:
        folder = self._folders[unit.name]
        if (folder / "result.json").exists():
            return unit.total, ""
        metrics = folder / "metrics.jsonl"
        points = read_metrics(metrics) if metrics.exists() else []
        if not points:
            return 0, ""
        accuracy = points[-1].get("validation_accuracy")
        return points[-1]["update"], "" if accuracy is None else f"{100 * accuracy:5.1f} %"

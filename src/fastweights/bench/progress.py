"""How far a benchmark is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fastweights.bench.base import Unit
from fastweights.report.terminal import err


class Bar:
    """How far a benchmark is, and how long still; a line for each unit without a terminal."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=err,
            disable=not err.is_terminal,
            speed_estimate_period=600,
        )
        self._units = list(units)
        self._task = self._progress.add_task(
            self._units[0].label, total=sum(unit.weight for unit in units)
        )

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def done(self, unit: Unit) -> None:
        following = self._units[self._units.index(unit) + 1 :]
        self._progress.update(
            self._task,
            advance=unit.weight,
            description=following[0].label if following else "done",
        )
        if not err.is_terminal:
            err.print(f"{self._progress.tasks[0].percentage:3.0f} % done: {unit.label}")

"""What a benchmark is, and how one is run: every unit of it by itself, none hiding another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fastweights.bench.timing import give_back_memory, keep_memory, load
from fastweights.report.section import Section
from fastweights.training.environment import environment

__all__ = [
    "Benchmark",
    "Disagreement",
    "Settings",
    "Unit",
    "label_of",
    "load_text",
    "run_benchmark",
    "threads_text",
]


class Disagreement(Exception):
    """What was to be timed does not compute what the reference computes."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure, and how long to take over it.

    Attributes:
        cases: by name; none for all that the benchmark has.
        peers: by name; none for all that the benchmark has, but "compiled".
        compile: time ``torch.compile`` too.
        threads: how many torch may use, each in turn.
        rounds: that the medians are taken over.
        budget: seconds that one peer may take in one case; a slower one is skipped, and shown so.
        device: where to compute.
        fresh: time the first call in new processes too.
        install: time an installation from source too, up to the first gradient.
    """

    cases: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    compile: bool = False
    threads: tuple[int, ...] = (1,)
    rounds: int = 15
    budget: float = 10.0
    device: str = "cpu"
    fresh: bool = True
    install: bool = False


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part of a benchmark that is measured by itself.

    Attributes:
        key: what tells its row from others, as JSON.
        weight: about how long it takes beside the others.
        measure: the rest of its row; raises :class:`Disagreement` before anything is timed.
    """

    key: dict[str, Any]
    weight: float
    measure: Callable[[], dict[str, Any]]

    @property
    def label(self) -> str:
        return label_of(self.key)


def label_of(key: dict[str, Any]) -> str:
    """What to call a unit, or its row.

    Example:
        >>> label_of({"case": "128x11x50", "threads": 2}), label_of({"case": "sgd-1e4"})
        ('128x11x50, 2 threads', 'sgd-1e4')
    """
    threads = key.get("threads")
    return key["case"] if threads is None else f"{key['case']}, {threads_text(threads)}"


def load_text(row: dict[str, Any]) -> str:
    """How busy the machine was: far more than a row's threads, and its times are no good."""
    return "–" if row["load"] is None else f"{row['load']:.1f}"


def threads_text(count: int) -> str:
    """A number of threads in words."""
    return f"{count} thread{'s' * (count > 1)}"


class Benchmark(Protocol):
    """Cases to measure, and how their rows are shown."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    def units(self, settings: Settings) -> Sequence[Unit]:
        """What to measure; raises ConfigError at settings that cannot be."""
        ...

    def section(self, report: dict[str, Any]) -> Section:
        """Tables and figures of what :func:`run_benchmark` returned."""
        ...


def run_benchmark(
    benchmark: Benchmark,
    settings: Settings,
    units: Sequence[Unit],
    done: Callable[[Unit, dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure ``units`` one after the other.

    Args:
        benchmark: whose units they are.
        settings: that they were made with.
        units: what to measure.
        done: called after each with all that was measured so far.

    Returns:
        What the JSON file holds: ``environment``, ``settings``, and ``rows`` with a row for every
        unit. A row with ``disagrees`` has no times.
    """
    kept = keep_memory()
    rows: list[dict[str, Any]] = []
    report = {
        "benchmark": benchmark.name,
        "environment": environment(),
        "settings": {**dataclasses.asdict(settings), "freed_memory_kept": kept},
        "rows": rows,
    }
    for unit in units:
        give_back_memory()
        try:
            row = unit.measure()
        except Disagreement as error:
            row = {"disagrees": str(error)}
        rows.append({**unit.key, **row, "load": load()})
        done(unit, report)
    return report

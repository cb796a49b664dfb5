"""The benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fastweights.bench.base import Benchmark
from fastweights.bench.optimizer import OptimizerStep
from fastweights.bench.overlay import OverlayUse
from fastweights.bench.recurrence import Recurrence
from fastweights.bench.tasks import Generators
from fastweights.training.config import ConfigError, nearest

__all__ = ["BENCHMARKS", "find"]

_ALL: tuple[Benchmark, ...] = (Recurrence(), OptimizerStep(), OverlayUse(), Generators())
BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({b.name: b for b in _ALL})


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}: {nearest(name, list(BENCHMARKS))}")
    return BENCHMARKS[name]

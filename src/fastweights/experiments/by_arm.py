"""Experiments that run every arm with every seed: their units, and what came out by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastweights.experiments.base import Result, Unit
from fastweights.training.config import ConfigError, nearest

__all__ = ["finished", "units_of"]


class _Arm(Protocol):
    @property
    def label(self) -> str: ...


class _Config(Protocol):
    @property
    def arms(self) -> tuple[str, ...]: ...
    @property
    def first_seed(self) -> int: ...
    @property
    def updates(self) -> int: ...


def units_of(
    arms: Mapping[str, _Arm], config: _Config, seeds: int, *, note: str = ""
) -> list[Unit]:
    """A run for every arm and seed of the configuration.

    Raises:
        ConfigError: an arm is not known, or comes twice.
    """
    for arm in config.arms:
        if arm not in arms:
            raise ConfigError(f"unknown arm {arm!r}: {nearest(arm, list(arms))}")
    if len(set(config.arms)) < len(config.arms):
        raise ConfigError(f"arms must not repeat itself, got {list(config.arms)}")
    return [
        Unit(
            name=f"{arm}-seed{seed}",
            label=arms[arm].label,
            arm=arm,
            seed=seed,
            total=config.updates,
            note=note,
        )
        for seed in range(config.first_seed, config.first_seed + seeds)
        for arm in config.arms
    ]


def finished(results: Sequence[Result], arm: str) -> dict[int, dict[str, Any]]:
    """The values of an arm's finished runs by seed."""
    return {
        result.unit.seed: result.values
        for result in results
        if result.unit.arm == arm and result.values is not None and result.unit.seed is not None
    }

"""Experiments that run every arm with every seed: their units, and what came out by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastweights.experiments.base import Result, Unit
from fastweights.training.config import ConfigError, nearest

__all__ = ["check_arms", "check_distinct", "finished", "units_of"]


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
    check_arms(arms, config.arms)
    check_distinct(config, "arms")
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


def check_arms(known: Mapping[str, Any], arms: Sequence[str]) -> None:
    """See that every arm is known.

    Raises:
        ConfigError: one is not; the message has the nearest name.
    """
    for arm in arms:
        if arm not in known:
            raise ConfigError(f"unknown arm {arm!r}: {nearest(arm, list(known))}")


def check_distinct(config: object, *keys: str) -> None:
    """See that nothing comes twice under these keys of a configuration.

    Raises:
        ConfigError: something does.
    """
    for key in keys:
        values = getattr(config, key)
        if len(set(values)) < len(values):
            raise ConfigError(f"{key} must not repeat itself, got {list(values)}")


def finished(results: Sequence[Result], arm: str) -> dict[int, dict[str, Any]]:
    """The values of an arm's finished runs by seed."""
    return {
        result.unit.seed: result.values
        for result in results
        if result.unit.arm == arm and result.values is not None and result.unit.seed is not None
    }

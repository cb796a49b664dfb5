"""Scenes to remember: how many objects, for how long, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fastweights.experiments.other_uses.binding.pools import RULES, BindingConfig, Pools, Rule

__all__ = ["STREAM", "WAITS", "simulate"]

WAITS = (0, 50, 100, 150, 200, 250, 300, 350, 400, 500, 700, 1000)
STREAM: Mapping[str, str] = {
    "wiped": "wiped between scenes",
    "decays": "decaying between scenes",
    "kept": "never decaying",
    "slow": "slow weights alone, primed",
}


def simulate(config: BindingConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything the report shows, as lists with the seeds in the first dimension."""
    return {
        "capacity": {
            str(units): [_capacity(config, seeds, units, k) for k in config.object_counts]
            for units in config.unit_counts
        },
        "rules": {rule: _rule(config, seeds, rule) for rule in RULES},
        "scene": _scene(config, seeds),
        "by_age": [_by_age(config, seeds, decay) for decay in config.decays],
        "stream": {arm: _stream(config, seeds, arm) for arm in STREAM},
    }


def _per_seed(right: Tensor, seeds: Sequence[int]) -> list[float]:
    return right.double().reshape(len(seeds), -1).mean(1).tolist()


def _capacity(
    config: BindingConfig, seeds: Sequence[int], units: int, objects: int
) -> dict[str, list[float]]:
    """Questions answered right in a scene of this many objects, and by pools that are primed."""
    pools = Pools(config, seeds, config.scenes, units)
    scene = pools.scenes(objects)
    free = _per_seed(pools.answers(scene, primed=True), seeds)
    pools.bind(scene, config.write_rate, config.decay, config.rule)
    return {"fast": _per_seed(pools.answers(scene), seeds), "primed": free}


def _rule(config: BindingConfig, seeds: Sequence[int], rule: Rule) -> list[list[float]]:
    rows = []
    for objects in config.object_counts:
        pools = Pools(config, seeds, config.scenes)
        scene = pools.scenes(objects)
        pools.bind(scene, config.write_rate, config.decay, rule)
        rows.append(_per_seed(pools.answers(scene), seeds))
    return rows


def _scene(config: BindingConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """One scene: with fast weights, as they decay, and without."""
    pools = Pools(config, seeds, config.scenes)
    scene = pools.scenes(config.objects)
    none = _per_seed(pools.answers(scene), seeds)
    primed = _per_seed(pools.answers(scene, primed=True), seeds)
    pools.bind(scene, config.write_rate, config.decay, config.rule)
    waited = [pools.answers(scene, fast=(1 - config.decay) ** wait) for wait in WAITS]
    return {
        "waited": np.stack([_per_seed(a, seeds) for a in waited], 1).tolist(),
        "whole": _per_seed(waited[0].all(1), seeds),
        "none": none,
        "primed": primed,
    }


def _by_age(config: BindingConfig, seeds: Sequence[int], decay: float) -> list[list[float]]:
    """Right answers by the age of the object, the latest first, (seeds, objects)."""
    pools = Pools(config, seeds, config.scenes)
    scene = pools.scenes(config.many_objects)
    pools.bind(scene, config.write_rate, decay, config.rule)
    right = pools.answers(scene).double().mean(1).flip(1)
    return right.reshape(len(seeds), config.scenes, -1).mean(1).tolist()


def _stream(config: BindingConfig, seeds: Sequence[int], arm: str) -> list[list[float]]:
    """Right answers in each of a row of scenes, (seeds, scenes)."""
    pools = Pools(config, seeds, config.streams)
    slow = arm == "slow"
    decay = 0.0 if arm in ("kept", "slow") else config.decay
    course = []
    for _ in range(config.stream):
        scene = pools.scenes(config.objects)
        pools.bind(scene, config.slow_rate if slow else config.write_rate, decay, config.rule)
        course.append(_per_seed(pools.answers(scene, primed=slow), seeds))
        if arm == "wiped":
            pools.clear()
        pools.relax(config.pause, decay)
    return np.stack(course, 1).tolist()

"""Pools of units that know their values by heart, and fast weights that bind them in scenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

Size = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rule = Literal["hebbian", "delta"]
RULES: tuple[Rule, ...] = ("hebbian", "delta")

PROPERTIES = ("shape", "colour", "place")
CUE = 2  # the place
PAIRS = [(p, q) for p in range(3) for q in range(3) if p != q]
WAITS = (0, 50, 100, 150, 200, 250, 300, 350, 400, 500, 700, 1000)
STREAM: Mapping[str, str] = {
    "wiped": "wiped between scenes",
    "decays": "decaying between scenes",
    "kept": "never decaying",
    "slow": "slow weights alone, primed",
}


@dataclasses.dataclass(frozen=True)
class BindingConfig:
    """Settings; chosen on seeds below 100.

    Attributes:
        values: how many each property has.
        units: of the pool of a property; the first figure shows ``unit_counts``.
        objects: in a scene; the first figure shows ``object_counts``.
        scenes: how many each seed sees, where they are wiped in between.
        write_rate: η; 0 is no fast weights.
        decay: h, lost after each object and in each update of waiting.
        decays: of the recall by age, where a scene holds ``many_objects``.
        clean_up: strength of the slow weights within a pool.
        steps: of settling.
        stream, pause: scenes one after another, and updates of waiting between them.
        streams: how many each seed sees.
        slow_rate: of the slow weights that learn the scenes.
        rule: "hebbian", or "delta", which writes x_p − f x_q in place of x_p.
    """

    first_seed: Annotated[int, Field(ge=0)] = 100
    values: Annotated[int, Field(ge=2)] = 24
    units: Size = 32
    unit_counts: Annotated[tuple[Size, ...], Field(min_length=1)] = (16, 32, 64)
    objects: Size = 6
    object_counts: Annotated[tuple[Size, ...], Field(min_length=1)] = (
        1,
        2,
        4,
        6,
        8,
        12,
        16,
        20,
        24,
    )
    many_objects: Size = 12
    scenes: Size = 20
    write_rate: Rate = 1.0
    decay: Fraction = 0.01
    decays: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.1, 0.2, 0.4)
    clean_up: Rate = 0.5
    steps: Size = 10
    stream: Size = 20
    pause: Annotated[int, Field(ge=0)] = 200
    streams: Size = 5
    slow_rate: Rate = 0.01
    rule: Rule = "hebbian"


class Pools:
    """Three pools of units, with slow weights within and fast weights between them.

    There are ``copies`` networks per seed, which share their slow weights. ``state`` of a pool is
    (networks, questions, units); questions are independent of each other.
    """

    def __init__(
        self, config: BindingConfig, seeds: Sequence[int], copies: int, units: int | None = None
    ) -> None:
        self.config, self.units = config, units or config.units
        self.rngs = [np.random.default_rng([seed, self.units]) for seed in seeds]
        self.copies = copies
        shape = (3, config.values, self.units)
        drawn = np.stack([rng.choice((-1.0, 1.0), shape) for rng in self.rngs])
        codes = torch.from_numpy(drawn)
        slow = torch.linalg.pinv(codes) @ codes
        slow -= torch.diag_embed(slow.diagonal(dim1=2, dim2=3))
        # More values than units: the projection is the identity but for rounding, which must not
        # move a unit that nothing else drives.
        slow[slow.abs() < 1e-9] = 0.0
        self.codes, self.slow = (a.float().repeat_interleave(copies, 0) for a in (codes, slow))
        size = (len(self.codes), self.units, self.units)
        self.between = {pair: torch.zeros(size) for pair in PAIRS}

    def scenes(self, objects: int) -> Tensor:
        """Values of the objects of a fresh scene, (networks, 3, objects): none twice in it."""
        draw = [
            rng.permuted(np.tile(np.arange(self.config.values), (self.copies, 3, 1)), axis=2)
            for rng in self.rngs
        ]
        return torch.from_numpy(np.concatenate(draw)[:, :, :objects])

    def patterns(self, values: Tensor) -> Tensor:
        """The patterns (networks, 3, objects, units) of values (networks, 3, objects)."""
        index = values[..., None].expand(*values.shape, self.units)
        return self.codes.gather(2, index)

    def bind(self, scene: Tensor, rate: float, decay: float, rule: Rule = "hebbian") -> None:
        """Attend the objects one after another, a step of learning for each."""
        seen = self.patterns(scene)
        for item in range(scene.shape[2]):
            for (p, q), weights in self.between.items():
                to, source = seen[:, p, item, :, None], seen[:, q, item, :, None]
                if rule == "delta":
                    to = to - weights @ source
                weights.baddbmm_(to, source.mT, alpha=rate / self.units).mul_(1 - decay)

    def relax(self, updates: int, decay: float) -> None:
        """This many updates' worth of decay."""
        for weights in self.between.values():
            weights.mul_((1 - decay) ** updates)

    def clear(self) -> None:
        """No bindings."""
        self.relax(1, 1.0)

    def answers(self, scene: Tensor, primed: bool = False, fast: float = 1.0) -> Tensor:
        """Which values come to the places of a scene: right or not, (networks, 2, objects).

        Args:
            primed: pools start with a random value of the scene instead of anywhere.
            fast: how much of the weights between the pools is left.
        """
        state = list(self.patterns(scene).unbind(1))
        for p in range(CUE):
            state[p] = self._start(scene, p) if primed else self._anywhere(state[p].shape)
        given = {p: fast * (state[CUE] @ self.between[p, CUE].mT) for p in range(CUE)}
        for step in range(self.config.steps):
            settled = []
            for p in range(CUE):
                other = 1 - p
                drive = given[p] + self.config.clean_up * (state[p] @ self.slow[:, p])
                if step:  # before that the other pool knows nothing
                    drive = drive + fast * (state[other] @ self.between[p, other].mT)
                settled.append(torch.where(drive == 0, state[p], drive.sign()))
            state[:CUE] = settled
        named = [(state[p] @ self.codes[:, p].mT).argmax(2) for p in range(CUE)]
        return torch.stack(named, 1) == scene[:, :CUE]

    def _anywhere(self, shape: torch.Size) -> Tensor:
        each = (self.copies, *shape[1:])
        drawn = np.concatenate([rng.choice((-1.0, 1.0), each) for rng in self.rngs])
        return torch.from_numpy(drawn).float()

    def _start(self, scene: Tensor, p: int) -> Tensor:
        each = (self.copies, scene.shape[2])
        chosen = np.concatenate([rng.integers(0, each[1], each) for rng in self.rngs])
        values = scene.clone()
        values[:, p] = scene[:, p].gather(1, torch.from_numpy(chosen))
        return self.patterns(values)[:, p]


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

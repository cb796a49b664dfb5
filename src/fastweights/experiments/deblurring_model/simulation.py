"""Hinton & Plaut (1987), section 4: networks learn, are interfered with, and rehearse."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastweights.experiments.deblurring_model.config import (
    CONDITIONS,
    Condition,
    DeblurringConfig,
)
from fastweights.experiments.deblurring_model.networks import Networks, Pairs, Rate

__all__ = ["DeblurringResult", "Phase", "Rehearsal", "Score", "simulate"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a group of pairs is known, each (seeds, times).

    Attributes:
        error: mean \\|y − d\\| of an output unit.
        bits: fraction of output bits on the right side of ½.
    """

    error: Array
    bits: Array


@dataclasses.dataclass(frozen=True)
class Phase:
    """The networks at the end of a phase.

    Attributes:
        name: of the phase.
        old, new: the scores of the old and the new pairs, each (seeds, 1).
        slow_norm, fast_norm: Euclidean norms over all connections, each (seeds,).
    """

    name: str
    old: Score
    new: Score
    slow_norm: Array
    fast_norm: Array


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What rehearsing did, and what was left while the fast weights decayed.

    Attributes:
        condition: a key of `CONDITIONS`.
        rehearsed: how many pairs were rehearsed.
        retrained, unretrained, new: scores before the first sweep and after each,
            (seeds, sweeps + 1). Under ``never-learned`` the retrained pairs are new to the
            network and all old ones are unretrained; under ``weight-noise`` nobody ever taught
            the new ones.
        slow_norm, fast_norm: at the end of rehearsal, (seeds,).
        relaxation: numbers of updates without learning, (times,).
        relaxed: scores after so many, by group, (seeds, times).
    """

    condition: Condition
    rehearsed: int
    retrained: Score
    unretrained: Score
    new: Score
    slow_norm: Array
    fast_norm: Array
    relaxation: NDArray[np.int64]
    relaxed: Mapping[str, Score]


@dataclasses.dataclass(frozen=True)
class DeblurringResult:
    """Everything that was measured; no seed is left out.

    Attributes:
        config: the settings.
        seeds: in the order of every array's first dimension.
        learned: (seeds,) whether the network had every old bit right before the interference.
        phases: ends of ``start``, ``learning``, ``interference``.
        rehearsals: by condition and number rehearsed.
    """

    config: DeblurringConfig
    seeds: tuple[int, ...]
    learned: NDArray[np.bool_]
    phases: tuple[Phase, ...]
    rehearsals: Mapping[tuple[Condition, int], Rehearsal]


def simulate(
    config: DeblurringConfig | None = None,
    seeds: Sequence[int] = tuple(range(30)),
    conditions: Sequence[Condition] = tuple(CONDITIONS),
) -> DeblurringResult:
    """Run the experiment for all seeds at once, every condition from the same trained networks.

    A seed alone decides a network's pairs, initial weights and noise; results agree with those of
    other batches of seeds to rounding. Momentum is carried from phase to phase, in float64.

    Args:
        config: the settings; the defaults if None.
        seeds: distinct and not negative.
        conditions: keys of `CONDITIONS`.

    Raises:
        ValueError: seeds or conditions are missing, repeated or unknown.

    Example:
        >>> result = simulate(DeblurringConfig(learning_sweeps=20, hidden=8), seeds=[0, 1])
        >>> result.rehearsals["fast", 50].unretrained.error.shape
        (2, 21)
    """
    config = config or DeblurringConfig()
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be distinct integers >= 0, at least one, got {list(seeds)}")
    if not conditions or not set(conditions) <= set(CONDITIONS):
        raise ValueError(f"conditions must be from {list(CONDITIONS)}, got {list(conditions)}")
    pairs = Pairs(config, seeds)
    nets = Networks(config, seeds)
    phases = [_phase("start", nets, pairs)]
    slow = Rate(config.slow_lr, config.slow_momentum)
    fast = Rate(config.fast_lr, config.fast_momentum)
    nets.learn(
        *pairs.old,
        sweeps=config.learning_sweeps,
        slow=slow,
        fast=fast,
        warmup=config.warmup_sweeps,
    )
    phases.append(_phase("learning", nets, pairs))
    noisy = copy.deepcopy(nets)
    noisy.add_noise(config.noise_std, seeds)
    nets.learn(*pairs.new, sweeps=config.interference_sweeps, slow=slow, fast=fast)
    phases.append(_phase("interference", nets, pairs))
    return DeblurringResult(
        config=config,
        seeds=tuple(seeds),
        learned=phases[1].old.bits[:, 0] == 1,
        phases=tuple(phases),
        rehearsals={
            (condition, m): _rehearse(
                copy.deepcopy(noisy if condition == "weight-noise" else nets), pairs, condition, m
            )
            for condition in conditions
            for m in config.rehearsed
        },
    )


def _score(at_times: Sequence[tuple[Tensor, Tensor]]) -> Score:
    error, bits = (torch.stack(values, dim=1).numpy() for values in zip(*at_times, strict=True))
    return Score(error, bits)


def _phase(name: str, nets: Networks, pairs: Pairs) -> Phase:
    old, new = (_score([nets.score(p)]) for p in (pairs.old, pairs.new))
    return Phase(name, old, new, *nets.norms())


def _rehearse(nets: Networks, pairs: Pairs, condition: Condition, m: int) -> Rehearsal:
    c = nets.config
    x, d = pairs.never if condition == "never-learned" else pairs.old
    retrained = x[:, :m].contiguous(), d[:, :m].contiguous()
    unretrained = pairs.old if condition == "never-learned" else (x[:, m:], d[:, m:])
    groups = {"retrained": retrained, "unretrained": unretrained, "new": pairs.new}
    slow = fast = None
    if condition == "both":
        slow = Rate(c.slow_lr, c.slow_momentum)
    if condition == "slow-only":  # as quickly as the fast weights would
        slow = Rate(c.fast_lr, c.fast_momentum)
    else:
        fast = Rate(c.fast_lr, c.fast_momentum)
    scores = {name: [nets.score(group)] for name, group in groups.items()}
    for _ in range(c.rehearsal_sweeps):
        nets.learn(*retrained, sweeps=1, slow=slow, fast=fast)
        for name, group in groups.items():
            scores[name].append(nets.score(group))
    slow_norm, fast_norm = nets.norms()
    times = np.arange(0, c.relaxation_updates + 1, c.relaxation_step)
    left = [(1 - c.decay) ** int(k) for k in times]
    return Rehearsal(
        condition=condition,
        rehearsed=m,
        **{name: _score(at_times) for name, at_times in scores.items()},
        slow_norm=slow_norm,
        fast_norm=fast_norm,
        relaxation=times,
        relaxed={n: _score([nets.score(g, part) for part in left]) for n, g in groups.items()},
    )

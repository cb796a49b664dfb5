"""Networks with slow and fast weights that learn, are interfered with, and rehearse.

There is a network per seed, all at once: every tensor has the seeds in its first dimension. The
statements that move the weights are those of `fastweights.ops.slow_fast.reference`, for all
connections together.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fastweights.report.statistics import Interval, ratio_intervals

Array = NDArray[np.float64]
Group = tuple[Tensor, Tensor]
Measure = Literal["error", "bits"]
Count = Annotated[int, Field(ge=1)]
Sweeps = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]

Condition = Literal["fast", "both", "slow-only", "never-learned", "weight-noise"]
CONDITIONS: Mapping[Condition, str] = {
    "fast": "fast weights rehearse, slow ones frozen",
    "both": "slow weights not frozen",
    "slow-only": "slow weights alone relearn",
    "never-learned": "rehearsal of pairs never learned",
    "weight-noise": "Gaussian noise on the weights instead of new pairs",
}
# Under these rehearsal is followed by a decay, in which the new pairs may return.
RETURNING: tuple[Condition, ...] = ("fast", "both", "slow-only")


@dataclasses.dataclass(frozen=True)
class DeblurringConfig:
    """Settings of the experiment. The paper's, and, where it is silent, what lets networks learn.

    Attributes:
        first_seed: of the networks; settings were chosen on seeds below 100.
        inputs, hidden, outputs: units of the three layers.
        associations: how many pairs are learned first.
        new_associations: how many are learned then, without the old ones.
        rehearsed: how many of the old ones are rehearsed, one panel each.
        init_range: weights and biases start uniform in ± this (unstated in the paper).
        learning_sweeps, interference_sweeps, rehearsal_sweeps: sweeps of the three phases; one
            update per sweep.
        slow_lr, slow_momentum: ε_s and α_s, which the paper states.
        fast_lr, fast_momentum: ε_f and α_f (unstated).
        decay: h, what a fast weight loses after every update.
        warmup_sweeps, warmup_momentum: of both kinds of weights when learning begins (unstated).
        margin: an output this close to its target is right enough (unstated; 0 for none).
        margin_error: what an output beyond it is charged with: ``"beyond"``, its distance to the
            margin, or ``"whole"``, its distance to the target.
        relaxation_updates, relaxation_step: how long the fast weights decay after rehearsal, and
            how often the outputs are looked at.
        noise_std: of the noise that replaces the new pairs; .35 blurs about as much as they do.

    Raises:
        ValueError: settings do not go together; the message names them.

    Example:
        >>> DeblurringConfig(rehearsed=(25,)).rehearsed
        (25,)
        >>> DeblurringConfig(rehearsed=(100,))
        Traceback (most recent call last):
        ValueError: rehearsed must be below associations = 100, got (100,)
    """

    first_seed: Annotated[int, Field(ge=0)] = 100
    inputs: Annotated[int, Field(ge=1, le=20)] = 10  # all 2**inputs vectors are listed
    hidden: Count = 100
    outputs: Count = 10
    associations: Count = 100
    new_associations: Count = 5
    rehearsed: Annotated[tuple[Count, ...], Field(min_length=1)] = (50, 10)
    init_range: Rate = 0.3
    learning_sweeps: Sweeps = 1300
    interference_sweeps: Sweeps = 400
    rehearsal_sweeps: Count = 20
    slow_lr: Rate = 0.02
    slow_momentum: Momentum = 0.9
    fast_lr: Rate = 0.02
    fast_momentum: Momentum = 0.9
    decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    warmup_sweeps: Sweeps = 50
    warmup_momentum: Momentum = 0.5
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    margin_error: Literal["beyond", "whole"] = "beyond"
    relaxation_updates: Count = 400
    relaxation_step: Count = 20
    noise_std: Rate = 0.35

    def __post_init__(self) -> None:
        if len(set(self.rehearsed)) < len(self.rehearsed):
            raise ValueError(f"rehearsed must be distinct, got {self.rehearsed}")
        if max(self.rehearsed, default=0) >= self.associations:
            raise ValueError(
                f"rehearsed must be below associations = {self.associations}, got {self.rehearsed}"
            )
        needed = self.associations + self.new_associations + max(self.rehearsed, default=0)
        if needed > 2**self.inputs:
            raise ValueError(
                f"associations, new_associations and as many never-learned pairs as rehearsed need "
                f"{needed} different inputs, but inputs = {self.inputs} has only {2**self.inputs}"
            )


# What the paper leaves open, decided otherwise.
VARIANTS: Mapping[str, Mapping[str, float | str]] = {
    "fast momentum .5": {"fast_momentum": 0.5},
    "no slow start": {"warmup_sweeps": 0},
    "whole error outside the margin": {"margin_error": "whole"},
    "no margin, no slow start": {"margin": 0.0, "warmup_sweeps": 0},
}


class Pairs:
    """Inputs (seeds, pairs, inputs) and targets: the old pairs, the new, the never learned."""

    def __init__(self, config: DeblurringConfig, seeds: Sequence[int]) -> None:
        old, new = config.associations, config.associations + config.new_associations
        total = new + max(config.rehearsed)
        inputs, targets = [], []
        for seed in seeds:
            rng = np.random.default_rng([seed, 0])
            chosen = rng.permutation(2**config.inputs)[:total]
            inputs.append(chosen[:, None] >> np.arange(config.inputs) & 1)
            targets.append(rng.integers(0, 2, (total, config.outputs)))
        x, d = (torch.from_numpy(np.stack(a).astype(np.float64)) for a in (inputs, targets))
        self.old: Group = x[:, :old].contiguous(), d[:, :old].contiguous()
        self.new: Group = x[:, old:new].contiguous(), d[:, old:new].contiguous()
        self.never: Group = x[:, new:].contiguous(), d[:, new:].contiguous()


class Learning(NamedTuple):
    """ε and α, learning rate and momentum of one kind of weights."""

    lr: float
    momentum: float


class Networks:
    """A logistic network with one hidden layer per seed; slow and fast weights of all of them.

    A network's weights lie in one row, (seeds, weights); the layers are views of it.
    """

    def __init__(self, config: DeblurringConfig, seeds: Sequence[int]) -> None:
        self.config = config
        size = (config.inputs + 1) * config.hidden + (config.hidden + 1) * config.outputs
        start = [
            np.random.default_rng([seed, 1]).uniform(-config.init_range, config.init_range, size)
            for seed in seeds
        ]
        self.slow = torch.from_numpy(np.stack(start))
        self.slow_change = torch.zeros_like(self.slow)
        self.fast = torch.zeros_like(self.slow)
        self.fast_change = torch.zeros_like(self.slow)

    def add_noise(self, std: float, seeds: Sequence[int]) -> None:
        size = self.slow.shape[1]
        noise = [np.random.default_rng([seed, 2]).normal(0, std, size) for seed in seeds]
        self.slow += torch.from_numpy(np.stack(noise))

    def _layers(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views: hidden weights (seeds, inputs, hidden), biases, output weights, biases."""
        c, n = self.config, flat.shape[0]
        sizes = [c.inputs * c.hidden, c.hidden, c.outputs * c.hidden, c.outputs]
        w1, b1, w2, b2 = flat.split(sizes, dim=1)
        # The output layer lies transposed: the products with it are faster.
        w2 = w2.view(n, c.outputs, c.hidden)
        return w1.view(n, c.inputs, c.hidden), b1.unsqueeze(1), w2, b2.unsqueeze(1)

    def learn(
        self,
        x: Tensor,
        d: Tensor,
        *,
        sweeps: int,
        slow: Learning | None,
        fast: Learning | None,
        warmup: int = 0,
    ) -> None:
        """One update per sweep; weights without a rate keep still, though fast ones decay."""
        c = self.config
        shrink = F.softshrink if c.margin_error == "beyond" else F.hardshrink
        weights, gradient = self.slow + self.fast, torch.empty_like(self.slow)
        w1, b1, w2, b2 = self._layers(weights)
        g1, gb1, g2, gb2 = self._layers(gradient)
        hidden = x.new_empty(*x.shape[:2], c.hidden)
        to_hidden, y, to_y = torch.empty_like(hidden), torch.empty_like(d), torch.empty_like(d)
        for sweep in range(sweeps):
            torch.baddbmm(b1, x, w1, out=hidden).sigmoid_()
            torch.baddbmm(b2, hidden, w2.mT, out=y).sigmoid_()
            torch.sub(y, d, out=to_y)
            if c.margin:
                to_y = shrink(to_y, c.margin)
            to_y.mul_(y).mul_(y.neg_().add_(1))  # y (1 − y), the logistic function's slope
            torch.bmm(to_y, w2, out=to_hidden).mul_(hidden)
            to_hidden.addcmul_(to_hidden, hidden, value=-1)
            g1.copy_(torch.bmm(x.mT, to_hidden))
            gb1.copy_(to_hidden.sum(1, keepdim=True))
            g2.copy_(torch.bmm(to_y.mT, hidden))
            gb2.copy_(to_y.sum(1, keepdim=True))
            warm = sweep >= warmup
            if slow:
                momentum = slow.momentum if warm else c.warmup_momentum
                self.slow_change.mul_(momentum).add_(gradient, alpha=-slow.lr)
                self.slow.add_(self.slow_change)
            if fast:
                momentum = fast.momentum if warm else c.warmup_momentum
                self.fast_change.mul_(momentum).add_(gradient, alpha=-fast.lr)
                self.fast.add_(self.fast_change)
            self.fast.mul_(1 - c.decay)
            torch.add(self.slow, self.fast, out=weights)

    def score(self, pairs: Group, fast: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean |y − d| and fraction of bits right, (seeds,) each, with that much of f left."""
        x, d = pairs
        w1, b1, w2, b2 = self._layers(self.slow + fast * self.fast)
        hidden = torch.baddbmm(b1, x, w1).sigmoid_()
        y = torch.baddbmm(b2, hidden, w2.mT).sigmoid_()
        right = (y > 0.5) == (d > 0.5)
        return (y - d).abs().mean((1, 2)), right.double().mean((1, 2))

    def norms(self) -> tuple[Array, Array]:
        return self.slow.norm(dim=1).numpy(), self.fast.norm(dim=1).numpy()


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
    slow = Learning(config.slow_lr, config.slow_momentum)
    fast = Learning(config.fast_lr, config.fast_momentum)
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
        slow = Learning(c.slow_lr, c.slow_momentum)
    if condition == "slow-only":  # as quickly as the fast weights would
        slow = Learning(c.fast_lr, c.fast_momentum)
    else:
        fast = Learning(c.fast_lr, c.fast_momentum)
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


def gains(score: Score, measure: Measure = "error") -> Array:
    """Improvement since before the first sweep, (seeds, sweeps)."""
    values = score.bits if measure == "bits" else -score.error
    return values[:, 1:] - values[:, :1]


def improvement_ratios(rehearsal: Rehearsal, measure: Measure = "error") -> list[Interval]:
    """Improvement of the unretrained over that of the retrained pairs, after each sweep.

    .. math::
        r(t) = \\frac{\\sum_\\text{seeds} u(0) - u(t)}{\\sum_\\text{seeds} v(0) - v(t)}

    with u the error of the unretrained, v that of the retrained pairs (for bits: gains).

    Args:
        rehearsal: of one condition.
        measure: ``"error"``, mean \\|y − d\\|, or ``"bits"``, bits right.
    """
    groups = (rehearsal.unretrained, rehearsal.retrained)
    return ratio_intervals(*(gains(group, measure).T for group in groups))


def as_values(result: DeblurringResult) -> dict[str, Any]:
    """Plain lists, numbers and words that JSON holds; measured numbers to six decimals.

    Example:
        >>> import json
        >>> result = simulate(DeblurringConfig(learning_sweeps=5, hidden=4), seeds=[0])
        >>> again = from_values(json.loads(json.dumps(as_values(result))))
        >>> again.config == result.config, again.rehearsals.keys() == result.rehearsals.keys()
        (True, True)
    """
    values = dataclasses.asdict(result)
    plain: dict[str, Any] = _plain({**values, "rehearsals": list(values["rehearsals"].values())})
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return (np.round(value, 6) if value.dtype.kind == "f" else value).tolist()
    return value


def from_values(values: Mapping[str, Any]) -> DeblurringResult:
    """The result that `as_values` was given."""
    rehearsals = [Rehearsal(**_arrays(r)) for r in values["rehearsals"]]
    config = {**values["config"], "rehearsed": tuple(values["config"]["rehearsed"])}
    return DeblurringResult(
        config=DeblurringConfig(**config),
        seeds=tuple(values["seeds"]),
        learned=np.array(values["learned"], dtype=bool),
        phases=tuple(Phase(**_arrays(phase)) for phase in values["phases"]),
        rehearsals={(r.condition, r.rehearsed): r for r in rehearsals},
    )


def _arrays(value: Any) -> Any:
    """Lists as arrays, and what has ``error`` and ``bits`` as a score."""
    if isinstance(value, list):
        return np.array(value)
    if not isinstance(value, Mapping):
        return value
    read = {key: _arrays(item) for key, item in value.items()}
    return Score(**read) if read.keys() == {"error", "bits"} else read

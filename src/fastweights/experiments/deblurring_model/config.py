"""The settings of the deblurring experiment, and the conditions under which networks rehearse."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

__all__ = ["CONDITIONS", "VARIANTS", "Condition", "DeblurringConfig"]

Condition = Literal["fast", "both", "slow-only", "never-learned", "weight-noise"]
CONDITIONS: Mapping[Condition, str] = {
    "fast": "fast weights rehearse, slow ones frozen",
    "both": "slow weights not frozen",
    "slow-only": "slow weights alone relearn",
    "never-learned": "rehearsal of pairs never learned",
    "weight-noise": "Gaussian noise on the weights instead of new pairs",
}


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
        ValueError: a setting is impossible; the message names it.

    Example:
        >>> DeblurringConfig(rehearsed=(25,)).rehearsed
        (25,)
        >>> DeblurringConfig(decay=2.0)
        Traceback (most recent call last):
        ValueError: decay must be in [0, 1], got 2.0
    """

    first_seed: int = 100
    inputs: int = 10
    hidden: int = 100
    outputs: int = 10
    associations: int = 100
    new_associations: int = 5
    rehearsed: tuple[int, ...] = (50, 10)
    init_range: float = 0.3
    learning_sweeps: int = 1300
    interference_sweeps: int = 400
    rehearsal_sweeps: int = 20
    slow_lr: float = 0.02
    slow_momentum: float = 0.9
    fast_lr: float = 0.02
    fast_momentum: float = 0.9
    decay: float = 0.01
    warmup_sweeps: int = 50
    warmup_momentum: float = 0.5
    margin: float = 0.2
    margin_error: Literal["beyond", "whole"] = "beyond"
    relaxation_updates: int = 400
    relaxation_step: int = 20
    noise_std: float = 0.35

    def __post_init__(self) -> None:
        for name in ("inputs", "hidden", "outputs", "associations", "new_associations"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_sweeps", "interference_sweeps", "warmup_sweeps"):
            _require(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("rehearsal_sweeps", "relaxation_updates", "relaxation_step"):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("init_range", "slow_lr", "fast_lr", "noise_std"):
            value = getattr(self, name)
            _require(self, name, 0 <= value < math.inf, "finite and not negative")
        for name in ("slow_momentum", "fast_momentum", "warmup_momentum"):
            _require(self, name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        _require(self, "decay", 0 <= self.decay <= 1, "in [0, 1]")
        _require(self, "margin", 0 <= self.margin < 0.5, "in [0, 0.5)")
        _require(self, "margin_error", self.margin_error in ("beyond", "whole"), "beyond or whole")
        _require(self, "rehearsed", len(self.rehearsed) >= 1, "one number or more")
        _require(self, "rehearsed", len(set(self.rehearsed)) == len(self.rehearsed), "distinct")
        for m in self.rehearsed:
            fits = 1 <= m < self.associations
            _require(self, "rehearsed", fits, f"below associations = {self.associations}")
        _require(self, "inputs", self.inputs <= 20, "at most 20: all 2**inputs vectors are listed")
        needed = self.associations + self.new_associations + max(self.rehearsed)
        if needed > 2**self.inputs:
            raise ValueError(
                f"associations, new_associations and as many never-learned pairs as rehearsed need "
                f"{needed} different inputs, but inputs = {self.inputs} has only {2**self.inputs}"
            )


def _require(config: DeblurringConfig, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {getattr(config, name)!r}")


# What the paper leaves open, decided otherwise.
VARIANTS: Mapping[str, Mapping[str, float | str]] = {
    "fast momentum .5": {"fast_momentum": 0.5},
    "no slow start": {"warmup_sweeps": 0},
    "whole error outside the margin": {"margin_error": "whole"},
    "no margin, no slow start": {"margin": 0.0, "warmup_sweeps": 0},
}

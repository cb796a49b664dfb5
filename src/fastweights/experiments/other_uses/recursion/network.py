"""Slow weights that know a procedure: settings, and the networks that learn its transitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.experiments.other_uses.recursion.procedure import (
    Act,
    Stage,
    count_states,
    transitions,
)

__all__ = ["Procedure", "RecursionConfig", "pick"]

Size = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclasses.dataclass(frozen=True)
class RecursionConfig:
    """Settings; chosen on seeds below 100.

    Attributes:
        symbols: that a node of the tree may hold.
        program_units, context_units: what a caller loses to the procedure it calls, and gets back.
        context_counts: numbers of context units in the first figure.
        tape_units: show the network what stands next on the tape.
        hidden: tanh units.
        learning_steps, batch, learning_rate: of Adam; transitions in a step, all from START thrice
            and ``batch`` others.
        flips: up to this share of a pattern's units are flipped while learning, so that slow
            weights clean up.
        noise: standard deviation of the noise in the input of every unit.
        write_rate: η; 0 is no fast weights.
        decay: h, lost in every step.
        decays: in the figure about decay.
        slow_rate: of slow weights that store the callers.
        depths: callers waiting at once, in a chain.
        control_depths: the same, of the controls and of the figure about decay.
        tree_depths: the same, in full trees.
        runs: of each seed, each with symbols of its own.
        stream, pause: runs one after another, and steps of waiting between them.
        depth: of these, of the run that is shown step by step, and of the first claim.
    """

    first_seed: Annotated[int, Field(ge=0)] = 100
    symbols: Annotated[int, Field(ge=2, le=4096)] = 8
    program_units: Size = 64
    context_units: Size = 64
    context_counts: Sizes = (32, 64, 128)
    tape_units: Size = 32
    hidden: Size = 128
    learning_steps: Size = 300
    batch: Size = 80
    learning_rate: Rate = 0.02
    flips: Annotated[float, Field(ge=0, le=0.5)] = 0.3
    noise: Rate = 0.3
    write_rate: Rate = 1.0
    decay: Fraction = 0.003
    decays: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.003, 0.01, 0.03)
    slow_rate: Rate = 0.01
    depths: Sizes = (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32)
    control_depths: Sizes = (1, 2, 3, 4, 6, 8, 10, 12)
    tree_depths: Sizes = (1, 2, 3, 4, 5, 6)
    runs: Size = 6
    stream: Size = 10
    pause: Annotated[int, Field(ge=0)] = 1000
    depth: Size = 4


class Procedure(nn.Module):
    """Networks, one per seed, that know every transition but not who called.

    ±1 units of the program and of the tape come in; out come the next pattern of the program's
    units, an act, and what to write.
    """

    def __init__(self, config: RecursionConfig, seeds: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.rngs = [np.random.default_rng([seed, 0]) for seed in seeds]
        self.codes = self._patterns(count_states(config.symbols), config.program_units)
        self.tape = self._patterns(config.symbols + 1, config.tape_units)
        self.splits = (config.program_units, len(Act), config.symbols + 1)
        inputs = config.program_units + config.tape_units
        self.w1, self.b1 = self._layer(inputs, config.hidden)
        self.w2, self.b2 = self._layer(config.hidden, sum(self.splits))

    def forward(self, units: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the program's units, of the acts and of the symbols to write.

        Args:
            units: patterns (seeds, runs, program units).
            seen: numbers of the symbols on the tape, (seeds, runs).
        """
        x = torch.cat([units, pick(self.tape, seen)], 2)
        y = torch.baddbmm(self.b2, torch.baddbmm(self.b1, x, self.w1).tanh(), self.w2)
        drive, act, write = y.split(self.splits, 2)
        return drive, act, write

    def learn(self) -> None:
        """Adam on random transitions from noisy patterns; the rate falls linearly to zero."""
        config = self.config
        table = torch.tensor(transitions(config.symbols))
        start = (table[:, 0] == Stage.START).nonzero()[:, 0].tolist()
        optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, config.learning_steps)
        for _ in range(config.learning_steps):
            rows, flips = [], []
            for rng in self.rngs:
                rows.append([*start * 3, *rng.integers(0, len(table), config.batch)])
                chance = rng.uniform(0, config.flips, (len(rows[-1]), 1))
                flips.append(rng.random((len(chance), config.program_units)) < chance)
            state, seen, after, act, write = table[torch.tensor(rows)].unbind(2)
            noisy = torch.where(torch.from_numpy(np.stack(flips)), -1, 1) * pick(self.codes, state)
            drive, acts, writes = self(noisy, seen)
            loss = F.binary_cross_entropy_with_logits(drive, (pick(self.codes, after) + 1) / 2)
            loss = loss + F.cross_entropy(acts.flatten(0, 1), act.flatten())
            loss = loss + F.cross_entropy(writes.flatten(0, 1), write.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    def _patterns(self, number: int, units: int) -> Tensor:
        drawn = [rng.choice((-1.0, 1.0), (number, units)) for rng in self.rngs]
        return torch.from_numpy(np.stack(drawn)).float()

    def _layer(self, inputs: int, outputs: int) -> tuple[nn.Parameter, nn.Parameter]:
        drawn = [rng.normal(0, inputs**-0.5, (inputs, outputs)) for rng in self.rngs]
        weights = torch.from_numpy(np.stack(drawn)).float()
        return nn.Parameter(weights), nn.Parameter(torch.zeros(len(drawn), 1, outputs))


def pick(patterns: Tensor, index: Tensor) -> Tensor:
    """The patterns (seeds, runs, units) with these numbers (seeds, runs)."""
    return patterns.gather(1, index[..., None].expand(*index.shape, patterns.shape[2]))

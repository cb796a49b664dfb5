"""The procedure that calls itself: in Python, as transitions, and in the slow weights.

``visit`` reads a tree in prefix order and writes each node between its two subtrees and again after
them::

    visit:  x = read                     START
            if x is a leaf: return                      DONE
            visit                        HOLD x    (resumes at MID x)
            write x                      MID x
            visit                        NEXT x    (resumes at END x)
            write x                      END x
            return                       DONE

The caller's stage and its x are needed after each call, so a network that comes back to the wrong
stage, or with the wrong x, writes something wrong.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

Size = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Stage(enum.IntEnum):
    """Where in the program a network is; from HOLD on there is a local variable x too."""

    MAIN = 0
    START = 1
    DONE = 2
    HALT = 3
    HOLD = 4
    MID = 5
    NEXT = 6
    END = 7


class Act(enum.IntEnum):
    """What a network does besides going to its next state."""

    GO = 0
    CALL = 1
    RETURN = 2
    STOP = 3


_ACTS = {
    Stage.MAIN: Act.CALL,
    Stage.HOLD: Act.CALL,
    Stage.NEXT: Act.CALL,
    Stage.DONE: Act.RETURN,
    Stage.HALT: Act.STOP,
}
_NEXT = {
    Stage.MAIN: Stage.HALT,
    Stage.DONE: Stage.DONE,  # what returns goes nowhere by itself
    Stage.HALT: Stage.HALT,
    Stage.HOLD: Stage.MID,
    Stage.MID: Stage.NEXT,
    Stage.NEXT: Stage.END,
    Stage.END: Stage.DONE,
}
_WRITING = (Stage.MID, Stage.END)
LEAF = None

Tree = list[int | None]  # nodes numbered in prefix order, None for a leaf


class Step(NamedTuple):
    """One step of a run: the stage, the node whose symbol is x, what stands next on the tape."""

    stage: Stage
    node: int | None
    seen: int | None

    @property
    def act(self) -> Act:
        return _ACTS.get(self.stage, Act.GO)

    @property
    def writes(self) -> bool:
        return self.stage in _WRITING


class Transition(NamedTuple):
    """What the slow weights have to know: numbers of states, symbols and acts."""

    state: int
    seen: int
    next_state: int
    act: int
    write: int


def chain(depth: int) -> Tree:
    """A tree whose every right child is a leaf: ``depth`` callers wait at its end.

    Example:
        >>> chain(3)
        [0, 1, None, None, None]
    """
    return [*range(depth - 1), *[LEAF] * depth]


def full_tree(depth: int) -> Tree:
    """A tree with every node down to this depth: ``depth`` callers wait at its leaves.

    Example:
        >>> full_tree(3)
        [0, 1, None, None, 2, None, None]
    """
    numbers = iter(range(2**depth))

    def grow(left: int) -> Tree:
        if left == 1:
            return [LEAF]
        node = next(numbers)
        return [node, *grow(left - 1), *grow(left - 1)]

    return grow(depth)


def course(tree: Tree) -> list[Step]:
    """Every step of a run, by Python's own stack.

    Example:
        >>> [step.stage.name for step in course(chain(1))]
        ['MAIN', 'START', 'DONE', 'HALT']
    """
    at = 0

    def step(stage: Stage, node: int | None = None) -> Step:
        return Step(stage, node, tree[at] if at < len(tree) else LEAF)

    def visit() -> Iterator[Step]:
        nonlocal at
        node = tree[at]
        yield step(Stage.START)
        at += 1
        if node is not LEAF:
            yield step(Stage.HOLD, node)
            yield from visit()
            yield step(Stage.MID, node)
            yield step(Stage.NEXT, node)
            yield from visit()
            yield step(Stage.END, node)
        yield step(Stage.DONE)

    return [step(Stage.MAIN), *visit(), step(Stage.HALT)]


def count_states(symbols: int) -> int:
    """How many states there are: four stages without x and four with it."""
    return 4 + 4 * symbols


def state_number(stage: Stage, symbol: int, symbols: int) -> int:
    """The number of a state; ``symbol`` does not matter before HOLD."""
    return int(stage) if stage < Stage.HOLD else 4 + (stage - Stage.HOLD) * symbols + symbol


def resume_states(symbols: int) -> list[int]:
    """The states that a return may lead to."""
    return [
        int(Stage.HALT),
        *(state_number(s, x, symbols) for s in _WRITING for x in range(symbols)),
    ]


def transitions(symbols: int) -> list[Transition]:
    """All of them, ``symbols`` standing for a leaf on the tape and for nothing written."""
    rows = []
    for stage in Stage:
        for x in range(1 if stage < Stage.HOLD else symbols):
            for seen in range(symbols + 1):
                if stage == Stage.START:
                    after, y = (Stage.DONE, 0) if seen == symbols else (Stage.HOLD, seen)
                else:
                    after, y = _NEXT[stage], x
                rows.append(
                    Transition(
                        state_number(stage, x, symbols),
                        seen,
                        state_number(after, y, symbols),
                        _ACTS.get(stage, Act.GO),
                        x if stage in _WRITING else symbols,
                    )
                )
    return rows


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

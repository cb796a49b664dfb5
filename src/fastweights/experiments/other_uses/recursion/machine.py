"""The networks while they run: one set of units, and a memory for the callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastweights.experiments.other_uses.recursion.network import Procedure, pick
from fastweights.experiments.other_uses.recursion.procedure import (
    Act,
    Stage,
    Step,
    Tree,
    course,
    resume_states,
    state_number,
)

__all__ = ["Machine", "Memory"]

Memory = Literal["hebbian", "delta", "erased", "cued", "stack"]


class Machine:
    """Units of program and context, and fast weights from the context to all of them.

    Every seed has several machines, which share its slow weights. A call stores the caller's units
    under a context, and the call begins; a return fills the units with what the context recalls.

    Args:
        memory: "hebbian" stores the caller s under the context c by f ← f + η s cᵀ / n, "delta" by
            f ← f + η (s − f c) cᵀ / n; "erased" is Hebbian and f ← f − f c cᵀ / n at the return.
            Two are no networks but show where errors come from: "cued" is Hebbian with the
            caller's context put right after a return, "stack" puts all units right.
        fresh: the context of a call is drawn at random; if not, it is the same for all of them.
    """

    def __init__(
        self,
        procedure: Procedure,
        seeds: Sequence[int],
        context_units: int,
        *,
        write_rate: float,
        decay: float,
        memory: Memory = "hebbian",
        fresh: bool = True,
    ) -> None:
        self.procedure, self.config = procedure, procedure.config
        self.contexts, self.memory, self.fresh = context_units, memory, fresh
        self.write_rate, self.decay = write_rate, decay
        keys = [np.random.SeedSequence([seed, 1, context_units]) for seed in seeds]
        self.generators = [
            torch.Generator().manual_seed(int(key.generate_state(1)[0])) for key in keys
        ]
        self.shape = (len(seeds), self.config.runs)
        units = self.config.program_units + context_units
        self.fast = torch.zeros(len(seeds) * self.config.runs, units, context_units)
        self.strength = 1.0  # what decay has left of `fast`
        self.stack: list[Tensor] = []  # exact copies, to compare with

    @torch.no_grad()
    def run(self, tree: Tree) -> dict[str, list[list[float]]]:
        """Run the procedure once, beside the program in Python.

        Returns:
            By seed, (seeds, …), in shares of the machines: ``right``, those that did and wrote
            everything right until the end; ``returns``, to the right state, in order; ``wrong``,
            the program's units that a return gets wrong; ``overlap``, of these units with the
            pattern that they should show, before every step.
        """
        x = self._symbols(sum(node is not None for node in tree))
        resume = torch.tensor(resume_states(self.config.symbols))
        right = torch.ones(self.shape, dtype=torch.bool)
        returns: list[Tensor] = []
        wrong: list[Tensor] = []
        overlap: list[Tensor] = []
        main = context = self._signs(self.contexts)
        units = self._pattern(Stage.MAIN)
        returned = False
        for step in course(tree):
            truth = pick(self.procedure.codes, state := self._state(step, x))
            overlap.append((units * truth).mean(2))
            if returned:
                named = (units @ self.procedure.codes[:, resume].mT).argmax(2)
                returns.append((resume[named] == state).float())
            units, act, write = self._step(units, step, x)
            right &= (act == step.act) & (write == self._written(step, x))
            if step.act == Act.CALL:
                caller = torch.cat([units, context], 2)
                context = self._signs(self.contexts) if self.fresh else main
                self._store(caller, context)
                self.stack.append(caller)
                units = self._pattern(Stage.START)
            if returned := step.act == Act.RETURN:
                exact = self.stack.pop()
                caller = self._recover(context, exact)
                units, context = self._split(caller)
                wrong.append((units != self._split(exact)[0]).float().mean(2))
        return {
            "right": right.float()[..., None].mean(1).tolist(),
            "returns": torch.stack(returns, 2).mean(1).tolist(),
            "wrong": torch.stack(wrong, 2).mean(1).tolist(),
            "overlap": torch.stack(overlap, 2).mean(1).tolist(),
        }

    def relax(self, steps: int) -> None:
        """This many steps' worth of decay."""
        self.strength *= (1 - self.decay) ** steps
        if self.strength < 1e-3:  # so that what is written, divided by it, stays in range
            self.fast *= self.strength
            self.strength = 1.0

    def _step(self, units: Tensor, step: Step, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slow weights alone: the units' next pattern, what is done and what is written."""
        drive, act, write = self.procedure(units, self._symbol(x, step.seen))
        self.relax(1)
        return self._noisy_sign(drive), act.argmax(2), write.argmax(2)

    def _store(self, caller: Tensor, context: Tensor) -> None:
        change = caller - self._recall(context) if self.memory == "delta" else caller
        self._learn(change, context, self.write_rate)

    def _recover(self, context: Tensor, exact: Tensor) -> Tensor:
        if self.memory == "stack":
            return exact
        recalled = self._recall(context)
        if self.memory == "erased":
            self._learn(-recalled, context, 1.0)
        caller = self._noisy_sign(recalled)
        if self.memory == "cued":
            caller = torch.cat([self._split(caller)[0], self._split(exact)[1]], 2)
        return caller

    def _split(self, caller: Tensor) -> tuple[Tensor, Tensor]:
        units, context = caller.split([self.config.program_units, self.contexts], 2)
        return units, context

    def _learn(self, change: Tensor, context: Tensor, rate: float) -> None:
        outer = change.flatten(0, 1)[:, :, None], context.flatten(0, 1)[:, None]
        self.fast.baddbmm_(*outer, alpha=rate / self.contexts / self.strength)

    def _recall(self, context: Tensor) -> Tensor:
        recalled = self.strength * (self.fast @ context.flatten(0, 1)[:, :, None])
        return recalled.view(*self.shape, -1)

    def _noisy_sign(self, drive: Tensor) -> Tensor:
        size = drive.shape[1:]
        noise = torch.stack([torch.randn(size, generator=g) for g in self.generators])
        return torch.where(drive + self.config.noise * noise > 0, 1.0, -1.0)

    def _signs(self, units: int) -> Tensor:
        size = (self.config.runs, units)
        return torch.stack([torch.randint(2, size, generator=g) for g in self.generators]) * 2.0 - 1

    def _symbols(self, nodes: int) -> Tensor:
        size = (self.config.runs, nodes)
        high = self.config.symbols
        return torch.stack([torch.randint(high, size, generator=g) for g in self.generators])

    def _pattern(self, stage: Stage) -> Tensor:
        return pick(self.procedure.codes, torch.full(self.shape, int(stage)))

    def _state(self, step: Step, x: Tensor) -> Tensor:
        """The number of the state that the machines should be in."""
        symbols = self.config.symbols
        number = torch.full(self.shape, state_number(step.stage, 0, symbols))
        return number if step.node is None else number + x[..., step.node]

    def _symbol(self, x: Tensor, node: int | None) -> Tensor:
        """The symbol of a node; the number after the last is that of a leaf, and of nothing."""
        return torch.full(self.shape, self.config.symbols) if node is None else x[..., node]

    def _written(self, step: Step, x: Tensor) -> Tensor:
        return self._symbol(x, step.node if step.writes else None)

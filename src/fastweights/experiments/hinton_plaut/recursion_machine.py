"""Networks that run the procedure, their callers in fast weights; how deep calls may nest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastweights.experiments.hinton_plaut.recursion_procedure import (
    Act,
    Procedure,
    RecursionConfig,
    Stage,
    Step,
    Tree,
    chain,
    course,
    full_tree,
    pick,
    resume_states,
    state_number,
)

Memory = Literal["hebbian", "delta", "erased", "cued", "stack"]
CONTROLS: Mapping[str, str] = {
    "stack": "exact copies on a stack",
    "one cue": "fast weights, the same cue for every call",
    "slow": "slow weights at their own rate",
    "none": "no fast weights",
}
MEMORIES: Mapping[Memory, str] = {
    "hebbian": "Hebbian",
    "delta": "delta rule",
    "erased": "Hebbian, erased at the return",
    "cued": "Hebbian, contexts put right",
}
STREAM: Mapping[str, str] = {
    "wiped": "wiped between runs",
    "decays": "decaying between runs",
    "kept": "never decaying",
}


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


def simulate(config: RecursionConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything the report shows, as lists with the seeds in the first dimension."""
    procedure = Procedure(config, seeds)
    procedure.learn()
    usual = {"write_rate": config.write_rate, "decay": config.decay}

    def machine(context_units: int = config.context_units, **options: Any) -> Machine:
        return Machine(procedure, seeds, context_units, **{**usual, **options})

    def right(trees: Sequence[Tree], **options: Any) -> list[list[float]]:
        """Shares of runs right, (seeds, trees); every tree meets fresh fast weights."""
        return np.hstack([machine(**options).run(tree)["right"] for tree in trees]).tolist()

    chains = [chain(depth) for depth in config.depths]
    short = [chain(depth) for depth in config.control_depths]
    full = [full_tree(depth) for depth in config.tree_depths]
    controls: Mapping[str, Mapping[str, Any]] = {
        "stack": {"memory": "stack"},
        "one cue": {"fresh": False},
        "slow": {"write_rate": config.slow_rate, "decay": 0.0},
        "none": {"write_rate": 0.0},
    }
    return {
        "units": {str(n): right(chains, context_units=n) for n in config.context_counts},
        "controls": {arm: right(short, **controls[arm]) for arm in CONTROLS},
        "returns": {
            arm: np.mean(machine(**options).run(short[-1])["returns"], 1).tolist()
            for arm, options in controls.items()
        },
        "decays": {
            "chain": [right(short, decay=decay) for decay in config.decays],
            "tree": [right(full, decay=decay) for decay in config.decays],
        },
        "memories": {
            memory: {"chain": right(short, memory=memory), "tree": right(full, memory=memory)}
            for memory in MEMORIES
        },
        "unwinding": {
            memory: [machine(memory=memory).run(tree)["wrong"] for tree in short]
            for memory in ("hebbian", "cued")
        },
        "stream": {arm: _stream(config, machine, arm) for arm in STREAM},
        "trace": {
            arm: machine(**options).run(chain(config.depth))["overlap"]
            for arm, options in {"fast": {}, "none": controls["none"]}.items()
        },
    }


def _stream(
    config: RecursionConfig, machine: Callable[..., Machine], arm: str
) -> list[list[float]]:
    """Shares of runs right, one run after another in the same machines, (seeds, runs)."""
    machines = machine(decay=0.0 if arm == "kept" else config.decay)
    course = []
    for _ in range(config.stream):
        course.append(machines.run(chain(config.depth))["right"])
        machines.relax(config.pause)
        if arm == "wiped":
            machines.fast.zero_()
    return np.hstack(course).tolist()

"""How deep calls may nest: by memory, number of units, decay and shape, and with what controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastweights.experiments.other_uses.recursion.machine import Machine, Memory
from fastweights.experiments.other_uses.recursion.network import Procedure, RecursionConfig
from fastweights.experiments.other_uses.recursion.procedure import Tree, chain, full_tree

__all__ = ["CONTROLS", "MEMORIES", "STREAM", "simulate"]

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

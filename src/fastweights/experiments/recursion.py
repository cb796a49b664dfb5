"""Recursion: Hinton & Plaut (1987), the third use their introduction names.

What the paper says: fast weights "can be used to allow truly recursive processing". The stage a
procedure has reached and its local variables "can be stored in the fast weights", so that it may
call "a subprocedure whose execution involves different patterns of activity in the very same
units"; afterwards "the state of the calling procedure can be reconstructed from the temporary
associative memory". It shows no simulation, and refers to McClelland & Kawamoto (1986) for one.

What we decided. The procedure calls itself twice and has a local variable that it needs after each
call (`other_uses.recursion.procedure`). A network of 64 ±1 units, with a hidden layer, learns its
transitions in the slow weights by gradient descent, from patterns with some units flipped, so that
it cleans up. A procedure says by units of its own that it calls or returns; what that does is
given. A call draws a random pattern in the context units, stores all of the caller's units under
it, the caller's context included, in one Hebbian step, and overwrites them. A return fills all
units with what the context recalls. So the callers are a linked list in one matrix, and nothing
counts how deep it is. All units are noisy, so that a faded fast weight says nothing; the fast
weights decay in every step.

Is a procedure that calls itself ambiguous? It is if the cue for its return is the procedure alone;
that is a control. A fresh context makes every call another.

Calls and returns come when the same program in Python has them. A run is right if at every step the
network says and writes what that program does, to the end.

Controls: no fast weights; the callers stored in slow weights at a small rate; the same cue for
every call; exact copies on a stack, which is the upper bound for these slow weights; and fast
weights that never decay from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastweights.experiments.other_uses.recursion.findings import (
    claims,
    control_table,
    memory_table,
)
from fastweights.experiments.other_uses.recursion.network import RecursionConfig
from fastweights.experiments.other_uses.recursion.pictures import (
    decay_picture,
    depth_picture,
    trace_picture,
    unwinding_picture,
)
from fastweights.experiments.other_uses.recursion.simulation import simulate
from fastweights.experiments.other_uses.shared import (
    VERDICT_RULE,
    finished,
    one_unit,
    use_one_core,
)
from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Section
from fastweights.training.config import ConfigError

__all__ = ["Recursion"]


class Recursion:
    """The experiment."""

    name = "recursion"
    title = "Recursion"
    summary = (
        "Callers wait in fast weights while their units work. Hinton & Plaut (1987), section 1"
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": RecursionConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 20})

    def units(self, config: RecursionConfig, seeds: int) -> list[Unit]:
        missing = {2, config.depth} - {*config.control_depths}
        if missing:
            raise ConfigError(
                f"control_depths must contain 2 and depth = {config.depth}, "
                f"got {config.control_depths}"
            )
        return one_unit(self.name, config.first_seed, seeds)

    def run(
        self, config: RecursionConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        use_one_core(device)
        return simulate(config, unit.options["seeds"])

    def section(self, config: RecursionConfig, results: Sequence[Result], folder: Path) -> Section:
        intro = (
            "A network runs a procedure that reads a tree and calls itself for every subtree. The "
            "sub-procedure uses the very same units, so the caller's stage and local variable have "
            "to wait elsewhere: in the fast weights, stored by one Hebbian step at the call and "
            "recovered at the return. How deep may calls nest, and what breaks first?"
        )
        values = finished(results)
        if values is None:
            return Section(self.title, intro, claims=[], tables=[], pictures=[])
        return Section(
            title=self.title,
            intro=intro,
            claims=claims(config, values),
            tables=[
                control_table(config, values),
                memory_table(config, values, "chain"),
                memory_table(config, values, "tree"),
            ],
            pictures=[
                depth_picture(config, values),
                trace_picture(config, values),
                unwinding_picture(config, values),
                decay_picture(config, values),
            ],
            chosen="seeds below 100",
            notes=[
                VERDICT_RULE,
                "A run is right if every act and every symbol is, from the first step to the last; "
                "a single wrong return spoils it.",
                "Slow weights know the transitions and do not change while a procedure runs. "
                "Without fast weights a return leaves the units to their noise.",
                "The rows marked “—” are no claims of the paper, which does not say how deep calls "
                "may nest.",
            ],
        )

"""Recursion: Hinton & Plaut (1987), the third use their introduction names.

What the paper says: fast weights "can be used to allow truly recursive processing". The stage a
procedure has reached and its local variables "can be stored in the fast weights", so that it may
call "a subprocedure whose execution involves different patterns of activity in the very same
units"; afterwards "the state of the calling procedure can be reconstructed from the temporary
associative memory". It shows no simulation, and refers to McClelland & Kawamoto (1986) for one.

What we decided. The procedure calls itself twice and has a local variable that it needs after each
call (`recursion_procedure.py`). A network of 64 ±1 units, with a hidden layer, learns its
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
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fastweights.experiments.hinton_plaut.recursion_machine import CONTROLS, MEMORIES, simulate
from fastweights.experiments.hinton_plaut.recursion_procedure import (
    Act,
    RecursionConfig,
    Stage,
    chain,
    course,
    resume_states,
)
from fastweights.lab.simulation import Simulation
from fastweights.report.figures import (
    COLOURS,
    MARKERS,
    draw_curve,
    draw_level,
    new_figure,
    place_legend,
)
from fastweights.report.section import Claim, Picture, Table
from fastweights.report.statistics import mean_interval
from fastweights.report.verdicts import BOUND_RULE, CONTROL, OURS, QUALITATIVE, Bound, claim_of
from fastweights.training.config import ConfigError

RIGHT, NEAR, RARE, CHANGE, DEEPER = 0.95, 0.02, 0.05, 0.1, 4  # bounds of the claims


def claims(config: RecursionConfig, values: Mapping[str, Any]) -> list[Claim]:
    """Rows of the ledger; the bound that a row is judged by stands in its words."""
    chains = {arm: np.array(rows) for arm, rows in values["controls"].items()}
    chains |= {memory: np.array(rows["chain"]) for memory, rows in values["memories"].items()}
    decays = [np.array(rows) for rows in values["decays"]["chain"]]
    stream = {arm: np.array(rows)[:, -5:].mean(1) for arm, rows in values["stream"].items()}
    column = {depth: i for i, depth in enumerate(config.control_depths)}
    few, many = min(config.context_counts), max(config.context_counts)
    few_deep, many_deep = (deepest(config.depths, values["units"][str(n)]) for n in (few, many))
    chance = 1 / len(resume_states(config.symbols))
    change = f"(≥ {100 * CHANGE:g})"
    return [
        claim_of(
            f"callers recovered from the fast weights: % of runs right with {config.depth} callers "
            f"waiting, {config.context_units} context units (≥ {100 * RIGHT:g})",
            QUALITATIVE,
            chains["hebbian"][:, column[config.depth]],
            Bound(at_least=RIGHT),
        ),
        claim_of(
            "they are gone later: % of runs right in the last 5 of "
            f"{config.stream} runs, {config.pause:,} steps apart, less those with fast weights "
            f"wiped (≥ −{100 * NEAR:g})",
            QUALITATIVE,
            stream["decays"] - stream["wiped"],
            Bound(at_least=-NEAR),
        ),
        claim_of(
            f"control without decay, earlier runs interfere: % lost in the last 5 runs {change}",
            CONTROL,
            stream["wiped"] - stream["kept"],
            Bound(at_least=CHANGE),
        ),
        claim_of(
            "control without fast weights, returns are at chance: % to the right state "
            f"({100 * chance:.1f} ± {100 * NEAR:g})",
            CONTROL,
            values["returns"]["none"],
            Bound(chance - NEAR, chance + NEAR),
        ),
        claim_of(
            f"control, callers stored in slow weights at rate {config.slow_rate:g}: % of runs "
            f"right with {config.depth} callers (≤ {100 * RARE:g})",
            CONTROL,
            chains["slow"][:, column[config.depth]],
            Bound(at_most=RARE),
        ),
        claim_of(
            "control, one cue for every call of the procedure: % of runs right with 2 callers "
            f"(≤ {100 * RARE:g})",
            CONTROL,
            chains["one cue"][:, column[2]],
            Bound(at_most=RARE),
        ),
        claim_of(
            f"upper bound, exact copies on a stack: % of runs right with "
            f"{max(config.control_depths)} callers (≥ {100 * RIGHT:g})",
            CONTROL,
            chains["stack"][:, column[max(config.control_depths)]],
            Bound(at_least=RIGHT),
        ),
        claim_of(
            f"it breaks by crosstalk: the most callers at which half the runs are right, {many} "
            f"context units less {few} (≥ {DEEPER})",
            OURS,
            many_deep - few_deep,
            Bound(at_least=DEEPER),
            scale=1,
        ),
        claim_of(
            "errors of the recalled contexts add up: % of runs right, mean over depths, gained by "
            f"putting contexts right {change}",
            OURS,
            (chains["cued"] - chains["hebbian"]).mean(1),
            Bound(at_least=CHANGE),
        ),
        claim_of(
            "calls that are over interfere: % of runs right, mean over depths, gained by erasing "
            f"what a return has recalled {change}",
            OURS,
            (chains["erased"] - chains["hebbian"]).mean(1),
            Bound(at_least=CHANGE),
        ),
        claim_of(
            "and it breaks by decay: % of runs right, mean over depths, lost at decay "
            f"{config.decays[-1]:g} against {config.decays[0]:g} {change}",
            OURS,
            (decays[0] - decays[-1]).mean(1),
            Bound(at_least=CHANGE),
        ),
    ]


def deepest(depths: Any, right: Any) -> Any:
    """The greatest depth at which at least half of a seed's runs are right, (seeds,); 0 if none."""
    return np.where(np.array(right) >= 0.5, depths, 0).max(1)


def control_table(config: RecursionConfig, values: Mapping[str, Any]) -> Table:
    """Runs right by depth, with the fast weights and with every control."""
    columns = {"fast weights": values["memories"]["hebbian"]["chain"]}
    columns |= {label: values["controls"][arm] for arm, label in CONTROLS.items()}
    return _table(
        "Runs right in % with the 95 % interval over seeds, by how many callers wait at once "
        f"(chains; {config.context_units} context units, decay {config.decay:g}).",
        "callers waiting",
        config.control_depths,
        columns,
    )


def memory_table(config: RecursionConfig, values: Mapping[str, Any], shape: str) -> Table:
    """Runs right by depth, by rule; ``shape`` is "chain" or "tree"."""
    words, depths = {
        "chain": ("chains", config.control_depths),
        "tree": ("full trees, where calls double with every level", config.tree_depths),
    }[shape]
    columns = {label: values["memories"][memory][shape] for memory, label in MEMORIES.items()}
    return _table(f"Runs right in %, by rule: {words}.", "callers waiting", depths, columns)


def _table(caption: str, head: str, depths: Any, columns: Mapping[str, Any]) -> Table:
    arrays = [np.array(rows) for rows in columns.values()]
    return Table(
        caption=caption,
        columns=(head, *columns),
        rows=[
            [str(depth), *(mean_interval(rows[:, i]).text(1, 100) for rows in arrays)]
            for i, depth in enumerate(depths)
        ],
    )


def depth_picture(config: RecursionConfig, values: Mapping[str, Any]) -> Picture:
    """Runs right by callers waiting, for every number of units and every control."""
    figure = new_figure(8.6, 4.4)
    axes = figure.add_subplot()
    for units, colour, marker in zip(
        reversed(config.context_counts), COLOURS, MARKERS, strict=False
    ):
        right = 100 * np.array(values["units"][str(units)])
        label = f"fast weights, {units} context units"
        draw_curve(axes, config.depths, right, colour, "-", label, marker)
    styles = zip(CONTROLS.items(), COLOURS[3:], ("-.", "--", ":", (0, (4, 1.5))), strict=False)
    for (arm, label), colour, style in styles:
        right = 100 * np.array(values["controls"][arm])
        draw_curve(axes, config.control_depths, right, colour, style, label)
    _depth_axis(axes, config.depths)
    axes.set_ylabel("runs right (%)")
    place_legend(figure)
    return Picture(
        name="recursion",
        figure=figure,
        alt="Runs right against the number of callers waiting: with fast weights all runs are "
        "right to a depth that grows with the number of units, then none; without fast weights "
        "none at any depth; with the same cue for every call only with a single caller.",
        caption="How deep the procedure may call itself. Bands are 95 % intervals over seeds.",
    )


def trace_picture(config: RecursionConfig, values: Mapping[str, Any]) -> Picture:
    """One run step by step, with fast weights and without."""
    figure = new_figure(8.6, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.4))
    steps = course(chain(config.depth))
    x = np.arange(len(steps))
    acts = [step.act for step in steps]
    level = np.cumsum([0, *((act == Act.CALL) - (act == Act.RETURN) for act in acts[:-1])])
    upper.step(x, level, where="mid", color="0.25", linewidth=2)
    upper.set(ylabel="callers waiting", yticks=range(config.depth + 1))
    arms = (("fast", "with fast weights", "o"), ("none", "without", "x"))
    for (arm, label, marker), colour in zip(arms, COLOURS, strict=False):
        draw_curve(lower, x, np.array(values["trace"][arm]), colour, "-", label, marker)
    for after in np.flatnonzero(np.array(acts) == Act.RETURN) + 1:
        for axes in (upper, lower):
            axes.axvspan(after - 0.5, after + 0.5, color="0.88", linewidth=0)
    names = [_name(step.stage, step.node) for step in steps]
    lower.set_xticks(x, names, rotation=90, fontsize=8)
    lower.set(ylabel="overlap with the right pattern", ylim=(-0.15, 1.08))
    place_legend(figure, 2)
    return Picture(
        name="recursion-trace",
        figure=figure,
        alt="Upper: callers waiting rise to the depth of the chain and fall again. Lower: with "
        "fast weights the units show the right pattern at every step; without them they show "
        "nothing of it after a return.",
        caption=f"One run with {config.depth} callers, step by step. Shaded: after a return. The "
        "letter is the local variable, drawn at random at every level. Calls and returns come when "
        "the program has them; without fast weights only what does not depend on the caller comes "
        "right.",
    )


def unwinding_picture(config: RecursionConfig, values: Mapping[str, Any]) -> Picture:
    """Units wrong return by return, with contexts as recalled and put right."""
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    depths = config.control_depths
    shown = sorted({len(depths) // 2, 3 * len(depths) // 4, len(depths) - 1})
    for i, colour, marker in zip(shown, COLOURS, MARKERS, strict=False):
        for memory, style, words in (("hebbian", "-", ""), ("cued", ":", ", contexts put right")):
            # Every other return is from a leaf that was called afresh, and starts a chain anew.
            wrong = 100 * np.array(values["unwinding"][memory][i])[:, ::2]
            x = np.arange(1, wrong.shape[1] + 1)
            draw_curve(axes, x, wrong, colour, style, f"{depths[i]} callers{words}", marker)
    draw_level(axes, 50, "chance")
    axes.set(
        xlabel="first return to each caller, from the deepest up", ylabel="program units wrong (%)"
    )
    axes.set_ylim(-1, 53)
    place_legend(figure)
    return Picture(
        name="recursion-unwinding",
        figure=figure,
        alt="Program units wrong against returns: few at first, more with every return, up to "
        "chance in deep chains; few throughout if contexts are put right after every return.",
        caption="Why it breaks. A return recovers the caller's own context with some units wrong, "
        "and the next return has only that to go by.",
    )


def decay_picture(config: RecursionConfig, values: Mapping[str, Any]) -> Picture:
    """Runs right by callers waiting, for every decay, in chains and in full trees."""
    figure = new_figure(8.6, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    panels: Sequence[tuple[Axes, str, str, Sequence[int]]] = (
        (left, "chain", "chains", config.control_depths),
        (right, "tree", "full trees", config.tree_depths),
    )
    for axes, shape, title, depths in panels:
        curves = zip(config.decays, values["decays"][shape], COLOURS, MARKERS, strict=False)
        for decay, rows, colour, marker in curves:
            label = f"decay {decay:g} per step" if axes is left else None
            draw_curve(axes, depths, 100 * np.array(rows), colour, "-", label, marker)
        _depth_axis(axes, depths)
        axes.set_title(title)
    left.set_ylabel("runs right (%)")
    place_legend(figure, len(config.decays))
    return Picture(
        name="recursion-decay",
        figure=figure,
        alt="Runs right against depth for several decays, in chains and in full trees: the "
        "stronger the decay, the shallower.",
        caption=f"Decay, with {config.context_units} context units. A full tree with d callers "
        "waiting makes 2^d − 1 calls, so the first caller waits long and many calls that are over "
        "interfere.",
    )


def _depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set(xlabel="callers waiting at once", ylim=(-3, 104))


def _name(stage: Stage, node: int | None) -> str:
    return stage.name if node is None else f"{stage.name} {chr(ord('a') + node)}"


class Recursion(Simulation):
    """The experiment."""

    name = "recursion"
    title = "Recursion"
    summary = (
        "Callers wait in fast weights while their units work. Hinton & Plaut (1987), section 1"
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": RecursionConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 20})

    def check(self, config: RecursionConfig) -> None:
        missing = {2, config.depth} - {*config.control_depths}
        if missing:
            raise ConfigError(
                f"control_depths must contain 2 and depth = {config.depth}, "
                f"got {config.control_depths}"
            )

    def simulate(self, config: RecursionConfig, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
        return simulate(config, seeds)

    def intro(self, config: RecursionConfig) -> str:
        return (
            "A network runs a procedure that reads a tree and calls itself for every subtree. The "
            "sub-procedure uses the very same units, so the caller's stage and local variable have "
            "to wait elsewhere: in the fast weights, stored by one Hebbian step at the call and "
            "recovered at the return. How deep may calls nest, and what breaks first?"
        )

    def claims(self, config: RecursionConfig, found: Mapping[str, Any]) -> list[Claim]:
        return claims(config, found)

    def tables(self, config: RecursionConfig, found: Mapping[str, Any]) -> list[Table]:
        trees = ("chain", "tree")
        return [control_table(config, found), *(memory_table(config, found, s) for s in trees)]

    def pictures(self, config: RecursionConfig, found: Mapping[str, Any]) -> list[Picture]:
        pictures = (depth_picture, trace_picture, unwinding_picture, decay_picture)
        return [picture(config, found) for picture in pictures]

    def notes(self, config: RecursionConfig) -> list[str]:
        return [
            BOUND_RULE,
            "A run is right if every act and every symbol is, from the first step to the last; "
            "a single wrong return spoils it.",
            "Slow weights know the transitions and do not change while a procedure runs. "
            "Without fast weights a return leaves the units to their noise.",
            "The rows marked “—” are no claims of the paper, which does not say how deep calls "
            "may nest.",
        ]

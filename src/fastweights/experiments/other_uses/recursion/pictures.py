"""The figures of the recursion experiment, with the words that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fastweights.experiments.other_uses.recursion.network import RecursionConfig
from fastweights.experiments.other_uses.recursion.procedure import Act, Stage, chain, course
from fastweights.experiments.other_uses.recursion.simulation import CONTROLS
from fastweights.experiments.other_uses.shared import draw_curve, draw_level
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Picture

__all__ = ["decay_picture", "depth_picture", "trace_picture", "unwinding_picture"]

MARKERS = ("o", "s", "^", "D", "v", "P")
COLOURS = [colour for colour, _ in ARM_STYLES]
RIGHT = "runs right (%)"
WAITING = "callers waiting at once"


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
    axes.set_ylabel(RIGHT)
    figure.legend(loc="outside right upper", frameon=False)
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
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
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
    figure.legend(loc="outside right upper", frameon=False)
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
    left.set_ylabel(RIGHT)
    figure.legend(loc="outside lower center", ncols=len(config.decays), frameon=False)
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
    axes.set(xlabel=WAITING, ylim=(-3, 104))


def _name(stage: Stage, node: int | None) -> str:
    return stage.name if node is None else f"{stage.name} {chr(ord('a') + node)}"

"""Temporary binding: Hinton & Plaut (1987), the second use their introduction names.

What the paper says: fast weights "can be used for creating temporary bindings between features";
von der Malsburg (1981) and Feldman (1982) "have shown that fast-changing weights can be used to
dynamically bind together a number of different properties into a coherent whole". It shows no
simulation.

What we decided. A scene holds some objects, each with a shape, a colour and a place, and no two
alike in any of them. A property is a pool of ±1 units; its values are random patterns that the
pool's slow weights know (the projection on the patterns, which the delta rule converges to, without
its self-connections) and clean up to. Objects are attended one after another, and the fast
weights between the pools learn in one Hebbian step which values go together,

    f ← (1 − h) (f + η x_p x_qᵀ / n).

Then the units show something else. Asked by a place alone, the other two pools start anywhere and
settle, under slow and fast weights together, on the shape and the colour that were there. Scenes
are drawn afresh, so nothing that is true of all of them helps.

Controls: no fast weights, which gives chance, one in all values; no fast weights, but pools primed
with a value that is in the scene, which gives the binding-free ceiling, one in all objects: exactly
what knowing the values without knowing which go together can reach; the same learning in slow
weights at a small rate; and fast weights that are never wiped and do not decay from scene to scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fastweights.experiments.hinton_plaut.binding_pools import (
    RULES,
    STREAM,
    WAITS,
    BindingConfig,
    simulate,
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
from fastweights.report.verdicts import BOUND_RULE, CONTROL, QUALITATIVE, Bound, claim_of
from fastweights.training.config import ConfigError

RIGHT, NEAR, HARM = 0.95, 0.02, 0.1  # bounds of the claims


def claims(config: BindingConfig, values: Mapping[str, Any]) -> list[Claim]:
    """Rows of the ledger; the bound that a row is judged by stands in its words."""
    scene = values["scene"]
    stream = {arm: np.array(rows) for arm, rows in values["stream"].items()}
    chance, ceiling = 1 / config.values, 1 / config.objects
    where = f"scenes of {config.objects} objects, {config.units} units per property"
    return [
        claim_of(
            f"fast weights bind properties; {where}: % of questions right (≥ {100 * RIGHT:g})",
            QUALITATIVE,
            np.array(scene["waited"])[:, 0],
            Bound(at_least=RIGHT),
        ),
        claim_of(
            f"… into a coherent whole: % of objects with both properties right (≥ {100 * RIGHT:g})",
            QUALITATIVE,
            scene["whole"],
            Bound(at_least=RIGHT),
        ),
        claim_of(
            f"the bindings are temporary: % right after {WAITS[-1]:,} updates (chance, "
            f"{100 * chance:.1f} ± {100 * NEAR:g})",
            QUALITATIVE,
            np.array(scene["waited"])[:, -1],
            Bound(chance - NEAR, chance + NEAR),
        ),
        claim_of(
            f"fast weights that decay over {config.pause} updates leave nothing to the next scene: "
            f"% right in the last 5 of {config.stream} scenes, less those with weights wiped "
            f"(≥ −{100 * NEAR:g})",
            QUALITATIVE,
            (stream["decays"] - stream["wiped"])[:, -5:].mean(1),
            Bound(at_least=-NEAR),
        ),
        claim_of(
            f"control without decay, earlier scenes interfere: loss in the last 5 scenes against "
            f"weights wiped, % (≥ {100 * HARM:g})",
            CONTROL,
            (stream["wiped"] - stream["kept"])[:, -5:].mean(1),
            Bound(at_least=HARM),
        ),
        claim_of(
            f"control without fast weights is at chance: % right ({100 * chance:.1f} ± "
            f"{100 * NEAR:g})",
            CONTROL,
            scene["none"],
            Bound(chance - NEAR, chance + NEAR),
        ),
        claim_of(
            "control without fast weights, pools primed, is at the binding-free ceiling: % right "
            f"({100 * ceiling:.1f} ± {100 * NEAR:g})",
            CONTROL,
            scene["primed"],
            Bound(ceiling - NEAR, ceiling + NEAR),
        ),
        claim_of(
            f"control, slow weights that learn the scenes at rate {config.slow_rate:g}, pools "
            f"primed, stay at the ceiling: % right in the last 5 of {config.stream} scenes "
            f"({100 * ceiling:.1f} ± {100 * NEAR:g})",
            CONTROL,
            stream["slow"][:, -5:].mean(1),
            Bound(ceiling - NEAR, ceiling + NEAR),
        ),
    ]


def rule_table(config: BindingConfig, values: Mapping[str, Any]) -> Table:
    """Questions right by objects held at once, for every number of units and both rules."""
    capacity = values["capacity"]
    rows = []
    for index, objects in enumerate(config.object_counts):
        cells = [mean_interval(capacity[str(n)][index]["fast"]) for n in config.unit_counts]
        cells += [mean_interval(values["rules"][rule][index]) for rule in RULES]
        rows.append([str(objects), *(c.text(1, 100) for c in cells), f"{100 / objects:.1f}"])
    return Table(
        caption="Questions right in %, by the number of objects held at once; the two rules with "
        f"{config.units} units. One step of the delta rule corrects what the cue brings up, which "
        "hurts earlier bindings whose cues are like it.",
        columns=(
            "objects",
            *(f"{n} units" for n in config.unit_counts),
            "Hebbian rule",
            "delta rule",
            "ceiling",
        ),
        rows=rows,
    )


def stream_table(values: Mapping[str, Any]) -> Table:
    """Questions right in the first and the last scenes of a row."""
    rows = []
    for arm, label in STREAM.items():
        course = np.array(values["stream"][arm])
        ends = (course[:, 0], course[:, -5:].mean(1))
        rows.append([label, *(mean_interval(end).text(1, 100) for end in ends)])
    return Table(
        caption="A row of scenes: questions right in % in the first, and in the last five.",
        columns=("weights between properties", "first scene", "last five"),
        rows=rows,
    )


def capacity_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    """Questions right by objects held at once."""
    figure = new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    counts = np.array(config.object_counts)
    for units, colour, marker in zip(reversed(config.unit_counts), COLOURS, MARKERS, strict=False):
        right = 100 * np.array([cell["fast"] for cell in values["capacity"][str(units)]]).T
        draw_curve(axes, counts, right, colour, "-", f"fast weights, {units} units", marker)
    first = values["capacity"][str(config.unit_counts[0])]
    primed = [100 * np.mean(cell["primed"]) for cell in first]
    axes.plot(counts, primed, "x", color="0.3", label="no fast weights, primed")
    fine = np.linspace(counts[0], counts[-1], 200)
    axes.plot(fine, 100 / fine, color="0.3", linewidth=1, label="binding-free ceiling, 1/objects")
    draw_level(axes, 100 / config.values, "chance")
    axes.set(
        xlabel="objects held at once", ylabel="questions right (%)", ylim=(0, 103), xticks=counts
    )
    place_legend(figure)
    return Picture(
        name="binding",
        figure=figure,
        alt="Questions right against the number of objects in a scene: near 100 per cent with fast "
        "weights until the pools are too small, along one over the number of objects without.",
        caption="Bindings held at once. With fast weights the answer depends on the number of "
        "units; without, it is one guess among the objects of the scene.",
    )


def decay_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    """Questions right by the age of an object, and after waiting."""
    figure = new_figure(8.6, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    ages = np.arange(config.many_objects)
    for decay, course, colour, marker in zip(
        config.decays, values["by_age"], COLOURS, MARKERS, strict=False
    ):
        draw_curve(
            left, ages, 100 * np.array(course), colour, "-", f"decay {decay:g} per object", marker
        )
    left.set(xlabel="objects ago", ylabel="questions right (%)", title="while a scene is taken in")
    draw_curve(right, WAITS, 100 * np.array(values["scene"]["waited"]), COLOURS[0], marker="o")
    right.set(xlabel="updates since", title=f"afterwards, at decay {config.decay:g}")
    draw_level(left, 100 / config.values)
    draw_level(right, 100 / config.values, annotation="chance")
    left.set_ylim(0, 103)
    place_legend(figure, len(config.decays), of=left)
    return Picture(
        name="binding-decay",
        figure=figure,
        alt="Left: with strong decay only the latest objects are known. Right: all "
        "objects are known for a while, then forgotten together.",
        caption=f"Left: a scene of {config.many_objects} objects; the more fast weights lose at "
        f"each object, the fewer of the earlier ones are left. Right: {config.objects} objects, "
        "then nothing happens but decay.",
    )


def stream_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    """Questions right in a row of scenes."""
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    scenes = np.arange(1, config.stream + 1)
    styles = zip(STREAM.items(), COLOURS, ("-", "--", "-.", (0, (4, 1.5))), strict=False)
    for (arm, label), colour, style in styles:
        draw_curve(axes, scenes, 100 * np.array(values["stream"][arm]), colour, style, label)
    draw_level(axes, 100 / config.objects, "binding-free ceiling")
    axes.set(xlabel="scene", ylabel="questions right (%)", ylim=(0, 103))
    axes.set_xticks([1, *range(5, config.stream + 1, 5)])
    place_legend(figure, 3)
    return Picture(
        name="binding-stream",
        figure=figure,
        alt="Questions right over a row of scenes: high throughout if fast weights are wiped or "
        "decay between scenes, falling if they never decay, at the binding-free ceiling for slow "
        "weights.",
        caption=f"One scene of {config.objects} objects after another, {config.pause} updates "
        "apart. Fast weights that never decay mix up the scenes.",
    )


class Binding(Simulation):
    """The experiment."""

    name = "binding"
    title = "Temporary binding"
    summary = "Which shape and colour were at this place? Hinton & Plaut (1987), section 1"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": BindingConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 24})

    def check(self, config: BindingConfig) -> None:
        for name in ("objects", "many_objects", "object_counts"):
            given = getattr(config, name)
            if max(given if name == "object_counts" else (given,)) > config.values:
                raise ConfigError(
                    f"{name} must be at most values = {config.values}, as no two objects are "
                    f"alike, got {given}"
                )

    def simulate(self, config: BindingConfig, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
        return simulate(config, seeds)

    def intro(self, config: BindingConfig) -> str:
        return (
            "Scenes of objects, each with a shape, a colour and a place. Slow weights know every "
            "shape, colour and place there is; which of them go together in this scene is held by "
            "fast weights, learned in one step for each object. Then: what was at this place? "
            f"Knowing what is in a scene of {config.objects} objects but not what goes with what, "
            f"one answers {100 / config.objects:.1f} % right; knowing nothing, "
            f"{100 / config.values:.1f} %."
        )

    def claims(self, config: BindingConfig, found: Mapping[str, Any]) -> list[Claim]:
        return claims(config, found)

    def tables(self, config: BindingConfig, found: Mapping[str, Any]) -> list[Table]:
        return [rule_table(config, found), stream_table(found)]

    def pictures(self, config: BindingConfig, found: Mapping[str, Any]) -> list[Picture]:
        pictures = (capacity_picture, decay_picture, stream_picture)
        return [picture(config, found) for picture in pictures]

    def notes(self, config: BindingConfig) -> list[str]:
        return [
            BOUND_RULE,
            "The binding-free ceiling is 1/objects exactly: no two objects of a scene are "
            "alike in any property, so every value in it is equally likely.",
            "Decay alone does not change which of the bindings is stronger, only how strong "
            "they are beside the slow weights; so a scene is remembered well until the slow "
            "weights of a pool outweigh it, and then not at all.",
        ]

"""Temporary binding: Hinton & Plaut (1987), the second use their introduction names.

What the paper says: fast weights "can be used for creating temporary bindings between features";
von der Malsburg (1981) and Feldman (1982) "have shown that fast-changing weights can be used to
dynamically bind together a number of different properties into a coherent whole". It shows no
simulation.

What we decided. A scene holds some objects, each with a shape, a colour and a place, and no two
alike in any of them. A property is a pool of ±1 units; its values are random patterns that the
pool's slow weights know (they are what the delta rule converges to: the projection on the patterns,
without self-connections) and clean up to. Objects are attended one after another, and the fast
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

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fastweights.experiments.base import Result, Unit
from fastweights.experiments.other_uses import (
    VERDICT_RULE,
    draw_curve,
    finished,
    judge,
    one_unit,
    use_one_core,
)
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Claim, Picture, Section, Table
from fastweights.report.statistics import Interval, mean_interval
from fastweights.training.config import ConfigError

__all__ = ["Binding", "BindingConfig", "Pools", "simulate"]

Size = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rule = Literal["hebbian", "delta"]
RULES: tuple[Rule, ...] = ("hebbian", "delta")

PROPERTIES = ("shape", "colour", "place")
CUE = 2  # the place
PAIRS = [(p, q) for p in range(3) for q in range(3) if p != q]
WAITS = (0, 50, 100, 150, 200, 250, 300, 350, 400, 500, 700, 1000)
RIGHT, NEAR, HARM = 0.95, 0.02, 0.1  # bounds of the claims
STREAM: Mapping[str, str] = {
    "wiped": "wiped between scenes",
    "decays": "decaying between scenes",
    "kept": "never decaying",
    "slow": "slow weights alone, primed",
}


@dataclasses.dataclass(frozen=True)
class BindingConfig:
    """Settings; chosen on seeds below 100.

    Attributes:
        values: how many each property has.
        units: of the pool of a property; the first figure shows ``unit_counts``.
        objects: in a scene; the first figure shows ``object_counts``.
        scenes: how many each seed sees, where they are wiped in between.
        write_rate: η; 0 is no fast weights.
        decay: h, lost after each object and in each update of waiting.
        decays: of the recall by age, where a scene holds ``many_objects``.
        clean_up: strength of the slow weights within a pool.
        steps: of settling.
        stream, pause: scenes one after another, and updates of waiting between them.
        streams: how many each seed sees.
        slow_rate: of the slow weights that learn the scenes.
        rule: "hebbian", or "delta", which writes x_p − f x_q in place of x_p.
    """

    first_seed: Annotated[int, Field(ge=0)] = 100
    values: Annotated[int, Field(ge=2)] = 24
    units: Size = 32
    unit_counts: Annotated[tuple[Size, ...], Field(min_length=1)] = (16, 32, 64)
    objects: Size = 6
    object_counts: Annotated[tuple[Size, ...], Field(min_length=1)] = (
        1,
        2,
        4,
        6,
        8,
        12,
        16,
        20,
        24,
    )
    many_objects: Size = 12
    scenes: Size = 20
    write_rate: Rate = 1.0
    decay: Fraction = 0.01
    decays: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.1, 0.2, 0.4)
    clean_up: Rate = 0.5
    steps: Size = 10
    stream: Size = 20
    pause: Annotated[int, Field(ge=0)] = 200
    streams: Size = 5
    slow_rate: Rate = 0.01
    rule: Rule = "hebbian"


class Pools:
    """Three pools of units, with slow weights within and fast weights between them.

    There are ``copies`` networks per seed, which share their slow weights. ``state`` of a pool is
    (networks, questions, units); questions are independent of each other.
    """

    def __init__(
        self, config: BindingConfig, seeds: Sequence[int], copies: int, units: int | None = None
    ) -> None:
        self.config, self.units = config, units or config.units
        self.rngs = [np.random.default_rng([seed, self.units]) for seed in seeds]
        self.copies = copies
        shape = (3, config.values, self.units)
        drawn = np.stack([rng.choice((-1.0, 1.0), shape) for rng in self.rngs])
        codes = torch.from_numpy(drawn)
        slow = torch.linalg.pinv(codes) @ codes
        slow -= torch.diag_embed(slow.diagonal(dim1=2, dim2=3))
        # More values than units: the projection is the identity but for rounding, which must not
        # move a unit that nothing else drives.
        slow[slow.abs() < 1e-9] = 0.0
        self.codes, self.slow = (a.float().repeat_interleave(copies, 0) for a in (codes, slow))
        size = (len(self.codes), self.units, self.units)
        self.between = {pair: torch.zeros(size) for pair in PAIRS}

    def scenes(self, objects: int) -> Tensor:
        """Values of the objects of a fresh scene, (networks, 3, objects): none twice in it."""
        draw = [
            rng.permuted(np.tile(np.arange(self.config.values), (self.copies, 3, 1)), axis=2)
            for rng in self.rngs
        ]
        return torch.from_numpy(np.concatenate(draw)[:, :, :objects])

    def patterns(self, values: Tensor) -> Tensor:
        """The patterns (networks, 3, objects, units) of values (networks, 3, objects)."""
        index = values[..., None].expand(*values.shape, self.units)
        return self.codes.gather(2, index)

    def bind(self, scene: Tensor, rate: float, decay: float, rule: Rule = "hebbian") -> None:
        """Attend the objects one after another, a step of learning for each."""
        seen = self.patterns(scene)
        for item in range(scene.shape[2]):
            for (p, q), weights in self.between.items():
                to, source = seen[:, p, item, :, None], seen[:, q, item, :, None]
                if rule == "delta":
                    to = to - weights @ source
                weights.baddbmm_(to, source.mT, alpha=rate / self.units).mul_(1 - decay)

    def relax(self, updates: int, decay: float) -> None:
        for weights in self.between.values():
            weights.mul_((1 - decay) ** updates)

    def clear(self) -> None:
        self.relax(1, 1.0)

    def answers(self, scene: Tensor, primed: bool = False, fast: float = 1.0) -> Tensor:
        """Which values come to the places of a scene: right or not, (networks, 2, objects).

        Args:
            primed: pools start with a random value of the scene instead of anywhere.
            fast: how much of the weights between the pools is left.
        """
        state = list(self.patterns(scene).unbind(1))
        for p in range(CUE):
            state[p] = self._start(scene, p) if primed else self._anywhere(state[p].shape)
        given = {p: fast * (state[CUE] @ self.between[p, CUE].mT) for p in range(CUE)}
        for step in range(self.config.steps):
            settled = []
            for p in range(CUE):
                other = 1 - p
                drive = given[p] + self.config.clean_up * (state[p] @ self.slow[:, p])
                if step:  # before that the other pool knows nothing
                    drive = drive + fast * (state[other] @ self.between[p, other].mT)
                settled.append(torch.where(drive == 0, state[p], drive.sign()))
            state[:CUE] = settled
        named = [(state[p] @ self.codes[:, p].mT).argmax(2) for p in range(CUE)]
        return torch.stack(named, 1) == scene[:, :CUE]

    def _anywhere(self, shape: torch.Size) -> Tensor:
        each = (self.copies, *shape[1:])
        drawn = np.concatenate([rng.choice((-1.0, 1.0), each) for rng in self.rngs])
        return torch.from_numpy(drawn).float()

    def _start(self, scene: Tensor, p: int) -> Tensor:
        each = (self.copies, scene.shape[2])
        chosen = np.concatenate([rng.integers(0, each[1], each) for rng in self.rngs])
        values = scene.clone()
        values[:, p] = scene[:, p].gather(1, torch.from_numpy(chosen))
        return self.patterns(values)[:, p]


def simulate(config: BindingConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything the report shows, as lists with the seeds in the first dimension."""
    return {
        "capacity": {
            str(units): [_capacity(config, seeds, units, k) for k in config.object_counts]
            for units in config.unit_counts
        },
        "rules": {rule: _rule(config, seeds, rule) for rule in RULES},
        "scene": _scene(config, seeds),
        "by_age": [_by_age(config, seeds, decay) for decay in config.decays],
        "stream": {arm: _stream(config, seeds, arm) for arm in STREAM},
    }


def _per_seed(right: Tensor, seeds: Sequence[int]) -> list[float]:
    return right.double().reshape(len(seeds), -1).mean(1).tolist()


def _capacity(
    config: BindingConfig, seeds: Sequence[int], units: int, objects: int
) -> dict[str, list[float]]:
    """Questions answered right in a scene of this many objects, and by pools that are primed."""
    pools = Pools(config, seeds, config.scenes, units)
    scene = pools.scenes(objects)
    free = _per_seed(pools.answers(scene, primed=True), seeds)
    pools.bind(scene, config.write_rate, config.decay, config.rule)
    return {"fast": _per_seed(pools.answers(scene), seeds), "primed": free}


def _rule(config: BindingConfig, seeds: Sequence[int], rule: Rule) -> list[list[float]]:
    rows = []
    for objects in config.object_counts:
        pools = Pools(config, seeds, config.scenes)
        scene = pools.scenes(objects)
        pools.bind(scene, config.write_rate, config.decay, rule)
        rows.append(_per_seed(pools.answers(scene), seeds))
    return rows


def _scene(config: BindingConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """One scene: with fast weights, as they decay, and without."""
    pools = Pools(config, seeds, config.scenes)
    scene = pools.scenes(config.objects)
    none = _per_seed(pools.answers(scene), seeds)
    primed = _per_seed(pools.answers(scene, primed=True), seeds)
    pools.bind(scene, config.write_rate, config.decay, config.rule)
    waited = [pools.answers(scene, fast=(1 - config.decay) ** wait) for wait in WAITS]
    return {
        "waited": np.stack([_per_seed(a, seeds) for a in waited], 1).tolist(),
        "whole": _per_seed(waited[0].all(1), seeds),
        "none": none,
        "primed": primed,
    }


def _by_age(config: BindingConfig, seeds: Sequence[int], decay: float) -> list[list[float]]:
    """Right answers by the age of the object, the latest first, (seeds, objects)."""
    pools = Pools(config, seeds, config.scenes)
    scene = pools.scenes(config.many_objects)
    pools.bind(scene, config.write_rate, decay, config.rule)
    right = pools.answers(scene).double().mean(1).flip(1)
    return right.reshape(len(seeds), config.scenes, -1).mean(1).tolist()


def _stream(config: BindingConfig, seeds: Sequence[int], arm: str) -> list[list[float]]:
    """Right answers in each of a row of scenes, (seeds, scenes)."""
    pools = Pools(config, seeds, config.streams)
    slow = arm == "slow"
    decay = 0.0 if arm in ("kept", "slow") else config.decay
    course = []
    for _ in range(config.stream):
        scene = pools.scenes(config.objects)
        pools.bind(scene, config.slow_rate if slow else config.write_rate, decay, config.rule)
        course.append(_per_seed(pools.answers(scene, primed=slow), seeds))
        if arm == "wiped":
            pools.clear()
        pools.relax(config.pause, decay)
    return np.stack(course, 1).tolist()


class Binding:
    """The experiment."""

    name = "binding"
    title = "Temporary binding"
    summary = "Which shape and colour were at this place? Hinton & Plaut (1987), section 1"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": BindingConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 24})

    def units(self, config: BindingConfig, seeds: int) -> list[Unit]:
        for name in ("objects", "many_objects", "object_counts"):
            given = getattr(config, name)
            if max(given if name == "object_counts" else (given,)) > config.values:
                raise ConfigError(
                    f"{name} must be at most values = {config.values}, as no two objects are "
                    f"alike, got {given}"
                )
        return one_unit(self.name, config.first_seed, seeds)

    def run(
        self, config: BindingConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        use_one_core(device)
        return simulate(config, unit.options["seeds"])

    def section(self, config: BindingConfig, results: Sequence[Result], folder: Path) -> Section:
        intro = (
            "Scenes of objects, each with a shape, a colour and a place. Slow weights know every "
            "shape, colour and place there is; which of them go together in this scene is held by "
            "fast weights, learned in one step for each object. Then: what was at this place? "
            f"Knowing what is in a scene of {config.objects} objects but not what goes with what, "
            f"one answers {100 / config.objects:.1f} % right; knowing nothing, "
            f"{100 / config.values:.1f} %."
        )
        values = finished(results)
        if values is None:
            return Section(self.title, intro, claims=[], tables=[], pictures=[])
        return Section(
            title=self.title,
            intro=intro,
            claims=_claims(config, values),
            tables=[_rule_table(config, values), _stream_table(values)],
            pictures=[
                _capacity_picture(config, values),
                _decay_picture(config, values),
                _stream_picture(config, values),
            ],
            notes=[
                VERDICT_RULE,
                "The binding-free ceiling is 1/objects exactly: no two objects of a scene are "
                "alike in any property, so every value in it is equally likely.",
                "Decay alone does not change which of the bindings is stronger, only how strong "
                "they are beside the slow weights; so a scene is remembered well until the slow "
                "weights of a pool outweigh it, and then not at all.",
            ],
        )


def _claims(config: BindingConfig, values: Mapping[str, Any]) -> list[Claim]:
    def row(words: str, published: str, interval: Interval, **bounds: Any) -> Claim:
        ours = interval.text(1, 100)
        return Claim(words, published, ours, interval.n, judge(interval, **bounds))

    scene = values["scene"]
    stream = {arm: np.array(rows) for arm, rows in values["stream"].items()}
    last = {arm: mean_interval(rows[:, -5:].mean(1)) for arm, rows in stream.items()}
    chance, ceiling = 1 / config.values, 1 / config.objects
    where = f"scenes of {config.objects} objects, {config.units} units per property"
    control = "— (control)"
    return [
        row(
            f"fast weights bind properties; {where}: % of questions right (≥ {100 * RIGHT:g})",
            "qualitative",
            mean_interval(np.array(scene["waited"])[:, 0]),
            at_least=RIGHT,
        ),
        row(
            f"… into a coherent whole: % of objects with both properties right (≥ {100 * RIGHT:g})",
            "qualitative",
            mean_interval(scene["whole"]),
            at_least=RIGHT,
        ),
        row(
            f"the bindings are temporary: % right after {WAITS[-1]:,} updates (chance, "
            f"{100 * chance:.1f} ± {100 * NEAR:g})",
            "qualitative",
            mean_interval(np.array(scene["waited"])[:, -1]),
            at_least=chance - NEAR,
            at_most=chance + NEAR,
        ),
        row(
            f"fast weights that decay over {config.pause} updates leave nothing to the next scene: "
            f"% right in the last 5 of {config.stream} scenes, less those with weights wiped "
            f"(≥ −{100 * NEAR:g})",
            "qualitative",
            mean_interval((stream["decays"] - stream["wiped"])[:, -5:].mean(1)),
            at_least=-NEAR,
        ),
        row(
            f"control without decay, earlier scenes interfere: loss in the last 5 scenes against "
            f"weights wiped, % (≥ {100 * HARM:g})",
            control,
            mean_interval((stream["wiped"] - stream["kept"])[:, -5:].mean(1)),
            at_least=HARM,
        ),
        row(
            f"control without fast weights is at chance: % right ({100 * chance:.1f} ± "
            f"{100 * NEAR:g})",
            control,
            mean_interval(scene["none"]),
            at_least=chance - NEAR,
            at_most=chance + NEAR,
        ),
        row(
            "control without fast weights, pools primed, is at the binding-free ceiling: % right "
            f"({100 * ceiling:.1f} ± {100 * NEAR:g})",
            control,
            mean_interval(scene["primed"]),
            at_least=ceiling - NEAR,
            at_most=ceiling + NEAR,
        ),
        row(
            f"control, slow weights that learn the scenes at rate {config.slow_rate:g}, pools "
            f"primed, stay at the ceiling: % right in the last 5 of {config.stream} scenes "
            f"({100 * ceiling:.1f} ± {100 * NEAR:g})",
            control,
            last["slow"],
            at_least=ceiling - NEAR,
            at_most=ceiling + NEAR,
        ),
    ]


def _rule_table(config: BindingConfig, values: Mapping[str, Any]) -> Table:
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


def _stream_table(values: Mapping[str, Any]) -> Table:
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


def _capacity_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    figure = new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    counts = np.array(config.object_counts)
    markers = ("o", "s", "^", "D", "v", "P")
    for units, (colour, _), marker in zip(
        reversed(config.unit_counts), ARM_STYLES, markers, strict=False
    ):
        right = 100 * np.array([cell["fast"] for cell in values["capacity"][str(units)]]).T
        draw_curve(axes, counts, right, colour, "-", f"fast weights, {units} units", marker)
    first = values["capacity"][str(config.unit_counts[0])]
    primed = 100 * np.array([cell["primed"] for cell in first]).T
    draw_curve(axes, counts, primed, "0.3", "", "no fast weights, primed", "x")
    fine = np.linspace(counts[0], counts[-1], 200)
    axes.plot(fine, 100 / fine, color="0.3", linewidth=1, label="binding-free ceiling, 1/objects")
    axes.axhline(
        100 / config.values, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)), label="chance"
    )
    axes.set(
        xlabel="objects held at once", ylabel="questions right (%)", ylim=(0, 103), xticks=counts
    )
    figure.legend(loc="outside right upper", frameon=False)
    return Picture(
        name="binding",
        figure=figure,
        alt="Questions right against the number of objects in a scene: near 100 per cent with fast "
        "weights until the pools are too small, along one over the number of objects without.",
        caption="Bindings held at once. With fast weights the answer depends on the number of "
        "units; without, it is one guess among the objects of the scene.",
    )


def _decay_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    figure = new_figure(8.6, 4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    ages = np.arange(config.many_objects)
    markers = ("o", "s", "^", "D", "v", "P")
    for decay, course, (colour, _), marker in zip(
        config.decays, values["by_age"], ARM_STYLES, markers, strict=False
    ):
        draw_curve(
            left, ages, 100 * np.array(course), colour, "-", f"decay {decay:g} per object", marker
        )
    left.set(xlabel="objects ago", ylabel="questions right (%)", title="while a scene is taken in")
    draw_curve(
        right, WAITS, 100 * np.array(values["scene"]["waited"]), ARM_STYLES[0][0], marker="o"
    )
    right.set(xlabel="updates since", title=f"afterwards, at decay {config.decay:g}")
    for axes in (left, right):
        axes.axhline(100 / config.values, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)))
    right.annotate(
        "chance",
        (1, 100 / config.values),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        color="0.25",
        fontsize=9,
    )
    left.set_ylim(0, 103)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
    )
    return Picture(
        name="binding-decay",
        figure=figure,
        alt="Left: with strong decay only the latest objects are known. Right: all is known for "
        "some two hundred updates and forgotten after five hundred.",
        caption=f"Left: a scene of {config.many_objects} objects; the more fast weights lose at "
        f"each object, the fewer of the earlier ones are left. Right: {config.objects} objects, "
        "then nothing happens but decay.",
    )


def _stream_picture(config: BindingConfig, values: Mapping[str, Any]) -> Picture:
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    scenes = np.arange(1, config.stream + 1)
    styles = zip(STREAM.items(), ARM_STYLES, ("-", "--", "-.", (0, (4, 1.5))), strict=False)
    for (arm, label), (colour, _), style in styles:
        draw_curve(axes, scenes, 100 * np.array(values["stream"][arm]), colour, style, label)
    axes.axhline(
        100 / config.objects,
        color="0.35",
        linewidth=1,
        linestyle=(0, (1, 1.5)),
        label="binding-free ceiling",
    )
    axes.set(xlabel="scene", ylabel="questions right (%)", ylim=(0, 103))
    axes.set_xticks([1, *range(5, config.stream + 1, 5)])
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return Picture(
        name="binding-stream",
        figure=figure,
        alt="Questions right over a row of scenes: high throughout if fast weights are wiped or "
        "decay between scenes, falling if they never decay, at the binding-free ceiling for slow "
        "weights.",
        caption=f"One scene of {config.objects} objects after another, {config.pause} updates "
        "apart. Fast weights that never decay mix up the scenes.",
    )

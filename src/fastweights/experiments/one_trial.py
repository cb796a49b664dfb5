"""Rapid temporary learning: Hinton & Plaut (1987), the first use their introduction names.

What the paper says: an overlay of fast weights "can be used for rapid temporary learning. When
presented with a new association the network can store it in one trial, provided the storage only
needs to be temporary." It shows no simulation.

What we decided. A network of tanh and logistic units learns random associations slowly, in its slow
weights. Then it meets one new association once: a single update of the fast weights, large enough
to get it right. After that nothing is learned and the fast weights decay. Inputs are ±1 (0/1
inputs have much in common and interfere more), the error is the cross-entropy, and only the
connections to the outputs have a fast learning rate: with the squared error an output unit that is
wrong and sure of it has no slope to learn from, and a large step through both layers at once
overshoots. The table of step sizes shows all of these.

Controls: the same change made in the slow weights, where it stays; and one presentation at the slow
weights' own learning rate, momentum paid out to the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.experiments.base import Result, Unit
from fastweights.experiments.other_uses import (
    VERDICT_RULE,
    draw_curve,
    finished,
    judge,
    one_unit,
    use_one_core,
)
from fastweights.optim import SlowFast
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Claim, Picture, Section, Table
from fastweights.report.statistics import mean_interval

__all__ = ["Associator", "OneTrial", "OneTrialConfig", "simulate"]

Size = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Pairs = tuple[Tensor, Tensor]

ARMS: Mapping[str, str] = {
    "fast": "one trial in the fast weights",
    "kept": "the same change in the slow weights",
    "usual": "one trial at the slow weights' own rate",
}
TIMES = (1, 10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000)
RATES = {
    "cross-entropy": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    "squared": (0.5, 2.0, 10.0, 50.0, 200.0, 1000.0),
}
STORED, SAME = 0.95, 0.01  # bounds of the claims


@dataclasses.dataclass(frozen=True)
class OneTrialConfig:
    """Settings; chosen on seeds below 100.

    ``fast_lr`` is the size of the one trial, ``decay`` what a fast weight loses in an update.
    ``stream`` new associations come ``pause`` updates after each other in the last part.
    """

    first_seed: Annotated[int, Field(ge=0)] = 100
    inputs: Size = 30
    hidden: Size = 200
    outputs: Size = 10
    associations: Size = 50
    new_associations: Size = 5
    stream: Size = 20
    pause: Size = 25
    init_range: Rate = 0.3
    learning_sweeps: Size = 300
    slow_lr: Rate = 0.002
    slow_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    fast_lr: Rate = 0.5
    decay: Annotated[float, Field(ge=0, le=1)] = 0.01


class Associator(nn.Module):
    """One network per seed: ±1 inputs, a layer of tanh units, logits of the outputs."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.w1, self.b1, self.w2, self.b2 = (nn.Parameter(w.clone()) for w in weights)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (networks, pairs, outputs) for inputs (networks, pairs, inputs)."""
        return torch.baddbmm(self.b2, torch.baddbmm(self.b1, x, self.w1).tanh(), self.w2)

    @torch.no_grad()
    def right(self, pairs: Pairs) -> Tensor:
        """Which bits are right, (networks, pairs, outputs)."""
        return (self(pairs[0]) > 0) == (pairs[1] > 0.5)


def error(logits: Tensor, targets: Tensor, kind: str = "cross-entropy") -> Tensor:
    if kind == "squared":
        return 0.5 * (logits.sigmoid() - targets).square().sum()
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def simulate(config: OneTrialConfig, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything the report shows, as lists with the seeds in the first dimension."""
    old, new = _pairs(config, seeds)
    taught = _learn(config, seeds, old)
    times = [0, *TIMES]
    # Every new association meets a network of its own that knows nothing of the others.
    copies = config.new_associations
    start = [w.repeat_interleave(copies, 0) for w in taught]
    one = tuple(a[:, :copies].reshape(-1, 1, a.shape[2]) for a in new)
    known = tuple(a.repeat_interleave(copies, 0) for a in old)

    def measure(model: Associator) -> dict[str, Tensor]:
        bits = model.right(one)  # type: ignore[arg-type]
        rows = {
            "whole": bits.all(2).double().mean(1),
            "bits": bits.double().mean((1, 2)),
            "old": model.right(known).double().mean((1, 2)),  # type: ignore[arg-type]
        }
        return {name: row.view(-1, copies).mean(1) for name, row in rows.items()}

    curves: dict[str, Any] = {}
    for arm in ARMS:
        model, optimizer = _overlay(config, start)
        course = [measure(model)]
        with _trial(arm, model, optimizer, one) as wait:
            for now, next_time in zip(TIMES, [*TIMES[1:], TIMES[-1]], strict=True):
                course.append(measure(model))
                wait(next_time - now)
        curves[arm] = {
            name: torch.stack([c[name] for c in course], 1).tolist() for name in course[0]
        }
    sizes = [
        _size(config, start, one, measure, layers, kind, rate)
        for kind, rates in RATES.items()
        for layers in ("outputs", "all")
        for rate in rates
    ]
    return {
        "times": times,
        "curves": curves,
        "sizes": sizes,
        "stream": {arm: _stream(config, taught, old, new, arm) for arm in ("fast", "kept")},
    }


def _pairs(config: OneTrialConfig, seeds: Sequence[int]) -> tuple[Pairs, Pairs]:
    """Old and new associations of every network: ±1 inputs and 0/1 targets."""
    total = config.associations + max(config.new_associations, config.stream)
    drawn = [np.random.default_rng([seed, 0]) for seed in seeds]
    x, d = (
        torch.from_numpy(np.stack([rng.integers(0, 2, (total, width)) for rng in drawn])).double()
        for width in (config.inputs, config.outputs)
    )
    x, cut = 2 * x - 1, config.associations
    return (x[:, :cut], d[:, :cut]), (x[:, cut:], d[:, cut:])


def _learn(config: OneTrialConfig, seeds: Sequence[int], old: Pairs) -> list[Tensor]:
    """Slow weights that know the old associations."""
    shapes = [(config.inputs, config.hidden), (1, config.hidden)]
    shapes += [(config.hidden, config.outputs), (1, config.outputs)]
    generators = [np.random.default_rng([seed, 1]) for seed in seeds]
    model = Associator(
        [
            torch.from_numpy(
                np.stack([g.uniform(-1, 1, shape) * config.init_range for g in generators])
            )
            for shape in shapes
        ]
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.slow_lr, momentum=config.slow_momentum
    )
    for _ in range(config.learning_sweeps):
        optimizer.zero_grad()
        error(model(old[0]), old[1]).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def _overlay(
    config: OneTrialConfig,
    weights: Sequence[Tensor],
    layers: str = "outputs",
    rate: float | None = None,
) -> tuple[Associator, SlowFast]:
    """Networks with these slow weights and an empty overlay."""
    model = Associator(weights)
    hidden: dict[str, Any] = {"params": [model.w1, model.b1]}
    if layers == "outputs":
        hidden["fast_lr"] = 0.0
    slow = torch.optim.SGD(
        [hidden, {"params": [model.w2, model.b2]}], lr=config.slow_lr, momentum=config.slow_momentum
    )
    size = config.fast_lr if rate is None else rate
    return model, SlowFast(slow, lr=size, momentum=0.0, decay=config.decay)


def _present(
    model: Associator, optimizer: SlowFast, pairs: Pairs, kind: str = "cross-entropy"
) -> None:
    """One presentation, one update, of the fast weights only."""
    optimizer.zero_grad()
    error(model(pairs[0]), pairs[1], kind).backward()
    with optimizer.rehearsal():
        optimizer.step()


@contextmanager
def _trial(
    arm: str, model: Associator, optimizer: SlowFast, pairs: Any
) -> Iterator[Callable[[int], None]]:
    """Present the pairs once; yields what lets a number of updates pass."""
    if arm != "usual":
        _present(model, optimizer, pairs)
        if arm == "kept":
            optimizer.consolidate()
        yield optimizer.relax
        return
    slow = optimizer.slow_optimizer
    slow.zero_grad()
    error(model(pairs[0]), pairs[1]).backward()
    slow.step()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    left = 150  # after which .9 per update has paid out all but a ten-millionth of the momentum

    def wait(updates: int) -> None:
        nonlocal left
        for _ in range(min(updates, left)):
            slow.step()
        left -= min(updates, left)

    yield wait


def _size(
    config: OneTrialConfig,
    start: Sequence[Tensor],
    pairs: Any,
    measure: Callable[[Associator], dict[str, Tensor]],
    layers: str,
    kind: str,
    rate: float,
) -> dict[str, Any]:
    """What one trial of this size does at once."""
    model, optimizer = _overlay(config, start, layers, rate)
    _present(model, optimizer, pairs, kind)
    values = {name: row.tolist() for name, row in measure(model).items()}
    return {"layers": layers, "error": kind, "rate": rate, **values}


def _stream(
    config: OneTrialConfig, taught: Sequence[Tensor], old: Pairs, new: Pairs, arm: str
) -> dict[str, Any]:
    """New associations one after another: old bits after each, recall by age at the end."""
    model, optimizer = _overlay(config, taught)
    course = [model.right(old)]
    for item in range(config.stream):
        _present(model, optimizer, (new[0][:, item : item + 1], new[1][:, item : item + 1]))
        if arm == "kept":
            optimizer.consolidate()
        course.append(model.right(old))
        if item < config.stream - 1:
            optimizer.relax(config.pause - 1)
    stream = tuple(a[:, : config.stream] for a in new)
    bits = model.right(stream)  # type: ignore[arg-type]
    optimizer.relax(TIMES[-1])
    course.append(model.right(old))
    return {
        "bits_by_age": bits.double().mean(2).flip(1).tolist(),
        "old": torch.stack([c.double().mean((1, 2)) for c in course], 1).tolist(),
    }


class OneTrial:
    """The experiment."""

    name = "one-trial"
    title = "Rapid temporary learning"
    summary = "Store a new association in one trial, gone later. Hinton & Plaut (1987), section 1"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": OneTrialConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 30})

    def units(self, config: OneTrialConfig, seeds: int) -> list[Unit]:
        return one_unit(self.name, config.first_seed, seeds)

    def run(
        self, config: OneTrialConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        use_one_core(device)
        return simulate(config, unit.options["seeds"])

    def section(self, config: OneTrialConfig, results: Sequence[Result], folder: Path) -> Section:
        intro = (
            f"Networks of {config.inputs}–{config.hidden}–{config.outputs} units have learned "
            f"{config.associations} associations slowly. Then each meets a new one, once. A single "
            "large update of the fast weights stores it; the fast weights decay, the new "
            "association fades, and the old ones come out as they were."
        )
        values = finished(results)
        if values is None:
            return Section(self.title, intro, claims=[], tables=[], pictures=[])
        return Section(
            title=self.title,
            intro=intro,
            claims=_claims(values),
            tables=[_course_table(values), _size_table(values)],
            pictures=[_course_picture(config, values), _stream_picture(config, values)],
            notes=[
                VERDICT_RULE,
                "While the overlay is fresh it disturbs the old associations, as the same change "
                "in the slow weights does. The difference is that it goes away.",
                "The paper gives no settings. The update reaches the connections to the outputs "
                "only, and the error is the cross-entropy; the table of step sizes has the others. "
                "With the squared error an output that is wrong and sure of it hardly learns, "
                "however large the step.",
                "The price of storage that fades: of a stream of new associations only the latest "
                "are known, while slow weights that keep every change know them longer, and lose "
                "the old ones for good.",
            ],
        )


def _claims(values: Mapping[str, Any]) -> list[Claim]:
    def row(
        words: str, published: str, numbers: Any, scale: float = 100, digits: int = 1, **bounds: Any
    ) -> Claim:
        interval = mean_interval(numbers)
        ours = interval.text(digits, scale)
        return Claim(words, published, ours, interval.n, judge(interval, **bounds))

    arms = {
        arm: {name: np.array(rows) for name, rows in curves.items()}
        for arm, curves in values["curves"].items()
    }
    fast, kept, usual = (arms[arm] for arm in ARMS)
    squared = [size["whole"] for size in values["sizes"] if size["error"] == "squared"]
    return [
        row(
            f"one trial stores a new association: % with every bit right just after it (≥ "
            f"{100 * STORED:g})",
            "qualitative",
            fast["whole"][:, 1],
            at_least=STORED,
        ),
        row(
            "the storage is temporary: % of bits of the new one after "
            f"{TIMES[-1]:,} updates, less those before the trial (within ± {100 * SAME:g})",
            "qualitative",
            fast["bits"][:, -1] - fast["bits"][:, 0],
            at_least=-SAME,
            at_most=SAME,
        ),
        row(
            f"old associations unharmed: % of their bits after {TIMES[-1]:,} updates, less those "
            f"before the trial (within ± {100 * SAME:g})",
            "qualitative",
            fast["old"][:, -1] - fast["old"][:, 0],
            at_least=-SAME,
            at_most=SAME,
        ),
        row(
            "control, the same change in the slow weights: old bits lost for good, % (≥ "
            f"{100 * SAME:g})",
            "— (control)",
            kept["old"][:, 0] - kept["old"][:, -1],
            at_least=SAME,
        ),
        row(
            "control, one trial at the slow weights' own rate does not store it: % with every bit "
            "right at best (≤ 50)",
            "— (control)",
            usual["whole"][:, 1:].max(1),
            at_most=0.5,
        ),
        row(
            "the same with the squared error of the paper's section 3, at the best of the sizes "
            f"tried: % with every bit right just after it (≥ {100 * STORED:g})",
            "no error named",
            max(squared, key=np.mean),
            at_least=STORED,
        ),
    ]


def _course_table(values: Mapping[str, Any]) -> Table:
    shown = [values["times"].index(time) for time in (0, 1, 100, 200, TIMES[-1])]
    columns = ["before", *(f"{values['times'][i]:,}" for i in shown[1:])]
    return Table(
        caption="Before the trial, and updates since it began: new associations with every bit "
        "right, bits right of the new and of the old, in % with the 95 % interval over seeds.",
        columns=("measure, where the trial is stored", *columns),
        rows=[
            [
                f"{words}: {label}",
                *(
                    mean_interval(np.array(values["curves"][arm][name])[:, i]).text(1, 100)
                    for i in shown
                ),
            ]
            for name, words in (("whole", "new, whole"), ("bits", "new, bits"), ("old", "old bits"))
            for arm, label in ARMS.items()
        ],
    )


def _size_table(values: Mapping[str, Any]) -> Table:
    return Table(
        caption="One trial of any size, just after it: new associations with every bit right, and "
        "old bits right, in %.",
        columns=("fast learning rate on", "error", "rate", "new, whole", "old bits"),
        rows=[
            [
                "all connections" if row["layers"] == "all" else "connections to the outputs",
                row["error"],
                f"{row['rate']:g}",
                mean_interval(row["whole"]).text(1, 100),
                mean_interval(row["old"]).text(1, 100),
            ]
            for row in values["sizes"]
        ],
    )


def _course_picture(config: OneTrialConfig, values: Mapping[str, Any]) -> Picture:
    figure = new_figure(8.6, 4.4)
    grid = figure.subplots(1, 2)
    # The state before the trial is drawn as a stretch of time that leads up to it.
    shown = [i for i, time in enumerate(values["times"]) if time <= 600]
    x = [-60, *(values["times"][i] for i in shown)]
    panels = (
        ("whole", "new associations right (%)"),
        ("old", "bits of old associations right (%)"),
    )
    for axes, (name, label) in zip(grid, panels, strict=True):
        styles = zip(ARMS.items(), ARM_STYLES, ("-", "--", (0, (1, 1.2))), strict=False)
        for (arm, words), (colour, _), style in styles:
            curve = 100 * np.array(values["curves"][arm][name])[:, [0, *shown]]
            draw_curve(axes, x, curve, colour, style, words)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set(xlabel="updates since the trial", title=label)
    grid[0].set_ylim(-3, 103)
    low, high = grid[1].get_ylim()
    grid[1].set_ylim(low - 0.05 * (high - low), 100 + 0.03 * (100 - low))
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name="one-trial",
        figure=figure,
        alt="Left: a new association is right at once after one trial in the fast weights and "
        "fades within a few hundred updates; in the slow weights the same change stays, and their "
        "own rate does not store it. Right: the old associations suffer while the overlay is "
        "fresh and recover fully; in the slow weights the harm stays.",
        caption="A new association, presented once (at 0). In the fast weights it is there at "
        "once, and gone when they have decayed; so is the harm to the old ones. Bands are 95 % "
        f"intervals over seeds; decay {config.decay:g} per update.",
    )


def _stream_picture(config: OneTrialConfig, values: Mapping[str, Any]) -> Picture:
    figure = new_figure(8.6, 4.4)
    left, right = figure.subplots(1, 2)
    ages, trials = np.arange(config.stream), np.arange(config.stream + 1)
    pairs: list[tuple[str, str, Any]] = [("fast", "o", "-"), ("kept", "s", "--")]
    for (arm, marker, style), (colour, _) in zip(pairs, ARM_STYLES, strict=False):
        stream = {name: 100 * np.array(rows) for name, rows in values["stream"][arm].items()}
        draw_curve(left, ages, stream["bits_by_age"], colour, style, ARMS[arm], marker)
        draw_curve(right, trials, stream["old"][:, :-1], colour, style, None, marker)
        _after(right, config.stream + 2, stream["old"][:, -1], colour, marker)
    left.axhline(50, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)))
    left.annotate("chance", (0, 50), xytext=(0, 3), textcoords="offset points", color="0.25")
    left.set(title="bits of new associations right (%)", xlabel="trials ago", ylim=(46, 102))
    right.set(title="bits of old associations right (%)", xlabel="trials so far")
    ticks = list(range(0, config.stream + 1, 5))
    left.set_xticks([t for t in ticks if t < config.stream])
    right.set_xticks([*ticks, config.stream + 2.0], [*map(str, ticks), "later"])
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name="one-trial-stream",
        figure=figure,
        alt="Left: the latest of a stream of new associations are known, earlier ones fade in the "
        "fast weights. Right: old associations lose with every change kept in the slow weights; "
        "under the fast weights they settle, and are whole again later.",
        caption=f"{config.stream} new associations, each presented once, {config.pause} updates "
        f"apart. “Later”: {TIMES[-1]:,} updates after the last.",
    )


def _after(axes: Axes, x: float, values: Any, colour: str, marker: str) -> None:
    axes.plot([x], [values.mean()], color=colour, marker=marker, markersize=7, linestyle="")

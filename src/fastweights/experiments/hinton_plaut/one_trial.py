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

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fastweights.experiments.hinton_plaut.one_trial_simulation import (
    ARMS,
    TIMES,
    OneTrialConfig,
    simulate,
)
from fastweights.lab.simulation import Simulation
from fastweights.report.figures import COLOURS, draw_curve, draw_level, new_figure, place_legend
from fastweights.report.section import Claim, Picture, Table
from fastweights.report.statistics import mean_interval
from fastweights.report.verdicts import BOUND_RULE, CONTROL, QUALITATIVE, Bound, claim_of

STORED, SAME = 0.95, 0.01  # bounds of the claims


def claims(values: Mapping[str, Any]) -> list[Claim]:
    """Rows of the ledger; the bound that a row is judged by stands in its words."""
    arms = {
        arm: {name: np.array(rows) for name, rows in curves.items()}
        for arm, curves in values["curves"].items()
    }
    fast, kept, usual = (arms[arm] for arm in ARMS)
    squared = [size["whole"] for size in values["sizes"] if size["error"] == "squared"]
    return [
        claim_of(
            f"one trial stores a new association: % with every bit right just after it (≥ "
            f"{100 * STORED:g})",
            QUALITATIVE,
            fast["whole"][:, 1],
            Bound(at_least=STORED),
        ),
        claim_of(
            "the storage is temporary: % of bits of the new one after "
            f"{TIMES[-1]:,} updates, less those before the trial (within ± {100 * SAME:g})",
            QUALITATIVE,
            fast["bits"][:, -1] - fast["bits"][:, 0],
            Bound(-SAME, SAME),
        ),
        claim_of(
            f"old associations unharmed: % of their bits after {TIMES[-1]:,} updates, less those "
            f"before the trial (within ± {100 * SAME:g})",
            QUALITATIVE,
            fast["old"][:, -1] - fast["old"][:, 0],
            Bound(-SAME, SAME),
        ),
        claim_of(
            "control, the same change in the slow weights: old bits lost for good, % (≥ "
            f"{100 * SAME:g})",
            CONTROL,
            kept["old"][:, 0] - kept["old"][:, -1],
            Bound(at_least=SAME),
        ),
        claim_of(
            "control, one trial at the slow weights' own rate does not store it: % with every bit "
            "right at best (≤ 50)",
            CONTROL,
            usual["whole"][:, 1:].max(1),
            Bound(at_most=0.5),
        ),
        claim_of(
            "the same with the squared error of the paper's section 3, at the best of the sizes "
            f"tried: % with every bit right just after it (≥ {100 * STORED:g})",
            "no error named",
            max(squared, key=np.mean),
            Bound(at_least=STORED),
        ),
    ]


def course_table(values: Mapping[str, Any]) -> Table:
    """New and old associations before the trial, at once and later, in every arm."""
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


def size_table(values: Mapping[str, Any]) -> Table:
    """Both errors, both choices of layers, every size of the one step."""
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


def course_picture(config: OneTrialConfig, values: Mapping[str, Any]) -> Picture:
    """One new association: stored at once, faded later."""
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
        styles = zip(ARMS.items(), COLOURS, ("-", "--", (0, (1, 1.2))), strict=False)
        for (arm, words), colour, style in styles:
            curve = 100 * np.array(values["curves"][arm][name])[:, [0, *shown]]
            draw_curve(axes, x, curve, colour, style, words)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set(xlabel="updates since the trial", title=label)
    grid[0].set_ylim(-3, 103)
    low, high = grid[1].get_ylim()
    grid[1].set_ylim(low - 0.05 * (high - low), 100 + 0.03 * (100 - low))
    place_legend(figure, 2, of=grid[0])
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


def stream_picture(config: OneTrialConfig, values: Mapping[str, Any]) -> Picture:
    """New associations one after another: the latest, and the old ones."""
    figure = new_figure(8.6, 4.4)
    left, right = figure.subplots(1, 2)
    ages, trials = np.arange(config.stream), np.arange(config.stream + 1)
    pairs: list[tuple[str, str, Any]] = [("fast", "o", "-"), ("kept", "s", "--")]
    for (arm, marker, style), colour in zip(pairs, COLOURS, strict=False):
        stream = {name: 100 * np.array(rows) for name, rows in values["stream"][arm].items()}
        draw_curve(left, ages, stream["bits_by_age"], colour, style, ARMS[arm], marker)
        draw_curve(right, trials, stream["old"][:, :-1], colour, style, None, marker)
        later = stream["old"][:, -1].mean()
        right.plot(config.stream + 2, later, color=colour, marker=marker, markersize=7)
    draw_level(left, 50)
    left.annotate("chance", (0, 50), xytext=(0, 3), textcoords="offset points", color="0.25")
    left.set(title="bits of new associations right (%)", xlabel="trials ago", ylim=(46, 102))
    right.set(title="bits of old associations right (%)", xlabel="trials so far")
    ticks = list(range(0, config.stream + 1, 5))
    left.set_xticks([t for t in ticks if t < config.stream])
    right.set_xticks([*ticks, config.stream + 2.0], [*map(str, ticks), "later"])
    place_legend(figure, 2)
    return Picture(
        name="one-trial-stream",
        figure=figure,
        alt="Left: the latest of a stream of new associations are known, earlier ones fade in the "
        "fast weights. Right: old associations lose with every change kept in the slow weights; "
        "under the fast weights they settle, and are whole again later.",
        caption=f"{config.stream} new associations, each presented once, {config.pause} updates "
        f"apart. “Later”: {TIMES[-1]:,} updates after the last.",
    )


class OneTrial(Simulation):
    """The experiment."""

    name = "one-trial"
    title = "Rapid temporary learning"
    summary = "Store a new association in one trial, gone later. Hinton & Plaut (1987), section 1"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": OneTrialConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 30})

    def simulate(self, config: OneTrialConfig, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
        return simulate(config, seeds)

    def intro(self, config: OneTrialConfig) -> str:
        return (
            f"Networks of {config.inputs}–{config.hidden}–{config.outputs} units have learned "
            f"{config.associations} associations slowly. Then each meets a new one, once. A single "
            "large update of the fast weights stores it; the fast weights decay, the new "
            "association fades, and the old ones come out as they were."
        )

    def claims(self, config: OneTrialConfig, found: Mapping[str, Any]) -> list[Claim]:
        return claims(found)

    def tables(self, config: OneTrialConfig, found: Mapping[str, Any]) -> list[Table]:
        return [course_table(found), size_table(found)]

    def pictures(self, config: OneTrialConfig, found: Mapping[str, Any]) -> list[Picture]:
        return [course_picture(config, found), stream_picture(config, found)]

    def notes(self, config: OneTrialConfig) -> list[str]:
        return [
            BOUND_RULE,
            "While the overlay is fresh it disturbs the old associations, as the same change "
            "in the slow weights does. The difference is that it goes away.",
            "The paper gives no settings. The update reaches the connections to the outputs "
            "only, and the error is the cross-entropy; the table of step sizes has the others. "
            "With the squared error an output that is wrong and sure of it hardly learns, "
            "however large the step.",
            "The price of storage that fades: of a stream of new associations only the latest "
            "are known, while slow weights that keep every change know them longer, and lose "
            "the old ones for good.",
        ]

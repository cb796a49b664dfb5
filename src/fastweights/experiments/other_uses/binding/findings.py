"""What the binding experiment says: rows of the ledger and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastweights.experiments.other_uses.binding.pools import RULES, BindingConfig
from fastweights.experiments.other_uses.binding.simulation import STREAM, WAITS
from fastweights.experiments.other_uses.shared import CONTROL, QUALITATIVE, ledger_row
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import mean_interval

__all__ = ["claims", "rule_table", "stream_table"]

RIGHT, NEAR, HARM = 0.95, 0.02, 0.1  # bounds of the claims


def claims(config: BindingConfig, values: Mapping[str, Any]) -> list[Claim]:
    """Rows of the ledger; the bound that a row is judged by stands in its words."""
    scene = values["scene"]
    stream = {arm: np.array(rows) for arm, rows in values["stream"].items()}
    chance, ceiling = 1 / config.values, 1 / config.objects
    where = f"scenes of {config.objects} objects, {config.units} units per property"
    return [
        ledger_row(
            f"fast weights bind properties; {where}: % of questions right (≥ {100 * RIGHT:g})",
            QUALITATIVE,
            np.array(scene["waited"])[:, 0],
            at_least=RIGHT,
        ),
        ledger_row(
            f"… into a coherent whole: % of objects with both properties right (≥ {100 * RIGHT:g})",
            QUALITATIVE,
            scene["whole"],
            at_least=RIGHT,
        ),
        ledger_row(
            f"the bindings are temporary: % right after {WAITS[-1]:,} updates (chance, "
            f"{100 * chance:.1f} ± {100 * NEAR:g})",
            QUALITATIVE,
            np.array(scene["waited"])[:, -1],
            at_least=chance - NEAR,
            at_most=chance + NEAR,
        ),
        ledger_row(
            f"fast weights that decay over {config.pause} updates leave nothing to the next scene: "
            f"% right in the last 5 of {config.stream} scenes, less those with weights wiped "
            f"(≥ −{100 * NEAR:g})",
            QUALITATIVE,
            (stream["decays"] - stream["wiped"])[:, -5:].mean(1),
            at_least=-NEAR,
        ),
        ledger_row(
            f"control without decay, earlier scenes interfere: loss in the last 5 scenes against "
            f"weights wiped, % (≥ {100 * HARM:g})",
            CONTROL,
            (stream["wiped"] - stream["kept"])[:, -5:].mean(1),
            at_least=HARM,
        ),
        ledger_row(
            f"control without fast weights is at chance: % right ({100 * chance:.1f} ± "
            f"{100 * NEAR:g})",
            CONTROL,
            scene["none"],
            at_least=chance - NEAR,
            at_most=chance + NEAR,
        ),
        ledger_row(
            "control without fast weights, pools primed, is at the binding-free ceiling: % right "
            f"({100 * ceiling:.1f} ± {100 * NEAR:g})",
            CONTROL,
            scene["primed"],
            at_least=ceiling - NEAR,
            at_most=ceiling + NEAR,
        ),
        ledger_row(
            f"control, slow weights that learn the scenes at rate {config.slow_rate:g}, pools "
            f"primed, stay at the ceiling: % right in the last 5 of {config.stream} scenes "
            f"({100 * ceiling:.1f} ± {100 * NEAR:g})",
            CONTROL,
            stream["slow"][:, -5:].mean(1),
            at_least=ceiling - NEAR,
            at_most=ceiling + NEAR,
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

"""What the one-trial experiment says: rows of the ledger and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastweights.experiments.other_uses.one_trial.simulation import ARMS, TIMES
from fastweights.experiments.other_uses.shared import CONTROL, QUALITATIVE, ledger_row
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import mean_interval

__all__ = ["claims", "course_table", "size_table"]

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
        ledger_row(
            f"one trial stores a new association: % with every bit right just after it (≥ "
            f"{100 * STORED:g})",
            QUALITATIVE,
            fast["whole"][:, 1],
            at_least=STORED,
        ),
        ledger_row(
            "the storage is temporary: % of bits of the new one after "
            f"{TIMES[-1]:,} updates, less those before the trial (within ± {100 * SAME:g})",
            QUALITATIVE,
            fast["bits"][:, -1] - fast["bits"][:, 0],
            at_least=-SAME,
            at_most=SAME,
        ),
        ledger_row(
            f"old associations unharmed: % of their bits after {TIMES[-1]:,} updates, less those "
            f"before the trial (within ± {100 * SAME:g})",
            QUALITATIVE,
            fast["old"][:, -1] - fast["old"][:, 0],
            at_least=-SAME,
            at_most=SAME,
        ),
        ledger_row(
            "control, the same change in the slow weights: old bits lost for good, % (≥ "
            f"{100 * SAME:g})",
            CONTROL,
            kept["old"][:, 0] - kept["old"][:, -1],
            at_least=SAME,
        ),
        ledger_row(
            "control, one trial at the slow weights' own rate does not store it: % with every bit "
            "right at best (≤ 50)",
            CONTROL,
            usual["whole"][:, 1:].max(1),
            at_most=0.5,
        ),
        ledger_row(
            "the same with the squared error of the paper's section 3, at the best of the sizes "
            f"tried: % with every bit right just after it (≥ {100 * STORED:g})",
            "no error named",
            max(squared, key=np.mean),
            at_least=STORED,
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

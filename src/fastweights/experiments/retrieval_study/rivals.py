"""Where fast weights win, tie or lose beside other networks: in accuracy, updates and seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fastweights.experiments.retrieval_study.effects import SMALL, Effect, difference, verdict
from fastweights.experiments.retrieval_study.networks import Arm
from fastweights.experiments.retrieval_study.tables import by_seed
from fastweights.lab.experiment import Result
from fastweights.report.section import Table
from fastweights.training.metrics import updates_to

__all__ = ["rivals_tables"]

LEVEL = 0.9
OUTCOMES = {"large": "win", "none": "tie", "negative": "lose", "unclear": "unclear"}


def rivals_tables(
    arms: Mapping[str, Arm],
    ours: str,
    rivals: Sequence[str],
    sizes: Sequence[int],
    results: Sequence[Result],
) -> list[Table]:
    """A table with a row for every rival and hidden size, over the seeds both finished, if any."""
    rows = []
    for size in sizes:
        for rival in rivals:
            gained = difference(Effect("", (ours,), (rival,)), size, results)
            if gained is None:
                continue
            first, second = by_seed(ours, size, results), by_seed(rival, size, results)
            pairs = [(first[seed], second[seed]) for seed in first if seed in second]
            updates = [tuple(_reached(values) for values in pair) for pair in pairs]
            seconds = [
                tuple(_reached(v) * v["seconds"] / v["updates"] for v in pair) for pair in pairs
            ]
            rows.append(
                [
                    arms[rival].label,
                    str(size),
                    f"{gained.text(1, 100)}, {OUTCOMES[verdict(gained)]}",
                    _sooner(updates, 0),
                    _sooner(seconds, 1),
                ]
            )
    table = Table(
        caption=(
            f"Beside {arms[ours].label}: test accuracy gained, in points (win or lose beyond "
            f"{100 * SMALL:g} points, tie within); median updates, and seconds on one thread, to a "
            f"validation accuracy of {100 * LEVEL:g} %, ours / theirs (win or lose if so in every "
            "seed)."
        ),
        columns=("beside", "R", "accuracy", "updates", "seconds"),
        rows=rows,
    )
    return [table] if rows else []


def _reached(values: dict[str, Any]) -> float:
    updates = updates_to(values["curve"], LEVEL)
    return math.inf if updates is None else updates


def _sooner(pairs: Sequence[tuple[float, ...]], digits: int) -> str:
    """Medians and outcome."""
    firsts, seconds = zip(*pairs, strict=True)
    medians = [
        "never" if math.isinf(median(side)) else f"{median(side):,.{digits}f}"
        for side in (firsts, seconds)
    ]
    if medians == ["never", "never"]:
        outcome = "neither"
    elif all(a < b for a, b in pairs):
        outcome = "win"
    elif all(a > b for a, b in pairs):
        outcome = "lose"
    else:
        outcome = "unclear"
    return f"{' / '.join(medians)}, {outcome}"

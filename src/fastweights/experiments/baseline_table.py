"""Where fast weights win, tie or lose beside other networks: in accuracy, updates and seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from fastweights.experiments.associative_retrieval import RetrievalConfig, RetrievalStudy
from fastweights.lab.experiment import Result
from fastweights.lab.findings import Contrast, Values, by_seed
from fastweights.report.section import Table
from fastweights.report.verdicts import SMALL, EffectSize
from fastweights.training.metrics import updates_to

LEVEL = 0.9
OUTCOMES = {"large": "win", "none": "tie", "negative": "lose", "unclear": "unclear"}


def baseline_table(
    study: RetrievalStudy,
    ours: str,
    baselines: Sequence[str],
    config: RetrievalConfig,
    results: Sequence[Result],
) -> list[Table]:
    """A row for each hidden size and baseline, over the seeds that both finished.

    Returns:
        The table, or nothing if it has no row.
    """
    rows = []
    for size in config.hidden_sizes:
        for baseline in baselines:
            contrast = Contrast("", ours, baseline, "test_accuracy")
            gained = contrast.interval(results, hidden_size=size)
            if gained is None:
                continue
            first, second = (by_seed(results, arm, hidden_size=size) for arm in (ours, baseline))
            pairs = [(first[seed], second[seed]) for seed in first if seed in second]
            updates = [(_updates(a), _updates(b)) for a, b in pairs]
            seconds = [(_seconds(a), _seconds(b)) for a, b in pairs]
            rows.append(
                [
                    study.arms[baseline].label,
                    str(size),
                    f"{gained.text(1, 100)}, {OUTCOMES[EffectSize().verdict(gained)]}",
                    _sooner(updates, 0),
                    _sooner(seconds, 1),
                ]
            )
    table = Table(
        caption=(
            f"Beside {study.arms[ours].label}: test accuracy gained, in points (win or lose beyond "
            f"{100 * SMALL:g} points, tie within); median updates, and seconds on one thread, to a "
            f"validation accuracy of {100 * LEVEL:g} %, ours / theirs (win or lose if so in every "
            "seed)."
        ),
        columns=("beside", "R", "accuracy", "updates", "seconds"),
        rows=rows,
    )
    return [table] if rows else []


def _updates(values: Values) -> float:
    """To the level; infinite if it was not reached."""
    updates = updates_to(values["curve"], LEVEL)
    return math.inf if updates is None else updates


def _seconds(values: Values) -> float:
    return _updates(values) * values["seconds"] / values["updates"]


def _sooner(pairs: Sequence[tuple[float, float]], digits: int) -> str:
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

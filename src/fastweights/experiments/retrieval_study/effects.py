"""What a part of the network is worth: the difference that its absence makes, seed by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from fastweights.experiments.base import Result
from fastweights.experiments.by_arm import why_missing
from fastweights.experiments.retrieval_study.networks import Arm
from fastweights.experiments.retrieval_study.tables import by_seed
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import Interval, mean_interval

__all__ = ["EFFECT_RULE", "Effect", "best_of", "effect_claims", "effects_table"]

SMALL = 0.02  # a difference in accuracy that would not change what anyone builds

EFFECT_RULE = (
    "Differences in test accuracy are taken seed by seed (same data, same seed) and given with "
    f"their 95 % bootstrap interval; where a control has a scale, the one with the best validation "
    f"accuracy is taken. “large” if the whole interval is above {100 * SMALL:g} points, “none” if "
    "it lies within that of zero, “negative” if it is below, otherwise “unclear”."
)


@dataclasses.dataclass(frozen=True)
class Effect:
    """One question: how much better ``arm`` is than ``control`` (the best of several)."""

    question: str
    arms: tuple[str, ...]
    controls: tuple[str, ...]


def best_of(
    arms: Sequence[str], size: int, results: Sequence[Result]
) -> dict[int | None, float] | None:
    """Test accuracy by seed of the arm with the best mean validation accuracy, if any finished."""
    found: list[tuple[float, dict[int | None, float]]] = []
    for arm in arms:
        values = by_seed(arm, size, results)
        if values:
            mean = sum(v["validation_accuracy"] for v in values.values()) / len(values)
            found.append((mean, {seed: v["test_accuracy"] for seed, v in values.items()}))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def difference(effect: Effect, size: int, results: Sequence[Result]) -> Interval | None:
    """Accuracy gained, over the seeds that both sides finished."""
    gained, lost = (best_of(arms, size, results) for arms in (effect.arms, effect.controls))
    if gained is None or lost is None:
        return None
    pairs = [(gained[seed], lost[seed]) for seed in gained if seed in lost]
    return mean_interval([a - b for a, b in pairs]) if pairs else None


def _withdrawn(effect: Effect, results: Sequence[Result]) -> bool:
    """Whether there was an answer once, but its results were withdrawn."""
    return any(why_missing(results, arm) == "withdrawn" for arm in (*effect.arms, *effect.controls))


def verdict(interval: Interval) -> str:
    """By `EFFECT_RULE`.

    Example:
        >>> verdict(Interval(0.6, 0.55, 0.65, n=10)), verdict(Interval(0.0, -0.01, 0.01, n=10))
        ('large', 'none')
    """
    if interval.low is None or interval.high is None:
        return "unclear"
    if interval.low > SMALL:
        return "large"
    if interval.high < -SMALL:
        return "negative"
    return "none" if interval.low >= -SMALL and interval.high <= SMALL else "unclear"


def effect_claims(effects: Sequence[Effect], size: int, results: Sequence[Result]) -> list[Claim]:
    """A row of the ledger for every question that has an answer, or had one."""
    claims = []
    for effect in effects:
        interval = difference(effect, size, results)
        if interval is not None:
            claims.append(
                Claim(
                    claim=f"R = {size}: {effect.question}; points of accuracy",
                    published="asked, not measured",
                    ours=interval.text(1, 100),
                    n=interval.n,
                    verdict=verdict(interval),
                )
            )
        elif _withdrawn(effect, results):
            question = f"R = {size}: {effect.question}; points of accuracy"
            claims.append(Claim(question, "asked, not measured", "withdrawn", 0, "withdrawn"))
    return claims


def effects_table(
    arms: Mapping[str, Arm],
    effects: Sequence[Effect],
    sizes: Sequence[int],
    results: Sequence[Result],
) -> Table:
    """All questions, at every hidden size."""

    ran = {result.unit.arm for result in results}

    def names(keys: Sequence[str]) -> str:
        found = [key for key in keys if key in ran]
        return arms[found[0]].label if len(found) == 1 else f"best of {len(found)}"

    rows = []
    for effect in effects:
        cells = [difference(effect, size, results) for size in sizes]
        missing = "withdrawn" if _withdrawn(effect, results) else "–"
        if any(cells) or missing == "withdrawn":
            texts = [missing if c is None else f"{c.text(1, 100)}, {verdict(c)}" for c in cells]
            rows.append([effect.question, names(effect.arms), names(effect.controls), *texts])
    return Table(
        caption="What each part is worth: difference in test accuracy, in points.",
        columns=("what is asked", "with", "without", *(f"R = {size}" for size in sizes)),
        rows=rows,
    )

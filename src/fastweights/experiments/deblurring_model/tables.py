"""Tables of the deblurring experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastweights.experiments.deblurring_model.config import CONDITIONS, Condition
from fastweights.experiments.deblurring_model.findings import gains, improvement_ratio
from fastweights.experiments.deblurring_model.simulation import DeblurringResult, Rehearsal
from fastweights.report.section import Table
from fastweights.report.statistics import mean_interval

__all__ = ["rehearsal_table", "seed_table", "size_table", "variant_table"]


def size_table(result: DeblurringResult) -> Table:
    """How large fast and slow weights are, and what is known, at the end of each phase."""
    rows = [
        [
            phase.name,
            mean_interval(phase.slow_norm).text(),
            mean_interval(phase.fast_norm).text(),
            mean_interval(phase.old.error[:, 0]).text(3),
            mean_interval(phase.old.bits[:, 0]).text(3),
            mean_interval(phase.new.bits[:, 0]).text(3),
        ]
        for phase in result.phases
    ]
    for rehearsal in result.rehearsals.values():
        if rehearsal.condition == "fast":
            rows.append(_rehearsed_sizes(rehearsal))
    return Table(
        caption=(
            "Euclidean norms of all slow and all fast weights, and the scores of the old and the "
            "new pairs, at the end of each phase. Mean over seeds with 95 % bootstrap interval."
        ),
        columns=("after", "slow", "fast", "old |y − d|", "old bits", "new bits"),
        rows=rows,
    )


def _rehearsed_sizes(rehearsal: Rehearsal) -> list[str]:
    m, rest = rehearsal.rehearsed, rehearsal.unretrained
    return [
        f"rehearsal of {m} (old: unretrained)",
        mean_interval(rehearsal.slow_norm).text(),
        mean_interval(rehearsal.fast_norm).text(),
        mean_interval(rest.error[:, -1]).text(3),
        mean_interval(rest.bits[:, -1]).text(3),
        mean_interval(rehearsal.new.bits[:, -1]).text(3),
    ]


def rehearsal_table(result: DeblurringResult, sweeps: Sequence[int] = (1, 5, 20)) -> Table:
    """Every condition: transfer ratio, gain of the old items not rehearsed, the new pairs after.

    ``never-learned`` has no ratio: what it rehearses was never known. Its gain, that of old items,
    stands beside the others'.
    """
    sweeps = [t for t in sweeps if t <= result.config.rehearsal_sweeps]
    rows = []
    for (condition, m), rehearsal in result.rehearsals.items():
        ratios, gain = improvement_ratio(rehearsal), gains(rehearsal.unretrained)
        rows.append(
            [
                CONDITIONS[condition],
                str(m),
                *(
                    "—" if condition == "never-learned" else ratios.at(t).text()
                    for t in (sweeps[0], sweeps[-1])
                ),
                *(mean_interval(gain[:, t - 1]).text(3) for t in sweeps),
                mean_interval(rehearsal.new.bits[:, -1]).text(),
                mean_interval(rehearsal.relaxed["new"].bits[:, -1]).text(),
            ]
        )
    return Table(
        caption=(
            "Improvement of old items that are not rehearsed: as a ratio to that of the rehearsed "
            "ones, and as a gain in mean |y − d|; bits right of the new pairs after rehearsal and "
            f"after {result.config.relaxation_updates} updates of decay without learning."
        ),
        columns=(
            "condition",
            "rehearsed",
            f"ratio at {sweeps[0]}",
            f"ratio at {sweeps[-1]}",
            *(f"gain at {t}" for t in sweeps),
            "new bits",
            "new bits, relaxed",
        ),
        rows=rows,
    )


def seed_table(result: DeblurringResult, condition: Condition = "fast") -> Table:
    """Every seed, the ones that failed to learn included."""
    chosen = [r for (name, _), r in result.rehearsals.items() if name == condition]
    first = [(gains(r.unretrained)[:, 0], gains(r.retrained)[:, 0]) for r in chosen]
    _, learning, interference = result.phases
    return Table(
        caption=f"Every network ({CONDITIONS[condition]}): ratio of improvements at sweep 1.",
        columns=(
            "seed",
            "learned",
            "bits learned",
            "bits blurred",
            *(f"ratio, {r.rehearsed} rehearsed" for r in chosen),
        ),
        rows=[
            [
                str(seed),
                "yes" if result.learned[i] else "no",
                f"{learning.old.bits[i, 0]:.4f}",
                f"{interference.old.bits[i, 0]:.3f}",
                *(f"{u[i] / v[i]:.2f}" if v[i] else "—" for u, v in first),
            ]
            for i, seed in enumerate(result.seeds)
        ],
    )


def variant_table(results: Mapping[str, DeblurringResult]) -> Table:
    """Whether the outcome hangs on what the paper leaves open.

    Args:
        results: by the settings' name; each with the condition ``fast``.
    """
    first = next(iter(results.values()))
    rows = []
    for name, result in results.items():
        _, learning, interference = result.phases
        chosen = [result.rehearsals["fast", m] for m in result.config.rehearsed]
        rows.append(
            [
                name,
                f"{int(result.learned.sum())}/{len(result.seeds)}",
                f"{learning.old.bits.mean():.4f}",
                f"{interference.old.bits.mean():.2f}",
                *(improvement_ratio(r).at(1).text() for r in chosen),
                *(improvement_ratio(r).at(result.config.rehearsal_sweeps).text() for r in chosen),
                f"{chosen[0].new.bits[:, -1].mean():.2f} → "
                f"{chosen[0].relaxed['new'].bits[:, -1].mean():.2f}",
            ]
        )
    panels, last = first.config.rehearsed, first.config.rehearsal_sweeps
    return Table(
        caption=(
            "Settings the paper leaves open. How many networks learn every bit, the share of bits "
            "right after learning and after the new pairs, the transfer ratio, and the new pairs' "
            "bits after rehearsal and after the decay."
        ),
        columns=(
            "settings",
            "learned",
            "bits learned",
            "blurred",
            *(f"ratio at {t}, {m} rehearsed" for t in (1, last) for m in panels),
            "new bits",
        ),
        rows=rows,
    )

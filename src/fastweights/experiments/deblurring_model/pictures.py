"""The figures of a deblurring run, with the words that go with them."""

from __future__ import annotations

from collections.abc import Mapping

from fastweights.experiments.deblurring_model.config import CONDITIONS, Condition
from fastweights.experiments.deblurring_model.findings import improvement_ratio
from fastweights.experiments.deblurring_model.simulation import DeblurringResult, Rehearsal
from fastweights.report.deblurring_figures import (
    controls_figure,
    ratio_figure,
    rehearsal_figure,
    return_figure,
)
from fastweights.report.section import Picture
from fastweights.theory.transfer import retrained_set_ratio

__all__ = ["pictures"]


def pictures(result: DeblurringResult) -> list[Picture]:
    """All figures that the conditions in ``result`` allow."""
    total, n = result.config.associations, len(result.seeds)
    main = {
        f"{m} rehearsed, {total - m} not": result.rehearsals["fast", m]
        for m in result.config.rehearsed
        if ("fast", m) in result.rehearsals
    }
    shown = [_controls(result)]
    if main:
        shown = [_figure_2(main, n), _ratios(main, n), *shown, _return(result)]
    return shown


def _figure_2(main: Mapping[str, Rehearsal], n: int) -> Picture:
    panels = {
        title: {
            name: (score.error, score.bits)
            for name, score in (("retrained", r.retrained), ("unretrained", r.unretrained))
        }
        for title, r in main.items()
    }
    return Picture(
        name="deblurring-rehearsal",
        figure=rehearsal_figure(panels),
        alt=(
            "Mean absolute error and bits right of rehearsed and unrehearsed old associations "
            f"over the sweeps of rehearsal, {n} networks: {'; '.join(main)}."
        ),
        caption=(
            "Figure 2 of the paper, redone: some old associations are rehearsed in the fast "
            "weights (solid), the others are not (dashed). Thin lines are networks."
        ),
    )


def _ratios(main: Mapping[str, Rehearsal], n: int) -> Picture:
    curves = {title: improvement_ratio(r) for title, r in main.items()}
    theory = [retrained_set_ratio(r.rehearsed, 0.25) for r in main.values()]
    return Picture(
        name="deblurring-ratio",
        figure=ratio_figure({t: (c.ratio, c.low, c.high) for t, c in curves.items()}, theory),
        alt=(
            "Improvement of unrehearsed over that of rehearsed associations by sweep: "
            + "; ".join(f"{title}: {c.at(1).text()} at the first" for title, c in curves.items())
            + "."
        ),
        caption=(
            f"Ratio of mean improvements in |y − d| over {n} networks with its 95 % bootstrap "
            "interval. The theory is for linear networks and the first small step."
        ),
    )


def _controls(result: DeblurringResult) -> Picture:
    panels: dict[str, dict[str, object]] = {}
    for (condition, m), rehearsal in result.rehearsals.items():
        error = rehearsal.unretrained.error
        panel = panels.setdefault(f"{m} rehearsed", {})
        panel[CONDITIONS[condition]] = error[:, :1] - error
    return Picture(
        name="deblurring-controls",
        figure=controls_figure(panels),  # type: ignore[arg-type]
        alt="Error removed from old associations that are not rehearsed, by condition and sweep.",
        caption=(
            "What rehearsal gives old associations that are not rehearsed. Below zero it does "
            "harm. Bands are 95 % intervals over networks."
        ),
    )


def _return(result: DeblurringResult) -> Picture:
    m = result.config.rehearsed[0]
    chosen: tuple[Condition, ...] = ("fast", "both", "slow-only")
    panels = {}
    for condition in chosen:
        if (condition, m) in result.rehearsals:
            r = result.rehearsals[condition, m]
            during = {
                "new": r.new.bits,
                "retrained": r.retrained.bits,
                "unretrained": r.unretrained.bits,
            }
            after = {name: score.bits for name, score in r.relaxed.items()}
            panels[CONDITIONS[condition]] = (r.relaxation, during, after)
    return Picture(
        name="deblurring-return",
        figure=return_figure(panels, result.phases[2].new.bits[:, 0]),  # type: ignore[arg-type]
        alt=(
            "Bits right of the new, the rehearsed and the unrehearsed associations during "
            "rehearsal and while the fast weights decay, by condition."
        ),
        caption=(
            f"{m} old associations are rehearsed (grey), then nothing is learned and the fast "
            "weights decay. With the slow weights frozen the new associations return and the old "
            "ones blur again. Dotted: the new associations before rehearsal."
        ),
    )

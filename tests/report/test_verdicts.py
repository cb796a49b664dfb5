"""Verdicts at their bounds."""

from __future__ import annotations

import pytest

from fastweights.report.statistics import Interval
from fastweights.report.verdicts import Bound, EffectSize, beside_published


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.021, 0.2, "large"),
        (-0.02, 0.02, "none"),
        (-0.2, -0.021, "negative"),
        (-0.01, 0.05, "unclear"),
        (0.02, 0.2, "unclear"),
        (-0.021, 0.0, "unclear"),
        (None, None, "unclear"),
    ],
)
def test_size_of_an_effect(low: float | None, high: float | None, verdict: str) -> None:
    assert EffectSize().verdict(Interval(0.01, low, high, 5)) == verdict


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (Bound(at_least=0), 0.0, 1.0, "holds"),
        (Bound(at_least=0, strict=True), 0.0, 1.0, "undecided"),
        (Bound(at_least=0, strict=True), 0.1, 1.0, "holds"),
        (Bound(at_least=0, strict=True), -1.0, 0.0, "undecided"),
        (Bound(at_least=0), -1.0, -0.1, "does not hold"),
        (Bound(at_most=1.1, strict=True), 1.0, 1.1, "undecided"),
        (Bound(at_most=1.1), 1.0, 1.1, "holds"),
        (Bound(at_most=1.1), 1.2, 1.3, "does not hold"),
        (Bound(at_least=0), None, None, "undecided"),
    ],
)
def test_bounds(rule: Bound, low: float | None, high: float | None, verdict: str) -> None:
    assert rule.verdict(Interval(0.5, low, high, 5)) == verdict


@pytest.mark.parametrize(
    ("published", "verdict"),
    [(9.4, "higher error"), (9.5, "agrees"), (12.5, "agrees"), (12.6, "lower error")],
)
def test_a_published_figure_agrees_within_the_tolerance(published: float, verdict: str) -> None:
    assert beside_published("", published, [10.0, 12.0], "error", tolerance=0.5).verdict == verdict
    ours, seeds = ("11.00 [10.00, 12.00]", 2)
    row = beside_published("", published, [10.0, 12.0], "error")
    assert (row.ours, row.n) == (ours, seeds)

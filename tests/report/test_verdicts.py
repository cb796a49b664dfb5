"""What an interval says of a claim."""

from __future__ import annotations

import pytest

from fastweights.report.statistics import Interval
from fastweights.report.verdicts import Bound, EffectSize, beside_published, claim_of


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.2, 0.4, "holds"),
        (0.1, 0.5, "holds"),
        (0.05, 0.3, "undecided"),
        (0.3, 0.6, "undecided"),
        (0.0, 0.09, "does not hold"),
        (0.51, 0.9, "does not hold"),
        (None, None, "undecided"),
    ],
)
def test_a_bound_is_kept_or_not_by_the_whole_interval(
    low: float | None, high: float | None, verdict: str
) -> None:
    assert Bound(0.1, 0.5).verdict(Interval(0.3, low, high, n=5)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 0.0, "undecided"),
        (0.0, 0.2, "undecided"),
        (0.1, 0.2, "holds"),
        (-0.2, -0.1, "does not hold"),
    ],
)
def test_a_strict_bound_is_not_kept_by_a_number_on_it(
    low: float, high: float, verdict: str
) -> None:
    assert Bound(at_least=0, strict=True).verdict(Interval(0.0, low, high, n=5)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.021, 0.5, "large"),
        (0.02, 0.5, "unclear"),
        (-0.02, 0.02, "none"),
        (-0.03, 0.02, "unclear"),
        (-0.5, -0.021, "negative"),
        (None, None, "unclear"),
    ],
)
def test_the_size_of_an_effect(low: float | None, high: float | None, verdict: str) -> None:
    assert EffectSize(small=0.02).verdict(Interval(0.0, low, high, n=5)) == verdict


def test_a_row_has_the_interval_and_its_verdict() -> None:
    row = claim_of("right (≥ 50)", "qualitative", [0.5, 0.75, 1.0], Bound(at_least=0.5))
    assert (row.n, row.verdict, row.ours[:4]) == (3, "holds", "75.0")
    assert claim_of("steps", "—", [2.0], Bound(), scale=1).ours == "2.0 (n = 1)"


@pytest.mark.parametrize(
    ("published", "verdict"),
    [(0.49, "higher error"), (0.51, "agrees"), (2.49, "agrees"), (2.51, "lower error")],
)
def test_a_published_figure_may_be_missed_by_the_tolerance(published: float, verdict: str) -> None:
    row = beside_published("LSTM", published, [1.0, 2.0], "error", tolerance=0.5)
    assert row.verdict == verdict

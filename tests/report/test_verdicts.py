"""Verdicts and the rows of the ledger that they stand in."""

from __future__ import annotations

import math

import pytest

from fastweights.report.statistics import Interval
from fastweights.report.verdicts import (
    Agreement,
    Bound,
    EffectSize,
    NearlyAsMuch,
    Recovery,
    beside_published,
    claim_of,
    claim_on,
    count_claim,
)


def over(low: float | None, high: float | None) -> Interval:
    return Interval(0.3 if low is None or high is None else (low + high) / 2, low, high, n=5)


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
def test_a_bound_is_kept_where_the_interval_lies(
    low: float | None, high: float | None, verdict: str
) -> None:
    assert Bound(at_least=0.1, at_most=0.5).verdict(over(low, high)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.2, "holds"),
        (0.0, 0.2, "undecided"),
        (-0.2, 0.0, "undecided"),
        (-0.2, -0.1, "does not hold"),
    ],
)
def test_a_strict_bound_must_be_passed(low: float, high: float, verdict: str) -> None:
    assert Bound(at_least=0, strict=True).verdict(over(low, high)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.9, 1.0, "holds"),
        (0.8, 0.9, "undecided"),
        (-0.1, 0.95, "undecided"),
        (0.1, 0.89, "in kind, not in size"),
        (-0.1, 0.8, "does not hold"),
        (math.nan, math.nan, "undecided"),
        (None, None, "undecided"),
    ],
)
def test_nearly_as_much(low: float | None, high: float | None, verdict: str) -> None:
    assert NearlyAsMuch(0.9).verdict(over(low, high)) == verdict


@pytest.mark.parametrize(
    ("low", "verdict"),
    [(0.9, "returns"), (0.1, "returns in part"), (0.0, "lost"), (None, "undecided")],
)
def test_recovery_goes_by_the_lower_end(low: float | None, verdict: str) -> None:
    assert Recovery(0.9).verdict(over(low, None if low is None else 1.0)) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.4, 0.6, "agrees"),
        (0.5, 0.5, "agrees"),
        (0.51, 0.6, "above theory"),
        (0.4, 0.49, "below theory"),
        (None, None, "below theory"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_agreement(low: float | None, high: float | None, verdict: str) -> None:
    assert Agreement(0.5).verdict(over(low, high)) == verdict


def test_a_published_figure_may_be_missed_by_the_tolerance() -> None:
    assert beside_published("a", 10.0, [10.4, 10.4], "error").verdict == "agrees"
    assert beside_published("a", 10.0, [10.6, 10.6], "error").verdict == "higher error"
    row = beside_published("a", 10.0, [9.4], "accuracy")
    assert (row.published, row.ours, row.verdict) == ("10", "9.40 (n = 1)", "lower accuracy")


def test_row_of_the_ledger_has_the_interval_and_its_verdict() -> None:
    row = claim_of("right (≥ 50)", "qualitative", [0.5, 0.75, 1.0], Bound(at_least=0.5))
    assert (row.n, row.verdict, row.ours[:4]) == (3, "holds", "75.0")
    assert claim_of("steps", "—", [2.0], Bound(), scale=1).ours == "2.0 (n = 1)"
    row = claim_on("ratio", "—", Interval(0.5, 0.4, 0.6, n=9), Bound(at_least=0.7), digits=1)
    assert (row.n, row.verdict, row.ours) == (9, "does not hold", "0.5 [0.4, 0.6]")


def test_a_claim_about_every_network_counts_those_that_keep_it() -> None:
    assert count_claim("all", "—", [True, True]).verdict == "holds"
    row = count_claim("all", "—", [True, False, False])
    assert (row.ours, row.n, row.verdict) == ("1 of 3", 3, "holds for 1 of 3")


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
    assert EffectSize(small=0.02).verdict(over(low, high)) == verdict

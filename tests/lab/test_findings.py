"""Rows of the ledger from results."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from fastweights.lab.experiment import Result, Unit
from fastweights.lab.findings import Contrast, Measured, Published
from fastweights.report.verdicts import Bound


def runs(arm: str, *numbers: float | None, width: int = 50, **more: Any) -> list[Result]:
    """A run for each number, seed by seed; None for one that failed."""
    return [
        Result(
            Unit(f"{arm}-{width}-{seed}", arm, arm, seed, {"width": width}),
            None if number is None else {"score": number, **more},
            None if number is None else "failed",
        )
        for seed, number in enumerate(numbers)
    ]


def test_a_contrast_is_taken_seed_by_seed_with_these_options() -> None:
    ours = [*runs("ours", 0.9, 0.8, 0.7), *runs("ours", 0.1, 0.1, width=20)]
    results = [*ours, *runs("theirs", 0.5, None, 0.4), *runs("theirs", 0.2, width=20)]
    contrast = Contrast("more", "ours", "theirs", "score", scale=100)
    row = contrast.row(results, width=50)
    assert row is not None
    assert (row.ours, row.n, row.verdict) == ("35.0 [30.0, 40.0]", 2, "holds")
    narrow = contrast.interval(results, width=20)
    assert narrow is not None
    assert narrow.mean == pytest.approx(-0.1)
    assert contrast.row(results, width=10) is None


def test_a_contrast_of_costs_is_a_ratio() -> None:
    results = [*runs("ours", 2.0, 3.0), *runs("theirs", 1.0, 2.0)]
    cost = Contrast(
        "no dearer", "ours", "theirs", "score", Bound(at_most=1.1), compare=operator.truediv
    )
    row = cost.row(results)
    assert row is not None
    assert (row.ours, row.verdict) == ("1.8 [1.5, 2.0]", "does not hold")


def test_a_number_of_an_arm_is_judged_over_the_seeds_that_have_it() -> None:
    results = [*runs("ours", 0.5, None, 0.7), *runs("theirs", -1.0)]
    measured = Measured("high", "ours", "score", scale=100, digits=0)
    row = measured.row(results, width=50)
    assert row is not None
    assert (row.published, row.ours, row.n, row.verdict) == ("—", "60 [50, 70]", 2, "holds")
    some = Measured("high", "ours", lambda v: v["score"] if v["score"] > 0.6 else None)
    row = some.row(results)
    assert row is not None
    assert (row.ours, row.n, row.verdict) == ("0.7 (n = 1)", 1, "undecided")
    assert Measured("high", "ours", lambda v: None).row(results) is None
    assert measured.row(results, width=20) is None


def test_a_published_figure_holds_for_the_options_it_was_published_for() -> None:
    results = [*runs("ours", 90.0, 92.0), *runs("ours", 40.0, width=20)]
    published = Published("right", "ours", 91.2, "score", "accuracy", where={"width": 50})
    row = published.row(results, width=50)
    assert row is not None
    assert (row.published, row.n, row.verdict) == ("91.2", 2, "agrees")
    assert published.row(results, width=20) is None
    anywhere = Published("right", "ours", 91.2, "score", "accuracy")
    row = anywhere.row(results, width=20)
    assert row is not None
    assert row.verdict == "lower accuracy"
    assert Published("right", "theirs", 1.0, "score", "accuracy").row(results) is None

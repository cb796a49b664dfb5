"""Intervals over seeds, at the edges too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastweights.report.statistics import (
    Interval,
    mean_interval,
    mean_intervals,
    ratio_intervals,
)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([0.25]) == Interval(0.25, None, None, 1)
    assert mean_interval([0.25]).text() == "0.25 (n = 1)"


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([0.1, 0.1, 0.1]) == Interval(0.1, 0.1, 0.1, 3)


def test_two_values() -> None:
    interval = mean_interval([0.0, 1.0])
    assert interval == Interval(0.5, 0.0, 1.0, 2)


def test_interval_is_near_the_normal_one_for_many_values() -> None:
    sample = np.random.default_rng(3).normal(size=400)
    interval = mean_interval(list(sample))
    half = 1.96 * sample.std() / math.sqrt(sample.size)
    assert interval.low == pytest.approx(sample.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(sample.mean() + half, abs=0.01)


@pytest.mark.parametrize(("n", "share"), [(3, 0.76), (30, 0.93)])
def test_the_interval_covers_the_truth_as_often_as_the_docstring_says(n: int, share: float) -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        interval = mean_interval(list(generator.normal(size=n)))
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0 <= interval.high
    assert covered / 400 == pytest.approx(share, abs=0.04)


def test_the_same_numbers_every_time() -> None:
    values = [0.3, 0.1, 0.7, 0.4]
    assert mean_interval(values) == mean_interval(values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12))
def test_the_mean_lies_in_its_interval(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval.n == len(values)
    if interval.low is not None and interval.high is not None:
        slack = 1e-9 * max(abs(v) for v in values)
        assert min(values) - slack <= interval.low <= interval.mean + slack
        assert interval.mean - slack <= interval.high <= max(values) + slack


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values must be finite numbers, at least one"):
        mean_interval(values)


def test_text() -> None:
    assert Interval(0.9998, 0.9997, 1.0, 5).text(scale=100) == "99.98 [99.97, 100.00]"
    assert Interval(1.5, 1.25, 1.75, 3).text(digits=1) == "1.5 [1.2, 1.8]"


def test_many_at_once_are_each_as_alone() -> None:
    rows = np.random.default_rng(3).normal(size=(4, 7))
    rows[2] = 0.1
    assert mean_intervals(rows) == [mean_interval(row) for row in rows]
    assert mean_intervals(rows[:, :1])[0] == mean_interval(rows[0, :1])
    with pytest.raises(ValueError, match="a row for each interval"):
        mean_intervals(rows[0])


def test_ratio_is_of_the_means_and_its_interval_of_paired_seeds() -> None:
    rng = np.random.default_rng(0)
    below = rng.uniform(1, 2, 40)
    above = below * rng.normal(0.8, 0.05, 40)
    (ratio,) = ratio_intervals([above], [below])
    assert ratio.mean == pytest.approx(above.mean() / below.mean())
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.mean < ratio.high
    # Paired, the spread is that of the ratios, not that of the means.
    assert ratio.high - ratio.low < 0.06
    assert ratio_intervals([above], [below]) == [ratio]


def test_ratios_row_by_row() -> None:
    u, v = [[1.0, 3.0], [1.0, 1.0], [0.0, 0.0]], [[2.0, 2.0], [0.5, 0.5], [0.0, 0.0]]
    some, same, none = ratio_intervals(u, v)
    assert (some.mean, same, none.n) == (1.0, Interval(2.0, 2.0, 2.0, 2), 2)
    assert some == ratio_intervals(u[:1], v[:1])[0]
    assert np.isnan([none.mean, none.low, none.high]).all()  # 0 / 0
    assert ratio_intervals([[1.0]], [[2.0]]) == [Interval(0.5, None, None, 1)]

"""Verdicts, curves and seeds that three experiments share."""

from __future__ import annotations

import numpy as np
import pytest

from fastweights.experiments.other_uses.shared import (
    draw_curve,
    finished,
    judge,
    ledger_row,
    one_unit,
    use_one_core,
)
from fastweights.lab.experiment import Result
from fastweights.report.figures import new_figure
from fastweights.report.statistics import Interval, mean_interval
from fastweights.training.config import ConfigError


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
def test_verdict_is_where_the_interval_lies(
    low: float | None, high: float | None, verdict: str
) -> None:
    assert judge(Interval(0.3, low, high, n=5), at_least=0.1, at_most=0.5) == verdict


def test_row_of_the_ledger_has_the_interval_and_its_verdict() -> None:
    row = ledger_row("right (≥ 50)", "qualitative", [0.5, 0.75, 1.0], at_least=0.5)
    assert (row.n, row.verdict, row.ours[:4]) == (3, "holds", "75.0")
    assert ledger_row("steps", "—", [2.0], scale=1).ours == "2.0 (n = 1)"


def test_one_unit_holds_every_seed() -> None:
    (unit,) = one_unit("binding", 100, 3)
    assert unit.options["seeds"] == [100, 101, 102]
    with pytest.raises(ConfigError, match="first_seed must be at least 0, got -1"):
        one_unit("binding", -1, 3)
    with pytest.raises(ConfigError, match="seeds must be at least 1, got 0"):
        one_unit("binding", 0, 0)


def test_finished_skips_what_failed() -> None:
    (unit,) = one_unit("binding", 0, 1)
    assert finished([Result(unit, None, "died")]) is None
    assert finished([Result(unit, {"a": 1})]) == {"a": 1}


def test_curve_shows_the_mean_and_its_interval() -> None:
    axes = new_figure().add_subplot()
    values = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    draw_curve(axes, [5, 6], values, "black", label="a")
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[5, 2], [6, 1]])
    band = axes.collections[0].get_paths()[0].vertices
    interval = mean_interval(values[:, 0])
    assert {interval.low, interval.high} <= set(band[:, 1].tolist())


def test_curve_of_one_seed_has_no_band() -> None:
    axes = new_figure().add_subplot()
    draw_curve(axes, [5, 6], [[1.0, 2.0]], "black")
    assert not axes.collections


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="run on the cpu, got device 'cuda'"):
        use_one_core("cuda")

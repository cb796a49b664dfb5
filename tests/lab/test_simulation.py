"""What experiments that simulate share: units, sections, and theory read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.lab.experiment import Result
from fastweights.lab.simulation import (
    Simulation,
    Theory,
    draw_series,
    published_claims,
    statement_table,
    use_one_core,
)
from fastweights.report.figures import new_figure
from fastweights.report.section import Claim, Picture, Table
from fastweights.report.verdicts import Bound, claim_of
from fastweights.theory.estimates import Estimate, Finding, Series
from fastweights.training.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Dice:
    first_seed: int = 7
    sides: int = 6


class Throws(Simulation):
    name, title, summary = "throws", "Throws", "How high does a die fall?"
    presets, seeds = {"quick": Dice}, {"quick": 3}

    def check(self, config: Dice) -> None:
        if config.sides < 2:
            raise ConfigError(f"sides must be at least 2, got {config.sides}")

    def simulate(self, config: Dice, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
        sides = 20 if arm == "twenty sides" else config.sides
        thrown = [np.random.default_rng(seed).integers(1, sides + 1, 50) for seed in seeds]
        return {"mean": [float(values.mean()) for values in thrown]}

    def intro(self, config: Dice) -> str:
        return f"A die with {config.sides} sides."

    def claims(self, config: Dice, found: Mapping[str, Any]) -> list[Claim]:
        return [claim_of("above one", "—", found["mean"], Bound(at_least=1), scale=1)]

    def tables(self, config: Dice, found: Mapping[str, Any]) -> list[Table]:
        return [Table("Means.", ("mean",), [[f"{mean}"] for mean in found["mean"]])]

    def pictures(self, config: Dice, found: Mapping[str, Any]) -> list[Picture]:
        return []


class TwoDice(Throws):
    arms, what = ("as it is", "twenty sides"), "throwers"

    def read(self, values: Mapping[str, Any]) -> Any:
        return values.get("twenty sides")


def results_of(experiment: Simulation) -> list[Result]:
    return [
        Result(unit, experiment.run(Dice(), unit, Path(), "cpu", None))
        for unit in experiment.units(Dice(), 3)
    ]


def test_one_unit_holds_every_seed() -> None:
    (unit,) = Throws().units(Dice(), 3)
    assert (unit.name, unit.label, unit.arm, unit.seed) == ("throws", "3 seeds", "throws", None)
    assert unit.options["seeds"] == [7, 8, 9]


def test_arms_have_a_unit_each() -> None:
    first, second = TwoDice().units(Dice(), 3)
    assert (first.name, first.label) == ("as-it-is", "3 throwers, as it is")
    assert (second.name, second.arm) == ("twenty-sides", "twenty sides")
    assert first.options == second.options


def test_impossible_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match="first_seed must be at least 0, got -1"):
        Throws().units(Dice(first_seed=-1), 3)
    with pytest.raises(ConfigError, match="seeds must be at least 1, got 0"):
        Throws().units(Dice(), 0)
    with pytest.raises(ConfigError, match="sides must be at least 2"):
        Throws().units(Dice(sides=1), 3)
    (unit,) = Throws().units(Dice(), 1)
    with pytest.raises(ValueError, match="run on the cpu, got device 'cuda'"):
        Throws().run(Dice(), unit, Path(), "cuda", None)


def test_one_core_is_used() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        use_one_core("cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_section_shows_what_finished_and_is_empty_without() -> None:
    (result,) = results_of(Throws())
    section = Throws().section(Dice(), [result], Path())
    assert section.claims[0].verdict == "holds"
    assert [row[0] for row in section.tables[0].rows] == [str(m) for m in result.values["mean"]]
    failed = Throws().section(Dice(), [Result(result.unit, None, "died")], Path())
    assert (failed.title, failed.intro) == (section.title, section.intro)
    assert [*failed.claims, *failed.tables, *failed.pictures] == []


def test_section_needs_the_arm_that_is_read() -> None:
    first, second = results_of(TwoDice())
    assert TwoDice().section(Dice(), [second], Path()).claims
    assert not TwoDice().section(Dice(), [first], Path()).claims


FINDINGS = [
    Finding.of("published and right", ".5", 0.5, Estimate(0.51, 0.01, 9)),
    Finding.of("ours and wrong", "—", 0.9, Estimate(0.51, 0.01, 9)),
    Finding.of_decline("falls", "diminishes", 0.1, Estimate(0.5, 0.01, 9), Estimate(0.1, 0.01, 9)),
]
CURVES = {"a": Series((1.0, 2.0), (Estimate(0.5, 0.1, 9), Estimate(0.6, 0.1, 9)), (0.5, 0.6))}


def test_theory_survives_json() -> None:
    given: list[tuple[int, float]] = []
    theory = Theory(
        lambda *how: given.append(how) or FINDINGS, lambda *how: given.append(how) or CURVES
    )
    results = [
        Result(unit, json.loads(json.dumps(theory.run(unit, 3, 0.5)))) for unit in theory.units()
    ]
    assert given == [(3, 0.5)] * 2
    assert theory.read(results) == (FINDINGS, CURVES)
    assert theory.read(results[:1]) == (FINDINGS, {})
    assert theory.read([Result(results[0].unit, None, "died"), results[1]]) == ([], CURVES)


def test_findings_are_claims_if_published_and_rows_in_any_case() -> None:
    assert [(c.claim, c.verdict) for c in published_claims(FINDINGS)] == [
        ("published and right", "confirmed"),
        ("falls", "confirmed"),
    ]
    rows = statement_table(FINDINGS, "Every one.", digits=2).rows
    assert rows[1] == ["ours and wrong", "0.90", "0.51 [0.48, 0.54]", "rejected"]


@pytest.mark.parametrize(
    ("start", "end", "verdict"),
    [(0.5, 0.1, "confirmed"), (0.5, 0.49, "undecided"), (0.1, 0.5, "rejected")],
)
def test_a_decline_needs_three_standard_errors_of_both(
    start: float, end: float, verdict: str
) -> None:
    at = (Estimate(value, 0.01, 9) for value in (start, end))
    assert Finding.of_decline("falls", "—", 0.1, *at).verdict == verdict


def test_points_have_three_standard_errors_and_may_be_moved() -> None:
    axes = new_figure().add_subplot()
    draw_series(axes, CURVES["a"], "black", "o", "a", up=1, right=2)
    points, _, (bars,) = axes.containers[0]
    np.testing.assert_allclose(points.get_xydata(), [[3, 1.5], [4, 1.6]])
    np.testing.assert_allclose(bars.get_segments()[0], [[3, 1.2], [3, 1.8]])

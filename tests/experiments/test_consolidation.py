"""The experiment on write rate and decay: its arms, its claims and what it makes of runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fastweights.decay import PowerLaw
from fastweights.experiments.associative_retrieval import RetrievalConfig
from fastweights.experiments.consolidation import ARMS, PUBLISHED_ACCURACIES, Consolidation
from fastweights.lab.experiment import Result
from fastweights.nn import FastWeightsRNN

EXPERIMENT = Consolidation()


def test_decays_and_write_rates_are_crossed() -> None:
    config = RetrievalConfig(write_rate=0.03)
    layers = {name: arm.build(config, 37, 8) for name, arm in ARMS.items() if "-" in name}
    fw2 = layers["power-law-1"]
    assert isinstance(fw2, FastWeightsRNN)
    assert isinstance(fw2.decay, PowerLaw)
    assert fw2.write_rate == 1.0
    fw = layers["exponential-0.5"]
    assert isinstance(fw, FastWeightsRNN)
    torch.testing.assert_close(fw.decay(torch.arange(3)), torch.tensor([1, 0.95, 0.9025]))
    assert layers["factorial-rule"].write_rate == 0.03
    by_rule = ARMS["exponential-rule"].build(RetrievalConfig(num_pairs=26), 37, 8)
    # T = 55: 1 / Σ 0.95^k
    assert by_rule.write_rate == pytest.approx(0.05 / (1 - 0.95**55), rel=1e-6)
    crossed = {name.rsplit("-", 1)[0] for name in layers} - {"layer-norm"}
    assert crossed == {"exponential", "power-law", "factorial", "step-indexed"}


def runs(config: RetrievalConfig, **cells: list[tuple[float, int]]) -> list[Result]:
    """Runs by arm: test accuracy, and updates to 90 % (0: never)."""
    units = {u.name: u for u in EXPERIMENT.units(config, 3)}
    results = []
    for arm, values in cells.items():
        for seed, (accuracy, updates) in enumerate(values):
            curve = [{"update": 100, "validation_accuracy": 0.2}]
            if updates:
                curve.append({"update": updates, "validation_accuracy": 0.95})
            found: dict[str, Any] = {
                "validation_accuracy": accuracy,
                "test_accuracy": accuracy,
                "curve": curve,
                "learning_rate": 0.1,
                "weight_decay": 0.0,
                "layer_parameters": 10,
                "parameters": 20,
                "seconds": 1.0 if arm.startswith("power") else 2.0,
            }
            results.append(Result(units[f"{arm}-r50-seed{seed}"], found))
    return results


@pytest.fixture
def config() -> RetrievalConfig:
    return dataclasses.replace(EXPERIMENT.presets["k26"](), arms=("power-law-1", "exponential-0.5"))


def told(config: RetrievalConfig, results: list[Result]) -> list[str]:
    return [c.verdict for c in EXPERIMENT.section(config, results, Path()).claims]


def test_claims_that_hold(config: RetrievalConfig) -> None:
    cells = {
        "power-law-1": [(0.999, 200), (1.0, 300), (0.998, 300)],
        "exponential-0.5": [(0.94, 400), (0.95, 500), (0.955, 600)],
    }
    results = runs(config, **cells)
    assert told(config, results) == ["agrees", "agrees", "holds", "holds", "holds"]
    cost = EXPERIMENT.section(config, results, Path()).claims[-1]
    assert (cost.published, cost.ours, cost.n) == ("1", "0.50 [0.50, 0.50]", 3)


def test_claims_that_do_not_hold(config: RetrievalConfig) -> None:
    cells = {
        "power-law-1": [(0.80, 900), (0.81, 900), (0.82, 900)],
        "exponential-0.5": [(0.99, 400), (0.99, 500), (0.99, 600)],
    }
    results = runs(config, **cells)
    for result in results:
        assert result.values is not None
        result.values["seconds"] = 3.0 if result.unit.arm == "power-law-1" else 1.0
    assert told(config, results) == [
        "lower accuracy",
        "higher accuracy",
        "does not hold",
        "does not hold",
        "does not hold",
    ]


def test_a_cost_that_varies_around_the_limit_is_undecided(config: RetrievalConfig) -> None:
    cells = {"power-law-1": [(0.9, 400)] * 3, "exponential-0.5": [(0.9, 400)] * 3}
    results = runs(config, **cells)
    for number, result in enumerate(results):
        assert result.values is not None
        result.values["seconds"] = 1.0 + number % 3 if result.unit.arm == "power-law-1" else 1.0
    assert told(config, results)[-1] == "undecided"


def test_a_seed_that_never_arrives_leaves_the_speed_undecided(config: RetrievalConfig) -> None:
    cells = {
        "power-law-1": [(0.9, 200), (0.9, 300), (0.2, 0)],
        "exponential-0.5": [(0.9, 400), (0.9, 500), (0.9, 600)],
    }
    claims = EXPERIMENT.section(config, runs(config, **cells), Path()).claims
    speed = next(c for c in claims if "faster" in c.claim)
    assert (speed.ours, speed.verdict) == (
        "250 (2 of 3 seeds) and 500 (3 of 3 seeds)",
        "undecided",
    )


def test_nothing_is_claimed_without_runs(config: RetrievalConfig) -> None:
    results = [Result(unit, None, "killed") for unit in EXPERIMENT.units(config, 2)]
    section = EXPERIMENT.section(config, results, Path())
    assert not section.claims
    assert [row[-2] for row in section.tables[2].rows] == ["killed"] * 4


def test_published_cells_are_arms() -> None:
    assert {arm for arm, _ in PUBLISHED_ACCURACIES} <= set(ARMS)
    assert {k for _, k in PUBLISHED_ACCURACIES} == {
        preset().num_pairs for preset in EXPERIMENT.presets.values()
    }


def test_pictures(config: RetrievalConfig) -> None:
    results = runs(config, **{"power-law-1": [(0.9, 200)], "exponential-0.5": [(0.8, 0)]})
    names = [p.name for p in EXPERIMENT.section(config, results, Path()).pictures]
    assert names == [
        "consolidation-accuracy-k26-r50",
        "consolidation-k26-r50",
        "consolidation-decays",
    ]

"""What the studies of associative retrieval share, and the first of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fastweights.experiments.associative_retrieval import (
    FAST_WEIGHTS,
    RetrievalConfig,
    RetrievalStudy,
    build_network,
    fast_weights,
    schedule_of,
    state_size,
)
from fastweights.experiments.consolidation import Consolidation
from fastweights.experiments.controls import Controls
from fastweights.experiments.read_timing import ReadTiming
from fastweights.experiments.retrieval import ARMS, Retrieval
from fastweights.lab.experiment import Result
from fastweights.training.config import ConfigError

CONFIG = RetrievalConfig()
STUDIES = (Retrieval(), Controls(), Consolidation(), ReadTiming())


@pytest.mark.parametrize(
    ("study", "arm"),
    [pytest.param(study, arm, id=f"{study.name}-{arm}") for study in STUDIES for arm in study.arms],
)
def test_every_parameter_of_every_network_is_trained(study: RetrievalStudy, arm: str) -> None:
    torch.manual_seed(0)
    model = build_network(dataclasses.replace(CONFIG, head_size=20), study.arms[arm], 10)
    tokens, targets = torch.randint(37, (64, 11)), torch.randint(10, (64,))
    loss = F.cross_entropy(model(tokens), targets)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.05 * parameter.grad
        assert F.cross_entropy(model(tokens), targets) < loss


def test_options_of_the_layer_override_the_configuration() -> None:
    layer = fast_weights(write_rate=1.0, decay=0.5)(CONFIG, 37, 10)
    assert layer.write_rate == 1.0
    assert float(layer.decay(torch.tensor(1))) == 0.5


def test_initial_weights_are_scaled_as_the_configuration_or_the_arm_says() -> None:
    def weights(scale: float | None = None, **settings: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        build = fast_weights(input_scale=scale)
        return dict(build(RetrievalConfig(**settings), 37, 10).named_parameters())

    plain, key = weights(), "weight_ih_l0"
    torch.testing.assert_close(weights(input_scale=2.0)[key], 2 * plain[key])
    torch.testing.assert_close(weights(3.0, input_scale=2.0)[key], 3 * plain[key])
    recurrent = weights(recurrent_scale=0.4)["weight_hh_l0"]
    torch.testing.assert_close(recurrent, 2 * plain["weight_hh_l0"])


def test_what_the_configuration_leaves_open_is_the_arms() -> None:
    own = schedule_of(CONFIG, FAST_WEIGHTS, 50)
    assert (own.learning_rate, own.weight_decay, own.shape) == (5e-3, 0.1, "cosine")
    config = RetrievalConfig(learning_rate=0.5, weight_decay=0.0, schedule="linear")
    given = schedule_of(config, FAST_WEIGHTS, 50)
    assert (given.learning_rate, given.weight_decay, given.shape) == (0.5, 0.0, "linear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("identity-2",)}, "identity-1"),
        ({"hidden_sizes": (20, 50, 20)}, "hidden_sizes must not repeat itself"),
        ({"batch_size": 65, "train_size": 64}, "batch_size must be at most train_size = 64"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Controls().units(dataclasses.replace(Controls.presets["quick"](), **changes), 1)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_presets_can_run(study: RetrievalStudy) -> None:
    assert study.presets.keys() == study.seeds.keys()
    for name, preset in study.presets.items():
        config = preset()
        units = study.units(config, study.seeds[name])
        assert len(units) == len(config.arms) * len(config.hidden_sizes) * study.seeds[name]
        assert units[0].note == f"ceiling {100 * config.ceiling:.1f} %"


def test_numbers_that_a_layer_carries() -> None:
    """Of eleven tokens: eleven vectors that were written, and h."""
    arms = Controls.arms
    sizes = {name: state_size(CONFIG, arm, 20) for name, arm in arms.items()}
    assert sizes["fast-weights"] == sizes["others-memory"] == 12 * 20
    assert sizes["lstm-state"] == sizes["gru-state"] == 12 * 20
    assert sizes["lstm"] == 2 * 20
    assert sizes["layer-norm-rnn"] == sizes["gru"] == 20
    before = torch.random.get_rng_state()
    assert state_size(dataclasses.replace(CONFIG, num_pairs=26), arms["fast-weights"], 10) == 560
    assert torch.equal(torch.random.get_rng_state(), before)


def results_of(config: RetrievalConfig, **reached: list[int | None]) -> list[Result]:
    """Runs by arm, a seed for each update at which all is right; None for one that failed."""
    units = {unit.name: unit for unit in Retrieval().units(config, 3)}
    found = []
    for arm, seeds in reached.items():
        for seed, update in enumerate(seeds):
            unit = units[f"{arm.replace('_', '-')}-r{config.hidden_sizes[0]}-seed{seed}"]
            start = {"update": 1, "validation_accuracy": 0.5}
            values: dict[str, Any] = {
                "validation_accuracy": 0.98,
                "test_accuracy": 0.97,
                "curve": [start, {"update": update, "validation_accuracy": 0.98}],
                "learning_rate": 0.005,
                "weight_decay": 0.1,
                "layer_parameters": 1234,
                "parameters": 5678,
                "seconds": 1.25,
                "updates": 10,
            }
            if update is None:
                found.append(Result(unit, None, "killed", [start]))
            else:
                found.append(Result(unit, values))
    return found


def test_the_tables_of_results_networks_and_runs() -> None:
    results = results_of(CONFIG, fast_weights=[4, 6, 5], identity=[None], lstm=[1000, None])
    section = Retrieval().section(CONFIG, results, Path())
    assert section.title == "Associative retrieval, K = 4"
    outcome, networks, runs, beside = section.tables
    assert outcome.columns[:4] == ("network", "R", "seeds", "accuracy %")
    assert outcome.columns[4:] == ("to 50 %", "to 90 %", "to 99 %")
    assert [list(row) for row in outcome.rows] == [
        ["fast weights", "50", "3/3", "97.00 [97.00, 97.00]", "1", "5", "never"],
        ["identity (A = I)", "50", "0/1", "failed", "–", "–", "–"],
        ["layer-norm RNN", "50", "0/0", "failed", "–", "–", "–"],
        ["LSTM", "50", "1/2", "97.00 (n = 1)", "1", "1,000", "never"],
    ]
    sizes = ["0.005", "0.1", "1,234", "5,678"]
    assert [list(row) for row in networks.rows] == [
        ["fast weights", "50", *sizes, "600", "1.2"],
        ["LSTM", "50", *sizes, "100", "1.2"],
    ]
    assert list(runs.rows[0]) == ["fast weights, R = 50", "0", "98.00", "97.000", "1.2"]
    assert list(runs.rows[3]) == ["identity (A = I), R = 50", "0", "failed", "killed", "–"]
    assert [row[0] for row in beside.rows] == ["LSTM"]


def test_updates_that_only_some_seeds_need() -> None:
    results = results_of(CONFIG, lstm=[4, 6])
    assert results[0].values is not None
    results[0].values["curve"][1]["validation_accuracy"] = 0.6
    rows = Retrieval().section(CONFIG, results, Path()).tables[0].rows
    assert list(rows[3])[4:] == ["1", "–", "never"]


def test_published_errors_stand_beside_those_of_the_same_network_and_task() -> None:
    config = dataclasses.replace(CONFIG, hidden_sizes=(20, 50), arms=("lstm", "gru", "irnn"))
    results = results_of(config, lstm=[4, 6], gru=[4], irnn=[None])
    claims = Retrieval().section(config, results, Path()).claims
    assert [dataclasses.astuple(claim) for claim in claims] == [
        ("LSTM, R = 20: test error in per cent", "60.81", "3.00 [3.00, 3.00]", 2, "lower error")
    ]
    wide = results_of(dataclasses.replace(config, hidden_sizes=(50,)), lstm=[4])
    (claim,) = Retrieval().section(config, wide, Path()).claims
    assert (claim.published, claim.ours, claim.verdict) == ("1.85", "3.00 (n = 1)", "higher error")
    other = dataclasses.replace(config, num_pairs=8)
    assert not Retrieval().section(other, results, Path()).claims


def test_a_curve_for_every_seed_and_a_cross_where_it_stopped() -> None:
    results = results_of(CONFIG, fast_weights=[4, 6], lstm=[None])
    (picture,) = Retrieval().section(CONFIG, results, Path()).pictures
    assert picture.name == "retrieval-k4-r50"
    *lines, level = picture.figure.axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[1, 4], [1, 6], [1]]
    assert [line.get_marker() for line in lines] == ["", "", "x"]
    assert level.get_ydata()[0] == pytest.approx(100 * CONFIG.ceiling)
    assert ARMS["lstm"].label in picture.alt

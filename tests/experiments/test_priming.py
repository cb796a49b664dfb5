"""The priming experiment: what is measured is what is said, and controls can refute it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.experiments.priming import PrimingStudy
from fastweights.experiments.priming_networks import (
    ARMS,
    PrimingConfig,
    Recogniser,
    benefit,
    measure,
    swapped,
    wiped,
)
from fastweights.lab.experiment import Result
from fastweights.lab.registry import find
from fastweights.nn import FastWeightsState
from fastweights.training.config import ConfigError

CONFIG = PrimingConfig(
    arms=("fast-weights", "layer-norm-rnn", "no-repeats"),
    hidden_size=12,
    length=5,
    between=(0, 2),
    fixed_between=2,
    train_size=300,
    validation_size=100,
    test_size=100,
    updates=4,
    evaluate_every=2,
    trials=200,
)
STUDY = PrimingStudy()


def recogniser(arm: str = "fast-weights") -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(ARMS[arm].build(CONFIG), CONFIG.bits, CONFIG.words)


@pytest.fixture
def patterns() -> torch.Tensor:
    return CONFIG.task(0.5).split(0, "validation").inputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def results(runs: Path) -> list[Result]:
    found = []
    for unit in STUDY.units(CONFIG, 2):
        home = runs / unit.name
        home.mkdir()
        found.append(Result(unit, STUDY.run(CONFIG, unit, home, "cpu", None)))
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_of_a_network_is_trained(arm: str) -> None:
    model, split = recogniser(arm), CONFIG.task(0.5).split(0, "validation")
    torch.nn.functional.cross_entropy(model(split.inputs), split.targets).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_a_state_left_alone_changes_nothing(patterns: torch.Tensor) -> None:
    model = recogniser()
    torch.testing.assert_close(model.with_memory(patterns, lambda state: state), model(patterns))


def test_without_memory_only_the_units_remember(patterns: torch.Tensor) -> None:
    model = recogniser()
    x = model.present(patterns)
    _, state = model.layer(x[:-1])
    alone = FastWeightsState(hidden=state.hidden, steps=state.steps)
    expected = model.readout(model.layer(x[-1:], alone)[0][-1])
    torch.testing.assert_close(model.with_memory(patterns, wiped), expected)
    assert not torch.allclose(expected, model(patterns))


def test_a_swapped_memory_is_the_neighbours_own(patterns: torch.Tensor) -> None:
    model = recogniser()
    x = model.present(patterns)
    _, state = model.layer(x[:-1])
    assert state.history is not None
    lent = dataclasses.replace(state[1:2], history=state[0:1].history)
    expected = model.readout(model.layer(x[-1:, 1:2], lent)[0][-1])
    torch.testing.assert_close(model.with_memory(patterns, swapped)[1:2], expected)


class Copier(Recogniser):
    """Recognises a word if and only if its pattern occurred before without noise."""

    def forward(self, patterns: torch.Tensor) -> torch.Tensor:
        known = CONFIG.task(0.5).vocabulary(0)
        clean = patterns[:, :-1, None] == known
        return clean.any(1).double() / (1 + torch.arange(len(known)))


def test_curves_are_of_the_conditions_they_name() -> None:
    model = Copier(ARMS["lstm"].build(CONFIG), CONFIG.bits, CONFIG.words)
    config = dataclasses.replace(CONFIG, noises=(0.5,))  # fillers show nothing
    found = measure(model, config, 0)["network"]["delay"]
    assert found["primed, clean"] == [1, 1]
    assert max(found["unprimed, clean"]) < 0.01  # it answers with the other word
    assert max(found["primed, noisy"]) < 0.05
    assert min(found["intrusion"]) > 0.95
    assert set(measure(model, config, 0)) == {"network", "ideal"}


def test_a_run_that_goes_on_measures_the_network_it_had_trained(
    results: list[Result], runs: Path
) -> None:
    first = results[0]
    assert first.values is not None
    again = STUDY.run(CONFIG, first.unit, runs / first.unit.name, "cpu", None)
    assert {**again, "seconds": 0} == {**first.values, "seconds": 0}


def test_networks_without_repeats_are_measured_on_the_same_probes(results: list[Result]) -> None:
    ideal = {str(r.values["ideal"]) for r in results if r.values is not None and r.unit.seed == 300}
    assert len(ideal) == 1


def with_benefit(results: list[Result], gains: dict[str, float]) -> list[Result]:
    """The same runs, with this much gained by priming, by arm or observer."""
    changed = []
    for result in results:
        values: dict[str, Any] = copy.deepcopy(result.values or {})
        for observer in ("network", "wiped", "swapped"):
            key = result.unit.arm if observer == "network" else observer
            for curve in values.get(observer, {}).values():
                for kind in ("clean", "noisy"):
                    base = np.linspace(0.8, 0.2, len(curve["primed, clean"]))
                    curve[f"unprimed, {kind}"] = list(base)
                    curve[f"primed, {kind}"] = list(base + gains.get(key, 0.0))
        changed.append(Result(result.unit, values))
    return changed


def verdicts(results: list[Result]) -> list[str]:
    return [claim.verdict for claim in STUDY.section(CONFIG, results, Path()).claims]


def test_verdicts_of_the_effect(results: list[Result]) -> None:
    assert verdicts(with_benefit(results, {"fast-weights": 0.1})) == [
        *["holds"] * 6,
        "does not hold",
    ]


def test_what_would_refute_it(results: list[Result]) -> None:
    assert verdicts(with_benefit(results, {"no-repeats": 0.1})) == [
        *["does not hold"] * 3,
        *["holds"] * 4,
    ]
    everywhere = {"fast-weights": 0.1, "wiped": 0.1, "swapped": 0.1, "layer-norm-rnn": 0.1}
    assert verdicts(with_benefit(results, everywhere))[3:6] == ["does not hold"] * 3


def test_the_section_shows_every_run_and_survives_failures(results: list[Result]) -> None:
    section = STUDY.section(CONFIG, results, Path())
    names = [p.name for p in section.pictures]
    assert names == ["priming-noise", "priming-delay", "priming-seeds"]
    assert all(len(row) == len(t.columns) for t in section.tables for row in t.rows)
    assert len(section.tables[2].rows) == len(results)
    failed = [Result(r.unit, None, "died") for r in results]
    section = STUDY.section(CONFIG, failed, Path())
    assert not section.claims
    assert not section.pictures
    assert section.tables[2].rows[0][2:4] == ["failed", "died"]


def test_benefit_is_primed_less_unprimed(results: list[Result]) -> None:
    values = results[0].values
    assert values is not None
    curve = values["network"]["delay"]
    expected = np.array(curve["primed, noisy"]) - np.array(curve["unprimed, noisy"])
    np.testing.assert_allclose(benefit(values, "noisy"), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("fast-weight",)}, "did you mean 'fast-weights'"),
        ({"between": (0, 9)}, r"between must lie in 0 … length − 2 = 3, got 9"),
        ({"fixed_between": 1}, "fixed_between must be one of"),
        ({"probe_noise": 0.31}, "probe_noise must be one of"),
        ({"probe_noises": (0.4, 0.3)}, "probe_noises must rise"),
        ({"batch_size": 301}, "batch_size must be at most train_size = 300"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        STUDY.units(dataclasses.replace(CONFIG, **changes), 1)


def test_presets_can_be_run() -> None:
    assert find("priming").name == "priming"
    for preset in (make() for make in STUDY.presets.values()):
        assert len(STUDY.units(preset, 2)) == 2 * len(preset.arms)

"""One trial stores, fades and harms nothing; without a fast learning rate nothing of it is seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.experiments.hinton_plaut.one_trial import OneTrial
from fastweights.experiments.hinton_plaut.one_trial_simulation import (
    TIMES,
    Associator,
    OneTrialConfig,
    draw_pairs,
    error,
    learn,
    overlay,
    present,
    simulate,
)
from fastweights.lab.experiment import Result
from fastweights.ops.slow_fast import reference
from fastweights.training.config import ConfigError, from_dict

CONFIG = OneTrialConfig(new_associations=3, stream=4)
SEEDS = [3, 0, 7, 11, 5]


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return simulate(CONFIG, SEEDS)


def curve(values: dict[str, Any], arm: str, name: str) -> Any:
    return np.array(values["curves"][arm][name])


def verdicts(config: OneTrialConfig, values: dict[str, Any]) -> list[str]:
    experiment = OneTrial()
    (unit,) = experiment.units(config, len(SEEDS))
    section = experiment.section(config, [Result(unit, json.loads(json.dumps(values)))], Path())
    return [claim.verdict for claim in section.claims]


def test_new_association_is_there_at_once_and_gone_later(values: dict[str, Any]) -> None:
    whole = curve(values, "fast", "whole")
    assert (whole[:, 0] < 0.5).all()
    assert (whole[:, 1] == 1).all()
    assert (whole[:, -1] == whole[:, 0]).all()
    assert (curve(values, "fast", "old")[:, [0, -1]] == 1).all()


def test_same_change_in_slow_weights_stays_and_harms(values: dict[str, Any]) -> None:
    for name in ("whole", "bits", "old"):
        fast, kept = curve(values, "fast", name), curve(values, "kept", name)
        np.testing.assert_array_equal(kept[:, :2], fast[:, :2])
        np.testing.assert_array_equal(kept[:, 1:], np.tile(kept[:, 1:2], len(TIMES)))
    assert (curve(values, "kept", "old")[:, -1] < 0.95).all()


def test_slow_weights_at_their_own_rate_need_more_than_one_trial(values: dict[str, Any]) -> None:
    assert curve(values, "usual", "whole").mean(0).max() < 0.3
    assert (curve(values, "usual", "old") > 0.99).all()


def test_stream_ends_with_old_associations_whole_only_under_fast_weights(
    values: dict[str, Any],
) -> None:
    fast, kept = (np.array(values["stream"][arm]["old"]) for arm in ("fast", "kept"))
    assert (fast[:, -1] == 1).all()
    assert (kept[:, -1] < 0.9).all()
    assert np.array(values["stream"]["fast"]["bits_by_age"])[:, 0].mean() > 0.95


def test_verdicts_of_the_effect(values: dict[str, Any]) -> None:
    assert verdicts(CONFIG, values) == ["holds"] * 5 + ["does not hold"]


def test_without_a_fast_learning_rate_nothing_is_stored() -> None:
    config = dataclasses.replace(CONFIG, fast_lr=0.0)
    values = simulate(config, SEEDS[:3])
    assert (curve(values, "fast", "whole") < 0.5).all()
    stored, _, _, harm, _, _ = verdicts(config, values)
    assert (stored, harm) == ("does not hold", "does not hold")


def test_without_decay_nothing_fades_and_the_harm_stays() -> None:
    config = dataclasses.replace(CONFIG, decay=0.0)
    values = simulate(config, SEEDS[:3])
    stored, temporary, unharmed, *_ = verdicts(config, values)
    assert (stored, temporary, unharmed) == ("holds", "does not hold", "does not hold")


def test_a_trial_is_the_reference_update_of_each_network_alone() -> None:
    old, new = draw_pairs(CONFIG, [4, 9])
    taught = learn(CONFIG, [4, 9], old)
    model, optimizer = overlay(CONFIG, taught, layers="all")
    one = (new[0][:, :1], new[1][:, :1])
    present(model, optimizer, one)
    for network in range(2):
        alone = Associator([w[network : network + 1] for w in taught])
        x, d = (a[network : network + 1] for a in one)
        error(alone(x), d).backward()
        weights = list(alone.parameters())
        update = [torch.zeros_like(w) for w in weights]
        fast = [torch.zeros_like(w) for w in weights]
        gradients = [w.grad for w in weights if w.grad is not None]
        reference.learn(update, gradients, lr=CONFIG.fast_lr, momentum=0.0)
        with torch.no_grad():
            reference.apply_overlay(weights, fast, update, keep=1 - CONFIG.decay)  # type: ignore[arg-type]
        for ours, expected in zip(model.parameters(), weights, strict=True):
            torch.testing.assert_close(ours[network : network + 1], expected)


def test_default_overlay_leaves_the_hidden_layer_alone() -> None:
    old, new = draw_pairs(CONFIG, [4])
    taught = learn(CONFIG, [4], old)
    model, optimizer = overlay(CONFIG, taught)
    present(model, optimizer, (new[0][:, :1], new[1][:, :1]))
    assert torch.equal(model.w1, taught[0])
    assert not torch.equal(model.w2, taught[2])
    optimizer.relax(10_000)
    assert torch.equal(model.w2, taught[2])


def test_a_seed_does_not_depend_on_its_neighbours(values: dict[str, Any]) -> None:
    alone = simulate(CONFIG, [0])
    np.testing.assert_allclose(curve(alone, "fast", "old")[0], curve(values, "fast", "old")[1])
    np.testing.assert_allclose(
        alone["stream"]["kept"]["bits_by_age"][0], values["stream"]["kept"]["bits_by_age"][1]
    )


def test_section_shows_figures_and_survives_a_failed_run(values: dict[str, Any]) -> None:
    experiment = OneTrial()
    (unit,) = experiment.units(CONFIG, len(SEEDS))
    section = experiment.section(CONFIG, [Result(unit, values)], Path())
    assert [p.name for p in section.pictures] == ["one-trial", "one-trial-stream"]
    assert all(len(row) == len(t.columns) for t in section.tables for row in t.rows)
    assert {claim.n for claim in section.claims} == {len(SEEDS)}
    failed = experiment.section(CONFIG, [Result(unit, None, "died")], Path())
    assert not failed.claims


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="decay"):
        from_dict(OneTrialConfig, {**dataclasses.asdict(CONFIG), "decay": 1.5})
    with pytest.raises(ConfigError, match="first_seed"):
        OneTrial().units(dataclasses.replace(CONFIG, first_seed=-1), 3)

"""Fast weights bind what goes together for a while; without them nothing is known of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.experiments.hinton_plaut.binding import Binding
from fastweights.experiments.hinton_plaut.binding_pools import (
    CUE,
    BindingConfig,
    Pools,
    simulate,
)
from fastweights.lab.experiment import Result
from fastweights.training.config import ConfigError, from_dict

CONFIG = BindingConfig(
    values=10,
    unit_counts=(12, 32),
    objects=4,
    object_counts=(1, 4, 10),
    many_objects=8,
    decays=(0.0, 0.4),
    scenes=40,
    stream=14,
    streams=10,
    pause=300,
)
FEWER: dict[str, Any] = {"scenes": 10, "streams": 3, "object_counts": (1, 4)}  # for large effects
SEEDS = [3, 0, 7, 11, 5, 20, 1, 2, 4, 6, 8, 9]


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return simulate(CONFIG, SEEDS)


def verdicts(config: BindingConfig, values: dict[str, Any]) -> list[str]:
    experiment = Binding()
    (unit,) = experiment.units(config, len(SEEDS))
    section = experiment.section(config, [Result(unit, json.loads(json.dumps(values)))], Path())
    return [claim.verdict for claim in section.claims]


def test_bound_with_fast_weights_and_guessed_without(values: dict[str, Any]) -> None:
    scene = values["scene"]
    assert min(np.array(scene["waited"])[:, 0]) > 0.95
    assert np.mean(scene["none"]) == pytest.approx(0.1, abs=0.03)
    assert np.mean(scene["primed"]) == pytest.approx(0.25, abs=0.03)
    assert np.mean(np.array(scene["waited"])[:, -1]) == pytest.approx(0.1, abs=0.03)


def test_more_units_hold_more_objects(values: dict[str, Any]) -> None:
    few, many = ([np.mean(c["fast"]) for c in values["capacity"][n]] for n in ("12", "32"))
    assert few[0] > 0.97
    assert many[0] == 1
    assert many[-1] > few[-1] + 0.1


def test_strong_decay_keeps_the_latest_objects_only(values: dict[str, Any]) -> None:
    none, strong = (np.array(rows).mean(0) for rows in values["by_age"])
    assert none.min() > 0.95
    assert strong[0] > 0.95 > 0.3 > strong[-1]


def test_scenes_interfere_only_without_decay(values: dict[str, Any]) -> None:
    last = {arm: np.array(rows)[:, -5:].mean() for arm, rows in values["stream"].items()}
    assert last["wiped"] > 0.95
    assert last["decays"] > 0.95
    assert last["kept"] < 0.6


def test_verdicts_of_the_effect(values: dict[str, Any]) -> None:
    assert verdicts(CONFIG, values) == ["holds"] * 8


def test_without_a_write_rate_nothing_is_bound() -> None:
    config = dataclasses.replace(CONFIG, **FEWER, write_rate=0.0)
    bound, whole, *_ = verdicts(config, simulate(config, SEEDS[:6]))
    assert (bound, whole) == ("does not hold", "does not hold")


def test_without_decay_bindings_stay() -> None:
    config = dataclasses.replace(CONFIG, **FEWER, decay=0.0)
    bound, _, temporary, next_scene, *_ = verdicts(config, simulate(config, SEEDS[:6]))
    assert (bound, temporary, next_scene) == ("holds", "does not hold", "does not hold")


@pytest.mark.parametrize("rule", ["hebbian", "delta"])
def test_binding_is_the_plain_update(rule: Any) -> None:
    pools = Pools(CONFIG, [4, 9], copies=2)
    scene = pools.scenes(3)
    pools.bind(scene, 0.7, 0.2, rule)
    codes = pools.codes.double().numpy()
    for (p, q), ours in pools.between.items():
        for network in range(4):
            f = np.zeros((CONFIG.units, CONFIG.units))
            for item in range(3):
                to, source = (codes[network, a, scene[network, a, item]] for a in (p, q))
                error = to - f @ source if rule == "delta" else to
                f = (1 - 0.2) * (f + 0.7 * np.outer(error, source) / CONFIG.units)
            np.testing.assert_allclose(ours[network], f, atol=1e-6)


def test_objects_of_a_scene_differ_in_every_property() -> None:
    scene = Pools(CONFIG, [4, 9], copies=3).scenes(CONFIG.values)
    assert scene.shape == (6, 3, CONFIG.values)
    assert (scene.sort(2).values == torch.arange(CONFIG.values)).all()
    assert not torch.equal(scene[0], scene[1])


def test_slow_weights_clean_up() -> None:
    pools = Pools(CONFIG, [4], copies=1)
    codes, slow = pools.codes[0], pools.slow[0]
    assert not slow.diagonal(dim1=1, dim2=2).any()
    assert torch.equal((codes @ slow.mT).sign(), codes)
    noisy = codes.clone()
    noisy[:, :, :2] *= -1
    assert ((noisy @ slow.mT).sign() == codes).double().mean() > 0.97


def test_the_cue_alone_is_given() -> None:
    """The answer must not depend on the shape and colour that are asked for."""
    pools = Pools(CONFIG, [4], copies=1)
    scene = pools.scenes(4)
    pools.bind(scene, 1.0, 0.0)
    other = scene.clone()
    other[:, :CUE] = (other[:, :CUE] + 1) % CONFIG.values
    assert pools.answers(scene).all()
    assert not pools.answers(other).any()


def test_a_seed_does_not_depend_on_its_neighbours(values: dict[str, Any]) -> None:
    alone = simulate(CONFIG, [0])
    for arm in alone["stream"]:
        assert alone["stream"][arm][0] == values["stream"][arm][1]
    assert alone["capacity"]["12"][1]["fast"][0] == values["capacity"]["12"][1]["fast"][1]


def test_section_shows_figures_and_survives_a_failed_run(values: dict[str, Any]) -> None:
    experiment = Binding()
    (unit,) = experiment.units(CONFIG, len(SEEDS))
    section = experiment.section(CONFIG, [Result(unit, values)], Path())
    assert [p.name for p in section.pictures] == ["binding", "binding-decay", "binding-stream"]
    assert all(len(row) == len(t.columns) for t in section.tables for row in t.rows)
    assert {claim.n for claim in section.claims} == {len(SEEDS)}
    assert not experiment.section(CONFIG, [Result(unit, None, "died")], Path()).claims


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="decay"):
        from_dict(BindingConfig, {**dataclasses.asdict(CONFIG), "decay": 1.5})
    for name, value in (("objects", 11), ("many_objects", 11), ("object_counts", (1, 11))):
        config = dataclasses.replace(CONFIG, **{name: value})  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"{name} must be at most values = 10"):
            Binding().units(config, 3)

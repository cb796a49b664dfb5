"""The batched networks against the specification, their effects at full size, and the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.experiments.hinton_plaut.deblurring import Deblurring, claims
from fastweights.experiments.hinton_plaut.deblurring_simulation import (
    CONDITIONS,
    VARIANTS,
    DeblurringConfig,
    DeblurringResult,
    Learning,
    Networks,
    Pairs,
    as_values,
    from_values,
    improvement_ratios,
    simulate,
)
from fastweights.lab.experiment import Result
from fastweights.ops.slow_fast import reference
from fastweights.report.section import Section
from fastweights.training.config import ConfigError, from_dict, with_overrides

EXPERIMENT = Deblurring()
SMALL = DeblurringConfig(
    hidden=30, learning_sweeps=100, interference_sweeps=50, relaxation_updates=100
)
TINY = DeblurringConfig(
    inputs=6,
    hidden=12,
    outputs=4,
    associations=20,
    new_associations=3,
    rehearsed=(10, 4),
    learning_sweeps=60,
    warmup_sweeps=20,
    interference_sweeps=30,
    rehearsal_sweeps=5,
    relaxation_updates=50,
    relaxation_step=10,
)


@pytest.fixture(scope="module")
def small() -> DeblurringResult:
    return simulate(TINY, seeds=[3, 0])


@pytest.fixture(scope="module")
def full() -> DeblurringResult:
    """The published size with four networks."""
    return simulate(DeblurringConfig(), seeds=[0, 1, 2, 3])


class Plain:
    """One network by autograd, moved by the reference of the update rule."""

    def __init__(self, config: DeblurringConfig, flat: torch.Tensor) -> None:
        self.config, self.weights, self.slow = config, [flat.clone()], [flat.clone()]
        self.fast, self.update, self.change = ([torch.zeros_like(flat)] for _ in range(3))

    def error(self, flat: torch.Tensor, x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        c = self.config
        w1, b1, w2, b2 = flat.split(
            [c.inputs * c.hidden, c.hidden, c.outputs * c.hidden, c.outputs]
        )
        hidden = torch.sigmoid(x @ w1.view(c.inputs, c.hidden) + b1)
        y = torch.sigmoid(hidden @ w2.view(c.outputs, c.hidden).T + b2)
        off = (y - d).abs()
        charged = off - c.margin if c.margin_error == "beyond" else off
        return 0.5 * torch.where(off > c.margin, charged, 0.0).square().sum()

    def sweep(
        self, x: torch.Tensor, d: torch.Tensor, slow: Learning | None, fast: Learning | None
    ) -> None:
        flat = self.weights[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.error(flat, x, d), flat)
        if slow:
            reference.learn(self.change, [gradient], lr=slow.lr, momentum=slow.momentum)
            self.slow[0] += self.change[0]
        if fast:
            reference.learn(self.update, [gradient], lr=fast.lr, momentum=fast.momentum)
        reference.copy(self.weights, self.slow)
        reference.apply_overlay(
            self.weights, self.fast, self.update if fast else None, keep=1 - self.config.decay
        )


@pytest.mark.parametrize(
    "change", [{}, {"margin_error": "whole"}, {"margin": 0.0}, {"decay": 0.1}, *VARIANTS.values()]
)
def test_every_network_follows_the_reference(change: dict[str, Any]) -> None:
    config = dataclasses.replace(TINY, **change)
    seeds = [5, 2]
    pairs, nets = Pairs(config, seeds), Networks(config, seeds)
    plain = [Plain(config, flat) for flat in nets.slow]
    slow, fast = Learning(0.1, 0.9), Learning(0.2, 0.5)
    nets.learn(*pairs.old, sweeps=30, slow=slow, fast=fast, warmup=10)
    nets.learn(*pairs.new, sweeps=10, slow=None, fast=fast)
    nets.learn(*pairs.never, sweeps=10, slow=slow, fast=None)
    for i, net in enumerate(plain):
        for sweep in range(30):
            momentum = config.warmup_momentum if sweep < 10 else None
            rates = [
                Learning(r.lr, r.momentum if momentum is None else momentum) for r in (slow, fast)
            ]
            net.sweep(pairs.old[0][i], pairs.old[1][i], *rates)
        for _ in range(10):
            net.sweep(pairs.new[0][i], pairs.new[1][i], None, fast)
        for _ in range(10):
            net.sweep(pairs.never[0][i], pairs.never[1][i], slow, None)
        torch.testing.assert_close(nets.fast[i], net.fast[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(nets.slow[i], net.slow[0], rtol=1e-9, atol=1e-12)


def test_pairs_are_different_binary_vectors() -> None:
    pairs = Pairs(DeblurringConfig(), seeds=[7])
    inputs = torch.cat([x[0] for x, _ in (pairs.old, pairs.new, pairs.never)])
    assert len({tuple(row.tolist()) for row in inputs}) == len(inputs) == 155
    for x, d in (pairs.old, pairs.new, pairs.never):
        assert set(x.unique().tolist()) == set(d.unique().tolist()) == {0.0, 1.0}
    assert [len(x[0]) for x, _ in (pairs.old, pairs.new, pairs.never)] == [100, 5, 50]


def test_a_seed_alone_decides_its_network(small: DeblurringResult) -> None:
    alone = simulate(TINY, seeds=[0])
    for key, rehearsal in alone.rehearsals.items():
        beside = small.rehearsals[key]
        np.testing.assert_allclose(
            rehearsal.unretrained.error[0], beside.unretrained.error[1], rtol=1e-9
        )
        np.testing.assert_allclose(rehearsal.fast_norm[0], beside.fast_norm[1], rtol=1e-9)
    assert not np.allclose(small.phases[0].slow_norm[0], small.phases[0].slow_norm[1])


def test_more_conditions_change_nothing(small: DeblurringResult) -> None:
    one = simulate(TINY, seeds=[3, 0], conditions=["slow-only"])
    assert set(one.rehearsals) == {("slow-only", 10), ("slow-only", 4)}
    np.testing.assert_array_equal(
        one.rehearsals["slow-only", 4].new.error, small.rehearsals["slow-only", 4].new.error
    )


def test_which_weights_a_condition_moves(small: DeblurringResult) -> None:
    before = small.phases[2]
    for (condition, _), rehearsal in small.rehearsals.items():
        still = np.allclose(rehearsal.slow_norm, before.slow_norm, rtol=1e-12)
        assert still == (condition in ("fast", "never-learned")), condition
        # Without learning the fast weights only decay.
        left = before.fast_norm * (1 - TINY.decay) ** TINY.rehearsal_sweeps
        alone = np.allclose(rehearsal.fast_norm, left, rtol=1e-12)
        assert alone == (condition == "slow-only"), condition


def test_groups_and_times(small: DeblurringResult) -> None:
    assert set(small.rehearsals) == {(c, m) for c in CONDITIONS for m in (10, 4)}
    for (condition, _), r in small.rehearsals.items():
        assert r.new.bits.shape == (2, 6)
        np.testing.assert_array_equal(r.relaxation, [0, 10, 20, 30, 40, 50])
        for name, score in (("retrained", r.retrained), ("new", r.new)):
            np.testing.assert_array_equal(r.relaxed[name].error[:, 0], score.error[:, -1])
        if condition == "never-learned":  # every old pair is unretrained
            np.testing.assert_array_equal(r.unretrained.error[:, :1], small.phases[2].old.error)
        elif condition != "weight-noise":  # the two groups make up the old pairs
            m = r.rehearsed
            both = m * r.retrained.error[:, :1] + (20 - m) * r.unretrained.error[:, :1]
            np.testing.assert_allclose(both / 20, small.phases[2].old.error, rtol=1e-12)


def test_noise_is_on_networks_without_interference() -> None:
    silent = dataclasses.replace(TINY, noise_std=0.0)
    result = simulate(silent, seeds=[1], conditions=["weight-noise"])
    rehearsal = result.rehearsals["weight-noise", 10]
    both = (rehearsal.retrained.error[:, 0] + rehearsal.unretrained.error[:, 0]) / 2
    np.testing.assert_allclose(both, result.phases[1].old.error[:, 0], rtol=1e-12)


def test_relaxation_lets_fast_weights_decay_step_by_step() -> None:
    nets, pairs = Networks(TINY, [0]), Pairs(TINY, [0])
    rate = Learning(0.1, 0.5)
    nets.learn(*pairs.old, sweeps=10, slow=rate, fast=rate)
    expected = nets.score(pairs.new, fast=0.99**7)
    nets.learn(*pairs.old, sweeps=7, slow=None, fast=None)
    torch.testing.assert_close(nets.score(pairs.new), expected, rtol=1e-12, atol=0)


def test_the_networks_learn_blur_and_deblur(full: DeblurringResult) -> None:
    start, learning, interference = full.phases
    assert full.learned.all()
    assert (learning.old.bits == 1).all()
    assert (learning.fast_norm < 0.03 * learning.slow_norm).all()
    assert (np.abs(start.old.bits - 0.5) < 0.1).all()
    assert (interference.old.bits < 0.92).all()
    assert interference.new.bits.mean() > 0.97
    for m in (50, 10):
        rehearsal = full.rehearsals["fast", m]
        gain = rehearsal.unretrained.error[:, :1] - rehearsal.unretrained.error
        assert (gain[:, 1] > 0).all()
        assert (gain[:, -1] > 0.01).all()
        noise = full.rehearsals["weight-noise", m].unretrained.error
        assert (noise[:, 1] < noise[:, 0]).all()


def test_new_pairs_return_only_if_slow_weights_were_frozen(full: DeblurringResult) -> None:
    known = full.phases[2].new.bits.mean()
    returned = {}
    for condition in ("fast", "both", "slow-only"):
        r = full.rehearsals[condition, 50]  # type: ignore[index]
        lost, after = r.new.bits[:, -1].mean(), r.relaxed["new"].bits[:, -1].mean()
        assert lost < 0.7
        returned[condition] = (after - lost) / (known - lost)
    assert returned["fast"] > 0.95
    assert returned["both"] < 0.7
    assert returned["slow-only"] < 0.1


def test_pairs_never_learned_help_less_and_then_do_harm(full: DeblurringResult) -> None:
    def gain(condition: str, sweep: int) -> float:
        error = full.rehearsals[condition, 50].unretrained.error  # type: ignore[index]
        return float((error[:, 0] - error[:, sweep]).mean())

    assert 0 < gain("never-learned", 1) < 0.5 * gain("fast", 1)
    assert gain("never-learned", 20) < 0 < gain("fast", 20)


def test_values_survive_json(small: DeblurringResult) -> None:
    again = from_values(json.loads(json.dumps(as_values(small))))
    assert again.config == small.config
    assert again.seeds == small.seeds
    np.testing.assert_array_equal(again.learned, small.learned)
    assert again.rehearsals.keys() == small.rehearsals.keys()
    for key, r in small.rehearsals.items():
        other = again.rehearsals[key]
        np.testing.assert_allclose(other.unretrained.bits, r.unretrained.bits, atol=5e-7)
        np.testing.assert_allclose(other.relaxed["new"].error, r.relaxed["new"].error, atol=5e-7)
        np.testing.assert_array_equal(other.relaxation, r.relaxation)
    np.testing.assert_allclose(again.phases[1].fast_norm, small.phases[1].fast_norm, atol=5e-7)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    folder = tmp_path_factory.mktemp("runs")
    done = []
    for unit in EXPERIMENT.units(SMALL, 3):
        values = EXPERIMENT.run(SMALL, unit, folder, "cpu", None)
        done.append(Result(unit, json.loads(json.dumps(values))))
    return done


@pytest.fixture(scope="module")
def section(results: list[Result]) -> Section:
    return EXPERIMENT.section(SMALL, results, Path())


def test_seeds_are_all_done_at_once(results: list[Result]) -> None:
    assert [r.unit.options["seeds"] for r in results] == 5 * [[100, 101, 102]]
    assert len({r.unit.name for r in results}) == 5
    assert all(r.unit.seed is None for r in results)


def test_variants_differ_in_what_they_say(results: list[Result]) -> None:
    changed = {}
    for result in results:
        assert result.values is not None
        config = dataclasses.asdict(from_values(result.values).config)
        changed[result.unit.arm] = {
            k for k, v in config.items() if v != dataclasses.asdict(SMALL)[k]
        }
    assert changed.pop("as chosen") == set()
    assert changed["fast momentum .5"] == {"fast_momentum"}
    assert changed["no margin, no slow start"] == {"margin", "warmup_sweeps"}
    assert all(changed.values())


def test_the_section_holds_what_was_measured(section: Section, results: list[Result]) -> None:
    assert len(section.tables) == 4
    for table in section.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(section.tables[3].rows) == 3  # every seed
    assert [p.name for p in section.pictures] == [
        "deblurring-rehearsal",
        "deblurring-ratio",
        "deblurring-controls",
        "deblurring-return",
    ]
    assert results[0].values is not None
    ratios = improvement_ratios(from_values(results[0].values).rehearsals["fast", 50])
    assert any(ratios[0].text() in claim.ours for claim in section.claims)
    assert all(claim.n == 3 for claim in section.claims)


def test_every_network_is_drawn(section: Section) -> None:
    figure = section.pictures[0].figure
    assert len(figure.axes) == 4
    for axes in figure.axes:  # two groups: a mean and three networks each
        assert len(axes.lines) == 8
        assert all(len(line.get_xdata()) == SMALL.rehearsal_sweeps + 1 for line in axes.lines)


def test_a_failed_run_is_no_result(results: list[Result]) -> None:
    lost = [dataclasses.replace(results[0], values=None, failure="killed"), *results[1:]]
    section = EXPERIMENT.section(SMALL, lost, Path())
    assert not section.claims
    assert not section.tables
    part = EXPERIMENT.section(SMALL, [results[0]], Path())
    assert len(part.tables[2].rows) == 1


def test_verdicts_follow_the_figures() -> None:
    """With rates of zero nothing is rehearsed, and no verdict may say that something holds."""
    config = dataclasses.replace(SMALL, fast_lr=0.0, rehearsed=(50,))
    rows = claims(simulate(config, seeds=[0, 1]))
    ratio = next(c for c in rows if "improve as much" in c.claim)
    assert ratio.verdict == "undecided"  # 0 / 0
    theory = next(c for c in rows if "linear theory" in c.claim)
    assert theory.verdict == "undecided"
    better = next(c for c in rows if "networks whose" in c.claim)
    assert better.ours == "0 of 2"


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="first_seed must be at least 0"):
        EXPERIMENT.units(dataclasses.replace(SMALL, first_seed=-1), 2)
    with pytest.raises(ConfigError, match="decay"):
        with_overrides(SMALL, ["decay=2"])
    with pytest.raises(ConfigError, match="rehearsed"):
        with_overrides(SMALL, ["rehearsed=100,10"])
    unit = EXPERIMENT.units(SMALL, 1)[0]
    with pytest.raises(ValueError, match="got device 'cuda'"):
        EXPERIMENT.run(SMALL, unit, tmp_path, "cuda", None)


@pytest.mark.parametrize("key", ["error", "bits"])
def test_the_interval_holds_the_ratio_of_means(results: list[Result], key: Any) -> None:
    assert results[0].values is not None
    rehearsal = from_values(results[0].values).rehearsals["fast", 50]
    ratios = improvement_ratios(rehearsal, key)
    sign = 1 if key == "bits" else -1
    u, v = (
        sign * (getattr(s, key)[:, 1:] - getattr(s, key)[:, :1]).mean(0)
        for s in (rehearsal.unretrained, rehearsal.retrained)
    )
    found, low, high = np.array([(i.mean, i.low, i.high) for i in ratios], dtype=float).T
    np.testing.assert_allclose(found, u / v)
    assert np.isfinite(low).all()
    assert (low <= found).all()
    assert (found <= high).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden: got 0"),
        ({"learning_sweeps": -1}, "learning_sweeps: got -1"),
        ({"rehearsal_sweeps": 0}, "rehearsal_sweeps: got 0"),
        ({"slow_lr": float("nan")}, "slow_lr: got nan"),
        ({"slow_lr": -0.1}, "slow_lr: got -0.1"),
        ({"fast_momentum": 1.0}, "fast_momentum: got 1.0"),
        ({"decay": -0.1}, "decay: got -0.1"),
        ({"margin": 0.5}, "margin: got 0.5"),
        ({"margin_error": "half"}, "margin_error: got 'half'"),
        ({"rehearsed": ()}, "rehearsed: got"),
        ({"rehearsed": (0,)}, "rehearsed.0: got 0"),
        ({"rehearsed": (5, 5)}, "rehearsed must be distinct"),
        ({"rehearsed": (100,)}, "rehearsed must be below associations = 100"),
        ({"inputs": 21}, "inputs: got 21"),
        ({"inputs": 7}, "need 155 different inputs, but inputs = 7 has only 128"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    values = {**dataclasses.asdict(DeblurringConfig()), **settings}
    with pytest.raises(ConfigError, match=message):
        from_dict(DeblurringConfig, values)


@pytest.mark.parametrize(
    ("seeds", "conditions", "message"),
    [
        ([], ["fast"], "seeds must be distinct"),
        ([1, 1], ["fast"], "seeds must be distinct"),
        ([-1], ["fast"], "seeds must be distinct"),
        ([0], [], "conditions must be from"),
        ([0], ["quick"], "conditions must be from"),
    ],
)
def test_impossible_runs_are_refused(seeds: list[int], conditions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(TINY, seeds, conditions)

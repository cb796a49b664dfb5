"""The experiment as the command runs it: units, tables, figures, rows of the ledger."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastweights.experiments.deblurring import Deblurring
from fastweights.experiments.deblurring_model import DeblurringConfig, from_values, simulate
from fastweights.experiments.deblurring_model.findings import claims, improvement_ratio
from fastweights.lab.experiment import Result
from fastweights.report.section import Section
from fastweights.training.config import ConfigError, with_overrides

EXPERIMENT = Deblurring()
SMALL = DeblurringConfig(
    hidden=30, learning_sweeps=200, interference_sweeps=100, relaxation_updates=100
)


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
    curve = improvement_ratio(from_values(results[0].values).rehearsals["fast", 50])
    assert any(curve.at(1).text() in claim.ours for claim in section.claims)
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
    curve = improvement_ratio(rehearsal, key)
    sign = 1 if key == "bits" else -1
    u, v = (
        sign * (getattr(s, key)[:, 1:] - getattr(s, key)[:, :1]).mean(0)
        for s in (rehearsal.unretrained, rehearsal.retrained)
    )
    np.testing.assert_allclose(curve.ratio, u / v)
    known = np.isfinite(curve.low)
    assert (curve.low <= curve.ratio)[known].all()
    assert (curve.ratio <= curve.high)[known].all()

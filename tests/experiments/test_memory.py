"""The experiment as the command runs it: simulations, networks, and what the report says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fastweights.decay import PowerLaw
from fastweights.experiments.memory import (
    DECAYS,
    Memory,
    MemoryConfig,
    PairRun,
    accuracy_by_position,
)
from fastweights.experiments.memory_theory import (
    lifetime_table,
    reading_claims,
    reading_table,
)
from fastweights.lab.experiment import Result, Unit
from fastweights.tasks import AssociativeRetrieval
from fastweights.theory.memory import findings, pair_snr
from fastweights.training.config import ConfigError

EXPERIMENT = Memory()
SMALL = MemoryConfig(
    effort=0.003, decays=("power-law", "factorial"), updates=4, train_size=500, test_size=1000
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    done = []
    for unit in EXPERIMENT.units(SMALL, 2):
        folder = tmp_path_factory.mktemp(unit.name)
        values = EXPERIMENT.run(SMALL, unit, folder, "cpu", None)
        done.append(Result(unit, json.loads(json.dumps(values))))
    return done


def test_the_section_says_what_was_found(results: list[Result]) -> None:
    section = EXPERIMENT.section(SMALL, results, Path())
    rows = findings(SMALL.seed, SMALL.effort)
    assert [row[0] for row in section.tables[0].rows] == [f.claim for f in rows]
    published = [f.claim for f in rows if f.published != "—"]
    assert [c.claim for c in section.claims][: len(published)] == published
    assert [c.n for c in section.claims[-2:]] == [2, 2]
    assert len(section.pictures) == 5
    positions = section.tables[3].rows
    assert [row[1] for row in positions] == ["1", "2", "3", "4"] * 2
    predicted = pair_snr(DECAYS["power-law"].options["decay"], 19, 4)
    assert [row[3] for row in positions[:4]] == [f"{x:.2f}" for x in predicted]
    mean = sum(r.values["by_position"][0] for r in results if r.unit.arm == "power-law") / 2
    assert positions[0][4].startswith(f"{100 * mean:.2f} [")


def test_what_is_missing_is_left_out(results: list[Result]) -> None:
    failed = [Result(r.unit, None, "lost") for r in results]
    section = EXPERIMENT.section(SMALL, failed, Path())
    assert [p.name for p in section.pictures] == ["memory-decays"]
    assert not section.tables[0].rows
    assert not section.tables[3].rows
    assert section.tables[4].rows[0][3:5] == ["failed", "lost"]


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown decay 'power': did you mean 'power-law'"):
        EXPERIMENT.units(MemoryConfig(decays=("power",)), 1)
    with pytest.raises(ConfigError, match="decays must not repeat itself"):
        EXPERIMENT.units(MemoryConfig(decays=("power-law", "power-law")), 1)
    for unit in (EXPERIMENT.units(SMALL, 1)[0], EXPERIMENT.units(SMALL, 1)[-1]):
        with pytest.raises(ValueError, match="device 'cuda'"):
            EXPERIMENT.run(SMALL, unit, Path(), "cuda", None)


def test_a_network_has_the_decay_of_its_arm_and_the_write_rate_of_the_settings(
    results: list[Result],
) -> None:
    rates = {r.unit.arm: r.values["write_rate"] for r in results if r.unit.arm in DECAYS}
    assert rates == {"power-law": 0.5, "factorial": 0.1}
    unit = EXPERIMENT.units(SMALL, 1)[2]
    config = dataclasses.replace(SMALL, write_rate=0.3, train_size=128)
    run = PairRun(config, DECAYS[unit.arm], unit, torch.device("cpu"))
    layer = run.model.layer
    assert repr(layer.decay) == repr(PowerLaw(0.5))
    assert layer.hidden_size == SMALL.hidden_size
    assert layer.write_rate == 0.3


class KnowsTheFirstAndLast(nn.Module):
    """Answers 10 − 1 for every pair but the first and the last."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        guess = torch.full((len(tokens),), 9)
        for pair in (0, 3):
            asked = tokens[:, 2 * pair] == tokens[:, -1]
            guess[asked] = tokens[asked, 2 * pair + 1] - 26
        return nn.functional.one_hot(guess, 10).float()


def test_accuracy_by_position() -> None:
    split = AssociativeRetrieval(num_pairs=4, test_size=4000).split(0, "test")
    first, second, third, last = accuracy_by_position(KnowsTheFirstAndLast(), split, 4)
    assert first == last == 1.0
    assert second == pytest.approx(0.1, abs=0.03)
    assert third == pytest.approx(0.1, abs=0.03)


def test_verdicts_on_positions() -> None:
    def verdicts(measured: dict[str, list[list[float]]]) -> list[str]:
        results = [
            Result(Unit("", "", decay, seed), {"by_position": by_position})
            for decay, runs in measured.items()
            for seed, by_position in enumerate(runs)
        ]
        found = EXPERIMENT.contrasts(MemoryConfig(decays=tuple(measured)))
        return [row.verdict for contrast in found if (row := contrast.row(results)) is not None]

    better, worse, mixed = [[0.5, 0.6], [0.6, 0.8]], [[0.6, 0.5]] * 2, [[0.5, 0.6], [0.6, 0.5]]
    measured = {"power-law": better, "factorial": worse, "exponential-0.99": mixed}
    assert verdicts(measured) == ["holds", "does not hold", "undecided"]
    assert verdicts({"power-law": [[0.5, 0.9]]}) == ["undecided"]
    assert verdicts({"power-law": []}) == []


def test_the_readings_contradict_one_another() -> None:
    rows = {row[0]: row for row in reading_table().rows}
    assert rows["(a) (k + 1)^−½"][4] == "1 to 34"
    assert rows["(b) ((k + 1)!)^−½"][4] == "1 to 53"
    verdicts = [c.verdict for c in reading_claims()]
    assert verdicts[0::2] == ["fits young memories only", "fits", "fits"]  # figure 1
    assert verdicts[1::2] == ["fits", "does not fit", "does not fit"]  # 26 pairs


def test_lifetimes_in_the_table() -> None:
    row = next(row for row in lifetime_table().rows if row[0] == "2,500")
    assert row[1:3] == ["53", "194"]
    assert row[4] == "none"

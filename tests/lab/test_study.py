"""A study made of almost nothing: what it runs, and what it shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastweights.lab.curves import Curves, Panel, updates, validated
from fastweights.lab.experiment import Result
from fastweights.lab.findings import Column, Contrast, TextColumn, at, by_seed, run_table
from fastweights.lab.study import HIDDEN_SIZE, Arm, Axis, Run, Study
from fastweights.report.verdicts import Bound
from fastweights.training.config import ConfigError
from fastweights.training.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class LineConfig:
    arms: tuple[str, ...] = ("line", "steep")
    hidden_sizes: tuple[int, ...] = (1, 2)
    places: tuple[str, ...] = ("left",)
    first_seed: int = 7
    updates: int = 4
    warmup: int = 0
    gradient_clip: float = 1.0
    evaluate_every: int = 2


class Line(Run):
    """A line through one point."""

    def __init__(self, config: LineConfig, arm: Arm, unit: Any, device: torch.device) -> None:
        self.model = arm.build(unit.options["hidden_size"]).to(device)
        self.schedule = Schedule.of(config, batch_size=1, learning_rate=0.1)

    def loss(self, update: int) -> Tensor:
        width = self.model.in_features
        return (self.model(torch.ones(1, width)) - update).square().mean()

    def validate(self) -> dict[str, float]:
        return {"validation_accuracy": self.model.bias.item()}

    def test(self) -> dict[str, Any]:
        return {"test_accuracy": self.model.bias.item()}


class Lines(Study):
    name = title = "lines"
    summary = "Lines."
    presets = MappingProxyType({"quick": LineConfig})
    seeds = MappingProxyType({"quick": 2})
    arms = MappingProxyType(
        {
            "line": Arm("a line", lambda size: nn.Linear(size, 1), 0.1),
            "steep": Arm("a steep line", lambda size: nn.Linear(size, 1), {1: 0.1, 4: 0.2}),
        }
    )
    runs = Line
    axes = (HIDDEN_SIZE, Axis("place", "places"))

    def intro(self, config: LineConfig) -> str:
        return "Lines through points."

    def columns(self, config: LineConfig) -> list[Column]:
        return [Column("right %", "test_accuracy", scale=100, digits=1)]

    def run_columns(self, config: LineConfig) -> list[Column]:
        return [
            Column("test", "test_accuracy", form="{:.1f}"),
            Column("seconds", "seconds", form="{:.0f}"),
        ]

    def contrasts(self, config: LineConfig) -> list[Contrast]:
        return [Contrast("steeper", "steep", "line", "test_accuracy", Bound(at_least=0.5))]


STUDY, CONFIG = Lines(), LineConfig()


def made_up(accuracies: dict[str, float | None], seeds: int = 2) -> list[Result]:
    """Results of every unit; of arms without an accuracy, failures."""
    found = []
    for unit in STUDY.units(CONFIG, seeds):
        accuracy = accuracies[unit.arm]
        if accuracy is None:
            found.append(Result(unit, None, "stopped", [{"update": 2, "validation_accuracy": 0.1}]))
            continue
        curve = [{"update": 2, "validation_accuracy": accuracy / 2}]
        values = {"test_accuracy": accuracy, "seconds": 3.0, "curve": curve}
        found.append(Result(unit, values))
    return found


def test_units_are_named_by_arm_settings_and_seed() -> None:
    units = STUDY.units(CONFIG, 2)
    assert [unit.name for unit in units[:3]] == [
        "line-r1-left-seed7",
        "steep-r1-left-seed7",
        "line-r1-left-seed8",
    ]
    assert units[1].label == "a steep line, R = 1, left"
    assert units[-1].options == {"hidden_size": 2, "place": "left"}
    assert (len(units), units[0].total) == (8, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("lime",)}, "unknown arm 'lime': did you mean 'line'"),
        ({"arms": ("line", "line")}, "arms must not repeat itself"),
        ({"hidden_sizes": (1, 1)}, "hidden_sizes must not repeat itself"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        STUDY.units(dataclasses.replace(CONFIG, **changes), 1)


def test_a_run_is_trained_validated_and_tested(tmp_path: Path) -> None:
    unit = STUDY.units(CONFIG, 1)[1]
    result = STUDY.run(CONFIG, unit, tmp_path, "cpu", None)
    assert [point["update"] for point in result["curve"]] == [2, 4]
    assert result["validation_accuracy"] == result["curve"][-1]["validation_accuracy"]
    assert result["test_accuracy"] == result["validation_accuracy"]
    assert (result["parameters"], result["learning_rate"]) == (2, 0.1)
    again = STUDY.run(CONFIG, unit, tmp_path, "cpu", None)  # there is nothing left to do
    assert again == {**result, "seconds": again["seconds"]}


def test_a_learning_rate_is_that_of_the_nearest_size_tried() -> None:
    arm = STUDY.arms["steep"]
    assert [arm.learning_rate_at(size) for size in (1, 2, 3, 100)] == [0.1, 0.1, 0.2, 0.2]
    assert STUDY.arms["line"].learning_rate_at(100) == 0.1


def test_the_section_has_every_network_and_every_run() -> None:
    section = STUDY.section(CONFIG, made_up({"line": 0.25, "steep": None}), Path())
    networks, runs = section.tables
    assert networks.rows[0] == ["a line", "1", "left", "2/2", "25.0 [25.0, 25.0]"]
    assert networks.rows[1] == ["a steep line", "1", "left", "0/2", "failed"]
    assert runs.rows[0] == ["a line, R = 1, left", "7", "0.2", "3"]
    assert runs.rows[1] == ["a steep line, R = 1, left", "7", "failed", "stopped"]
    assert section.claims == []


def test_contrasts_are_taken_seed_by_seed_in_every_setting() -> None:
    results = made_up({"line": 0.25, "steep": 1.0})
    claims = STUDY.section(CONFIG, results, Path()).claims
    assert [(c.ours, c.n, c.verdict) for c in claims] == [("0.8 [0.8, 0.8]", 2, "holds")] * 2
    alone = [r for r in results if r.unit.arm == "line" or r.unit.seed == 8]
    claims = STUDY.section(CONFIG, alone, Path()).claims
    assert [(c.n, c.verdict) for c in claims] == [(1, "undecided")] * 2


def test_results_that_were_withdrawn_are_said_to_be() -> None:
    results = [
        dataclasses.replace(r, failure="withdrawn: a wrong gradient")
        for r in made_up({"line": None, "steep": None})
    ]
    networks = STUDY.section(CONFIG, results, Path()).tables[0]
    assert {row[-1] for row in networks.rows} == {"withdrawn"}


def test_finished_runs_by_seed() -> None:
    results = made_up({"line": 0.25, "steep": None})
    assert sorted(by_seed(results, "line", hidden_size=2)) == [7, 8]
    assert by_seed(results, "steep") == {}
    assert by_seed(results, "line", hidden_size=3) == {}


def test_columns() -> None:
    runs = [{"n": [2, 4], "right": [0.5, 1.0]}, {"n": [2, 4], "right": [0.5, 0.5]}]
    assert Column("", at("right", 2, "n")).cell(runs) == "0.50 [0.50, 0.50]"
    assert Column("", at("right", 4, "n"), form="{:.2f}").cell(runs) == "0.75"
    assert TextColumn("", lambda values: f"{len(values)} runs").cell(runs) == "2 runs"


def test_a_run_that_says_nothing_did_not_finish() -> None:
    unit = STUDY.units(CONFIG, 1)[0]
    table = run_table([Result(unit, None)], "Every run.", STUDY.run_columns(CONFIG))
    assert table.rows == [["a line, R = 1, left", "7", "failed", "did not finish"]]


def curves(**options: Any) -> Curves:
    panel = Panel(updates, validated("validation_accuracy", 100), {"xlabel": "updates"}, level=50)
    return Curves("lines", "Lines.", "Lines against updates.", [panel], **options)


def test_a_line_for_every_seed_and_a_cross_where_one_stopped() -> None:
    results = made_up({"line": 0.5, "steep": None})
    (axes,) = (
        curves(unfinished=True).picture(STUDY, CONFIG.arms, results, hidden_size=1).figure.axes
    )
    *lines, level = axes.lines
    assert [line.get_ydata()[0] for line in lines] == [25.0, 25.0, 10.0, 10.0]
    assert [line.get_marker() for line in lines] == ["", "", "x", "x"]
    assert [line.get_label() for line in lines[::2]] == ["a line", "a steep line"]
    assert set(level.get_ydata()) == {50}
    (axes,) = curves().picture(STUDY, CONFIG.arms, results, hidden_size=1).figure.axes
    assert len(axes.lines) == 3


def test_means_over_seeds() -> None:
    results = made_up({"line": 0.5, "steep": None})
    (axes,) = curves(means=True).picture(STUDY, CONFIG.arms, results, hidden_size=2).figure.axes
    line, _ = axes.lines
    assert (line.get_ydata().tolist(), line.get_marker()) == ([25.0], "o")

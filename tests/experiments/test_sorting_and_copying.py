"""Sorting and repeated copying: networks that learn, runs that resume, sections that add up."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastweights.experiments.sorting_and_copying import (
    ARMS,
    Answerer,
    Copying,
    CopyingConfig,
    SequenceConfig,
    SequenceStudy,
    Sorting,
    SortingConfig,
    length_of,
    right_answers,
)
from fastweights.lab.experiment import Result
from fastweights.tasks import IGNORED, SymbolBatch
from fastweights.training import loop
from fastweights.training.config import ConfigError

SMALL = {
    "first_seed": 0,
    "train_length": 3,
    "test_length": 4,
    "hidden_size": 12,
    "updates": 12,
    "batch_size": 8,
    "warmup": 2,
    "evaluate_every": 4,
    "test_size": 20,
}
STUDIES: dict[str, tuple[SequenceStudy, Any]] = {
    "sorting": (Sorting(), SortingConfig(**SMALL)),
    "copying": (Copying(), CopyingConfig(**SMALL)),
}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker; more threads only wait for each other at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest) -> tuple[SequenceStudy, Any]:
    return STUDIES[request.param]


def train(study: tuple[SequenceStudy, Any], arm: str, folder: Path, **changes: Any) -> Any:
    experiment, config = study
    config = dataclasses.replace(config, arms=(arm,), **changes)
    folder.mkdir(exist_ok=True)
    result = experiment.run(config, experiment.units(config, 1)[0], folder, "cpu", None)
    result.pop("seconds")
    return result


def test_a_killed_run_ends_with_the_same_numbers(
    study: tuple[SequenceStudy, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    expected = train(study, "lstm", tmp_path / "whole")
    save, saved = loop.save_checkpoint, []

    def kill(*args: Any) -> None:
        saved.append(args)
        if len(saved) == 3:
            raise Killed
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", kill)
        with pytest.raises(Killed):
            train(study, "lstm", tmp_path / "killed")
    assert train(study, "lstm", tmp_path / "killed") == expected


def test_it_learns(study: tuple[SequenceStudy, Any], tmp_path: Path) -> None:
    result = train(
        study,
        "exponential",
        tmp_path,
        train_length=2,
        test_length=3,
        updates=300,
        evaluate_every=300,
        batch_size=32,
        learning_rate=2e-2,
        num_symbols=4,
        test_size=50,
    )
    assert result["lengths"] == [2, 3]
    assert result["test_accuracy"][0] > 0.4  # chance is 0.25 and 0.2
    assert len(result["test_sequences"]) == 2


@pytest.mark.parametrize("arm", ARMS)
def test_every_network_answers(study: tuple[SequenceStudy, Any], arm: str) -> None:
    _, config = study
    task = config.task()
    model = Answerer(ARMS[arm].build(config, sum(task.fields)), task.fields, task.num_classes)
    batch = task.batch(0, "train", 0, 3, 5)
    logits = model(batch.inputs, batch.targets.shape[1])
    assert logits.shape == (*batch.targets.shape, task.num_classes)
    logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_answer_depends_on_what_was_shown_and_not_on_other_samples() -> None:
    config = STUDIES["copying"][1]
    task = config.task()
    torch.manual_seed(0)
    model = Answerer(ARMS["exponential"].build(config, sum(task.fields)), task.fields, 9)
    inputs = task.batch(0, "train", 0, 3, 4).inputs
    changed = inputs.clone()
    changed[1, 0, 0] = (changed[1, 0, 0] + 1) % 8
    moved = (model(inputs, 4) != model(changed, 4)).flatten(1).any(1)
    assert moved.tolist() == [False, True, False, False]


class Fixed(torch.nn.Module):
    """Gives the same answers whatever it is shown."""

    def __init__(self, answers: list[list[int]]) -> None:
        super().__init__()
        self.answers = torch.nn.functional.one_hot(torch.tensor(answers)).float()

    def forward(self, inputs: torch.Tensor, asked: int) -> torch.Tensor:
        return self.answers


def test_what_nobody_asks_for_does_not_count() -> None:
    targets = torch.tensor([[1, 2, IGNORED], [1, 0, 2], [IGNORED, 2, 2]])
    batch = SymbolBatch(torch.zeros(3, 3, 1, dtype=torch.int64), targets)
    right = right_answers(Fixed([[1, 2, 0], [1, 0, 0], [0, 2, 2]]), batch, CPU)
    assert right == {"symbols": pytest.approx(6 / 7), "sequences": pytest.approx(2 / 3)}


def test_lengths_grow_and_are_uniform() -> None:
    config = SequenceConfig(updates=4000, train_length=6, curriculum=0.5)
    longest = [max(length_of(config, 3, u) for u in range(s, s + 100)) for s in (0, 900, 2000)]
    assert longest == [2, 4, 6]
    counts = Counter(length_of(config, 3, update) for update in range(2000, 4000))
    assert sorted(counts) == [2, 3, 4, 5, 6]
    assert max(abs(n - 400) for n in counts.values()) < 80
    at_once = dataclasses.replace(config, curriculum=0.0)
    assert max(length_of(at_once, 3, update) for update in range(50)) == 6
    assert [length_of(config, 3, u) for u in range(2000, 2020)] != [
        length_of(config, 4, u) for u in range(2000, 2020)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("exponentail",)}, "did you mean 'exponential'"),
        ({"arms": ("lstm", "lstm")}, "must not repeat itself"),
        ({"test_length": 2}, "must lie between train_length = 3 and"),
        ({"test_length": 65}, "must lie between train_length = 3 and"),
    ],
)
def test_impossible_settings(
    study: tuple[SequenceStudy, Any], changes: dict[str, Any], message: str
) -> None:
    experiment, config = study
    with pytest.raises(ConfigError, match=message):
        experiment.units(dataclasses.replace(config, **changes), 1)


def test_the_section_says_what_came_out(study: tuple[SequenceStudy, Any]) -> None:
    experiment, config = study
    config = dataclasses.replace(config, arms=("exponential", "factorial", "lstm"))
    accuracy = {"exponential": 0.9, "lstm": 0.7}
    results = [
        Result(unit, None, "stopped")
        if unit.arm not in accuracy
        else Result(
            unit,
            {
                "lengths": [2, 3, 4],
                "test_accuracy": [1.0, accuracy[unit.arm] + (unit.seed or 0) / 100, 0.5],
                "test_sequences": [1.0, 0.6, 0.1],
                "validation_accuracy": 0.9,
                "curve": [{"update": 4, "validation_accuracy": 0.9}],
                "parameters": 1000,
                "seconds": 1.0,
            },
        )
        for unit in experiment.units(config, 3)
    ]
    section = experiment.section(config, results, Path())
    exponential, failed, _ = section.tables[0].rows
    assert exponential[2].startswith("91.0 [")
    assert failed[:3] == ["factorial", "0/3", "failed"]
    assert {len(row) for row in section.tables[0].rows} == {len(section.tables[0].columns)}
    assert [(c.ours, c.n) for c in section.claims] == [
        ("20.0 [20.0, 20.0]", 3),
        ("0.0 [0.0, 0.0]", 3),
    ]
    assert section.claims[0].verdict == "holds"
    assert "longer than trained on" in section.claims[1].claim
    assert len(section.pictures) == 2
    nothing = [Result(r.unit, None, "not finished") for r in results]
    assert experiment.section(config, nothing, Path()).claims == []


@pytest.mark.parametrize("experiment", [Sorting(), Copying()])
def test_presets_can_run(experiment: Any) -> None:
    for name, preset in experiment.presets.items():
        assert experiment.units(preset(), experiment.seeds[name])

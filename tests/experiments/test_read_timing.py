"""The study of what a memory is asked with: its probe, its runs and its section."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastweights.experiments import probe
from fastweights.experiments.associative_retrieval import RetrievalConfig, Retriever, fast_weights
from fastweights.experiments.probe import known_before_the_letter
from fastweights.experiments.read_timing import ARMS, BEFORE, NOW, SUM, ReadTiming, quick
from fastweights.lab.experiment import Result
from fastweights.tasks import AssociativeRetrieval

TASK = AssociativeRetrieval(num_pairs=3, train_size=4000, validation_size=50, test_size=400)


class Notes(torch.nn.Module):
    """A layer that puts out which digit came with which letter, from some step on."""

    hidden_size = 64

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        codes = torch.randn(37 * 37, 64, generator=torch.Generator().manual_seed(1))
        pairs = torch.einsum("tni,tnj->nij", x[:6:2], x[1:6:2]).flatten(1)
        return (pairs @ codes).expand(len(x), -1, -1) * (len(x) > self.start), None


def test_a_probe_finds_what_is_there_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_UPDATES", 50)
    splits = TASK.build(0)
    noted = Retriever(Notes(7), TASK.vocabulary_size, 10, TASK.num_classes)
    assert known_before_the_letter(noted, splits, 3) > 0.9
    late = Retriever(Notes(8), TASK.vocabulary_size, 10, TASK.num_classes)  # with the letter
    assert known_before_the_letter(late, splits, 3) < 0.3
    torch.manual_seed(1)
    deaf = fast_weights(memory="none")(RetrievalConfig(), TASK.vocabulary_size, 12)
    model = Retriever(deaf, TASK.vocabulary_size, 10, TASK.num_classes)
    assert known_before_the_letter(model, splits, 3) < 0.5


def test_a_run_and_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_UPDATES", 2)
    config = RetrievalConfig(
        arms=tuple(ARMS),
        num_pairs=2,
        hidden_sizes=(8,),
        train_size=256,
        validation_size=50,
        test_size=200,
        updates=2,
        evaluate_every=2,
    )
    experiment, results = ReadTiming(), []
    for unit in experiment.units(config, 2):
        folder = tmp_path / unit.name
        folder.mkdir()
        values = experiment.run(config, unit, folder, "cpu", None)
        assert ("by_match" in values) == (unit.arm != SUM)
        layer = 8 * 37 + 8 * 8 + 3 * 8  # inputs, recurrent weights, bias and layer norm
        assert values["layer_parameters"] == layer
        assert values["parameters"] == layer + 9 * 100 + 101 * 10
        results.append(Result(unit, values))
    for r in results:
        assert r.values is not None
        r.values["test_accuracy"] = {NOW: 0.9, BEFORE: 0.75, SUM: 0.3}[r.unit.arm]
        if r.unit.arm != SUM:
            never = r.unit.arm == NOW or r.unit.seed == 1
            r.values["by_match"] = [0.9, None if never else 0.3]
            r.values["known_before"] = 0.7
            r.values["by_read"]["all memories alike at the letter"] = 0.4
    section = experiment.section(config, results, tmp_path)
    # With two pairs the binding-free ceiling is 55 %.
    assert [(c.ours, c.verdict) for c in section.claims] == [
        ("20.0 [20.0, 20.0]", "holds"),
        ("15.0 [15.0, 15.0]", "holds"),
        ("60.0 (n = 1)", "undecided"),
        ("-25.0 [-25.0, -25.0]", "does not hold"),
        ("45.0 [45.0, 45.0]", "large"),
        ("50.0 [50.0, 50.0]", "holds"),
    ]
    assert section.tables[2].rows[0][1].startswith("90.0")
    assert section.tables[2].rows[1][1] == "never"
    assert len(section.pictures) == 2
    nothing = [Result(r.unit, None, "failed") for r in results]
    assert experiment.section(config, nothing, tmp_path).claims == []


def test_the_preset_has_every_network() -> None:
    assert quick().arms == (NOW, BEFORE, SUM)

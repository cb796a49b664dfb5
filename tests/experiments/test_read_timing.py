"""What a network reads, measured on networks of which we know it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastweights.experiments.retrieval_study import probe
from fastweights.experiments.retrieval_study.config import RetrievalConfig
from fastweights.experiments.retrieval_study.networks import Retriever, fast_weights
from fastweights.experiments.retrieval_study.probe import known_before_the_letter
from fastweights.experiments.retrieval_study.reading import (
    accuracy_by_match,
    accuracy_by_read,
    changed_reads,
)

from fastweights.experiments.read_timing import ARMS, BEFORE, NOW, SUM, ReadTiming, quick
from fastweights.lab.experiment import Result
from fastweights.tasks import AssociativeRetrieval

TASK = AssociativeRetrieval(num_pairs=3, train_size=200, validation_size=50, test_size=400)


@pytest.fixture(scope="module")
def model() -> Retriever:
    torch.manual_seed(0)
    layer = fast_weights(query="previous", input_scale=3.0)(RetrievalConfig(), 37, 12)
    return Retriever(layer, TASK.vocabulary_size, 10, TASK.num_classes)


def test_reading_as_trained_is_the_network_itself(model: Retriever) -> None:
    test, layer = TASK.build(0).test, model.layer
    found = accuracy_by_read(model, test, TASK.num_pairs)
    assert list(found) == list(changed_reads(3))
    with torch.no_grad():
        right = model(test.inputs).argmax(-1) == test.targets
    assert found["as trained"] == pytest.approx(float(right.double().mean()), abs=1e-12)
    assert model.layer is layer, "it is left as it was"


def test_a_read_is_changed_in_its_steps_only(model: Retriever) -> None:
    memories, query = torch.randn(7, 2, 4), torch.randn(2, 4)
    plain = torch.einsum("mnh,nh->mn", memories, query)
    touched = {
        name: [t for t in range(9) if not torch.equal(read(t, memories, query)[1], plain)]
        for name, read in changed_reads(3).items()
    }
    pairs, marks, letter = [*range(6)], [6, 7], [8]
    assert list(touched.values()) == [[], pairs, marks, letter, marks, letter, marks, letter]


def test_accuracy_by_match_ranks_what_was_written_after_the_digits(model: Retriever) -> None:
    test = TASK.build(0).test
    found = accuracy_by_match(model, test, 3)
    x = torch.nn.functional.one_hot(test.inputs.T, TASK.vocabulary_size).float()
    with torch.no_grad():
        hidden, _ = model.layer(x)  # hidden[t] is h(t + 1)
        right = (model(test.inputs).argmax(-1) == test.targets).double()
    scores = torch.stack([(hidden[t] * hidden[7]).sum(-1) for t in (1, 3, 5)])
    asked = torch.stack([test.inputs[:, t] == test.inputs[:, -1] for t in (0, 2, 4)])
    better = (scores > (scores * asked).sum(0)).sum(0)
    for rank in range(3):
        assert found[rank] == pytest.approx(float(right[better == rank].mean()), abs=1e-9)


class Notes(torch.nn.Module):
    """A layer that writes down, in place of an output, which digit came with which letter."""

    hidden_size = 64

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        codes = torch.randn(37 * 37, 64, generator=torch.Generator().manual_seed(1))
        pairs = torch.einsum("tni,tnj->nij", x[:6:2], x[1:6:2]).flatten(1)
        return (pairs @ codes).expand(len(x), -1, -1), None


def test_a_probe_finds_what_is_there_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_UPDATES", 50)
    task = AssociativeRetrieval(num_pairs=3, train_size=4000, validation_size=50, test_size=400)
    splits = task.build(0)
    noted = Retriever(Notes(), task.vocabulary_size, 10, task.num_classes)
    assert known_before_the_letter(noted, splits, 3) > 0.9
    torch.manual_seed(1)
    deaf = fast_weights(memory="none")(RetrievalConfig(), task.vocabulary_size, 12)
    model = Retriever(deaf, task.vocabulary_size, 10, task.num_classes)
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
        results.append(Result(unit, values))
    for r in results:
        assert r.values is not None
        r.values["test_accuracy"] = {NOW: 0.9, BEFORE: 0.75, SUM: 0.3}[r.unit.arm]
        if r.unit.arm != SUM:
            r.values["by_match"] = [0.9, None if r.unit.arm == NOW else 0.3]
            r.values["known_before"] = 0.7
            r.values["by_read"]["all memories alike at the letter"] = 0.4
    section = experiment.section(config, results, tmp_path)
    assert [c.verdict for c in section.claims] == ["holds"] * 3 + [
        "does not hold",
        "large",
        "holds",
    ]
    assert section.tables[2].rows[0][1].startswith("90.0")
    assert section.tables[2].rows[1][1] == "never"
    assert len(section.pictures) == 2
    nothing = [Result(r.unit, None, "failed") for r in results]
    assert experiment.section(config, nothing, tmp_path).claims == []


def test_the_preset_has_every_network() -> None:
    assert quick().arms == (NOW, BEFORE, SUM)

"""Reads that are altered: the loop is the layer, and what is measured is what was asked for."""

from __future__ import annotations

import pytest
import torch

from fastweights.experiments.altered_reads import (
    AlteredReads,
    accuracy_by_match,
    accuracy_by_read,
    as_written,
    by_all,
    changed_reads,
    never,
    of_another,
    within,
)
from fastweights.experiments.associative_retrieval import RetrievalConfig, Retriever, fast_weights
from fastweights.nn import FastWeightsRNN
from fastweights.tasks import AssociativeRetrieval

TASK = AssociativeRetrieval(num_pairs=3, train_size=200, validation_size=50, test_size=400)


@pytest.fixture
def swapped() -> AlteredReads:
    torch.manual_seed(0)
    layer = FastWeightsRNN(5, 6, decay=0.9, write_rate=0.4, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return AlteredReads(layer, of_another)


def test_another_sample_that_is_the_same_changes_nothing(swapped: AlteredReads) -> None:
    x = torch.randn(7, 1, 5, dtype=torch.float64).expand(7, 3, 5)
    torch.testing.assert_close(swapped(x)[0], swapped.layer(x)[0], rtol=1e-12, atol=1e-12)


def test_every_sample_reads_its_neighbour_alone(swapped: AlteredReads) -> None:
    x = torch.randn(7, 4, 5, dtype=torch.float64)
    other = x.clone()
    other[-2, 1] += 1.0  # written, and read by the next sample, in the last step
    changed = (swapped(x)[0] != swapped(other)[0])[-1].any(-1)
    assert changed.tolist() == [False, True, True, False]
    assert not torch.allclose(swapped(x)[0], swapped.layer(x)[0])


def test_a_single_sample_has_no_other(swapped: AlteredReads) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        swapped(torch.zeros(3, 1, 5, dtype=torch.float64))


def test_the_loop_computes_the_default_layer_only() -> None:
    with pytest.raises(ValueError, match="default options"):
        AlteredReads(FastWeightsRNN(5, 6, layer_norm=False), as_written)


@pytest.mark.parametrize("query", ["preliminary", "previous"])
def test_unaltered_the_loop_is_the_layer(query: str) -> None:
    layer = FastWeightsRNN(5, 6, query=query, dtype=torch.float64)
    x = torch.randn(7, 3, 5, dtype=torch.float64)
    found = AlteredReads(layer, as_written)(x)[0]
    torch.testing.assert_close(found, layer(x)[0], rtol=1e-12, atol=1e-12)
    late = AlteredReads(layer, within(range(4, 7), by_all))(x)[0]
    torch.testing.assert_close(late[:4], found[:4])
    assert not torch.allclose(late[4], found[4])


def test_reads_that_ask_for_nothing(swapped: AlteredReads) -> None:
    memories, query = torch.randn(4, 3, 6), torch.randn(3, 6)
    _, scores = by_all(0, memories, query)
    expected = (memories * query).sum(-1).mean(0)
    torch.testing.assert_close(scores, expected.expand(4, 3))
    assert not never(0, memories, query)[1].any()
    x = torch.randn(7, 3, 5, dtype=torch.float64)
    swapped.read = never
    layer = FastWeightsRNN(5, 6, memory="none", inner_steps=1, dtype=torch.float64)
    layer.load_state_dict(swapped.layer.state_dict(), strict=False)
    torch.testing.assert_close(swapped(x)[0], layer(x)[0], rtol=1e-12, atol=1e-12)


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


def test_a_rank_that_never_comes_has_no_accuracy(model: Retriever) -> None:
    test = TASK.build(0).test
    alone = type(test)(test.inputs[:1], test.targets[:1])
    found = accuracy_by_match(model, alone, 3)
    assert sorted(map(str, found))[1:] == ["None", "None"]

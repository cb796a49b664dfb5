"""What experiments on associative retrieval share, and the study of controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastweights.experiments.retrieval_study.altered import (
    AlteredReads,
    as_written,
    by_all,
    never,
    of_another,
    within,
)
from fastweights.experiments.retrieval_study.config import RetrievalConfig
from fastweights.experiments.retrieval_study.effects import Effect, best_of, difference, verdict
from fastweights.experiments.retrieval_study.networks import Retriever, fast_weights
from fastweights.experiments.retrieval_study.rivals import rivals_tables

from fastweights.experiments.controls import ARMS, EFFECTS, Controls
from fastweights.lab.experiment import Result
from fastweights.nn import FastWeightsRNN
from fastweights.report.statistics import Interval
from fastweights.training.config import ConfigError

CONFIG = RetrievalConfig()


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


@pytest.mark.parametrize("name", ARMS)
def test_every_network_learns(name: str) -> None:
    torch.manual_seed(0)
    layer = ARMS[name].build(CONFIG, 37, 10)
    model = Retriever(layer, 37, 20, 10)
    tokens = torch.randint(37, (8, 11))
    model(tokens).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters())  # type: ignore[union-attr]


def test_matched_networks_match() -> None:
    def size(name: str) -> int:
        return sum(p.numel() for p in ARMS[name].build(CONFIG, 37, 20).parameters())

    assert size("lstm-parameters") == pytest.approx(size("fast-weights"), rel=0.1)
    # Eleven tokens: eleven vectors of twenty numbers, and h.
    assert ARMS["lstm-state"].build(CONFIG, 37, 20).hidden_size == 120  # h and c
    assert ARMS["gru-state"].build(CONFIG, 37, 20).hidden_size == 240


def runs(**accuracies: list[float]) -> list[Result]:
    units = {u.name: u for u in Controls().units(RetrievalConfig(arms=tuple(ARMS)), 3)}
    found = []
    for arm, values in accuracies.items():
        arm = arm.replace("_", "-")
        for seed, value in enumerate(values):
            unit = units[f"{arm}-r50-seed{seed}"]
            result: dict[str, Any] = {
                "validation_accuracy": value,
                "test_accuracy": value - 0.01,
                "curve": [{"update": 1, "validation_accuracy": value}],
                "learning_rate": 0.1,
                "weight_decay": 0.0,
                "layer_parameters": 10,
                "parameters": 20,
                "seconds": 1.0,
                "updates": 1,
            }
            found.append(Result(unit, result))
    return found


def test_the_best_control_is_chosen_on_validation_data() -> None:
    results = runs(identity_1=[0.3, 0.5], identity_3=[0.35, 0.41])
    assert best_of(("identity-1", "identity-3"), 50, results) == {0: 0.29, 1: 0.49}
    assert best_of(("lstm",), 50, results) is None


def test_differences_are_taken_seed_by_seed() -> None:
    results = runs(fast_weights=[0.9, 0.8, 0.7], lstm=[0.5, 0.6])
    effect = Effect("", ("fast-weights",), ("lstm",))
    interval = difference(effect, 50, results)
    assert interval is not None
    assert interval.n == 2
    assert interval.mean == pytest.approx(0.3)
    assert difference(Effect("", ("fast-weights",), ("gru",)), 50, results) is None


def test_verdicts_at_their_bounds() -> None:
    assert verdict(Interval(0.1, 0.021, 0.2, 5)) == "large"
    assert verdict(Interval(0.0, -0.02, 0.02, 5)) == "none"
    assert verdict(Interval(-0.1, -0.2, -0.021, 5)) == "negative"
    assert verdict(Interval(0.02, -0.01, 0.05, 5)) == "unclear"
    assert verdict(Interval(0.9, None, None, 1)) == "unclear"


def rivals(results: list[Result]) -> list[list[str]]:
    tables = rivals_tables(ARMS, "fast-weights", ("lstm", "gru"), (50,), results)
    return [list(row) for table in tables for row in table.rows]


def test_beside_a_rival_that_never_gets_there_fast_weights_win() -> None:
    results = runs(fast_weights=[0.99, 0.95, 0.92], lstm=[0.5, 0.6])
    assert rivals(results) == [
        ["LSTM", "50", "42.0 [35.0, 49.0], win", "1 / never, win", "1.0 / never, win"]
    ]


def test_beside_a_quicker_rival_fast_weights_lose_and_beside_an_equal_one_they_tie() -> None:
    results = runs(fast_weights=[0.95, 0.95], lstm=[0.99, 0.99], gru=[0.95, 0.96])
    for result in results:
        assert result.values is not None
        if result.unit.arm == "fast-weights":
            result.values["curve"][0]["update"] = 4
        if result.unit.arm == "gru":
            result.values["seconds"] = 8.0
    assert rivals(results) == [
        ["LSTM", "50", "-4.0 [-4.0, -4.0], lose", "4 / 1, lose", "4.0 / 1.0, lose"],
        ["GRU", "50", "-0.5 [-1.0, 0.0], tie", "4 / 1, lose", "4.0 / 8.0, win"],
    ]


def test_beside_nobody_there_is_no_table_of_rivals() -> None:
    assert rivals(runs(fast_weights=[0.9])) == []
    both = rivals(runs(fast_weights=[0.4, 0.4], gru=[0.4, 0.9]))
    assert both[0][3:] == ["never / never, neither", "never / never, neither"]


def test_the_section_answers_what_it_can() -> None:
    results = runs(fast_weights=[0.99, 0.98, 0.99], layer_norm_rnn=[0.4, 0.38, 0.4])
    results += runs(identity_1=[0.4, 0.38, 0.4], no_norm_s1=[0.6, 0.9, 0.9])
    config = RetrievalConfig(arms=("fast-weights", "layer-norm-rnn", "identity-1", "no-norm-s1"))
    section = Controls().section(config, results, Path())
    told = {claim.claim.split(": ")[1].split(";")[0]: claim.verdict for claim in section.claims}
    assert told == {
        "depth alone": "none",
        "a Hebbian memory at equal depth": "large",
        "layer norm beside a Hebbian memory, S = 1": "large",
    }
    assert [len(p.figure.axes[0].get_yticks()) for p in section.pictures] == [4]
    # Of the four scales of the identity one ran, and nothing else that could be the best.
    assert section.tables[0].rows[0][1] == "identity, scale 1"


def test_what_was_withdrawn_is_shown_as_withdrawn() -> None:
    results = runs(fast_weights=[0.99, 0.98], norm_preliminary=[0.9, 0.9])
    config = RetrievalConfig(arms=("fast-weights", "norm-preliminary"))

    def cells(reason: str) -> tuple[list[str], list[str], list[str]]:
        lost = [
            Result(r.unit, None, reason) if r.unit.arm == "norm-preliminary" else r for r in results
        ]
        section = Controls().section(config, lost, Path())
        claims = [f"{c.ours}, {c.n}, {c.verdict}" for c in section.claims]
        answers = [row[-1] for row in section.tables[0].rows]
        return claims, answers, [row[3] for row in section.tables[1].rows if "h_0" in row[0]]

    everywhere = ["withdrawn, 0, withdrawn"], ["withdrawn"], ["withdrawn"]
    assert cells("withdrawn: trained with a wrong gradient") == everywhere
    assert cells("FloatingPointError: the loss is nan") == ([], [], ["failed"])


def test_the_sizes_of_every_network_can_be_told() -> None:
    results = runs(**{arm.replace("-", "_"): [0.5] for arm in ARMS})
    section = Controls().section(RetrievalConfig(arms=tuple(ARMS)), results, Path())
    sizes = {row[0]: int(row[6].replace(",", "")) for row in section.tables[2].rows}
    assert sizes["fast weights"] == sizes["another's memory"] == 12 * 50
    assert sizes["LSTM"] == 2 * 50
    assert sizes["LSTM, equal state"] == sizes["GRU, equal state"] == 12 * 50
    assert sizes["layer-norm RNN"] == 50


def test_every_question_is_about_arms_that_exist() -> None:
    for effect in EFFECTS:
        assert set(effect.arms) | set(effect.controls) <= set(ARMS)


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(ConfigError, match="identity-1"):
        Controls().units(RetrievalConfig(arms=("identity-2",)), 1)


def test_options_of_the_layer_override_the_configuration() -> None:
    layer = fast_weights(write_rate=1.0, decay=0.5)(CONFIG, 37, 10)
    assert layer.write_rate == 1.0
    assert float(layer.decay(torch.tensor(1))) == 0.5  # type: ignore[operator]

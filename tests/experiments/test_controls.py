"""The study of controls: matched networks, effects, what was withdrawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastweights.experiments.associative_retrieval import RetrievalConfig
from fastweights.experiments.baseline_table import baseline_table
from fastweights.experiments.controls import ARMS, EFFECTS, Controls, Effect, best_of
from fastweights.lab.experiment import Result

CONFIG = RetrievalConfig()


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
    for result in results[2:]:
        assert result.values is not None
        result.values["test_accuracy"] = 1.0
    assert best_of(("identity-3", "identity-1"), results, hidden_size=50) == "identity-1"
    assert best_of(("identity-1", "identity-3"), results, hidden_size=20) is None
    assert best_of(("lstm",), results, hidden_size=50) is None


def test_effects_are_differences_from_the_best_control_seed_by_seed() -> None:
    results = runs(fast_weights=[0.9, 0.8, 0.7], identity_1=[0.5, 0.6], identity_3=[0.1, 0.1, 0.1])
    effect = Effect("depth", ("fast-weights",), ("identity-1", "identity-3"))
    interval = effect.interval(results, hidden_size=50)
    assert interval is not None
    assert interval.n == 2
    assert interval.mean == pytest.approx(0.3)
    row = effect.row(results, hidden_size=50)
    assert row is not None
    assert (row.claim, row.n, row.verdict) == ("R = 50: depth; points of accuracy", 2, "large")
    unanswered = Effect("", ("fast-weights",), ("gru",))
    assert unanswered.interval(results, hidden_size=50) is None
    assert unanswered.row(results, hidden_size=50) is None


def baselines(results: list[Result]) -> list[list[str]]:
    tables = baseline_table(Controls(), "fast-weights", ("lstm", "gru"), CONFIG, results)
    return [list(row) for table in tables for row in table.rows]


def test_beside_a_baseline_that_never_gets_there_fast_weights_win() -> None:
    results = runs(fast_weights=[0.99, 0.95, 0.92], lstm=[0.5, 0.6])
    assert baselines(results) == [
        ["LSTM", "50", "42.0 [35.0, 49.0], win", "1 / never, win", "1.0 / never, win"]
    ]


def test_beside_a_quicker_baseline_fast_weights_lose_and_beside_an_equal_one_they_tie() -> None:
    results = runs(fast_weights=[0.95, 0.95], lstm=[0.99, 0.99], gru=[0.95, 0.96])
    for result in results:
        assert result.values is not None
        if result.unit.arm == "fast-weights":
            result.values["curve"][0]["update"] = 4
            result.values["updates"] = 2
        if result.unit.arm == "gru":
            result.values["seconds"] = 8.0
    assert baselines(results) == [
        ["LSTM", "50", "-4.0 [-4.0, -4.0], lose", "4 / 1, lose", "2.0 / 1.0, lose"],
        ["GRU", "50", "-0.5 [-1.0, 0.0], tie", "4 / 1, lose", "2.0 / 8.0, win"],
    ]


def test_beside_nobody_there_is_no_table_of_baselines() -> None:
    assert baselines(runs(fast_weights=[0.9])) == []
    both = baselines(runs(fast_weights=[0.4, 0.4], gru=[0.4, 0.8]))
    assert both[0][3:] == ["never / never, neither", "never / never, neither"]
    some = baselines(runs(fast_weights=[0.9, 0.9], gru=[0.9, 0.4]))
    assert some[0][3:] == ["1 / never, unclear", "1.0 / never, unclear"]


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


def test_every_question_is_about_arms_that_exist() -> None:
    for effect in EFFECTS:
        assert set(effect.ours) | set(effect.theirs) <= set(ARMS)

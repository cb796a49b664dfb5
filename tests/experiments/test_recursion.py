"""A procedure that calls itself finds its callers again in the fast weights, and only there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.experiments.hinton_plaut.recursion import Recursion, deepest
from fastweights.experiments.hinton_plaut.recursion_machine import Machine, simulate
from fastweights.experiments.hinton_plaut.recursion_procedure import (
    Act,
    Procedure,
    RecursionConfig,
    Stage,
    chain,
    course,
    full_tree,
    pick,
    state_number,
    transitions,
)
from fastweights.lab.experiment import Result
from fastweights.training.config import ConfigError, from_dict

CONFIG = RecursionConfig(
    symbols=4,
    program_units=48,
    hidden=64,
    context_units=48,
    context_counts=(16, 96),
    learning_steps=200,
    depths=(1, 2, 4, 6, 8, 10),
    control_depths=(1, 2, 4, 6, 8, 10),
    tree_depths=(1, 3),
    decays=(0.0, 0.05),
    stream=7,
    depth=2,
    runs=8,
)
SEEDS = [3, 0, 7, 11, 5, 1, 2, 9]
TREES = [chain(1), chain(3), full_tree(3)]


@pytest.fixture(scope="module")
def procedure() -> Procedure:
    procedure = Procedure(CONFIG, SEEDS)
    procedure.learn()
    return procedure


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return simulate(CONFIG, SEEDS)


def verdicts(config: RecursionConfig, values: dict[str, Any]) -> list[str]:
    experiment = Recursion()
    (unit,) = experiment.units(config, len(SEEDS))
    section = experiment.section(config, [Result(unit, json.loads(json.dumps(values)))], Path())
    return [claim.verdict for claim in section.claims]


def share(values: dict[str, Any], arm: str, depth: int) -> float:
    chains = {**values["controls"], "fast": values["memories"]["hebbian"]["chain"]}
    return float(np.mean(chains[arm], 0)[CONFIG.control_depths.index(depth)])


def test_program_writes_each_node_between_and_after_its_subtrees() -> None:
    written = [step.node for step in course(full_tree(3)) if step.writes]
    assert written == [1, 1, 0, 2, 2, 0]
    assert [step.node for step in course(chain(4)) if step.writes] == [2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("tree", [chain, full_tree])
def test_depth_is_the_most_callers_waiting(tree: Any, depth: int) -> None:
    acts = np.array([step.act for step in course(tree(depth))])
    waiting = np.cumsum((acts == Act.CALL) * 1 - (acts == Act.RETURN))
    assert (waiting.max(), waiting.min(), waiting[-1]) == (depth, 0, 0)


@pytest.mark.parametrize("tree", TREES)
def test_transitions_are_the_steps_of_the_program(tree: Any) -> None:
    table = {(t.state, t.seen): t for t in transitions(3)}
    symbols = [2, 0, 1]
    waiting = []
    steps = course(tree)
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        state, seen = (state_number(step.stage, 0, 3), 3)
        if step.node is not None:
            state = state_number(step.stage, symbols[step.node], 3)
        if step.seen is not None:
            seen = symbols[step.seen]
        row = table[state, seen]
        assert row.act == step.act
        assert row.write == (symbols[step.node] if step.writes and step.node is not None else 3)
        expected = row.next_state
        if step.act == Act.CALL:
            waiting.append(expected)
            expected = int(Stage.START)
        elif step.act == Act.RETURN:
            expected = waiting.pop()
        if after is not None:
            x = 0 if after.node is None else symbols[after.node]
            assert state_number(after.stage, x, 3) == expected


def test_slow_weights_know_every_transition_and_clean_up(procedure: Procedure) -> None:
    table = torch.tensor(transitions(CONFIG.symbols)).expand(len(SEEDS), -1, -1)
    state, seen, after, act, write = table.unbind(2)
    units = pick(procedure.codes, state)
    units[:, :, :3] *= -1
    with torch.no_grad():
        drive, acts, writes = procedure(units, seen)
    assert torch.equal(acts.argmax(2), act)
    assert torch.equal(writes.argmax(2), write)
    assert ((drive > 0) == (pick(procedure.codes, after) > 0)).double().mean() > 0.97


def test_callers_are_found_again_only_in_fast_weights(values: dict[str, Any]) -> None:
    assert share(values, "fast", 2) > 0.95
    assert share(values, "stack", 10) > 0.95
    assert share(values, "none", 1) < 0.1
    assert share(values, "none", 2) == share(values, "slow", 2) == 0
    assert np.mean(values["returns"]["none"]) == pytest.approx(1 / 9, abs=0.03)


def test_one_cue_for_every_call_is_ambiguous(values: dict[str, Any]) -> None:
    assert share(values, "one cue", 1) > 0.95
    assert share(values, "one cue", 2) < 0.05


def test_wrong_units_add_up_unless_contexts_are_put_right(values: dict[str, Any]) -> None:
    added, put_right = (
        np.mean(values["unwinding"][memory][-1], 0)[::2] for memory in ("hebbian", "cued")
    )
    assert added[0] == put_right[0] < 0.1
    assert added[-1] > 0.3
    assert put_right[-1] < 0.2


def test_run_without_fast_weights_goes_astray_at_the_first_return(values: dict[str, Any]) -> None:
    fast, none = (np.mean(values["trace"][arm], 0) for arm in ("fast", "none"))
    back = [step.stage for step in course(chain(CONFIG.depth))].index(Stage.MID)
    np.testing.assert_array_equal(fast[:back], none[:back])
    assert fast[back] > 0.9
    assert abs(none[back]) < 0.15


def test_verdicts_of_the_effect(values: dict[str, Any]) -> None:
    assert verdicts(CONFIG, values) == ["holds"] * 11


def test_without_a_write_rate_no_caller_is_recovered() -> None:
    config = dataclasses.replace(
        CONFIG,
        write_rate=0.0,
        learning_steps=50,
        depths=(1, 2),
        control_depths=(1, 2),
        tree_depths=(1,),
    )
    recovered, *others = verdicts(config, simulate(config, SEEDS[:4]))
    assert recovered == "does not hold"
    assert others[-4:] == ["does not hold"] * 4


@pytest.mark.parametrize("memory", ["hebbian", "delta"])
def test_a_call_is_the_plain_update(procedure: Procedure, memory: Any) -> None:
    machine = Machine(procedure, SEEDS, 8, write_rate=0.7, decay=0.2, memory=memory)
    expected = np.zeros(machine.fast.shape)
    rng = np.random.default_rng(0)
    for steps in (1, 40, 3):
        s, c = (rng.choice((-1.0, 1.0), (len(SEEDS), CONFIG.runs, n)) for n in (56, 8))
        machine._store(torch.from_numpy(s).float(), torch.from_numpy(c).float())
        s, c = s.reshape(-1, 56), c.reshape(-1, 8)
        for f, caller, context in zip(expected, s, c, strict=True):
            error = caller - f @ context if memory == "delta" else caller
            f += 0.7 * np.outer(error, context) / 8
        machine.relax(steps)
        expected *= 0.8**steps
        np.testing.assert_allclose(machine.strength * machine.fast, expected, rtol=1e-4, atol=1e-6)


def test_erasing_forgets_what_was_recalled_and_nothing_orthogonal(procedure: Procedure) -> None:
    machine = Machine(procedure, SEEDS, 8, write_rate=1.0, decay=0.0, memory="erased")
    contexts = torch.ones(2, len(SEEDS), CONFIG.runs, 8)
    contexts[1, :, :, ::2] = -1
    callers = [machine._signs(56) for _ in contexts]
    for caller, context in zip(callers, contexts, strict=True):
        machine._store(caller, context)
    machine._recover(contexts[0], callers[0])
    torch.testing.assert_close(machine._recall(contexts[0]), torch.zeros_like(callers[0]))
    torch.testing.assert_close(machine._recall(contexts[1]), callers[1])


def test_total_decay_leaves_nothing(procedure: Procedure) -> None:
    machine = Machine(procedure, SEEDS, CONFIG.context_units, write_rate=1.0, decay=1.0)
    assert np.mean(machine.run(chain(2))["right"]) == 0
    assert torch.isfinite(machine.fast).all()


def test_deepest_with_half_of_the_runs() -> None:
    right = [[1.0, 0.5, 0.4], [0.4, 0.0, 0.0], [1.0, 1.0, 0.9]]
    assert deepest((1, 2, 8), right).tolist() == [2, 0, 8]


def test_a_seed_does_not_depend_on_its_neighbours(procedure: Procedure) -> None:
    alone = Procedure(CONFIG, [0])
    alone.learn()
    torch.testing.assert_close(alone.codes[0], procedure.codes[1])
    torch.testing.assert_close(alone.w1[0], procedure.w1[1], rtol=0.05, atol=0.02)
    ours, theirs = (
        Machine(p, seeds, 32, write_rate=1.0, decay=0.0)._signs(5)
        for p, seeds in ((alone, [0]), (procedure, SEEDS))
    )
    assert torch.equal(ours[0], theirs[1])


def test_section_shows_figures_and_survives_a_failed_run(values: dict[str, Any]) -> None:
    experiment = Recursion()
    (unit,) = experiment.units(CONFIG, len(SEEDS))
    section = experiment.section(CONFIG, [Result(unit, values)], Path())
    assert [p.name for p in section.pictures] == [
        "recursion",
        "recursion-trace",
        "recursion-unwinding",
        "recursion-decay",
    ]
    assert all(len(row) == len(t.columns) for t in section.tables for row in t.rows)
    assert {claim.n for claim in section.claims} == {len(SEEDS)}
    assert not experiment.section(CONFIG, [Result(unit, None, "died")], Path()).claims


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="decay"):
        from_dict(RecursionConfig, {**dataclasses.asdict(CONFIG), "decay": 1.5})
    with pytest.raises(ConfigError, match="control_depths must contain 2 and depth = 3"):
        Recursion().units(dataclasses.replace(CONFIG, depth=3), 3)

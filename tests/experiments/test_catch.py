"""The agents that play Catch: what they see, how they learn, and what is said of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium", reason="needs the extra rl")

from fastweights.experiments.catch import (
    ARMS,
    Agent,
    Catch,
    CatchConfig,
    Frames,
    play,
)
from fastweights.lab.experiment import Result
from fastweights.training import loop
from fastweights.training.config import ConfigError

STUDY = Catch()
SMALL = CatchConfig(
    arms=("fast-weights", "frames"),
    size=5,
    blank_after=2,
    hidden_size=12,
    first_seed=0,
    updates=6,
    games=4,
    warmup=0,
    evaluate_every=2,
    test_games=20,
)


def train(config: CatchConfig, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    result = STUDY.run(config, STUDY.units(config, 1)[0], folder, "cpu", None)
    return {key: value for key, value in result.items() if key != "seconds"}


def agent_of(arm: str, config: CatchConfig = SMALL) -> Agent:
    layer = ARMS[arm].build(config, config.hidden_size)
    return Agent(layer, config.size, config.hidden_size)


@pytest.mark.parametrize("arm", ARMS)
def test_a_step_at_a_time_an_agent_acts_as_over_the_whole_episode(arm: str) -> None:
    agent = agent_of(arm).double()
    torch.set_default_dtype(torch.float64)
    try:
        episode = play(agent, SMALL, (3, 0), 6, greedy=True)
    finally:
        torch.set_default_dtype(torch.float32)
    logits, values, _ = agent(episode.screens)
    assert logits.argmax(-1).equal(episode.actions)
    assert values.shape == episode.rewards.shape == (4, 6)
    assert set(episode.rewards[-1].tolist()) <= {-1.0, 1.0}
    assert not episode.rewards[:-1].any()


@pytest.mark.parametrize("arm", ["fast-weights", "lstm"])
def test_an_agent_learns_to_catch(arm: str, tmp_path: Path) -> None:
    config = dataclasses.replace(
        SMALL, arms=(arm,), size=4, updates=150, games=32, evaluate_every=150, learning_rate=0.01
    )
    assert train(config, tmp_path)["test_accuracy"] > 0.9  # at random it is less than 0.6


def test_four_frames_are_all_that_it_remembers() -> None:
    layer = Frames(3, 5)
    x = torch.randn(7, 2, 3)
    output, state = layer(x)
    first, between = layer(x[:2])
    second, end = layer(x[2:], between)
    torch.testing.assert_close(torch.cat([first, second]), output)
    torch.testing.assert_close(end, state)
    changed = x.clone()
    changed[1] += 1
    differs = (layer(changed)[0] != output).flatten(1).any(1)
    assert not differs[[0, 5, 6]].any()
    assert differs[1:5].any()


def test_a_killed_run_ends_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    whole = train(SMALL, tmp_path / "whole")
    save, saved = loop.save_checkpoint, []

    def kill(*args: Any) -> None:
        saved.append(args)
        if len(saved) == 2:
            raise Killed
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", kill)
        with pytest.raises(Killed):
            train(SMALL, tmp_path / "killed")
    assert train(SMALL, tmp_path / "killed") == whole


def test_attention_is_shared_out_among_the_past(tmp_path: Path) -> None:
    attention = torch.tensor(train(SMALL, tmp_path)["attention"])
    assert attention.shape == (4, 4)
    assert not attention.triu().any()
    assert attention.min() >= 0
    assert attention[0].sum() == 0  # there is nothing to look back to
    assert 0 < attention[-1].sum() <= 1 + 1e-4


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="blank_after must be at most size = 5, got 6"):
        STUDY.units(dataclasses.replace(SMALL, blank_after=6), 1)


def test_the_section_says_what_came_out() -> None:
    results = []
    for unit in STUDY.units(SMALL, 3):
        good = unit.arm == "fast-weights"
        curve = [
            {"update": 2, "validation_accuracy": 0.96 if good else 0.5},
            {"update": 6, "validation_accuracy": 1.0 if good else 0.6},
        ]
        values = {"test_accuracy": 1.0 if good else 0.6, "validation_accuracy": 1.0}
        values |= {"curve": curve, "updates": 6, "parameters": 100, "seconds": 1.0}
        if good:
            values["attention"] = [[0.0] * 4] * 4
        results.append(Result(unit, values))
    section = STUDY.section(SMALL, results, Path())
    more, sooner = section.claims
    assert (more.ours[:4], more.verdict) == ("40.0", "holds")
    assert (sooner.ours[:2], sooner.verdict) == ("-4", "holds")
    assert [picture.name for picture in section.pictures] == [
        "catch-n5-curves",
        "catch-n5-attention",
    ]
    assert [row[:2] for row in section.tables[0].rows] == [
        ["fast weights", "3/3"],
        ["four frames", "3/3"],
    ]

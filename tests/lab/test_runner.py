"""Runs in folders: resumed, refused, extended; and the numbers stay the same."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fastweights.experiments.associative_retrieval import RetrievalConfig
from fastweights.experiments.retrieval import Retrieval
from fastweights.files import read_json
from fastweights.lab import runner
from fastweights.lab.experiment import Unit
from fastweights.lab.plan import Plan, as_text, load_plan, results_of
from fastweights.lab.pool import Tick
from fastweights.lab.runner import run_units
from fastweights.lab.sweep import Sweep, load_sweep, prepare_sweep, seeds_in
from fastweights.training.config import ConfigError, as_dict, with_overrides

SMALL = [
    "arms=fast-weights,lstm",
    "num_pairs=2",
    "hidden_sizes=6",
    "head_size=8",
    "train_size=256",
    "validation_size=64",
    "test_size=64",
    "batch_size=16",
    "updates=3000",
    "evaluate_every=10",
]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs one after another without worker processes."""

    def run_all(
        work: Callable[[str], None],
        names: list[str],
        *,
        workers: int,
        tick: Callable[[list[str]], None],
    ) -> dict[str, str]:
        failures = {}
        for name in names:
            tick([name])
            try:
                work(name)
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}"
        return failures

    monkeypatch.setattr(runner, "run_all", run_all)


def plan_in(folder: Path, *more: str, seeds: int = 1) -> Plan:
    config = with_overrides(RetrievalConfig(), [*SMALL, "updates=20", *more])
    return Plan(Retrieval(), "quick", config, seeds, folder)


def run_plan(plan: Plan, tensorboard: bool = False, tick: Tick = lambda _: None) -> None:
    homes = [plan.unit_folder(unit) for unit in plan.units]
    run_units(homes, folder=plan.folder, workers=1, tensorboard=tensorboard, tick=tick)


def prepare(plan: Plan, *, resume: bool) -> None:
    prepare_sweep(Sweep(plan), resume=resume)


def do(plan: Plan, *, resume: bool = False, tensorboard: bool = False) -> None:
    prepare(plan, resume=resume)
    run_plan(plan, tensorboard)


def written(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.glob("units/*/*") if p.is_file()}


@pytest.mark.usefixtures("in_this_process")
def test_more_seeds_are_added_and_none_is_run_again(tmp_path: Path) -> None:
    do(plan_in(tmp_path))
    before = written(tmp_path)
    assert len(results_of(load_plan(tmp_path))) == 2
    do(plan_in(tmp_path, seeds=2), resume=True)
    assert seeds_in(tmp_path) == 2
    results = results_of(load_plan(tmp_path))
    assert [r.unit.seed for r in results] == [0, 0, 1, 1]
    assert all(r.values for r in results)
    after = written(tmp_path)
    assert len(after) == 2 * len(before)
    assert before.items() <= after.items()
    with pytest.raises(ConfigError, match=r"holds 2 seeds; .* not drop them, got --seeds 1"):
        prepare(plan_in(tmp_path, seeds=1), resume=True)


@pytest.mark.usefixtures("in_this_process")
def test_a_run_folder_says_what_it_is(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    do(plan)
    found = load_plan(tmp_path)
    assert (found.config, found.seeds, found.units) == (plan.config, plan.seeds, plan.units)
    for unit in plan.units:
        home = plan.unit_folder(unit)
        described = read_json(home / "config.json")
        assert described["seed"] == unit.seed
        assert described["config"] == as_dict(plan.config)
        environment = read_json(home / "environment.json")
        assert environment["device"] == "cpu"
        assert environment["packages"]["torch"]
        assert (home / "metrics.jsonl").exists()
        assert 0 <= read_json(home / "result.json")["test_accuracy"] <= 1


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("damage", ["truncated", "empty"])
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "result.json", "metrics.jsonl"])
def test_a_damaged_run_is_done_again_to_the_same_numbers(
    tmp_path: Path, name: str, damage: str
) -> None:
    plan = plan_in(tmp_path)
    do(plan)
    before = [{**(r.values or {}), "seconds": 0} for r in results_of(plan)]
    home = plan.unit_folder(plan.units[0])
    path = home / name
    path.write_bytes(path.read_bytes()[: 40 if damage == "truncated" else 0])
    if name != "result.json":
        (home / "result.json").unlink()
    do(plan, resume=True)
    assert [{**(r.values or {}), "seconds": 0} for r in results_of(plan)] == before


@pytest.mark.usefixtures("in_this_process")
def test_the_checkpoint_of_another_network_is_that_runs_failure(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    do(plan)
    home, other = (plan.unit_folder(unit) for unit in plan.units[:2])
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        (home / name).write_bytes((other / name).read_bytes())
    (home / "result.json").unlink()
    do(plan, resume=True)
    first, second = results_of(plan)
    assert first.values is None
    assert str(home / "checkpoint.safetensors") in (first.failure or "")
    assert second.values is not None


@pytest.mark.usefixtures("in_this_process")
def test_a_full_disk_fails_one_run_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastweights.training import checkpoint

    do(plan_in(tmp_path / "whole"))
    write, calls = checkpoint.write_atomically, []

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        with monkeypatch.context() as patch:
            if len(calls) > 1:
                patch.setattr(os, "fsync", no_space)
            write(path, content)

    plan = plan_in(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", full)
        do(plan)
    first, second = results_of(plan)
    assert first.values is None
    assert "No space left on device" in (first.failure or "")
    assert "Traceback" in read_json(plan.unit_folder(first.unit) / "failure.json")["traceback"]
    assert second.values is None  # its very first checkpoint did not fit
    assert load_file(plan.unit_folder(first.unit) / "checkpoint.safetensors")
    assert not (plan.unit_folder(second.unit) / "checkpoint.safetensors").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    do(plan, resume=True)
    for result in results_of(plan):
        assert result.values is not None
        whole = read_json(tmp_path / "whole" / "units" / result.unit.name / "result.json")
        assert {**result.values, "seconds": 0} == {**whole, "seconds": 0}


@pytest.mark.usefixtures("in_this_process")
def test_a_failure_that_cannot_be_noted_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = runner.write_json

    def full(path: Path, content: Any, *root: Path, checksum: bool) -> None:
        if path.parent.name.startswith("lstm") or path.name == "failure.json":
            raise OSError(28, "No space left on device", str(path))
        write(path, content, *root, checksum=checksum)

    monkeypatch.setattr(runner, "write_json", full)
    do(plan_in(tmp_path))
    first, second = results_of(plan_in(tmp_path))
    assert first.values is not None
    assert second.failure == "not finished"


@pytest.mark.usefixtures("in_this_process")
def test_what_a_killed_process_left_half_written_is_taken_away(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    home = plan.unit_folder(plan.units[0])
    home.mkdir(parents=True)
    (home / ".checkpoint.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "experiment.json").write_text("")
    (tmp_path / "experiment.json").rename(tmp_path / ".experiment.json.123.tmp")
    (tmp_path / "units").rename(tmp_path / "aside")
    with pytest.raises(ConfigError, match="not empty"):
        prepare(plan, resume=True)
    (tmp_path / "aside").rename(tmp_path / "units")
    with pytest.raises(ConfigError, match="not empty"):
        prepare(plan, resume=True)
    (tmp_path / "units").rename(tmp_path.with_name("elsewhere"))
    prepare(plan, resume=True)
    tmp_path.with_name("elsewhere").rename(tmp_path / "units")
    do(plan, resume=True)
    assert not list(home.glob(".*.tmp"))


def test_two_processes_never_run_one_folder(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    prepare(plan, resume=False)

    def tick(_: object) -> None:
        with pytest.raises(ConfigError, match="is in use"):
            run_plan(plan)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tick=tick)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(e.step, e.value) for e in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:tensorboard", "ignore::DeprecationWarning:google"
)
def test_tensorboard_shows_every_point_once_though_it_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastweights.training import loop

    save, saved = loop.save_checkpoint, []

    def killed(*args: Any) -> None:
        save(*args)
        saved.append(args)
        if len(saved) == 1:
            raise KeyboardInterrupt

    plan = plan_in(tmp_path, "arms=lstm", "updates=40")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            do(plan, tensorboard=True)
    do(plan, resume=True, tensorboard=True)
    home = plan.unit_folder(plan.units[0])
    curve = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    assert [p["update"] for p in curve] == [10, 20, 30, 40]
    shown = events(home / "tensorboard")
    for tag, key in (("loss", "loss"), ("accuracy/validation", "validation_accuracy")):
        assert shown[tag] == [(p["update"], pytest.approx(p[key])) for p in curve]


class Nothing:
    """An experiment whose runs are what a test wants them to be."""

    name, title, summary = "retrieval", "Nothing", ""
    presets = Retrieval.presets
    seeds = Retrieval.seeds

    def __init__(self, *names: str) -> None:
        self.names = names

    def units(self, config: Any, seeds: int) -> list[Unit]:
        return [Unit(name, name, "arm", 0) for name in self.names]

    run = section = None


@pytest.mark.parametrize(("names", "message"), [((), "nothing to run"), (("a", "b", "a"), "twice")])
def test_a_plan_without_distinct_runs_is_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    plan = Plan(Nothing(*names), "quick", RetrievalConfig(), 1, tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        prepare(plan, resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"experiment": "x"}', '{"experiment": "retrieval", "preset": "x"}']
)
def test_a_damaged_description_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "experiment.json").write_text(content)
    for call in (load_plan, load_sweep, seeds_in, lambda f: prepare(plan_in(f), resume=True)):
        with pytest.raises(ConfigError, match=r"experiment\.json|unknown experiment 'x'"):
            call(tmp_path)


def settings() -> Iterator[str]:
    yield "hidden_sizes=[20, 50]"
    yield 'arms=["lstm", "gru"]'
    yield "learning_rate=1e-05"
    yield "schedule=linear"


def test_the_command_is_read_back_by_a_shell(tmp_path: Path) -> None:
    config = with_overrides(RetrievalConfig(), list(settings()))
    plan = Plan(Retrieval(), "paper", config, 7, tmp_path, "cuda:1")
    words = shlex.split(plan.command())
    assert words[:3] == ["fastweights", "run", "retrieval"]
    assert words[words.index("--preset") + 1] == "paper"
    assert words[words.index("--seeds") + 1] == "7"
    assert words[words.index("--device") + 1] == "cuda:1"
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert with_overrides(Retrieval.presets["paper"](), overrides) == config


@pytest.mark.parametrize("text", ["plain", "it's", "12", "true", '"x"', "[1]", "null", ""])
def test_text_that_looks_like_json_stays_text(text: str) -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        name: str = "-"

    assert with_overrides(Config(), [f"name={as_text(text)}"]).name == text

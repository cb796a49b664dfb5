"""Damaged and altered files: a message that names the file, or the same numbers; nothing else.

Every file of a run's folder is cut, has a byte changed, or holds JSON of another type, and then
the run is reported, gone on with, or used to make text.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from fastweights.__main__ import main
from fastweights.files import has_checksum, read_json, write_json
from fastweights.generation import best_network, load_network
from fastweights.lab import chapters, runner
from fastweights.lab.plan import results_of
from fastweights.lab.runner import run_units
from fastweights.lab.sweep import load_sweep
from fastweights.training import loop
from fastweights.training.config import ConfigError
from fastweights.training.metrics import read_metrics
from tests.commands import run_all_here

TINY = [
    "arms=lstm",
    "hidden_sizes=2",
    "head_size=2",
    "num_pairs=1",
    "train_size=16",
    "validation_size=4",
    "test_size=4",
    "batch_size=4",
    "updates=4",
    "evaluate_every=1",
]
TEXT = [
    "arms=lstm-parameters",
    "hidden_size=4",
    "num_layers=1",
    "embedding_size=3",
    "streams=2",
    "segment=4",
    "updates=2",
    "evaluate_every=1",
]
VALUES = [
    "$x^{$",
    None,
    True,
    0,
    -1,
    10**30,
    0.5,
    1e308,
    "",
    "x\x1b]0;y\x07",
    [],
    [1],
    {},
    {"a": [None]},
]
DESCRIPTION = "experiment.json"


def call(*words: str | Path) -> int:
    """The command, in this process; its exit code."""
    before = sys.argv
    sys.argv = ["fastweights", *map(str, words)]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0


def settings(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


TINY_WORDS = settings(TINY)


class Killed(BaseException):
    """What a kill looks like from inside: nothing handles it."""


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    """Runs take place in this process, one after another, on one thread as in a worker."""

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_all", run_all_here)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert call("run", "retrieval", "--seeds", "1", "--out", folder, *settings(TINY)) == 0
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after the second of four checkpoints."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    saved, save = [], loop.save_checkpoint

    def kill(*args: Any) -> None:
        save(*args)
        saved.append(args)
        if len(saved) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", kill)
        with pytest.raises(Killed):
            call("run", "retrieval", "--seeds", "1", "--out", folder, *settings(TINY))
    return folder


@pytest.fixture(scope="module")
def failed(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", lambda *_: 1 / 0)
        assert call("run", "retrieval", "--seeds", "1", "--out", folder, *settings(TINY)) == 1
    return folder


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    text = folder / "text.txt"
    text.write_text("Now is the winter of our discontent\nmade glorious summer. " * 3)
    words = ["--seeds", "1", "--out", str(folder / "run"), *settings([f"text={text}", *TEXT])]
    assert call("run", "language", *words) == 0
    return folder / "run"


def file_in(folder: Path, name: str) -> Path:
    """A file of the run, or of its only unit."""
    return folder / name if name == DESCRIPTION else next(folder.glob("units/*")) / name


def damages(content: bytes, count: int) -> Iterator[bytes]:
    """Cut anywhere, and with any bit of any byte changed: all of them, or ``count`` of each."""
    places = range(len(content))
    draws = random.Random(8)
    some = draws.sample(places, min(count, len(content)))
    for place in {0, 1, len(content) - 1, *some}:
        yield content[:place]
    for place in {0, len(content) - 1, *draws.sample(places, min(count, len(content)))}:
        flipped = content[place] ^ (1 << draws.randrange(8))
        yield content[:place] + bytes([flipped]) + content[place + 1 :]
    yield content + b"x"
    yield b"\0" * len(content)


def of_an_earlier_version(folder: Path) -> None:
    """Take out every checksum."""
    for path in folder.rglob("*.json"):
        write_json(path, read_json(path))
    for path in folder.rglob("metrics.jsonl"):
        points = read_metrics(path)
        path.write_text("".join(json.dumps(point) + "\n" for point in points))
    for path in folder.rglob("*.safetensors"):
        content = path.read_bytes()
        with safe_open(path, "pt") as file:
            texts = file.metadata()
        progress = {k: v for k, v in json.loads(texts["progress"]).items() if k != "metrics"}
        kept = {"progress": json.dumps(progress), "optimizer": texts["optimizer"]}
        path.write_bytes(save(load(content), kept))


def reported(folder: Path) -> tuple[Any, ...]:
    """All that a report of the folder is made from."""
    plan = load_sweep(folder).base
    results = results_of(plan)
    environments, damaged = chapters._environments(plan)
    told = [*damaged, *(r.failure for r in results if r.failure)]
    values = [r.values for r in results], [list(r.curve) for r in results]
    return plan.config, plan.seeds, values, environments, told


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("finished", DESCRIPTION),
        ("finished", "result.json"),
        ("finished", "environment.json"),
        ("failed", "failure.json"),
        ("killed", "metrics.jsonl"),
        ("killed", "checkpoint.safetensors"),
    ],
)
def test_a_report_of_a_damaged_file(
    state: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(request.getfixturevalue(state), folder)
    path = file_in(folder, name)
    content, expected = path.read_bytes(), reported(folder)
    for damaged in damages(content, 40):
        path.write_bytes(damaged)
        try:
            found = reported(folder)
            told = str(found[-1])
        except ConfigError as error:
            found, told = (), str(error)
        assert found == expected or str(path) in told, damaged


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("finished", "result.json"),
        ("killed", "metrics.jsonl"),
        ("killed", "checkpoint.safetensors"),
        ("killed", "config.json"),
        ("killed", "environment.json"),
    ],
)
def test_going_on_from_a_damaged_file(
    state: str, name: str, finished: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(request.getfixturevalue(state), folder)
    plan = load_sweep(folder).base
    (expected,) = results_of(load_sweep(finished).base)
    assert expected.values is not None
    home = plan.unit_folder(plan.units[0])
    whole = {p.name: p.read_bytes() for p in home.iterdir()}
    for damaged in damages(whole[name], 2 if name in ("config.json", "environment.json") else 12):
        for file, content in {**whole, name: damaged}.items():
            (home / file).write_bytes(content)
        (home / "result.json").unlink(missing_ok=name != "result.json" and state == "killed")
        if name == "result.json":
            (home / name).write_bytes(damaged)
        run_units([home], folder=folder, workers=1, tensorboard=False, tick=lambda _: None)
        (found,) = results_of(plan)
        if found.values is None:
            assert str(home / name) in (found.failure or ""), damaged
        else:
            assert {**found.values, "seconds": 0} == {**expected.values, "seconds": 0}, damaged


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint.safetensors"])
def test_text_from_a_damaged_network(name: str, language: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(language, folder)
    path = file_in(folder, name)
    whole = path.read_bytes()

    def network() -> tuple[list[Any], str]:
        model, alphabet = load_network(best_network(folder))
        return [p.tolist() for p in model.parameters()], alphabet.characters

    expected = network()
    for damaged in damages(whole, 40):
        path.write_bytes(damaged)
        try:
            found, told = network(), ""
        except ConfigError as error:
            found, told = ([], ""), str(error)
        assert found == expected or str(path.parent) in told, damaged


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("finished", DESCRIPTION),
        ("finished", "environment.json"),
        ("failed", "failure.json"),
        ("killed", "metrics.jsonl"),
        ("finished", "result.json"),
    ],
)
def test_json_of_another_type(
    state: str,
    name: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a file of an earlier version may be, which has no checksum."""
    folder = tmp_path / "run"
    shutil.copytree(request.getfixturevalue(state), folder)
    of_an_earlier_version(folder)
    path = file_in(folder, name)
    if name == "metrics.jsonl":
        (path.parent / "checkpoint.safetensors").unlink()
        whole = json.loads(path.read_text().splitlines()[0])
    else:
        whole = read_json(path)
    contents = [*VALUES, *({**whole, key: value} for key in whole for value in VALUES)]
    if name == DESCRIPTION:
        config = whole["config"]
        contents += [
            {**whole, "config": {**config, key: random.Random(key).choice(VALUES)}}
            for key in config
        ]
    else:  # a figure is drawn for each
        contents = random.Random(3).sample(contents, 10)
    for content in contents:
        path.write_text(json.dumps(content) + "\n")
        code = call("report", folder, "-o", tmp_path / "page.html")
        told = capsys.readouterr()
        assert code in (0, 1, 2), content
        assert "\x1b]" not in told.out + told.err
        reasons = (str(folder), "did not finish", "cannot be drawn")
        assert code == 0 or any(reason in told.err for reason in reasons), content
        assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("finished", "result.json"),
        ("finished", "environment.json"),
        ("failed", "failure.json"),
        ("killed", "metrics.jsonl"),
        ("killed", "checkpoint.safetensors"),
    ],
)
def test_a_file_without_its_checksum_beside_a_description_that_has_one(
    state: str, name: str, finished: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, old = tmp_path / "run", tmp_path / "old"
    for copy in (folder, old):
        shutil.copytree(request.getfixturevalue(state), copy)
    expected = reported(folder)
    of_an_earlier_version(old)
    assert reported(old) == expected
    path = file_in(folder, name)
    path.write_bytes(file_in(old, name).read_bytes())
    assert str(path) in str(reported(folder)[-1])

    if name not in ("failure.json", "environment.json"):  # of which nothing depends on
        assert (
            call("run", "retrieval", "--seeds", "1", "--out", folder, "--resume", *TINY_WORDS) == 0
        )
        (found,), (wanted,) = (results_of(load_sweep(place).base) for place in (folder, finished))
        assert found.values is not None
        assert wanted.values is not None
        assert {**found.values, "seconds": 0} == {**wanted.values, "seconds": 0}


def test_a_folder_of_an_earlier_version_stays_one(killed: Path, tmp_path: Path) -> None:
    """Its files would be refused beside a description with a checksum."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    of_an_earlier_version(folder)
    for _ in range(2):
        assert (
            call("run", "retrieval", "--seeds", "1", "--out", folder, "--resume", *TINY_WORDS) == 0
        )
        assert not has_checksum(folder / DESCRIPTION)
        assert not reported(folder)[-1]


@pytest.mark.parametrize("name", ["config.json", "checkpoint.safetensors", "metrics.jsonl"])
def test_no_text_from_a_network_without_its_checksums(
    name: str, language: Path, tmp_path: Path
) -> None:
    folder, old = tmp_path / "run", tmp_path / "old"
    for copy in (folder, old):
        shutil.copytree(language, copy)
    of_an_earlier_version(old)
    load_network(best_network(old))
    path = file_in(folder, name)
    path.write_bytes(file_in(old, name).read_bytes())
    with pytest.raises(ConfigError, match=r"has lost its checksum|of another run") as error:
        load_network(best_network(folder))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kept", ["result.json", "metrics.jsonl"])
def test_a_missing_checkpoint_is_named(kept: str, language: Path, tmp_path: Path) -> None:
    """Not left out, with the text of a worse network in its place."""
    folder = tmp_path / "run"
    shutil.copytree(language, folder)
    checkpoint = file_in(folder, "checkpoint.safetensors")
    shutil.copytree(checkpoint.parent, checkpoint.parent.with_name("worse"))
    checkpoint.unlink()
    for name in {"result.json", "metrics.jsonl"} - {kept}:
        (checkpoint.parent / name).unlink()
    for place in (folder, checkpoint.parent):
        with pytest.raises(ConfigError, match=r"checkpoint\.safetensors is missing") as error:
            best_network(place)
        assert str(checkpoint) in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(
    value: float, language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(language, folder)
    of_an_earlier_version(folder)
    path = file_in(folder, "checkpoint.safetensors")
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    tensors = load(path.read_bytes())
    tensors["model.output.weight"].fill_(value)
    path.write_bytes(save(tensors, texts))
    for temperature in ("0", "1"):
        assert call("generate", folder, "--prompt", "Now", "--temperature", temperature) == 2
        told = capsys.readouterr().err
        assert f"{path} is of no use: what the network puts out is no longer finite" in told
        assert "Traceback" not in told


def test_an_accuracy_of_400_digits(killed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    of_an_earlier_version(folder)
    metrics = file_in(folder, "metrics.jsonl")
    *lines, last = metrics.read_text().splitlines()
    point = {**json.loads(last), "validation_accuracy": 10**400}
    metrics.write_text("\n".join([*lines, json.dumps(point)]) + "\n")
    assert str(metrics) in str(reported(folder)[-1])
    assert call("run", "retrieval", "--seeds", "1", "--out", folder, "--resume", *TINY_WORDS) == 0
    assert not reported(folder)[-1]

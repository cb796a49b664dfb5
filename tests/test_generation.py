"""Generation: text that streams, from the best network of a run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastweights.cli import app
from fastweights.experiments.language import Language
from fastweights.experiments.language_model import CharacterModel, LanguageConfig
from fastweights.files import read_json, write_json
from fastweights.generation import best_network, generate, load_network, stream_text
from fastweights.tasks import Alphabet
from fastweights.training.config import ConfigError
from fastweights.training.metrics import read_validations

CONFIG = LanguageConfig(
    arms=("fast-weights", "gru-parameters"),
    first_seed=0,
    hidden_size=12,
    embedding_size=6,
    streams=3,
    segment=8,
    updates=8,
    warmup=2,
    evaluate_every=4,
)
TEXT = "Now is the winter of our discontent\nmade glorious summer. " * 9


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker; more threads only wait for each other at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with four networks, as the runner makes it."""
    root = tmp_path_factory.mktemp("trained")
    (root / "text.txt").write_text(TEXT)
    config = LanguageConfig(**{**vars(CONFIG), "text": str(root / "text.txt")})
    for unit in Language().units(config, 2):
        home = root / "run" / "units" / unit.name
        home.mkdir(parents=True)
        write_json(home / "config.json", {"arm": unit.arm, "config": vars(config)})
        Language().run(config, unit, home, "cpu", None)
    return root / "run"


@pytest.fixture
def model() -> CharacterModel:
    torch.manual_seed(1)
    model = CharacterModel("fast-weights", 4, 8, CONFIG).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def test_every_character_is_one_call_on_one_character(model: CharacterModel) -> None:
    """So its cost is the same, however long the text before it."""
    lengths: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: lengths.append(len(inputs[0])))
    characters = stream_text(model, Alphabet("abcd"), "abba", length=300)
    for made in range(1, 6):
        next(characters)
        assert len(lengths) == made  # nothing is computed ahead
    assert lengths == [4, 1, 1, 1, 1]


def test_the_seed_and_the_temperature_decide_the_text(model: CharacterModel) -> None:
    def write(**settings: Any) -> str:
        return "".join(stream_text(model, Alphabet("abcd"), "ab", length=40, **settings))

    assert write(seed=3) == write(seed=3) != write(seed=4)
    assert write(temperature=0, seed=3) == write(temperature=0, seed=4)
    assert write(temperature=1e-300) == write(temperature=0)
    assert len(set(write(temperature=1e6))) == 4
    assert write()[:10] == "".join(stream_text(model, Alphabet("abcd"), "ab", length=10))


def test_draws_follow_the_chances(model: CharacterModel) -> None:
    with torch.no_grad():
        chances = (model(torch.tensor([[0], [1]]))[0][-1, 0] / 0.7).softmax(-1)
    first = [
        next(stream_text(model, Alphabet("abcd"), "ab", length=1, temperature=0.7, seed=seed))
        for seed in range(600)
    ]
    for token, character in enumerate("abcd"):
        p = float(chances[token])
        assert abs(first.count(character) / 600 - p) < 4 * math.sqrt(p * (1 - p) / 600)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": ""}, "at least one character"),
        ({"prompt": "abxé"}, r"prompt: the text has 'x', 'é', not among the 4 known .*'abcd'"),
        ({"temperature": -1.0}, "temperature must be at least 0 and finite, got -1"),
        ({"temperature": math.nan}, "temperature must be at least 0 and finite, got nan"),
        ({"length": -1}, "length must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_continued_is_said_at_once(
    model: CharacterModel, given: dict[str, Any], message: str
) -> None:
    settings = {"prompt": "ab", "length": 5, **given}
    with pytest.raises(ConfigError, match=message):
        stream_text(model, Alphabet("abcd"), **settings)


def test_the_network_of_a_run(trained: Path) -> None:
    homes = list((trained / "units").iterdir())
    bits = {home: read_validations(home)[-1]["validation_bits"] for home in homes}
    assert best_network(trained) == min(homes, key=lambda home: bits[home])
    worst = max(homes, key=lambda home: bits[home])
    assert best_network(worst) == worst
    for home in homes:
        model, alphabet = load_network(home)
        assert alphabet == Alphabet.of(TEXT)
        assert not model.training
        assert len("".join(stream_text(model, alphabet, "Now", length=20))) == 20


def test_the_command_writes_the_prompt_and_what_follows(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", str(trained), "--length", "12", "--temperature", "0", "--prompt"]
    app([*arguments, "Now is"], standalone_mode=False)
    shown = capsys.readouterr()
    assert shown.out.startswith("Now is")
    assert len(shown.out) == len("Now is") + 12 + 1
    assert best_network(trained).name in shown.err
    with pytest.raises(ConfigError, match=r"prompt: the text has 'Q', 'é', not among"):
        app([*arguments, "Qué"], standalone_mode=False)
    assert capsys.readouterr().out == ""


def test_a_single_network_is_not_named(trained: Path) -> None:
    shown: list[str] = []
    noted: list[str] = []
    settings: dict[str, Any] = {"length": 3, "temperature": 0.0, "seed": 0}
    generate(best_network(trained), "Now", **settings, show=shown.append, note=noted.append)
    assert (shown[0], len(shown), shown[-1], noted) == ("Now", 5, "\n", [])
    generate(trained, "Now", **settings, show=shown.append, note=noted.append)
    assert noted == [f"The best of {trained}: {best_network(trained).name}"]


def test_a_folder_without_a_network(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="holds no trained network"):
            best_network(folder)


def test_a_damaged_network(trained: Path, tmp_path: Path) -> None:
    home = tmp_path / "network"
    shutil.copytree(trained / "units" / "fast-weights-seed0", home)
    checkpoint = home / "checkpoint.safetensors"
    content, described = checkpoint.read_bytes(), read_json(home / "config.json")
    checkpoint.write_bytes(content[:200])
    with pytest.raises(ConfigError, match="does not hold a network that predicts text"):
        load_network(home)
    checkpoint.write_bytes(content)
    write_json(home / "config.json", {**described, "arm": "lstm-compute"})
    with pytest.raises(ConfigError, match="belongs to another model"):
        load_network(home)
    described["config"]["hidden_size"] = 4_096
    write_json(home / "config.json", described)
    with pytest.raises(ConfigError, match="its checkpoint has fewer"):
        load_network(home)

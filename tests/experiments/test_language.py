"""Language: networks that cost what they say, runs that resume, a section that adds up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastweights.experiments.language import ARMS, Language, LanguageRun, bits_per_character
from fastweights.experiments.language_model import (
    CharacterModel,
    LanguageConfig,
    count_parameters,
    multiply_adds,
)
from fastweights.lab.experiment import Result
from fastweights.lab.plan import Plan
from fastweights.lab.sweep import Sweep, prepare_sweep
from fastweights.training import loop
from fastweights.training.config import ConfigError
from fastweights.training.recurrent import CarriedState

CONFIG = LanguageConfig(
    first_seed=0,
    hidden_size=12,
    embedding_size=6,
    streams=3,
    segment=8,
    updates=12,
    warmup=2,
    evaluate_every=4,
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker; more threads only wait for each other at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tmp_path: Path) -> LanguageConfig:
    path = tmp_path / "text.txt"
    path.write_text("Now is the winter of our discontent\nmade glorious summer. " * 9)
    return LanguageConfig(**{**vars(CONFIG), "text": str(path)})


def train(config: LanguageConfig, arm: str, folder: Path) -> dict[str, Any]:
    unit = next(unit for unit in Language().units(config, 1) if unit.arm == arm)
    folder.mkdir(exist_ok=True)
    result = Language().run(config, unit, folder, "cpu", None)
    result.pop("seconds")
    return result


class Killed(BaseException):
    """What a kill looks like from inside: nothing handles it."""


@pytest.mark.parametrize("arm", ["fast-weights", "lstm-compute", "gru-parameters"])
def test_a_killed_run_ends_with_the_same_numbers(
    config: LanguageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    expected = train(config, arm, tmp_path / "whole")
    saved = 0

    def kill(*args: Any) -> None:
        nonlocal saved
        saved += 1
        if saved == 3:
            raise Killed
        loop_save(*args)

    loop_save = loop.save_checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", kill)
        with pytest.raises(Killed):
            train(config, arm, tmp_path / "killed")
    # The second checkpoint is in the middle of an epoch, so the state is carried over.
    assert 8 % (len("x" * 418) // 3 // 8) != 0
    assert train(config, arm, tmp_path / "killed") == expected


def test_without_the_carried_state_a_resumed_run_would_differ(
    config: LanguageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(config, "gru-parameters", tmp_path / "whole")
    monkeypatch.setattr(CarriedState, "keep", lambda self, state: None)
    assert train(config, "gru-parameters", tmp_path / "other")["test_bits"] != expected["test_bits"]


def test_it_learns(config: LanguageConfig, tmp_path: Path) -> None:
    changes = {"updates": 100, "evaluate_every": 50, "learning_rate": 0.03}
    result = train(LanguageConfig(**{**vars(config), **changes}), "fast-weights", tmp_path)
    assert result["test_bits"] < 2.5  # log2 of its 20 characters is 4.3
    assert result["characters"] == 100 * 3 * 8
    assert result["state"] == 2 * (12 + 12 * 12)


@pytest.mark.parametrize("arm", ARMS)
def test_every_parameter_of_a_network_is_trained(arm: str, config: LanguageConfig) -> None:
    torch.manual_seed(0)
    (unit,) = (unit for unit in Language().units(config, 1) if unit.arm == arm)
    run = LanguageRun(config, ARMS[arm], unit, CPU)
    run.loss(0).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in run.model.parameters())


def test_matched_networks_match() -> None:
    config = LanguageConfig(hidden_size=64)

    def network(arm: str) -> CharacterModel:
        made = ARMS[arm].build(65, config)
        assert isinstance(made, CharacterModel)
        return made

    def parameters(arm: str) -> int:
        return sum(p.numel() for p in network(arm).parameters())

    ours = parameters("fast-weights")
    assert count_parameters("fast-weights", 65, 64, config) == ours
    for kind in ("lstm", "gru"):
        assert parameters(f"{kind}-parameters") == pytest.approx(ours, rel=0.02)
        work = network(f"{kind}-compute").multiply_adds
        assert work == pytest.approx(network("fast-weights").multiply_adds, rel=0.02)
    assert network("layer-norm-rnn").hidden_size == 64


@pytest.mark.parametrize("kind", ["lstm", "gru", "layer-norm-rnn"])
def test_multiply_adds_are_the_weights_of_the_matrices(kind: str) -> None:
    """Every entry of a matrix is used once for a character, but for the embedding's."""
    model = CharacterModel(kind, 20, 12, CONFIG)
    entries = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)
    assert multiply_adds(kind, 20, 12, CONFIG) == entries - model.embedding.weight.numel()


def test_fast_weights_take_three_squares_more() -> None:
    more = multiply_adds("fast-weights", 20, 12, CONFIG)
    assert more - multiply_adds("layer-norm-rnn", 20, 12, CONFIG) == 2 * 3 * 12**2


class Cycle(nn.Module):
    """Predicts the next token around a cycle, with a state that counts what it has seen."""

    def forward(self, tokens: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        seen = 0 if state is None else state
        one_hot = nn.functional.one_hot((tokens + 1) % 4, 4)
        return one_hot.double() * math.log(5), seen + len(tokens)


def test_bits_are_those_of_the_chances_given() -> None:
    tokens = torch.arange(402) % 4
    bits, right = bits_per_character(Cycle(), tokens, CPU, streams=2, length=7)
    assert bits == pytest.approx(-math.log2(5 / 8))
    assert right == 1
    wrong = bits_per_character(Cycle(), tokens.flip(0), CPU)
    assert wrong == (pytest.approx(-math.log2(1 / 8)), 0)


@pytest.mark.parametrize("streams", [1, 3])
def test_bits_do_not_depend_on_how_much_is_read_at_a_time(streams: int) -> None:
    model = CharacterModel("fast-weights", 4, 8, CONFIG).double()
    tokens = torch.randint(4, (50,))
    read = [bits_per_character(model, tokens, CPU, streams, length)[0] for length in (1, 6, 100)]
    assert read == pytest.approx([read[0]] * 3, rel=1e-12)
    short = bits_per_character(model, tokens[:3], CPU)[0]
    assert short == pytest.approx(
        sum(bits_per_character(model, tokens[i : i + 2], CPU)[0] for i in (0, 1)) / 2
    )  # two streams of one character each


@pytest.mark.parametrize("kind", ["fast-weights", "layer-norm-rnn", "lstm", "gru"])
def test_a_character_at_a_time_gives_the_logits_of_one_pass(kind: str) -> None:
    model = CharacterModel(kind, 4, 8, CONFIG).double()
    tokens = torch.randint(4, (40, 1))
    at_once, _ = model(tokens)
    state, streamed = None, []
    for token in tokens:
        logits, state = model(token[None], state)
        streamed.append(logits)
    torch.testing.assert_close(torch.cat(streamed), at_once, rtol=1e-10, atol=1e-10)


def test_what_is_remembered_keeps_its_size_and_its_bounds() -> None:
    torch.manual_seed(1)
    model = CharacterModel("fast-weights", 4, 8, CONFIG).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    sizes, largest, state = set(), [], None
    with torch.no_grad():
        for tokens in torch.randint(4, (1200, 1)).split(1):
            _, state = model(tokens, state)
            sizes.add(tuple((name, tuple(t.shape)) for name, t in state.tensors().items()))
            largest.append(float(state.matrix.abs().max()))
    assert len(sizes) == 1
    assert "history" not in state.tensors()
    assert max(largest[-400:]) <= 1.05 * max(largest[:400])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("fast-weight",)}, "did you mean 'fast-weights'"),
        ({"arms": ("fast-weights", "fast-weights")}, "must not repeat itself"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Language().units(LanguageConfig(**changes), 1)


def prepare(config: LanguageConfig, folder: Path) -> None:
    prepare_sweep(Sweep(Plan(Language(), "quick", config, 1, folder)), resume=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"text: there is no text file .*text\.txt"),
        (b"", r"text: .*text\.txt must have at least 20 characters, got 0"),
        (b"too short for all streams", "text: 3 streams in segments of 8 need a text of at least"),
        (b"in Latin-1, fianc\xe9 and all that", "must be UTF-8, but byte 17 is 0xe9"),
    ],
)
def test_a_text_that_will_not_do_is_refused_before_any_run(
    config: LanguageConfig, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = Path(config.text or "")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        prepare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_text_is_not_tiny_shakespeare(
    config: LanguageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(config, tmp_path / "fine")
    place = tmp_path / "tinyshakespeare" / "input.txt"
    place.parent.mkdir()
    Path(config.text or "").rename(place)
    monkeypatch.setenv("FASTWEIGHTS_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"text: .*input\.txt is not tiny Shakespeare"):
        prepare(CONFIG, tmp_path / "run")
    monkeypatch.delenv("FASTWEIGHTS_DATA")
    with pytest.raises(ConfigError, match=r"text: .*FASTWEIGHTS_DATA"):
        prepare(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_section_says_what_came_out() -> None:
    config = LanguageConfig(first_seed=0, arms=("fast-weights", "lstm-parameters", "gru-compute"))
    base = {
        "hidden_size": 128,
        "parameters": 70_000,
        "multiply_adds": 160_000,
        "state": 33_000,
        "test_accuracy": 0.5,
        "seconds": 1.0,
    }
    bits = {"fast-weights": 2.0, "lstm-parameters": 2.1}
    results = [
        Result(unit, None, "stopped")
        if unit.arm not in bits
        else Result(
            unit,
            {
                **base,
                "test_bits": bits[unit.arm] + (unit.seed or 0) / 100,
                "validation_bits": 2.0,
                "curve": [{"update": 250, "validation_bits": 2.2}],
            },
        )
        for unit in Language().units(config, 3)
    ]
    section = Language().section(config, results, Path())
    ours, theirs, failed = section.tables[0].rows
    assert [row[6].split()[0] for row in (ours, theirs)] == ["2.010", "2.110"]
    assert failed[:2] == ["GRU, equal compute", "0/3"]
    assert {len(row) for row in section.tables[0].rows} == {len(section.tables[0].columns)}
    assert len(section.tables[1].rows) == 9
    by_verdict = {claim.claim.split(" bits")[0]: claim.verdict for claim in section.claims}
    assert by_verdict["fast weights need fewer"] == "holds"
    assert [c.published for c in section.claims[1:]] == ["2.71", "2.12"]
    assert [c.verdict for c in section.claims[1:]] == ["fewer bits", "fewer bits"]
    assert json.dumps(section.pictures[0].alt)
    nothing = [Result(r.unit, None, "not finished") for r in results]
    assert Language().section(config, nothing, Path()).claims == []


def test_presets_can_run() -> None:
    for name, preset in Language.presets.items():
        assert len(Language().units(preset(), Language.seeds[name])) == 6 * Language.seeds[name]

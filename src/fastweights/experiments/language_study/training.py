"""The runs of the experiment on language."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.experiments.language_study.config import LanguageConfig
from fastweights.experiments.language_study.networks import ARMS, build, multiply_adds
from fastweights.lab.experiment import Unit
from fastweights.tasks import Text, TextStreams, load_text
from fastweights.training.config import ConfigError
from fastweights.training.loop import run_updates
from fastweights.training.recurrent import CarriedState
from fastweights.training.schedule import Schedule

__all__ = ["bits_per_character", "check_files", "run"]


def check_files(config: LanguageConfig) -> None:
    """See that the text can be read, and cut into as many streams as are wanted.

    Raises:
        ConfigError: it cannot.
    """
    try:
        _read(config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"text: {error}") from None


def _read(config: LanguageConfig) -> tuple[Text, TextStreams]:
    text = load_text(config.text)
    return text, TextStreams(text.train, config.streams, config.segment)


def bits_per_character(
    model: nn.Module, tokens: Tensor, device: torch.device, streams: int = 16, length: int = 256
) -> tuple[float, float]:
    """How well a text is predicted: bits for a character, and the share of right guesses.

    The text is read in streams side by side, each with its state carried from end to end, from
    nothing; every character counts once but the first, and fewer than ``streams`` at the end.

    Args:
        model: maps tokens (L, N) and a state to logits (L, N, characters) and a state.
        tokens: the text, shape (characters,).
        device: where the model is.
        streams: how many; fewer if the text is so short.
        length: characters of each that are read at a time.
    """
    streams = min(streams, len(tokens) - 1)
    steps = (len(tokens) - 1) // streams
    places = torch.arange(steps)[:, None] + torch.arange(streams) * steps
    nats, right, state = 0.0, 0, None
    model.eval()
    with torch.no_grad():
        for rows in places.split(length):
            logits, state = model(tokens[rows].to(device), state)
            targets = tokens[rows + 1].to(device)
            flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            nats += float(flat)
            right += int((logits.argmax(-1) == targets).sum())
    model.train()
    return nats / places.numel() / math.log(2), right / places.numel()


def run(
    config: LanguageConfig, unit: Unit, folder: Path, device: str, writer: Any
) -> dict[str, Any]:
    """Train one network by truncated back-propagation with its state carried over, and test it."""
    text, streams = _read(config)
    arm, place, seed = ARMS[unit.arm], torch.device(device), unit.seed
    assert seed is not None
    torch.manual_seed(seed)
    model = build(arm, len(text.alphabet), config).to(place)
    carried = CarriedState()
    schedule = Schedule.of(
        config,
        batch_size=config.streams,
        learning_rate=config.learning_rate or arm.learning_rate,
        weight_decay=config.weight_decay,
    )

    def loss_of(update: int) -> Tensor:
        epoch, number = divmod(update, streams.per_epoch)
        inputs, targets = streams.segment(seed, epoch, number)
        logits, state = model(inputs.to(place), carried.value if number else None)
        carried.keep(state)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten().to(place))

    def validate() -> dict[str, float]:
        bits, accuracy = bits_per_character(model, text.validation, place)
        return {"validation_bits": bits, "validation_accuracy": accuracy}

    trained = run_updates(
        model,
        loss_of,
        validate,
        schedule,
        folder=folder,
        writer=writer,
        carried=carried,
        about={"alphabet": text.alphabet.characters},
    )
    bits, accuracy = bits_per_character(model, text.test, place)
    width = model.output.in_features
    return {
        "test_bits": bits,
        "test_accuracy": accuracy,
        "validation_bits": trained["curve"][-1]["validation_bits"],
        **trained,
        "characters": config.updates * config.streams * config.segment,
        "learning_rate": schedule.learning_rate,
        "hidden_size": width,
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": multiply_adds(arm.kind, len(text.alphabet), width, config),
        "state": sum(t.numel() for t in carried.tensors().values() if t.is_floating_point())
        // config.streams,
    }

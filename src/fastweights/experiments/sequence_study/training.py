"""The runs of the experiments on sorting and on repeated copying."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.experiments.base import Unit
from fastweights.experiments.by_arm import units_of
from fastweights.experiments.sequence_study.config import SequenceConfig, Task
from fastweights.experiments.sequence_study.networks import ARMS, Answerer
from fastweights.tasks import IGNORED, SymbolBatch
from fastweights.tasks.streams import below, stream
from fastweights.training.config import ConfigError
from fastweights.training.loop import Schedule, run_updates

__all__ = ["length_of", "right_answers", "run", "units"]

SHORTEST = 2


def units(task: Task, config: SequenceConfig, seeds: int) -> list[Unit]:
    """A run for every arm and seed of the configuration.

    Raises:
        ConfigError: the configuration is impossible.
    """
    if not config.train_length <= config.test_length <= task.longest:
        raise ConfigError(
            f"test_length must lie between train_length = {config.train_length} and "
            f"{task.longest}, got {config.test_length}"
        )
    return units_of(ARMS, config, seeds, note=f"chance {100 / task.num_classes:.1f} %")


def length_of(config: SequenceConfig, seed: int, update: int) -> int:
    """The length of an update's sequences: uniform up to a longest that grows with the updates.

    Example:
        >>> config = SequenceConfig(updates=1000, train_length=8, curriculum=0.5)
        >>> [max(length_of(config, 0, u) for u in range(s, s + 80)) for s in (0, 100, 250, 500)]
        [3, 4, 6, 8]
    """
    growing = config.curriculum * config.updates
    grown = 1.0 if update >= growing else update / growing
    kinds = 1 + round(grown * (config.train_length - SHORTEST))
    return SHORTEST + int(below(stream(seed, "lengths", second=update).random_raw(1), kinds)[0])


def right_answers(model: nn.Module, batch: SymbolBatch, device: torch.device) -> dict[str, float]:
    """The share of ``symbols`` that were answered rightly, and of ``sequences`` without a mistake.

    Example:
        >>> batch = SymbolBatch(torch.zeros(2, 3, 1).long(), torch.tensor([[1, 0], [1, IGNORED]]))
        >>> answers = nn.functional.one_hot(torch.tensor([[1, 1], [1, 1]])).float()
        >>> class Fixed(nn.Module):
        ...     def forward(self, inputs, asked):
        ...         return answers
        >>> right_answers(Fixed(), batch, torch.device("cpu"))
        {'symbols': 0.6666666666666666, 'sequences': 0.5}
    """
    targets = batch.targets.to(device)
    model.eval()
    with torch.no_grad():
        guess = model(batch.inputs.to(device), targets.shape[1]).argmax(-1)
    model.train()
    asked = targets != IGNORED
    right = guess == targets
    return {
        "symbols": float(right[asked].double().mean()),
        "sequences": float((right | ~asked).all(1).double().mean()),
    }


def run(
    task: Task, config: SequenceConfig, unit: Unit, folder: Path, device: str, writer: Any
) -> dict[str, Any]:
    """Train one network on sequences that grow, and test it on longer ones."""
    arm, place, seed = ARMS[unit.arm], torch.device(device), unit.seed
    assert seed is not None
    torch.manual_seed(seed)
    layer = arm.build(config, sum(task.fields))
    model = Answerer(layer, task.fields, task.num_classes).to(place)
    schedule = Schedule.of(
        config,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or arm.learning_rate,
        weight_decay=config.weight_decay,
    )

    def loss_of(update: int) -> Tensor:
        length = length_of(config, seed, update)
        batch = task.batch(seed, "train", update, length, config.batch_size)
        logits = model(batch.inputs.to(place), batch.targets.shape[1])
        targets = batch.targets.to(place)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def validate() -> dict[str, float]:
        batch = task.batch(seed, "validation", 0, config.train_length, config.test_size)
        right = right_answers(model, batch, place)
        return {"validation_accuracy": right["symbols"], "validation_sequences": right["sequences"]}

    trained = run_updates(model, loss_of, validate, schedule, folder=folder, writer=writer)
    by_length = {
        length: right_answers(model, task.batch(seed, "test", 0, length, config.test_size), place)
        for length in range(SHORTEST, config.test_length + 1)
    }
    last = trained["curve"][-1]
    return {
        "lengths": list(by_length),
        "test_accuracy": [right["symbols"] for right in by_length.values()],
        "test_sequences": [right["sequences"] for right in by_length.values()],
        "validation_accuracy": last["validation_accuracy"],
        "validation_sequences": last["validation_sequences"],
        **trained,
        "learning_rate": schedule.learning_rate,
        "parameters": sum(p.numel() for p in model.parameters()),
    }

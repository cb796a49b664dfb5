"""The runs of an experiment on associative retrieval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fastweights.experiments.by_arm import check_arms, check_distinct
from fastweights.experiments.retrieval_study.config import RetrievalConfig, task_of
from fastweights.experiments.retrieval_study.networks import Arm, Retriever
from fastweights.lab.experiment import Unit
from fastweights.tasks import Splits, binding_free_ceiling
from fastweights.training.config import ConfigError
from fastweights.training.loop import train
from fastweights.training.schedule import Schedule

__all__ = ["run", "schedule_of", "units"]


def units(arms: Mapping[str, Arm], config: RetrievalConfig, seeds: int) -> list[Unit]:
    """A run for every arm, hidden size and seed of the configuration.

    Raises:
        ConfigError: the configuration is impossible.
    """
    check_arms(arms, config.arms)
    check_distinct(config, "arms", "hidden_sizes")
    if config.batch_size > config.train_size:
        raise ConfigError(
            f"batch_size must be at most train_size = {config.train_size}, got {config.batch_size}"
        )
    ceiling = float(binding_free_ceiling(config.num_pairs))
    return [
        Unit(
            name=f"{arm}-r{size}-seed{seed}",
            label=f"{arms[arm].label}, R = {size}",
            arm=arm,
            seed=seed,
            options={"hidden_size": size},
            total=config.updates,
            note=f"ceiling {100 * ceiling:.1f} %",
        )
        for size in config.hidden_sizes
        for seed in range(config.first_seed, config.first_seed + seeds)
        for arm in config.arms
    ]


def schedule_of(arm: Arm, config: RetrievalConfig) -> Schedule:
    """How a network is trained; what the configuration leaves open is the arm's."""
    return Schedule.of(
        config,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or arm.learning_rate,
        shape=config.schedule,
        weight_decay=(arm.weight_decay if config.weight_decay is None else config.weight_decay),
    )


def run(
    arms: Mapping[str, Arm],
    config: RetrievalConfig,
    unit: Unit,
    folder: Path,
    device: str,
    writer: Any,
    measure: Callable[[Retriever, Splits], dict[str, Any]],
) -> dict[str, Any]:
    """Train one network and test it; ``measure`` sees it with the data at the end."""
    task = task_of(config)
    assert unit.seed is not None
    torch.manual_seed(unit.seed)
    arm, size = arms[unit.arm], unit.options["hidden_size"]
    layer = arm.build(config, task.vocabulary_size, size)
    model = Retriever(layer, task.vocabulary_size, config.head_size, task.num_classes)
    schedule, splits = schedule_of(arm, config), task.build(unit.seed)
    result = train(
        model,
        splits,
        schedule,
        seed=unit.seed,
        folder=folder,
        device=torch.device(device),
        writer=writer,
    )
    return {
        **result,
        **measure(model, splits),
        "learning_rate": schedule.learning_rate,
        "weight_decay": schedule.weight_decay,
        "layer_parameters": sum(p.numel() for p in layer.parameters()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }

"""The runs of the glimpses experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastweights.experiments.by_arm import check_arms, check_distinct
from fastweights.experiments.glimpses_study.config import GlimpsesConfig
from fastweights.experiments.glimpses_study.networks import ARMS, Classifier
from fastweights.lab.experiment import Unit
from fastweights.nn import FastWeightsRNN
from fastweights.tasks import Mnist, load_mnist
from fastweights.tasks.glimpses import ORDERS, Glimpses, GlimpseSplit
from fastweights.training.config import ConfigError, nearest
from fastweights.training.loop import train
from fastweights.training.schedule import Schedule

__all__ = ["attention_shares", "check_files", "run", "units"]


def units(config: GlimpsesConfig, seeds: int) -> list[Unit]:
    """A run for every arm, hidden size, order and seed of the configuration.

    Raises:
        ConfigError: the configuration is impossible.
    """
    for order in config.orders:
        if order not in ORDERS:
            raise ConfigError(f"unknown order {order!r}: {nearest(order, list(ORDERS))}")
    check_arms(ARMS, config.arms)
    for arm in config.arms:
        for order in config.orders:
            if order not in ARMS[arm].orders:
                raise ConfigError(
                    f"arm {arm!r} takes the orders {', '.join(ARMS[arm].orders)}, got {order!r}"
                )
    check_distinct(config, "arms", "hidden_sizes", "orders")
    return [
        Unit(
            name=f"{arm}-r{size}-{order}-seed{seed}",
            label=f"{ARMS[arm].label}, R = {size}, {order}",
            arm=arm,
            seed=seed,
            options={"hidden_size": size, "order": order},
            total=config.updates,
        )
        for size in config.hidden_sizes
        for order in config.orders
        for seed in range(config.first_seed, config.first_seed + seeds)
        for arm in config.arms
    ]


def check_files(config: GlimpsesConfig) -> None:
    """See that the folder holds MNIST.

    Raises:
        ConfigError: a file is missing or is not the original one.
    """
    try:
        _read(config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"data: {error}") from None


def _read(config: GlimpsesConfig) -> Mnist:
    return load_mnist(config.data, validation_size=config.validation_size)


def run(
    config: GlimpsesConfig, unit: Unit, folder: Path, device: str, writer: Any
) -> dict[str, Any]:
    """Train one network and test it; fast weights tell what they attended to."""
    assert unit.seed is not None
    arm, order, size = ARMS[unit.arm], unit.options["order"], unit.options["hidden_size"]
    task = Glimpses(order, config.places)
    data = task.build(_read(config), unit.seed)
    torch.manual_seed(unit.seed)
    layer = arm.build(config, task.features, size, order)
    model = Classifier(layer)
    schedule = Schedule.of(
        config,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or arm.learning_rate(size),
        weight_decay=config.weight_decay,
    )
    result = train(
        model,
        data,
        schedule,
        seed=unit.seed,
        folder=folder,
        device=torch.device(device),
        writer=writer,
    )
    if isinstance(layer, FastWeightsRNN) and layer.memory == "hebbian":
        result["attention"] = attention_shares(model, data.test, config.inspected)
    return {
        **result,
        "learning_rate": schedule.learning_rate,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def attention_shares(model: Classifier, split: GlimpseSplit, count: int) -> list[list[float]]:
    """How each step's attention is shared out among the glimpses before it.

    Args:
        model: with a fast-weights layer.
        split: its first ``count`` images are shown.
        count: how many.

    Returns:
        24 × 24: row t is the mean over images of the shares that step t, which sees glimpse t,
        gives to the states after glimpses 0 … 23; the first row is 0.
    """
    assert isinstance(model.layer, FastWeightsRNN)
    device = next(model.parameters()).device
    with torch.no_grad():
        x = model.present(split.inputs[:count].to(device))
        # The last read of a step; column m is the state after glimpse m − 1.
        weights = model.layer.attention(x)[:, -1].clamp(min=0)
    shares = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    mean = shares.mean(0)[:, 1:].cpu()
    rows = torch.cat([mean, mean.new_zeros(len(mean), 1)], dim=1).tolist()
    return [[round(share, 5) for share in row] for row in rows]

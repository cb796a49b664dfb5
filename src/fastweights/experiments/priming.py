"""Priming: a word in noise is recognised more readily if it was heard a moment ago.

The story is Hinton's, in a lecture of October 2016 as an article tells it: "you hear a word with
lots of noise. If this is the first time you heard this word, you may not recognize it. But if you
heard this word 30 minutes prior, you are able to recognize it". Fast weights make a pattern "a
stronger attractor". No experiment is known to have been made of it.

What we decided. A vocabulary of random patterns is known for good; a network is trained on streams
of them in noise and names the last. Afterwards the same probes are shown with the word among the
patterns before them or not, after any number of others. Words repeat in training, as they do in
speech, and equally often after every delay; so what falls with the delay falls because of the
memory, and an ideal observer's curve is flat.

Controls: the fast memory wiped, or exchanged for that of another stream, just before the probe; the
same network trained without fast weights; one trained on streams without repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from fastweights.experiments.by_arm import units_of
from fastweights.experiments.other_uses.shared import VERDICT_RULE
from fastweights.experiments.priming_study.config import PrimingConfig, task_of
from fastweights.experiments.priming_study.findings import claims, tables
from fastweights.experiments.priming_study.measure import measure
from fastweights.experiments.priming_study.networks import ARMS, Recogniser
from fastweights.experiments.priming_study.pictures import pictures
from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Section
from fastweights.training.config import ConfigError
from fastweights.training.loop import train
from fastweights.training.schedule import Schedule

__all__ = ["PrimingExperiment", "paper", "quick"]


def quick() -> PrimingConfig:
    """Four decays and two controls; minutes on two cores."""
    return PrimingConfig()


def paper() -> PrimingConfig:
    """All networks, longer streams, more updates; an hour or more."""
    return PrimingConfig(
        arms=tuple(ARMS), length=17, updates=10_000, between=(0, 1, 2, 3, 4, 6, 8, 11, 14)
    )


class PrimingExperiment:
    """The experiment."""

    name = "priming"
    title = "Priming: words in noise"
    summary = "A noisy word is recognised more readily if it was seen recently. Hinton (2016)"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": quick, "paper": paper})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "paper": 10})

    def units(self, config: PrimingConfig, seeds: int) -> list[Unit]:
        units = units_of(ARMS, config, seeds)
        for between in config.between:
            if not 0 <= between <= config.length - 2:
                raise ConfigError(
                    f"between must lie in 0 … length − 2 = {config.length - 2}, got {between}"
                )
        for key, value, values in (
            ("fixed_between", config.fixed_between, config.between),
            ("probe_noise", config.probe_noise, config.probe_noises),
        ):
            if value not in values:
                raise ConfigError(f"{key} must be one of {list(values)}, got {value}")
        if list(config.probe_noises) != sorted(set(config.probe_noises)):
            raise ConfigError(f"probe_noises must rise, got {list(config.probe_noises)}")
        if config.batch_size > config.train_size:
            raise ConfigError(
                f"batch_size must be at most train_size = {config.train_size}, "
                f"got {config.batch_size}"
            )
        return units

    def run(
        self, config: PrimingConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        arm = ARMS[unit.arm]
        assert unit.seed is not None
        torch.manual_seed(unit.seed)
        model = Recogniser(arm.build(config), config.bits, config.words)
        schedule = Schedule.of(
            config, batch_size=config.batch_size, learning_rate=config.learning_rate * arm.rate
        )
        task = task_of(config, config.repeat if arm.repeats else 0.0)
        trained = train(
            model,
            task.build(unit.seed),
            schedule,
            seed=unit.seed,
            folder=folder,
            device=torch.device(device),
            writer=writer,
        )
        return {**trained, **measure(model, config, unit.seed)}

    def section(self, config: PrimingConfig, results: Sequence[Result], folder: Path) -> Section:
        return Section(
            title=self.title,
            intro=(
                f"A stream of {config.length} patterns, each one of {config.words} known words "
                "with some bits flipped; the network names the last, the probe. Does it help to "
                "have met the word earlier in the stream? The same probes are shown after both "
                "pasts, which differ in one pattern."
            ),
            claims=claims(config, results),
            tables=tables(config, results),
            pictures=pictures(config, results),
            chosen="validation data, seeds below 300",
            notes=[
                VERDICT_RULE,
                f"Networks of {config.hidden_size} units, {config.updates:,} updates of "
                f"{config.batch_size}; in training the probe repeats an earlier word with "
                f"probability {config.repeat:g}, at any distance alike. The ideal observer knows "
                "that, the words, and how noisy patterns may be; on such streams nobody can do "
                "better. Settings were chosen on validation data and on seeds below 300.",
            ],
        )

"""What both experiments do alike: everything but the task, its settings and its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastweights.experiments.base import Result, Unit
from fastweights.experiments.other_uses.shared import VERDICT_RULE
from fastweights.experiments.sequence_study import training
from fastweights.experiments.sequence_study.config import CopyingConfig, SortingConfig
from fastweights.experiments.sequence_study.networks import ARMS
from fastweights.experiments.sequence_study.pictures import accuracy_by_length, learning_curves
from fastweights.experiments.sequence_study.tables import claims, tables_of
from fastweights.report.section import Section

__all__ = ["FULL", "SequenceStudy"]


# What the presets "full" share: every decay, longer sequences; hours.
FULL: Mapping[str, Any] = MappingProxyType(
    {
        "arms": tuple(ARMS),
        "train_length": 10,
        "test_length": 20,
        "hidden_size": 100,
        "updates": 40_000,
        "evaluate_every": 1_000,
    }
)


class SequenceStudy:
    """An experiment, but for its task and its words.

    Attributes:
        name: on the command line.
        title: in reports.
        summary: one line for ``fastweights list``.
        intro: what the task is, for reports.
        presets: named functions, each returning a configuration.
        seeds: how many seeds each preset runs by default.
    """

    name: str
    title: str
    summary: str
    intro: str
    presets: Mapping[str, Callable[[], Any]]
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "full": 5})

    def units(self, config: SortingConfig | CopyingConfig, seeds: int) -> list[Unit]:
        return training.units(config.task(), config, seeds)

    def run(
        self,
        config: SortingConfig | CopyingConfig,
        unit: Unit,
        folder: Path,
        device: str,
        writer: Any,
    ) -> dict[str, Any]:
        return training.run(config.task(), config, unit, folder, device, writer)

    def section(
        self, config: SortingConfig | CopyingConfig, results: Sequence[Result], folder: Path
    ) -> Section:
        chance = 1 / config.task().num_classes
        return Section(
            title=self.title,
            intro=(
                f"{self.intro} Fast weights with each decay stand beside an LSTM and the same "
                "network without a memory, on sequences as long as those of the training and "
                "longer."
            ),
            claims=claims(config, results, self.name),
            tables=tables_of(config, results),
            pictures=[
                accuracy_by_length(config, results, self.name, chance),
                learning_curves(config, results, self.name, chance),
            ],
            notes=[
                VERDICT_RULE,
                f"{config.updates:,} updates of {config.batch_size} new sequences. Lengths are "
                f"uniform from 2 to a longest one, which grows to {config.train_length} during the "
                f"first {100 * config.curriculum:.0f} % of the updates. {config.test_size:,} test "
                f"sequences for each length. All networks have {config.hidden_size} hidden units, "
                "so the LSTM has about four times the parameters. Settings and learning rates were "
                "chosen on validation data.",
                "Train, validation and test sequences are told apart by a hash of the sequence, so "
                "that nothing tested was ever trained on, by any seed.",
            ],
            chosen="validation data, seeds below 300",
        )

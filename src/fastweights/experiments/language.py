"""Language: the next character of a text, which the article of 2016 asks for.

"It would be interesting to try and replace LSTM with fast weight RNN in language tasks."
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastweights.experiments.by_arm import units_of
from fastweights.experiments.language_study import training
from fastweights.experiments.language_study.config import LanguageConfig
from fastweights.experiments.language_study.findings import claims
from fastweights.experiments.language_study.networks import ARMS
from fastweights.experiments.language_study.pictures import learning_curves
from fastweights.experiments.language_study.tables import tables_of
from fastweights.experiments.other_uses.shared import VERDICT_RULE
from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Section

__all__ = ["Language"]


def quick() -> LanguageConfig:
    """Two layers of 128 fast weights; minutes on two cores."""
    return LanguageConfig()


def long() -> LanguageConfig:
    """Two layers of 256 and fifteen times the updates; hours."""
    return LanguageConfig(hidden_size=256, updates=15_000, evaluate_every=1_000)


class Language:
    """The experiment."""

    name = "language"
    title = "The next character"
    summary = "Fast weights in the place of an LSTM on text, at equal parameters and compute"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": quick, "long": long})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "long": 3})

    def units(self, config: LanguageConfig, seeds: int) -> list[Unit]:
        return units_of(ARMS, config, seeds)

    def check_files(self, config: LanguageConfig) -> None:
        training.check_files(config)

    def run(
        self, config: LanguageConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        return training.run(config, unit, folder, device, writer)

    def section(self, config: LanguageConfig, results: Sequence[Result], folder: Path) -> Section:
        text = "tiny Shakespeare" if config.text is None else config.text
        return Section(
            title=f"{self.title} of {text}",
            intro=(
                "A network reads a text and predicts each next character. Layers of fast weights "
                "stand beside LSTMs and GRUs that have as many parameters, or take as many "
                "multiply-adds for a character, and beside the same network without a memory. "
                f"The first 80 % of {text} are for training, the next 10 % for choosing settings, "
                "the last 10 % for the result."
            ),
            claims=claims(config, results),
            tables=tables_of(config, results),
            pictures=[learning_curves(config, results)],
            notes=[
                VERDICT_RULE,
                f"{config.num_layers} recurrent layers above an embedding of "
                f"{config.embedding_size}; {config.updates:,} updates of {config.streams} streams "
                f"of {config.segment} characters, the state carried from segment to segment and "
                "the gradient stopped between them. Write rate, decay and learning rates were "
                "chosen on validation data in short runs, each learning rate among three.",
                "The published Transformers were trained on the first 90 % and measured on samples "
                "of the last 10 %, on which theirs were also chosen.",
            ],
            chosen="validation data, seeds below 300",
        )

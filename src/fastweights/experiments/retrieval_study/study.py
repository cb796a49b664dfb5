"""What experiments on associative retrieval have in common: a run for every arm, size and seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastweights.experiments.retrieval_study import training
from fastweights.experiments.retrieval_study.config import RetrievalConfig
from fastweights.experiments.retrieval_study.networks import Arm, Retriever
from fastweights.lab.experiment import Unit
from fastweights.tasks import Splits

__all__ = ["RetrievalStudy"]


class RetrievalStudy:
    """The part of an experiment that trains networks.

    Attributes:
        arms: the networks it may train, by name.
    """

    arms: Mapping[str, Arm]

    def units(self, config: RetrievalConfig, seeds: int) -> list[Unit]:
        return training.units(self.arms, config, seeds)

    def run(
        self, config: RetrievalConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        def measure(model: Retriever, splits: Splits) -> dict[str, Any]:
            return self.measure(config, model, splits)

        return training.run(self.arms, config, unit, folder, device, writer, measure)

    def measure(self, config: RetrievalConfig, model: Retriever, splits: Splits) -> dict[str, Any]:
        """What else to tell of a trained network, as JSON values."""
        return {}

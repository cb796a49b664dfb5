"""Glimpses of MNIST: Ba, Hinton, Mnih, Leibo & Ionescu (2016), section 4.2 and table 2.

A network sees a digit as a fixed sequence of 24 glimpses of 7 × 7 at two levels, coarse and fine,
and has to integrate them. What the paper does not spell out, or what we could not read there, we
decided: the sequence (see `fastweights.tasks.glimpses`); the pixels alone are the input, since the
step tells the place; a linear readout of the last hidden vector; and, in the multi-level variant,
that the hidden vector is written and wiped whenever the level changes, coarse to fine or back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastweights.experiments.glimpses_study import training
from fastweights.experiments.glimpses_study.config import GlimpsesConfig
from fastweights.experiments.glimpses_study.findings import TOLERANCE, claims, tables
from fastweights.experiments.glimpses_study.pictures import pictures
from fastweights.experiments.other_uses.shared import VERDICT_RULE
from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Section
from fastweights.tasks.glimpses import ORDERS

__all__ = ["GlimpsesExperiment", "orders", "paper", "quick"]


def quick() -> GlimpsesConfig:
    """All networks at 100 units, fifteen passes; some twenty minutes on two cores."""
    return GlimpsesConfig()


def orders() -> GlimpsesConfig:
    """Four orders of the same glimpses, each told what it shows, at 100 units."""
    return GlimpsesConfig(arms=("fast-weights", "irnn", "lstm"), orders=ORDERS, places=True)


def paper() -> GlimpsesConfig:
    """Table 2: all networks at 50, 100 and 200 units, fifty passes; hours."""
    return GlimpsesConfig(hidden_sizes=(50, 100, 200), updates=21_450)


class GlimpsesExperiment:
    """The experiment."""

    name = "glimpses"
    title = "Glimpses of MNIST"
    summary = "A digit from 24 glimpses at two levels. Ba et al. (2016), table 2"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": quick, "orders": orders, "paper": paper}
    )
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "orders": 5, "paper": 5})

    def units(self, config: GlimpsesConfig, seeds: int) -> list[Unit]:
        return training.units(config, seeds)

    def check_files(self, config: GlimpsesConfig) -> None:
        training.check_files(config)

    def run(
        self, config: GlimpsesConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        return training.run(config, unit, folder, device, writer)

    def section(self, config: GlimpsesConfig, results: Sequence[Result], folder: Path) -> Section:
        several = len(config.orders) > 1
        sizes = "glimpses-sizes" if len(config.hidden_sizes) > 1 else "glimpses"
        prefix = "glimpses-orders" if several else sizes
        told = "each told which place it shows" if config.places else "the pixels alone"
        return Section(
            title=self.title + (": the order" if several else ""),
            intro=(
                "A digit is seen as 24 glimpses of 7 × 7: for each quadrant a coarse view, its "
                f"four patches, and the coarse view again; {told}. The network names the digit "
                "after the last one."
            ),
            claims=claims(config, results),
            tables=tables(config, results),
            pictures=pictures(config, results, prefix),
            chosen="validation data, seeds below 300",
            notes=[
                f"{60_000 - config.validation_size:,} / {config.validation_size:,} / 10,000 images "
                f"to train, validate and test; {config.updates:,} updates of {config.batch_size}. "
                "Learning rates, three or more for each network, and the write rate were chosen on "
                "validation images in runs of five passes; the multi-level network has those of "
                "fast weights. The layer-norm RNN is fast weights without the memory. Errors are "
                "on test images.",
                "Published errors are second-hand (recalled from the paper's table 2); both kinds "
                "of fast weights stand beside its one row. “agrees” if the published error lies "
                f"within our 95 % interval widened by {TOLERANCE} points, otherwise “lower error” "
                "or “higher error”.",
                VERDICT_RULE,
            ],
        )

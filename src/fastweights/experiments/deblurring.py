"""Deblurring old memories: Hinton & Plaut (1987), section 4 and figure 2."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from fastweights.experiments.deblurring_model import (
    VARIANTS,
    DeblurringConfig,
    as_values,
    from_values,
    simulate,
)
from fastweights.experiments.deblurring_model.findings import VERDICT_RULES, claims
from fastweights.experiments.deblurring_model.pictures import pictures
from fastweights.experiments.deblurring_model.tables import (
    rehearsal_table,
    seed_table,
    size_table,
    variant_table,
)
from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Section
from fastweights.training.config import ConfigError

__all__ = ["Deblurring"]

AS_CHOSEN = "as chosen"


class Deblurring:
    """The experiment: all seeds at once, with every control, and again for every variant."""

    name = "deblurring"
    title = "Deblurring old memories"
    summary = "Rehearse a few old pairs, get the rest back. Hinton & Plaut (1987), figure 2"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": DeblurringConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 30})

    def units(self, config: DeblurringConfig, seeds: int) -> list[Unit]:
        if config.first_seed < 0:
            raise ConfigError(f"first_seed must be at least 0, got {config.first_seed}")
        numbers = list(range(config.first_seed, config.first_seed + seeds))
        return [
            Unit(
                name=arm.replace(" ", "-").replace(",", ""),
                label=f"{seeds} networks, {arm}",
                arm=arm,
                seed=None,
                options={"seeds": numbers},
            )
            for arm in (AS_CHOSEN, *VARIANTS)
        ]

    def run(
        self, config: DeblurringConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        if device != "cpu":
            raise ValueError(f"the networks are small and run on the cpu, got device {device!r}")
        # The products are too small to share: a second thread only waits for the first.
        torch.set_num_threads(1)
        seeds = unit.options["seeds"]
        if unit.arm == AS_CHOSEN:
            return as_values(simulate(config, seeds))
        config = dataclasses.replace(config, **VARIANTS[unit.arm])  # type: ignore[arg-type]
        return as_values(simulate(config, seeds, conditions=["fast"]))

    def section(self, config: DeblurringConfig, results: Sequence[Result], folder: Path) -> Section:
        intro = (
            f"Networks of {config.inputs}–{config.hidden}–{config.outputs} logistic units, every "
            "connection with a slow and a fast weight, learn "
            f"{config.associations} random associations, then {config.new_associations} new ones "
            "alone, which blur the old. Then some of the old ones are rehearsed in the fast "
            "weights. How much of the others comes back, and do the new ones return when the fast "
            "weights have decayed?"
        )
        done = {r.unit.arm: from_values(r.values) for r in results if r.values is not None}
        if AS_CHOSEN not in done:
            return Section(self.title, intro, claims=[], tables=[], pictures=[])
        result = done[AS_CHOSEN]
        floor = math.ceil(1000 * config.margin * 0.75) / 1000
        notes = [
            *VERDICT_RULES,
            "The paper leaves open how weights start, the fast weights' rates, and when an output "
            "is right enough. The settings here were chosen so that networks learn all pairs, on "
            "other seeds than these; the table of settings shows what the others give.",
        ]
        if config.margin:
            notes.append(
                f"With a margin of {config.margin:g} nothing pushes an output further once it is "
                f"that near its target, so mean |y − d| has a floor of about {floor:.2f}; bits "
                "right stand beside it for that reason."
            )
        return Section(
            title=self.title,
            intro=intro,
            claims=claims(result),
            tables=[
                rehearsal_table(result),
                size_table(result),
                variant_table(done),
                seed_table(result),
            ],
            pictures=pictures(result),
            chosen="seeds below 100",
            notes=notes,
        )

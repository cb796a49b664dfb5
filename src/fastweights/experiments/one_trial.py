"""Rapid temporary learning: Hinton & Plaut (1987), the first use their introduction names.

What the paper says: an overlay of fast weights "can be used for rapid temporary learning. When
presented with a new association the network can store it in one trial, provided the storage only
needs to be temporary." It shows no simulation.

What we decided. A network of tanh and logistic units learns random associations slowly, in its slow
weights. Then it meets one new association once: a single update of the fast weights, large enough
to get it right. After that nothing is learned and the fast weights decay. Inputs are ±1 (0/1
inputs have much in common and interfere more), the error is the cross-entropy, and only the
connections to the outputs have a fast learning rate: with the squared error an output unit that is
wrong and sure of it has no slope to learn from, and a large step through both layers at once
overshoots. The table of step sizes shows all of these.

Controls: the same change made in the slow weights, where it stays; and one presentation at the slow
weights' own learning rate, momentum paid out to the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastweights.experiments.other_uses.one_trial.findings import claims, course_table, size_table
from fastweights.experiments.other_uses.one_trial.model import OneTrialConfig
from fastweights.experiments.other_uses.one_trial.pictures import course_picture, stream_picture
from fastweights.experiments.other_uses.one_trial.simulation import simulate
from fastweights.experiments.other_uses.shared import (
    VERDICT_RULE,
    finished,
    one_unit,
    use_one_core,
)
from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Section

__all__ = ["OneTrial"]


class OneTrial:
    """The experiment."""

    name = "one-trial"
    title = "Rapid temporary learning"
    summary = "Store a new association in one trial, gone later. Hinton & Plaut (1987), section 1"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": OneTrialConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 30})

    def units(self, config: OneTrialConfig, seeds: int) -> list[Unit]:
        return one_unit(self.name, config.first_seed, seeds)

    def run(
        self, config: OneTrialConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        use_one_core(device)
        return simulate(config, unit.options["seeds"])

    def section(self, config: OneTrialConfig, results: Sequence[Result], folder: Path) -> Section:
        intro = (
            f"Networks of {config.inputs}–{config.hidden}–{config.outputs} units have learned "
            f"{config.associations} associations slowly. Then each meets a new one, once. A single "
            "large update of the fast weights stores it; the fast weights decay, the new "
            "association fades, and the old ones come out as they were."
        )
        values = finished(results)
        if values is None:
            return Section(self.title, intro, claims=[], tables=[], pictures=[])
        return Section(
            title=self.title,
            intro=intro,
            claims=claims(values),
            tables=[course_table(values), size_table(values)],
            pictures=[course_picture(config, values), stream_picture(config, values)],
            chosen="seeds below 100",
            notes=[
                VERDICT_RULE,
                "While the overlay is fresh it disturbs the old associations, as the same change "
                "in the slow weights does. The difference is that it goes away.",
                "The paper gives no settings. The update reaches the connections to the outputs "
                "only, and the error is the cross-entropy; the table of step sizes has the others. "
                "With the squared error an output that is wrong and sure of it hardly learns, "
                "however large the step.",
                "The price of storage that fades: of a stream of new associations only the latest "
                "are known, while slow weights that keep every change know them longer, and lose "
                "the old ones for good.",
            ],
        )

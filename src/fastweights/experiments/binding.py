"""Temporary binding: Hinton & Plaut (1987), the second use their introduction names.

What the paper says: fast weights "can be used for creating temporary bindings between features";
von der Malsburg (1981) and Feldman (1982) "have shown that fast-changing weights can be used to
dynamically bind together a number of different properties into a coherent whole". It shows no
simulation.

What we decided. A scene holds some objects, each with a shape, a colour and a place, and no two
alike in any of them. A property is a pool of ±1 units; its values are random patterns that the
pool's slow weights know (the projection on the patterns, which the delta rule converges to, without
its self-connections) and clean up to. Objects are attended one after another, and the fast
weights between the pools learn in one Hebbian step which values go together,

    f ← (1 − h) (f + η x_p x_qᵀ / n).

Then the units show something else. Asked by a place alone, the other two pools start anywhere and
settle, under slow and fast weights together, on the shape and the colour that were there. Scenes
are drawn afresh, so nothing that is true of all of them helps.

Controls: no fast weights, which gives chance, one in all values; no fast weights, but pools primed
with a value that is in the scene, which gives the binding-free ceiling, one in all objects: exactly
what knowing the values without knowing which go together can reach; the same learning in slow
weights at a small rate; and fast weights that are never wiped and do not decay from scene to scene.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastweights.experiments.other_uses.binding.findings import claims, rule_table, stream_table
from fastweights.experiments.other_uses.binding.pictures import (
    capacity_picture,
    decay_picture,
    stream_picture,
)
from fastweights.experiments.other_uses.binding.pools import BindingConfig
from fastweights.experiments.other_uses.binding.simulation import simulate
from fastweights.experiments.other_uses.shared import (
    VERDICT_RULE,
    finished,
    one_unit,
    use_one_core,
)
from fastweights.lab.experiment import Result, Unit
from fastweights.report.section import Section
from fastweights.training.config import ConfigError

__all__ = ["Binding"]


class Binding:
    """The experiment."""

    name = "binding"
    title = "Temporary binding"
    summary = "Which shape and colour were at this place? Hinton & Plaut (1987), section 1"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": BindingConfig})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 24})

    def units(self, config: BindingConfig, seeds: int) -> list[Unit]:
        for name in ("objects", "many_objects", "object_counts"):
            given = getattr(config, name)
            if max(given if name == "object_counts" else (given,)) > config.values:
                raise ConfigError(
                    f"{name} must be at most values = {config.values}, as no two objects are "
                    f"alike, got {given}"
                )
        return one_unit(self.name, config.first_seed, seeds)

    def run(
        self, config: BindingConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        use_one_core(device)
        return simulate(config, unit.options["seeds"])

    def section(self, config: BindingConfig, results: Sequence[Result], folder: Path) -> Section:
        intro = (
            "Scenes of objects, each with a shape, a colour and a place. Slow weights know every "
            "shape, colour and place there is; which of them go together in this scene is held by "
            "fast weights, learned in one step for each object. Then: what was at this place? "
            f"Knowing what is in a scene of {config.objects} objects but not what goes with what, "
            f"one answers {100 / config.objects:.1f} % right; knowing nothing, "
            f"{100 / config.values:.1f} %."
        )
        values = finished(results)
        if values is None:
            return Section(self.title, intro, claims=[], tables=[], pictures=[])
        return Section(
            title=self.title,
            intro=intro,
            claims=claims(config, values),
            tables=[rule_table(config, values), stream_table(values)],
            pictures=[
                capacity_picture(config, values),
                decay_picture(config, values),
                stream_picture(config, values),
            ],
            chosen="seeds below 100",
            notes=[
                VERDICT_RULE,
                "The binding-free ceiling is 1/objects exactly: no two objects of a scene are "
                "alike in any property, so every value in it is equally likely.",
                "Decay alone does not change which of the bindings is stronger, only how strong "
                "they are beside the slow weights; so a scene is remembered well until the slow "
                "weights of a pool outweigh it, and then not at all.",
            ],
        )

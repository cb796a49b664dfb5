"""Depth, layer norm or the Hebbian memory? The controls that a note of 2017 found missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fastweights.experiments.base import Result, Unit
from fastweights.experiments.retrieval_study import training
from fastweights.experiments.retrieval_study.config import RetrievalConfig, task_of
from fastweights.experiments.retrieval_study.effects import (
    EFFECT_RULE,
    Effect,
    effect_claims,
    effects_table,
)
from fastweights.experiments.retrieval_study.networks import Arm, fast_weights
from fastweights.experiments.retrieval_study.others_memory import OthersMemory
from fastweights.experiments.retrieval_study.pictures import dots
from fastweights.experiments.retrieval_study.tables import tables_of
from fastweights.nn.baselines import LayerNormLSTM
from fastweights.report.section import Section
from fastweights.tasks import binding_free_ceiling

__all__ = ["ARMS", "Controls"]

Build = Callable[[RetrievalConfig, int, int], nn.Module]


def _others_memory(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
    layer = fast_weights()(config, inputs, hidden_size)
    return OthersMemory(layer)  # type: ignore[arg-type]


def _count(build: Callable[[int, int], nn.Module], inputs: int, size: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(inputs, size).parameters())


def _matched_parameters(build: Callable[[int, int], nn.Module]) -> Build:
    """As many parameters in the layer as fast weights of that width have, or as near as can be."""

    def matched(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
        wanted = sum(p.numel() for p in fast_weights()(config, inputs, hidden_size).parameters())
        sizes = range(1, 2 * hidden_size + 1)
        return build(inputs, min(sizes, key=lambda n: abs(_count(build, inputs, n) - wanted)))

    return matched


def _matched_state(build: Callable[[int, int], nn.Module], vectors: int) -> Build:
    """As many numbers in the state as fast weights keep: a vector per token, and h."""

    def matched(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
        numbers = hidden_size * (task_of(config).length + 1)
        return build(inputs, round(numbers / vectors))

    return matched


def _plain(build: Callable[[int, int], nn.Module]) -> Build:
    return lambda config, inputs, hidden_size: build(inputs, hidden_size)


_SCALES = (0.1, 0.3, 1.0, 3.0)
_RATES = (0.03, 0.003)

ARMS: Mapping[str, Arm] = {
    "fast-weights": Arm("fast weights", 5e-3, 0.1, fast_weights()),
    "layer-norm-rnn": Arm("layer-norm RNN", 5e-3, 0.1, fast_weights(memory="none")),
    **{
        f"{kind}-{scale:g}": Arm(
            f"{kind}, scale {scale:g}", 5e-3, 0.1, fast_weights(memory=kind, memory_scale=scale)
        )
        for kind in ("identity", "random")
        for scale in _SCALES
    },
    "learned": Arm("learned matrix", 5e-3, 0.1, fast_weights(memory="learned", memory_scale=0.3)),
    "no-extra-depth": Arm("no extra depth", 5e-3, 0.1, fast_weights(query="previous")),
    # Without layer norm reads grow with the cube of h: lower write rates have to be tried.
    **{
        f"no-norm-s{steps}-{rate:g}": Arm(
            f"no layer norm, S = {steps}, η = {rate:g}",
            5e-3,
            0.1,
            fast_weights(layer_norm=False, inner_steps=steps, write_rate=rate),
        )
        for steps in (1, 3)
        for rate in _RATES
    },
    "three-steps": Arm("S = 3", 5e-3, 0.1, fast_weights(inner_steps=3)),
    "norm-preliminary": Arm("LN on h_0 too", 5e-3, 0.1, fast_weights(norm_preliminary=True)),
    "detached": Arm("writes detached", 5e-3, 0.1, fast_weights(detach_writes=True)),
    "others-memory": Arm("another's memory", 5e-3, 0.1, _others_memory),
    "lstm": Arm("LSTM", 2e-2, 0.0, _plain(nn.LSTM)),
    "lstm-parameters": Arm("LSTM, equal parameters", 2e-2, 0.0, _matched_parameters(nn.LSTM)),
    "lstm-state": Arm("LSTM, equal state", 2e-2, 0.0, _matched_state(nn.LSTM, 2)),
    "gru": Arm("GRU", 1e-2, 0.0, _plain(nn.GRU)),
    "gru-state": Arm("GRU, equal state", 1e-2, 0.0, _matched_state(nn.GRU, 1)),
    "layer-norm-lstm": Arm("layer-norm LSTM", 1e-2, 0.0, _plain(LayerNormLSTM)),
}


_DEPTH = tuple(f"identity-{scale:g}" for scale in _SCALES)
_MIXING = tuple(f"random-{scale:g}" for scale in _SCALES)
_NO_NORM = tuple(f"no-norm-s{steps}-{rate:g}" for steps in (1, 3) for rate in _RATES)
_FAST, _NONE = ("fast-weights",), ("layer-norm-rnn",)

EFFECTS = (
    Effect("depth alone", _DEPTH, _NONE),
    Effect("depth and fixed mixing", _MIXING, _NONE),
    Effect("depth and a learned matrix", ("learned",), _NONE),
    Effect("a Hebbian memory without extra depth", ("no-extra-depth",), _NONE),
    Effect("a Hebbian memory at equal depth", _FAST, (*_DEPTH, *_MIXING, "learned")),
    Effect("one's own memory, not another's", _FAST, ("others-memory",)),
    Effect("layer norm beside a Hebbian memory", _FAST, _NO_NORM),
    Effect("learning what to write", _FAST, ("detached",)),
    Effect("layer norm on h_0", ("norm-preliminary",), _FAST),
    Effect("three inner steps, not one", ("three-steps",), _FAST),
    Effect("fast weights, not the LSTM of equal width", _FAST, ("lstm",)),
    Effect("fast weights, not the LSTM of equal parameters", _FAST, ("lstm-parameters",)),
    Effect("fast weights, not the LSTM of equal state", _FAST, ("lstm-state",)),
    Effect("fast weights, not the layer-norm LSTM", _FAST, ("layer-norm-lstm",)),
    Effect("fast weights, not the GRU of equal width", _FAST, ("gru",)),
    Effect("fast weights, not the GRU of equal state", _FAST, ("gru-state",)),
)
DECISIVE = (
    "fast-weights",
    "layer-norm-rnn",
    "identity-1",
    "random-1",
    "learned",
    "no-extra-depth",
    "others-memory",
    "lstm",
)


def k4() -> RetrievalConfig:
    """K = 4, R = 50, every control."""
    return RetrievalConfig(arms=tuple(ARMS))


def narrow() -> RetrievalConfig:
    """K = 4, R = 20, every control."""
    return RetrievalConfig(arms=tuple(ARMS), hidden_sizes=(20,), updates=12_000)


def k8() -> RetrievalConfig:
    """K = 8, R = 50, the decisive controls."""
    return RetrievalConfig(arms=DECISIVE, num_pairs=8, updates=8_000)


class Controls:
    """The experiment."""

    name = "controls"
    title = "Depth, layer norm or the Hebbian memory?"
    summary = "The controls of the fast-weights RNN that a note of 2017 found missing"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": k4, "narrow": narrow, "k8": k8}
    )
    seeds: Mapping[str, int] = MappingProxyType({"quick": 10, "narrow": 10, "k8": 5})

    def units(self, config: RetrievalConfig, seeds: int) -> list[Unit]:
        return training.units(ARMS, config, seeds)

    def run(
        self, config: RetrievalConfig, unit: Unit, folder: Path, device: str, writer: Any
    ) -> dict[str, Any]:
        return training.run(ARMS, config, unit, folder, device, writer)

    def section(self, config: RetrievalConfig, results: Sequence[Result], folder: Path) -> Section:
        ceiling = float(binding_free_ceiling(config.num_pairs))
        sizes = config.hidden_sizes
        return Section(
            title=f"{self.title} K = {config.num_pairs}",
            intro=(
                "A layer of fast weights is deeper than an RNN, has layer norm, and has a Hebbian "
                "memory. Each is taken away or replaced in turn, all else equal. What can be "
                "answered without binding letters to digits, the binding-free ceiling, is "
                f"{100 * ceiling:.2f} %."
            ),
            claims=[claim for size in sizes for claim in effect_claims(EFFECTS, size, results)],
            tables=[
                effects_table(ARMS, EFFECTS, sizes, results),
                *tables_of(ARMS, config, results),
            ],
            pictures=[dots(ARMS, config, results, size, ceiling, self.name) for size in sizes],
            chosen="validation data, seeds below 300",
            notes=[
                EFFECT_RULE,
                "“equal parameters” and “equal state” are those of fast weights of width R, as "
                "near as an integer width comes; the table of networks has the numbers.",
            ],
        )

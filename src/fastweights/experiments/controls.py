"""Depth, layer norm or the Hebbian memory? The controls that a note of 2017 found missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fastweights.experiments.base import Result
from fastweights.experiments.retrieval_study.altered import AlteredReads, of_another
from fastweights.experiments.retrieval_study.config import RetrievalConfig, task_of
from fastweights.experiments.retrieval_study.effects import (
    EFFECT_RULE,
    Effect,
    effect_claims,
    effects_table,
)
from fastweights.experiments.retrieval_study.networks import Arm, fast_weights
from fastweights.experiments.retrieval_study.pictures import dots
from fastweights.experiments.retrieval_study.rivals import rivals_tables
from fastweights.experiments.retrieval_study.study import RetrievalStudy
from fastweights.experiments.retrieval_study.tables import sizes_begun, tables_of
from fastweights.nn.baselines import LayerNormLSTM
from fastweights.report.section import Section
from fastweights.tasks import binding_free_ceiling

__all__ = ["ARMS", "Controls"]

Build = Callable[[RetrievalConfig, int, int], nn.Module]


def _others_memory(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
    layer = fast_weights()(config, inputs, hidden_size)
    return AlteredReads(layer, of_another)  # type: ignore[arg-type]


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


# Learning rates by scale, write rates and input scales: the best of results/tuning/controls.json.
_IDENTITY = {0.1: 1e-2, 0.3: 5e-3, 1.0: 5e-3, 3.0: 5e-3}
_RANDOM = {0.1: 5e-3, 0.3: 1e-2, 1.0: 2.5e-3, 3.0: 5e-3}


def _fast(label: str, learning_rate: float = 5e-3, **options: Any) -> Arm:
    return Arm(label, learning_rate, 0.1, fast_weights(**options))


ARMS: Mapping[str, Arm] = {
    "fast-weights": _fast("fast weights"),
    "layer-norm-rnn": _fast("layer-norm RNN", 1e-2, memory="none"),
    **{
        f"{kind}-{scale:g}": _fast(
            f"{kind}, scale {scale:g}", rate, memory=kind, memory_scale=scale
        )
        for kind, rates in (("identity", _IDENTITY), ("random", _RANDOM))
        for scale, rate in rates.items()
    },
    "learned": _fast("learned matrix", 2.5e-3, memory="learned", memory_scale=0.3),
    "no-extra-depth": _fast(
        "no extra depth", 1e-2, query="previous", write_rate=0.03, input_scale=5.0
    ),
    # Without layer norm reads grow with the cube of h, and faster with more of them.
    "no-norm-s1": _fast("no layer norm, S = 1", layer_norm=False, write_rate=0.01),
    "no-norm-s3": _fast("no layer norm, S = 3", layer_norm=False, inner_steps=3, write_rate=3e-4),
    "three-steps": _fast("S = 3", inner_steps=3, write_rate=0.03),
    "norm-preliminary": _fast("LN on h_0 too", norm_preliminary=True),
    "detached": _fast("writes detached", detach_writes=True, write_rate=0.1, input_scale=10.0),
    "others-memory": Arm("another's memory", 2.5e-3, 0.1, _others_memory),
    "lstm": Arm("LSTM", 2e-2, 0.0, _plain(nn.LSTM)),
    "lstm-parameters": Arm("LSTM, equal parameters", 2e-2, 0.0, _matched_parameters(nn.LSTM)),
    "lstm-state": Arm("LSTM, equal state", 2e-2, 0.0, _matched_state(nn.LSTM, 2)),
    "gru": Arm("GRU", 2e-2, 0.0, _plain(nn.GRU)),
    "gru-state": Arm("GRU, equal state", 2e-2, 0.0, _matched_state(nn.GRU, 1)),
    "layer-norm-lstm": Arm("layer-norm LSTM", 1e-2, 0.0, _plain(LayerNormLSTM)),
}
RIVALS = ("lstm", "lstm-parameters", "lstm-state", "layer-norm-lstm", "gru", "gru-state")
# As wide as the state of fast weights is large, these take ten times as long as all others.
WIDE = ("lstm-state", "gru-state")

_DEPTH = tuple(f"identity-{scale:g}" for scale in _IDENTITY)
_MIXING = tuple(f"random-{scale:g}" for scale in _RANDOM)
_FAST, _NONE = ("fast-weights",), ("layer-norm-rnn",)

EFFECTS = (
    Effect("depth alone", _DEPTH, _NONE),
    Effect("depth and fixed mixing", _MIXING, _NONE),
    Effect("depth and a learned matrix", ("learned",), _NONE),
    Effect("a Hebbian memory without extra depth", ("no-extra-depth",), _NONE),
    Effect("a Hebbian memory at equal depth", _FAST, (*_DEPTH, *_MIXING, "learned")),
    Effect("one's own memory, not another's", _FAST, ("others-memory",)),
    Effect("layer norm beside a Hebbian memory, S = 1", _FAST, ("no-norm-s1",)),
    Effect("layer norm beside a Hebbian memory, S = 3", ("three-steps",), ("no-norm-s3",)),
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
    """K = 4, R = 50, every control but the widest."""
    return RetrievalConfig(arms=tuple(arm for arm in ARMS if arm not in WIDE))


def state() -> RetrievalConfig:
    """K = 4, R = 50, beside networks with as many numbers in their state."""
    return RetrievalConfig(arms=("fast-weights", *WIDE))


def narrow() -> RetrievalConfig:
    """K = 4, R = 20, every control but the GRU of equal state."""
    arms = tuple(arm for arm in ARMS if arm != "gru-state")
    return RetrievalConfig(arms=arms, hidden_sizes=(20,), updates=8_000)


def k8() -> RetrievalConfig:
    """K = 8, R = 50, the decisive controls."""
    return RetrievalConfig(arms=DECISIVE, num_pairs=8, updates=6_000)


class Controls(RetrievalStudy):
    """The experiment."""

    arms = ARMS
    name = "controls"
    title = "Depth, layer norm or the Hebbian memory?"
    summary = "The controls of the fast-weights RNN that a note of 2017 found missing"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": k4, "state": state, "narrow": narrow, "k8": k8}
    )
    seeds: Mapping[str, int] = MappingProxyType({"quick": 10, "state": 3, "narrow": 10, "k8": 10})

    def section(self, config: RetrievalConfig, results: Sequence[Result], folder: Path) -> Section:
        ceiling = float(binding_free_ceiling(config.num_pairs))
        sizes = sizes_begun(config, results)
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
                *rivals_tables(ARMS, "fast-weights", RIVALS, sizes, results),
            ],
            pictures=[dots(ARMS, config, results, size, ceiling, self.name) for size in sizes],
            chosen="validation data, seeds below 300",
            notes=[
                EFFECT_RULE,
                "“equal parameters” and “equal state” are those of fast weights of width R, as "
                "near as an integer width comes; the table of networks has the numbers.",
            ],
        )

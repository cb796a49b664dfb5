"""Depth, layer norm or the Hebbian memory? The controls that a note of 2017 found missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fastweights.experiments.altered_reads import AlteredReads, of_another
from fastweights.experiments.associative_retrieval import (
    FAST_WEIGHTS,
    Build,
    RetrievalConfig,
    RetrievalStudy,
    baseline,
    fast_weights,
)
from fastweights.experiments.baseline_table import baseline_table
from fastweights.lab.experiment import Result
from fastweights.lab.findings import Contrast, by_seed, why_missing
from fastweights.lab.study import Arm
from fastweights.nn.baselines import LayerNormLSTM
from fastweights.report.section import Claim, Picture, Table
from fastweights.report.statistics import Interval
from fastweights.report.verdicts import EFFECT_RULE, EffectSize


def _others_memory(config: RetrievalConfig, inputs: int, hidden_size: int) -> nn.Module:
    return AlteredReads(fast_weights()(config, inputs, hidden_size), of_another)


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
        numbers = hidden_size * (config.task().length + 1)
        return build(inputs, round(numbers / vectors))

    return matched


# Learning rates by scale, write rates and input scales: the best of results/tuning/controls.json.
_IDENTITY = {0.1: 1e-2, 0.3: 5e-3, 1.0: 5e-3, 3.0: 5e-3}
_RANDOM = {0.1: 5e-3, 0.3: 1e-2, 1.0: 2.5e-3, 3.0: 5e-3}


def _fast(label: str, learning_rate: float = 5e-3, **options: Any) -> Arm:
    return Arm(label, fast_weights(**options), learning_rate, 0.1)


ARMS: Mapping[str, Arm] = {
    "fast-weights": FAST_WEIGHTS,
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
    "others-memory": Arm("another's memory", _others_memory, 2.5e-3, 0.1),
    "lstm": Arm("LSTM", baseline(nn.LSTM), 2e-2),
    "lstm-parameters": Arm("LSTM, equal parameters", _matched_parameters(nn.LSTM), 2e-2),
    "lstm-state": Arm("LSTM, equal state", _matched_state(nn.LSTM, 2), 2e-2),
    "gru": Arm("GRU", baseline(nn.GRU), 2e-2),
    "gru-state": Arm("GRU, equal state", _matched_state(nn.GRU, 1), 2e-2),
    "layer-norm-lstm": Arm("layer-norm LSTM", baseline(LayerNormLSTM), 1e-2),
}
BASELINES = ("lstm", "lstm-parameters", "lstm-state", "layer-norm-lstm", "gru", "gru-state")
# As wide as the state of fast weights is large, these take ten times as long as all others.
WIDE = ("lstm-state", "gru-state")

_DEPTH = tuple(f"identity-{scale:g}" for scale in _IDENTITY)
_MIXING = tuple(f"random-{scale:g}" for scale in _RANDOM)
_FAST, _NONE = ("fast-weights",), ("layer-norm-rnn",)


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a part of the network is worth: the difference that its absence makes.

    Attributes:
        question: what is asked.
        ours, theirs: arms with the part and without; of several, the one with the best mean
            validation accuracy.
    """

    question: str
    ours: Sequence[str]
    theirs: Sequence[str]

    def interval(self, results: Sequence[Result], **options: Any) -> Interval | None:
        """The difference in test accuracy over the seeds that both finished, if there are any."""
        ours, theirs = (best_of(arms, results, **options) for arms in (self.ours, self.theirs))
        if ours is None or theirs is None:
            return None
        return Contrast("", ours, theirs, "test_accuracy").interval(results, **options)

    def withdrawn(self, results: Sequence[Result]) -> bool:
        """Whether there was an answer once, but its results were withdrawn."""
        return any(why_missing(results, arm) == "withdrawn" for arm in (*self.ours, *self.theirs))

    def row(self, results: Sequence[Result], **options: Any) -> Claim | None:
        """A row of the ledger if there is an answer, or was one."""
        interval = self.interval(results, **options)
        claim = f"R = {options['hidden_size']}: {self.question}; points of accuracy"
        published = "asked, not measured"
        if interval is not None:
            verdict = EffectSize().verdict(interval)
            return Claim(claim, published, interval.text(1, 100), interval.n, verdict)
        if self.withdrawn(results):
            return Claim(claim, published, "withdrawn", 0, "withdrawn")
        return None


def best_of(arms: Sequence[str], results: Sequence[Result], **options: Any) -> str | None:
    """The arm with the best mean validation accuracy, if any finished."""
    found = {}
    for arm in arms:
        if values := by_seed(results, arm, **options).values():
            found[arm] = sum(v["validation_accuracy"] for v in values) / len(values)
    return max(found, key=found.__getitem__) if found else None


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

    def heading(self, config: RetrievalConfig) -> str:
        return f"{self.title} K = {config.num_pairs}"

    def intro(self, config: RetrievalConfig) -> str:
        return (
            "A layer of fast weights is deeper than an RNN, has layer norm, and has a Hebbian "
            "memory. Each is taken away or replaced in turn, all else equal. What can be "
            "answered without binding letters to digits, the binding-free ceiling, is "
            f"{100 * config.ceiling:.2f} %."
        )

    def notes(self, config: RetrievalConfig) -> list[str]:
        return [
            EFFECT_RULE,
            "“equal parameters” and “equal state” are those of fast weights of width R, as "
            "near as an integer width comes; the table of networks has the numbers.",
        ]

    def contrasts(self, config: RetrievalConfig) -> Sequence[Effect]:
        return EFFECTS

    def tables(self, config: RetrievalConfig, results: Sequence[Result]) -> list[Table]:
        return [
            effects_table(config, results),
            *super().tables(config, results),
            *baseline_table(self, "fast-weights", BASELINES, config, results),
        ]

    def pictures(self, config: RetrievalConfig, results: Sequence[Result]) -> list[Picture]:
        return [self.accuracies(config, results, size) for size in config.hidden_sizes]


def effects_table(config: RetrievalConfig, results: Sequence[Result]) -> Table:
    """Every effect at every hidden size."""

    def names(keys: Sequence[str]) -> str:
        found = [key for key in keys if key in config.arms]
        return ARMS[found[0]].label if len(found) == 1 else f"best of {len(found)}"

    rows = []
    for effect in EFFECTS:
        found = [effect.interval(results, hidden_size=size) for size in config.hidden_sizes]
        withdrawn = effect.withdrawn(results)
        if any(found) or withdrawn:
            missing = "withdrawn" if withdrawn else "–"
            cells = [
                missing if i is None else f"{i.text(1, 100)}, {EffectSize().verdict(i)}"
                for i in found
            ]
            rows.append([effect.question, names(effect.ours), names(effect.theirs), *cells])
    sizes = [f"R = {size}" for size in config.hidden_sizes]
    return Table(
        caption="What each part is worth: difference in test accuracy, in points.",
        columns=("what is asked", "with", "without", *sizes),
        rows=rows,
    )

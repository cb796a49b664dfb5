"""Networks that recognise words in noise, and how often they do after every past."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from fastweights.decay import Decay, PowerLaw
from fastweights.lab.findings import Values
from fastweights.lab.study import Arm
from fastweights.nn import FastWeightsRNN, FastWeightsState
from fastweights.tasks.priming import Priming, Trials, unpack

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Noise = Annotated[float, Field(ge=0, le=0.5)]


@dataclasses.dataclass(frozen=True)
class PrimingConfig:
    """Settings; chosen on seeds below 300.

    ``between`` are the delays, in patterns between exposure and probe; the curves against the
    noise are taken at ``fixed_between``, those against the delay at ``probe_noise``. A noisy
    exposure has ``exposure_noise``.
    """

    arms: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "fast-weights",
        "decay-0.9",
        "decay-0.7",
        "power-law",
        "no-repeats",
        "layer-norm-rnn",
    )
    first_seed: Annotated[int, Field(ge=0, lt=2**32)] = 300
    words: Annotated[int, Field(ge=3, le=2**20)] = 64
    bits: Annotated[int, Field(ge=1, le=62)] = 40
    length: Annotated[int, Field(ge=2, le=4096)] = 11
    repeat: Annotated[float, Field(ge=0, le=1)] = 0.5
    noises: Annotated[tuple[Noise, ...], Field(min_length=1)] = (0.0, 0.1, 0.2, 0.3, 0.4)
    hidden_size: Width = 64
    train_size: Count = 100_000
    validation_size: Count = 4_000
    test_size: Count = 10_000
    updates: Count = 3_000
    batch_size: Count = 128
    learning_rate: Rate = 5e-3
    warmup: Annotated[int, Field(ge=0)] = 200
    gradient_clip: Rate = 0.5
    evaluate_every: Count = 500
    write_rate: Rate = 0.03
    trials: Count = 2_000
    between: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2, 3, 4, 6, 8)
    fixed_between: Annotated[int, Field(ge=0)] = 4
    probe_noise: Noise = 0.3
    exposure_noise: Noise = 0.3
    probe_noises: Annotated[tuple[Noise, ...], Field(min_length=1)] = (
        0.15,
        0.2,
        0.25,
        0.3,
        0.35,
        0.4,
    )

    def task(self, repeat: float) -> Priming:
        """Streams in which the probe repeats an earlier word with this probability."""
        return Priming(
            words=self.words,
            bits=self.bits,
            length=self.length,
            repeat=repeat,
            noises=self.noises,
            train_size=self.train_size,
            validation_size=self.validation_size,
            test_size=self.test_size,
        )


def _fast_weights(
    decay: float | Callable[[], Decay] = 0.99, **options: Any
) -> Callable[[PrimingConfig], nn.Module]:
    def build(config: PrimingConfig) -> nn.Module:
        return FastWeightsRNN(
            config.bits,
            config.hidden_size,
            decay=decay() if callable(decay) else decay,
            write_rate=config.write_rate,
            form="attention",  # keeps what was written apart, so that it can be exchanged
            **options,
        )

    return build


# Learning rates are multiples of the configuration's.
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "fast-weights": Arm("fast weights, λ = 0.99", _fast_weights(), 1.0),
        "decay-0.9": Arm("fast weights, λ = 0.9", _fast_weights(0.9), 1.0),
        "decay-0.7": Arm("fast weights, λ = 0.7", _fast_weights(0.7), 1.0),
        "power-law": Arm("fast weights, power law", _fast_weights(PowerLaw), 1.0),
        "tanh": Arm("fast weights, λ = 0.99, tanh", _fast_weights(nonlinearity="tanh"), 1.0),
        "no-repeats": Arm(
            "fast weights that never met a repeat", _fast_weights(), 1.0, options={"repeats": False}
        ),
        "layer-norm-rnn": Arm("layer-norm RNN, no fast weights", _fast_weights(memory="none"), 1.0),
        "lstm": Arm("LSTM", lambda config: nn.LSTM(config.bits, config.hidden_size), 2.0),
    }
)


class Recogniser(nn.Module):
    """Patterns of ±1 scaled to unit length, a recurrent layer, and a linear readout of its last
    output."""

    def __init__(self, layer: nn.Module, bits: int, words: int) -> None:
        super().__init__()
        self.layer, self.bits = layer, bits
        self.readout = nn.Linear(int(layer.hidden_size), words)  # type: ignore[arg-type]

    def forward(self, patterns: Tensor) -> Tensor:
        """Logits (N, words) for the last of the presented patterns (N, length)."""
        output, _ = self.layer(self.present(patterns))
        return self.readout(output[-1])

    def present(self, patterns: Tensor) -> Tensor:
        """What the layer sees: (length, N, bits)."""
        return (2.0 * unpack(patterns.t(), self.bits) - 1) / math.sqrt(self.bits)

    def with_memory(
        self, patterns: Tensor, change: Callable[[FastWeightsState], FastWeightsState]
    ) -> Tensor:
        """As :meth:`forward`, but the state is changed between the past and the probe."""
        x = self.present(patterns)
        _, state = self.layer(x[:-1])
        output, _ = self.layer(x[-1:], change(state))
        return self.readout(output[-1])


def wiped(state: FastWeightsState) -> FastWeightsState:
    """No fast memory; the activity of the units stays."""
    assert state.history is not None
    return dataclasses.replace(state, history=torch.zeros_like(state.history))


def swapped(state: FastWeightsState) -> FastWeightsState:
    """The fast memory of the neighbour in the batch; the activity of the units is one's own."""
    assert state.history is not None
    return dataclasses.replace(state, history=state.history.roll(1, dims=2))


Answers = Callable[[Tensor], Tensor]  # the words that presented patterns (N, length) are taken for


def measure(model: Recogniser, config: PrimingConfig, seed: int) -> dict[str, Any]:
    """Accuracies against the delay and against the noise, for the network and its controls.

    All conditions have the same probes and the same fillers, so that differences are paired.

    Returns:
        By observer: the ``network``, the ``ideal`` observer and, if there is a fast memory, the
        network with that memory ``wiped`` before the probe or ``swapped`` with that of another
        stream. Each has the curves ``delay`` and ``noise``: accuracies "primed" and "unprimed"
        after a "clean" or "noisy" exposure, and the "intrusion": how much more often a word is a
        wrong answer because it, and not another, was shown.
    """
    task, device = config.task(config.repeat), next(model.parameters()).device

    def answers(logits: Callable[[Tensor], Tensor]) -> Answers:
        return lambda patterns: logits(patterns.to(device)).argmax(-1).cpu()

    observers: dict[str, Answers] = {
        "network": answers(model),
        "ideal": lambda patterns: task.ideal(seed, patterns),
    }
    if isinstance(model.layer, FastWeightsRNN) and model.layer.memory == "hebbian":
        observers["wiped"] = answers(lambda patterns: model.with_memory(patterns, wiped))
        observers["swapped"] = answers(lambda patterns: model.with_memory(patterns, swapped))

    def point(between: int, noise: float) -> dict[str, dict[str, float]]:
        def after(exposure: str, exposure_noise: float) -> Trials:
            return task.trials(
                seed,
                config.trials,
                between=between,
                exposure=exposure,
                exposure_noise=exposure_noise,
                probe_noise=noise,
            )

        found: dict[str, dict[str, float]] = {name: {} for name in observers}
        for kind, exposure_noise in (("clean", 0.0), ("noisy", config.exposure_noise)):
            same, another = (after(exposure, exposure_noise) for exposure in ("same", "another"))
            for name, observe in observers.items():
                for words, shown in (("primed", same), ("unprimed", another)):
                    right = observe(shown.inputs) == shown.targets
                    found[name][f"{words}, {kind}"] = _share(right)
        another, third = after("another", 0.0), after("third", 0.0)
        for name, observe in observers.items():
            named = [_share(observe(t.inputs) == another.shown) for t in (another, third)]
            found[name]["intrusion"] = named[0] - named[1]
        return found

    model.eval()
    with torch.no_grad():
        curves = {
            "delay": [point(between, config.probe_noise) for between in config.between],
            "noise": [point(config.fixed_between, noise) for noise in config.probe_noises],
        }
    return {
        name: {curve: _by_name([p[name] for p in points]) for curve, points in curves.items()}
        for name in observers
    }


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _by_name(points: list[dict[str, float]]) -> Mapping[str, list[float]]:
    return {name: [point[name] for point in points] for name in points[0]}


def benefit(
    values: Values, kind: str = "clean", observer: str = "network", curve: str = "delay"
) -> npt.NDArray[np.float64]:
    """Accuracy primed less unprimed, of a run, at the points of a curve of `measure`.

    Example:
        >>> curves = {"primed, clean": [0.75, 0.5], "unprimed, clean": [0.5, 0.5]}
        >>> benefit({"network": {"delay": curves}})
        array([0.25, 0.  ])
    """
    measured = values[observer][curve]
    return np.subtract(measured[f"primed, {kind}"], measured[f"unprimed, {kind}"])

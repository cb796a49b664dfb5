"""How often probes are recognised after every past that is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastweights.experiments.priming_study.config import PrimingConfig, task_of
from fastweights.experiments.priming_study.networks import Recogniser, swapped, wiped
from fastweights.nn import FastWeightsRNN
from fastweights.tasks.priming import Trials

__all__ = ["measure"]

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
    task, device = task_of(config, config.repeat), next(model.parameters()).device

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

"""Better consolidation: Xu, Ba & Zemel, "Fast weights using improved memory consolidation designs".

Their network, FW2, changes two things at once: the write rate is 1 instead of 0.5, and the memory
decays by a power law instead of exponentially. We cross the two. The decay is printed as a product
that cannot be what was meant; the three readings of it are all here (see `fastweights.decay`).
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fastweights.decay import Decay, Exponential, Factorial, PowerLaw, StepIndexed
from fastweights.experiments.associative_retrieval import (
    FAST_WEIGHTS,
    RetrievalConfig,
    RetrievalStudy,
    baseline,
    fast_weights,
)
from fastweights.lab.experiment import Result
from fastweights.lab.findings import Contrast, Finding, Published, by_seed
from fastweights.lab.study import Arm
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Claim, Picture
from fastweights.report.verdicts import OURS, TOLERANCE, Bound
from fastweights.training.metrics import updates_to

# Test accuracy in per cent by arm and K: their table 1. The width is not stated; ours is 50.
PUBLISHED_ACCURACIES: Mapping[tuple[str, int], float] = {
    ("power-law-1", 3): 99.74,
    ("power-law-1", 4): 100.0,
    ("power-law-1", 26): 100.0,
    ("exponential-0.5", 3): 99.5,
    ("exponential-0.5", 4): 99.71,
    ("exponential-0.5", 26): 94.75,
    ("rnn", 3): 42.71,
    ("rnn", 4): 34.49,
    ("rnn", 26): 12.07,
}
FW2, FW = "power-law-1", "exponential-0.5"
# All at once would hide one another in the figure of learning curves.
DRAWN = (FW2, FW, "power-law-0.5", "exponential-1", "power-law-rule", "exponential-rule", "rnn")

# Which is compared with which, in words, and whether it was published.
COMPARED = (
    (FW2, FW, "FW2, not FW,", True),
    ("power-law-1", "exponential-1", "the power law, η = 1 for both,", False),
    ("power-law-0.5", "exponential-0.5", "the power law, η = 0.5 for both,", False),
    ("power-law-rule", "exponential-rule", "the power law, η by rule for both,", False),
    ("power-law-1", "power-law-0.5", "η = 1, not 0.5, a power law for both,", False),
)

DECAYS: Mapping[str, tuple[str, Callable[[], Decay]]] = {
    "exponential": ("exponential 0.95", lambda: Exponential(0.95)),
    "power-law": ("power law", lambda: PowerLaw(0.5)),
    "factorial": ("factorial", lambda: Factorial()),
    "step-indexed": ("step-indexed", lambda: StepIndexed()),
}
# The configuration's write rate, of an arm without its own, is by the rule.
RATES: Mapping[str, float | None] = {"1": 1.0, "0.5": 0.5, "rule": None}


def _arms() -> dict[str, Arm]:
    arms = {}
    for key, (label, decay) in DECAYS.items():
        for name, rate in RATES.items():
            options = {} if rate is None else {"write_rate": rate}
            arms[f"{key}-{name}"] = Arm(
                f"{label}, η {'by rule' if rate is None else f'= {rate:g}'}",
                fast_weights(decay=decay(), **options),
                5e-3,
                0.1,
            )
    arms["recipe"] = dataclasses.replace(FAST_WEIGHTS, label="exponential 0.99, η by rule")
    arms["layer-norm-rnn"] = Arm("layer-norm RNN", fast_weights(memory="none"), 5e-3, 0.1)
    arms["rnn"] = Arm("RNN", baseline(nn.RNN), 1e-3)
    return arms


ARMS: Mapping[str, Arm] = _arms()

# What fails at one write rate with four pairs fails at all of them.
VIABLE = tuple(f"{decay}-{rate}" for decay in ("exponential", "power-law") for rate in RATES)
DECISIVE = (*VIABLE, "factorial-1", "step-indexed-1", "rnn")


def k4() -> RetrievalConfig:
    """K = 4, every decay at every write rate."""
    return RetrievalConfig(arms=tuple(ARMS), test_size=50_000)


def k3() -> RetrievalConfig:
    """K = 3."""
    return RetrievalConfig(arms=DECISIVE, num_pairs=3, test_size=50_000)


def k26() -> RetrievalConfig:
    """K = 26, all letters in every sequence; hours."""
    return RetrievalConfig(
        arms=DECISIVE, num_pairs=26, test_size=50_000, updates=6_000, schedule="linear"
    )


@dataclasses.dataclass(frozen=True)
class Faster:
    """Whether one arm gets to 90 % in fewer updates than another, in every seed."""

    claim: str
    ours: str
    theirs: str
    published: str

    def row(self, results: Sequence[Result], **options: Any) -> Claim | None:
        """The row, if both have finished and one gets there."""
        runs = [by_seed(results, arm, **options).values() for arm in (self.ours, self.theirs)]
        reached = [[updates_to(v["curve"], 0.9) for v in values] for values in runs]
        known = [[u for u in updates if u is not None] for updates in reached]
        if not all(runs) or not any(known):
            return None
        texts = [
            f"{median(k):,.0f} ({len(k)} of {len(r)} seeds)" if k else f"never ({len(r)} seeds)"
            for k, r in zip(known, reached, strict=True)
        ]
        # A network that does not get there within its updates is slower than any that does.
        first, second = ([math.inf if u is None else u for u in updates] for updates in reached)
        verdict = "undecided"
        if max(first) < min(second):
            verdict = "holds"
        elif min(first) > max(second):
            verdict = "does not hold"
        n = min(len(first), len(second))
        return Claim(self.claim, self.published, " and ".join(texts), n, verdict)


class Consolidation(RetrievalStudy):
    """The experiment."""

    arms = ARMS
    name = "consolidation"
    title = "Power-law decay and write rate 1"
    summary = "Does a better consolidation learn faster and better? Xu, Ba & Zemel (2017)"
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": k4, "k3": k3, "k26": k26})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 10, "k3": 10, "k26": 5})

    def heading(self, config: RetrievalConfig) -> str:
        return f"{self.title}, K = {config.num_pairs}"

    def intro(self, config: RetrievalConfig) -> str:
        return (
            "Four decays of the memory, crossed with three write rates. The published network "
            "changes both at once: a power law with η = 1 in the place of an exponential decay "
            f"with η = 0.5. The binding-free ceiling is {100 * config.ceiling:.2f} %. “By rule” is "
            "η = 1 / Σ r(k) over the ages k of a sequence."
        )

    def notes(self, config: RetrievalConfig) -> list[str]:
        return [
            "Verdicts on accuracies: “agrees” if the published one lies within our interval "
            f"widened by {TOLERANCE} points. On claims: “holds” if the whole interval is on "
            "the claimed side, “does not hold” if it is on the other, else “undecided”.",
            "The hidden size of the published networks is not stated.",
        ]

    def contrasts(self, config: RetrievalConfig) -> list[Finding]:
        pairs = config.num_pairs
        rows: list[Finding] = [
            Published(
                f"K = {pairs}, {ARMS[arm].label}: test accuracy in per cent",
                arm,
                published,
                lambda v: 100 * v["test_accuracy"],
                "accuracy",
            )
            for (arm, k), published in PUBLISHED_ACCURACIES.items()
            if k == pairs
        ]
        for new, old, names, told in COMPARED:
            rows += [
                Contrast(
                    f"K = {pairs}: {names} is more accurate; points of accuracy",
                    new,
                    old,
                    "test_accuracy",
                    Bound(at_least=0, strict=True),
                    "more" if told else OURS,
                    scale=100,
                    digits=2,
                ),
                Faster(
                    f"K = {pairs}: {names} converges faster; median updates to 90 % of both "
                    "(holds if every seed does)",
                    new,
                    old,
                    "faster" if told else OURS,
                ),
            ]
        cost = Contrast(
            f"K = {pairs}: FW2 comes with no additional cost; seconds of training, FW2 / FW (holds "
            "if the whole interval is below 1.1)",
            FW2,
            FW,
            "seconds",
            Bound(at_most=1.1, strict=True),
            "1",
            digits=2,
            compare=operator.truediv,
        )
        return [*rows, cost]

    def pictures(self, config: RetrievalConfig, results: Sequence[Result]) -> list[Picture]:
        drawn = [arm for arm in DRAWN if arm in config.arms]
        both = [
            picture
            for size in config.hidden_sizes
            for picture in (
                self.accuracies(config, results, size),
                self.learning_curves(config, results, size, drawn or config.arms),
            )
        ]
        return [*both, _decays_picture()]


def _decays_picture() -> Picture:
    """Their figure 1, with every reading."""
    figure = new_figure(7.2, 3.8)
    axes = figure.add_subplot()
    ages = torch.arange(60)
    for (label, decay), (colour, style) in zip(DECAYS.values(), ARM_STYLES, strict=False):
        kind = decay()
        with torch.no_grad():
            if isinstance(kind, StepIndexed):
                r = kind.between(torch.ones_like(ages), ages + 1)
                label, style = f"{label}, written at step 1", "--"  # over the factorial, as low
            else:
                r = kind(ages)
        axes.plot(ages, r, color=colour, linestyle=style, label=label, linewidth=1.6)
    axes.set(
        xlabel="age of a memory (steps)",
        ylabel="what is left of it",
        yscale="log",
        ylim=(1e-4, 1.3),
    )
    figure.legend(loc="outside right upper", frameon=False)
    return Picture(
        name="consolidation-decays",
        figure=figure,
        alt="What is left of a memory against its age for the four decays; the power law is below "
        "the exponential one up to an age of some thirty-five steps, the other two vanish.",
        caption="Their figure 1 shows the new decay far below the old one, as the factorial is.",
    )

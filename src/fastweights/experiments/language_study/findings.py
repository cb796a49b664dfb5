"""Rows of the ledger of the experiment on language."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastweights.experiments.by_arm import finished
from fastweights.experiments.language_study.config import LanguageConfig
from fastweights.experiments.language_study.networks import ARMS
from fastweights.experiments.other_uses.shared import judge
from fastweights.lab.experiment import Result
from fastweights.report.section import Claim
from fastweights.report.statistics import mean_interval

__all__ = ["TRANSFORMERS", "claims"]

# Validation loss in nats of Transformers on the same tenth of the text, trained on the nine before
# it: the README of https://github.com/karpathy/nanoGPT. Their parameters, in millions, are by our
# count from the layers and widths that it gives, without the embedding of positions.
TRANSFORMERS = ((0.80, 1.88), (10.65, 1.4697))


def claims(config: LanguageConfig, results: Sequence[Result]) -> list[Claim]:
    """Fast weights beside every other network, seed by seed, and beside published Transformers."""
    ours = finished(results, "fast-weights")
    found = []
    for arm in config.arms:
        theirs = finished(results, arm)
        pairs = [(ours[s]["test_bits"], theirs[s]["test_bits"]) for s in ours if s in theirs]
        if arm == "fast-weights" or not pairs:
            continue
        interval = mean_interval([a - b for a, b in pairs])
        found.append(
            Claim(
                f"fast weights need fewer bits per character than the {ARMS[arm].label}: "
                "difference (holds if the whole interval is below 0)",
                "asked, not measured",
                interval.text(3),
                interval.n,
                judge(interval, at_most=0),
            )
        )
    if ours and config.text is None:
        values = list(ours.values())
        interval = mean_interval([v["test_bits"] for v in values])
        size = values[0]["parameters"] / 1e6
        found += [
            Claim(
                f"fast weights of {size:.2f} M parameters beside a Transformer of {millions:.2f} M "
                "(nanoGPT): bits per character",
                f"{nats / math.log(2):.2f}",
                interval.text(3),
                interval.n,
                "fewer bits" if interval.mean < nats / math.log(2) else "more bits",
            )
            for millions, nats in TRANSFORMERS
        ]
    return found

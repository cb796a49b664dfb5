"""Tables of the experiment on language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastweights.experiments.by_arm import arm_rows, mean_seconds, seed_table
from fastweights.experiments.language_study.config import LanguageConfig
from fastweights.experiments.language_study.networks import ARMS
from fastweights.lab.experiment import Result
from fastweights.report.section import Table
from fastweights.report.statistics import mean_interval

__all__ = ["tables_of"]


def tables_of(config: LanguageConfig, results: Sequence[Result]) -> list[Table]:
    """What came out for every network, and every run."""
    columns = ("H", "parameters", "multiply-adds", "state", "bits", "right %", "seconds")
    summary = Table(
        caption=(
            "Bits per character of the last tenth of the text and the share of its characters that "
            "were guessed right, mean over seeds with 95 % bootstrap interval. Width, parameters, "
            "multiply-adds per character (matrix products only), numbers carried from character to "
            "character, mean seconds of training on one thread beside the other workers."
        ),
        columns=("network", "seeds", *columns),
        rows=arm_rows(ARMS, config.arms, results, _cells, len(columns)),
    )
    return [summary, seed_table(results, "Every run, in bits per character.", _bits)]


def _cells(values: Sequence[dict[str, Any]]) -> list[str]:
    one = values[0]
    return [
        f"{one['hidden_size']}",
        f"{one['parameters']:,}",
        f"{one['multiply_adds']:,}",
        f"{one['state']:,}",
        mean_interval([v["test_bits"] for v in values]).text(3),
        mean_interval([v["test_accuracy"] for v in values]).text(1, 100),
        mean_seconds(values),
    ]


def _bits(values: dict[str, Any]) -> tuple[str, str]:
    return f"{values['validation_bits']:.3f}", f"{values['test_bits']:.3f}"

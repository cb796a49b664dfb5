"""Tables of the experiment on language."""

from __future__ import annotations

from collections.abc import Sequence

from fastweights.experiments.base import Result
from fastweights.experiments.by_arm import finished
from fastweights.experiments.language_study.config import LanguageConfig
from fastweights.experiments.language_study.networks import ARMS
from fastweights.report.section import Table
from fastweights.report.statistics import mean_interval

__all__ = ["tables_of"]


def tables_of(config: LanguageConfig, results: Sequence[Result]) -> list[Table]:
    """What came out for every network, and every run."""
    return [_summary_table(config, results), _seed_table(results)]


def _summary_table(config: LanguageConfig, results: Sequence[Result]) -> Table:
    rows = []
    for arm in config.arms:
        values = list(finished(results, arm).values())
        started = sum(result.unit.arm == arm for result in results)
        row = [ARMS[arm].label, f"{len(values)}/{started}"]
        if values:
            one = values[0]
            row += [
                f"{one['hidden_size']}",
                f"{one['parameters']:,}",
                f"{one['multiply_adds']:,}",
                f"{one['state']:,}",
                mean_interval([v["test_bits"] for v in values]).text(3),
                mean_interval([v["test_accuracy"] for v in values]).text(1, 100),
                f"{sum(v['seconds'] for v in values) / len(values):.0f}",
            ]
        else:
            row += [*["–"] * 4, "failed", "–", "–"]
        rows.append(row)
    return Table(
        caption=(
            "Bits per character of the last tenth of the text and the share of its characters that "
            "were guessed right, mean over seeds with 95 % bootstrap interval. Width, parameters, "
            "multiply-adds per character (matrix products only), numbers carried from character to "
            "character, mean seconds of training on one thread beside the other workers."
        ),
        columns=(
            "network",
            "seeds",
            "H",
            "parameters",
            "multiply-adds",
            "state",
            "bits",
            "right %",
            "seconds",
        ),
        rows=rows,
    )


def _seed_table(results: Sequence[Result]) -> Table:
    rows = []
    for result in results:
        row = [result.unit.label, str(result.unit.seed)]
        if (values := result.values) is None:
            row += ["failed", result.failure or "did not finish", "–"]
        else:
            row += [
                f"{values['validation_bits']:.3f}",
                f"{values['test_bits']:.3f}",
                f"{values['seconds']:.0f}",
            ]
        rows.append(row)
    return Table(
        caption="Every run, in bits per character.",
        columns=("run", "seed", "validation", "test", "seconds"),
        rows=rows,
    )

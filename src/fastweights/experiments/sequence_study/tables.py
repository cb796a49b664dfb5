"""Tables and rows of the ledger of the experiments on sorting and on repeated copying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastweights.experiments.base import Result
from fastweights.experiments.by_arm import finished
from fastweights.experiments.other_uses.shared import judge
from fastweights.experiments.sequence_study.config import SequenceConfig
from fastweights.experiments.sequence_study.networks import ARMS
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import mean_interval

__all__ = ["at_length", "claims", "tables_of"]

DECAYS = ("exponential", "power-law", "factorial", "step-indexed")


def at_length(values: dict[str, Any], measure: str, length: int) -> float:
    """What was measured in a run at a length."""
    return values[measure][values["lengths"].index(length)]


def tables_of(config: SequenceConfig, results: Sequence[Result]) -> list[Table]:
    """What came out for every network, at the lengths of the training and beyond; every run."""
    return [_summary_table(config, results), _seed_table(config, results)]


def _lengths(config: SequenceConfig) -> tuple[int, ...]:
    between = (config.train_length + config.test_length) // 2
    return tuple(dict.fromkeys((config.train_length, between, config.test_length)))


def _summary_table(config: SequenceConfig, results: Sequence[Result]) -> Table:
    lengths, rows = _lengths(config), []
    for arm in config.arms:
        values = list(finished(results, arm).values())
        started = sum(result.unit.arm == arm for result in results)
        row = [ARMS[arm].label, f"{len(values)}/{started}"]
        if values:
            row += [
                mean_interval([at_length(v, measure, length) for v in values]).text(1, 100)
                for measure in ("test_accuracy", "test_sequences")
                for length in lengths
            ]
            row += [
                f"{values[0]['parameters']:,}",
                f"{sum(v['seconds'] for v in values) / len(values):.0f}",
            ]
        else:
            row += ["failed", *["–"] * (2 * len(lengths) + 1)]
        rows.append(row)
    return Table(
        caption=(
            f"Test data, in per cent: symbols answered rightly at n = "
            f"{', '.join(map(str, lengths))}, and sequences without a mistake; training ends at "
            f"n = {config.train_length}. Mean over seeds with its 95 % bootstrap interval; mean "
            "seconds of training on one thread beside the other workers."
        ),
        columns=(
            "network",
            "seeds",
            *(f"symbols, n = {length}" for length in lengths),
            *(f"sequences, n = {length}" for length in lengths),
            "parameters",
            "seconds",
        ),
        rows=rows,
    )


def _seed_table(config: SequenceConfig, results: Sequence[Result]) -> Table:
    rows = []
    for result in results:
        row = [result.unit.label, str(result.unit.seed)]
        if (values := result.values) is None:
            row += ["failed", result.failure or "did not finish", "–"]
        else:
            row += [
                f"{100 * values['validation_accuracy']:.2f}",
                f"{100 * at_length(values, 'test_accuracy', config.train_length):.2f}",
                f"{values['seconds']:.0f}",
            ]
        rows.append(row)
    return Table(
        caption=f"Every run: symbols answered rightly at n = {config.train_length}, per cent.",
        columns=("run", "seed", "validation", "test", "seconds"),
        rows=rows,
    )


def claims(config: SequenceConfig, results: Sequence[Result], what: str) -> list[Claim]:
    """Fast weights with each decay beside the LSTM, seed by seed, at two lengths."""
    theirs = finished(results, "lstm")
    found = []
    for arm in config.arms:
        ours = finished(results, arm)
        seeds = [seed for seed in ours if seed in theirs]
        if arm not in DECAYS or not seeds:
            continue
        for length in dict.fromkeys((config.train_length, config.test_length)):
            gains = [
                at_length(ours[seed], "test_accuracy", length)
                - at_length(theirs[seed], "test_accuracy", length)
                for seed in seeds
            ]
            interval = mean_interval(gains)
            longer = "" if length == config.train_length else ", longer than trained on"
            found.append(
                Claim(
                    f"{what}, n = {length}{longer}: fast weights, {ARMS[arm].label}, answer more "
                    "symbols rightly than the LSTM; points (holds if the whole interval is above "
                    "0)",
                    "announced, not measured",
                    interval.text(1, 100),
                    interval.n,
                    judge(interval, at_least=0),
                )
            )
    return found

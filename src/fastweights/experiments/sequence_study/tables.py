"""Tables and rows of the ledger of the experiments on sorting and on repeated copying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastweights.experiments.base import Result
from fastweights.experiments.by_arm import arm_rows, finished, mean_seconds, seed_table
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
    between = (config.train_length + config.test_length) // 2
    lengths = tuple(dict.fromkeys((config.train_length, between, config.test_length)))
    measures = {"symbols": "test_accuracy", "sequences": "test_sequences"}

    def cells(values: Sequence[dict[str, Any]]) -> list[str]:
        shares = [
            mean_interval([at_length(v, measure, length) for v in values]).text(1, 100)
            for measure in measures.values()
            for length in lengths
        ]
        return [*shares, f"{values[0]['parameters']:,}", mean_seconds(values)]

    def scores(values: dict[str, Any]) -> tuple[str, str]:
        tested = at_length(values, "test_accuracy", config.train_length)
        return f"{100 * values['validation_accuracy']:.2f}", f"{100 * tested:.2f}"

    heads = [f"{what}, n = {length}" for what in measures for length in lengths]
    columns = (*heads, "parameters", "seconds")
    summary = Table(
        caption=(
            f"Test data, in per cent: symbols answered rightly at n = "
            f"{', '.join(map(str, lengths))}, and sequences without a mistake; training ends at "
            f"n = {config.train_length}. Mean over seeds with its 95 % bootstrap interval; mean "
            "seconds of training on one thread beside the other workers."
        ),
        columns=("network", "seeds", *columns),
        rows=arm_rows(ARMS, config.arms, results, cells, len(columns)),
    )
    caption = f"Every run: symbols answered rightly at n = {config.train_length}, per cent."
    return [summary, seed_table(results, caption, scores)]


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

"""Sorting by priority, the next task for fast weights in the words of Xu, Ba & Zemel (2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fastweights.experiments.sequence_study.config import SortingConfig
from fastweights.experiments.sequence_study.experiment import SequenceStudy
from fastweights.experiments.sequence_study.networks import ARMS

__all__ = ["Sorting"]


def quick() -> SortingConfig:
    """Up to six symbols, sixteen priorities; minutes on two cores."""
    return SortingConfig()


def full() -> SortingConfig:
    """Every decay, up to ten symbols and thirty-two priorities; hours."""
    return SortingConfig(
        arms=tuple(ARMS),
        train_length=10,
        test_length=20,
        num_levels=32,
        hidden_size=100,
        updates=40_000,
        evaluate_every=1_000,
    )


class Sorting(SequenceStudy):
    """The experiment."""

    name = "sorting"
    title = "Sorting by priority"
    summary = "Symbols with priorities, to be given back in order: each decay against an LSTM"
    intro = (
        "A sequence of symbols, each with a priority; then the network is asked as often as there "
        "are symbols, and answers with them from the highest priority down."
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": quick, "full": full})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "full": 5})

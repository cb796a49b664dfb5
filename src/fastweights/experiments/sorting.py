"""Sorting by priority, the next task for fast weights in the words of Xu, Ba & Zemel (2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fastweights.experiments.sequence_study.config import SortingConfig
from fastweights.experiments.sequence_study.experiment import FULL, SequenceStudy

__all__ = ["Sorting"]


def full() -> SortingConfig:
    """Every decay, up to ten symbols and thirty-two priorities; hours."""
    return SortingConfig(**FULL, num_levels=32)


class Sorting(SequenceStudy):
    """The experiment; ``quick``, up to six symbols and sixteen priorities, takes minutes."""

    name = "sorting"
    title = "Sorting by priority"
    summary = "Symbols with priorities, to be given back in order: each decay against an LSTM"
    intro = (
        "A sequence of symbols, each with a priority; then the network is asked as often as there "
        "are symbols, and answers with them from the highest priority down."
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": SortingConfig, "full": full}
    )

"""Repeated copying, the next task for fast weights in the words of Xu, Ba & Zemel (2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fastweights.experiments.sequence_study.config import CopyingConfig
from fastweights.experiments.sequence_study.experiment import FULL, SequenceStudy

__all__ = ["Copying"]


def full() -> CopyingConfig:
    """Every decay, up to ten symbols, up to five times; hours."""
    return CopyingConfig(**FULL, max_repeats=5)


class Copying(SequenceStudy):
    """The experiment; ``quick``, up to six symbols and three times, takes minutes."""

    name = "copying"
    title = "Repeated copying"
    summary = "A sequence, to be given back so many times: each decay against an LSTM"
    intro = (
        "A sequence of symbols and a number; then the network gives the sequence back that many "
        "times and says when it is done."
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType(
        {"quick": CopyingConfig, "full": full}
    )

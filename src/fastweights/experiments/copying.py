"""Repeated copying, the next task for fast weights in the words of Xu, Ba & Zemel (2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fastweights.experiments.sequence_study.config import CopyingConfig
from fastweights.experiments.sequence_study.experiment import SequenceStudy
from fastweights.experiments.sequence_study.networks import ARMS

__all__ = ["Copying"]


def quick() -> CopyingConfig:
    """Up to six symbols, up to three times; minutes on two cores."""
    return CopyingConfig()


def full() -> CopyingConfig:
    """Every decay, up to ten symbols, up to five times; hours."""
    return CopyingConfig(
        arms=tuple(ARMS),
        train_length=10,
        test_length=20,
        max_repeats=5,
        hidden_size=100,
        updates=40_000,
        evaluate_every=1_000,
    )


class Copying(SequenceStudy):
    """The experiment."""

    name = "copying"
    title = "Repeated copying"
    summary = "A sequence, to be given back so many times: each decay against an LSTM"
    intro = (
        "A sequence of symbols and a number; then the network gives the sequence back that many "
        "times and says when it is done."
    )
    presets: Mapping[str, Callable[[], Any]] = MappingProxyType({"quick": quick, "full": full})
    seeds: Mapping[str, int] = MappingProxyType({"quick": 5, "full": 5})

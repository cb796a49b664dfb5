"""The experiments by name. A new one is a file and a line here."""

from __future__ import annotations

from fastweights.experiments.base import Experiment
from fastweights.experiments.binding import Binding
from fastweights.experiments.consolidation import Consolidation
from fastweights.experiments.controls import Controls
from fastweights.experiments.copying import Copying
from fastweights.experiments.deblurring import Deblurring
from fastweights.experiments.glimpses import GlimpsesExperiment
from fastweights.experiments.language import Language
from fastweights.experiments.memory import Memory
from fastweights.experiments.one_trial import OneTrial
from fastweights.experiments.priming import PrimingExperiment
from fastweights.experiments.read_timing import ReadTiming
from fastweights.experiments.recursion import Recursion
from fastweights.experiments.retrieval import Retrieval
from fastweights.experiments.sorting import Sorting
from fastweights.experiments.transfer import Transfer
from fastweights.training.config import ConfigError, nearest

__all__ = ["EXPERIMENTS", "find"]

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e
    for e in (
        Retrieval(),
        Consolidation(),
        Controls(),
        ReadTiming(),
        Deblurring(),
        OneTrial(),
        Binding(),
        Recursion(),
        Transfer(),
        Memory(),
        PrimingExperiment(),
        GlimpsesExperiment(),
        Language(),
        Sorting(),
        Copying(),
    )
}


def find(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        ConfigError: there is none; the message has the nearest name.

    Example:
        >>> find("retrieval").summary
        'Which digit came with this letter? Ba et al. (2016), table 1'
    """
    if name not in EXPERIMENTS:
        raise ConfigError(f"unknown experiment {name!r}: {nearest(name, list(EXPERIMENTS))}")
    return EXPERIMENTS[name]

"""The experiments by name. A new one is a file and a line here.

Experiments lie above this room, so they are named here and imported when somebody asks for one.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from types import MappingProxyType

from fastweights.lab.experiment import Experiment
from fastweights.training.config import ConfigError, nearest

EXPERIMENTS: Mapping[str, str] = MappingProxyType(
    {
        "retrieval": "fastweights.experiments.retrieval:Retrieval",
        "consolidation": "fastweights.experiments.consolidation:Consolidation",
        "controls": "fastweights.experiments.controls:Controls",
        "read-timing": "fastweights.experiments.read_timing:ReadTiming",
        "deblurring": "fastweights.experiments.hinton_plaut.deblurring:Deblurring",
        "one-trial": "fastweights.experiments.hinton_plaut.one_trial:OneTrial",
        "binding": "fastweights.experiments.hinton_plaut.binding:Binding",
        "recursion": "fastweights.experiments.hinton_plaut.recursion:Recursion",
        "transfer": "fastweights.experiments.transfer:Transfer",
        "memory": "fastweights.experiments.memory:Memory",
        "priming": "fastweights.experiments.priming:PrimingStudy",
        "glimpses": "fastweights.experiments.glimpses:GlimpsesStudy",
        "language": "fastweights.experiments.language:Language",
        "sorting": "fastweights.experiments.sorting_and_copying:Sorting",
        "copying": "fastweights.experiments.sorting_and_copying:Copying",
        "catch": "fastweights.experiments.catch:Catch",
    }
)


@functools.cache
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
    module, _, kind = EXPERIMENTS[name].partition(":")
    experiment: Experiment = getattr(importlib.import_module(module), kind)()
    return experiment

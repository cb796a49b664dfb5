"""The computing core of the deblurring experiment: settings, networks, simulation, findings."""

from __future__ import annotations

from fastweights.experiments.deblurring_model.config import (
    CONDITIONS,
    VARIANTS,
    Condition,
    DeblurringConfig,
)
from fastweights.experiments.deblurring_model.simulation import (
    DeblurringResult,
    Phase,
    Rehearsal,
    Score,
    simulate,
)
from fastweights.experiments.deblurring_model.values import as_values, from_values

__all__ = [
    "CONDITIONS",
    "VARIANTS",
    "Condition",
    "DeblurringConfig",
    "DeblurringResult",
    "Phase",
    "Rehearsal",
    "Score",
    "as_values",
    "from_values",
    "simulate",
]

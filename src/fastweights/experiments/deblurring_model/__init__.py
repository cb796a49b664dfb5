"""The computing core of the deblurring experiment: settings, networks, simulation, findings."""

from __future__ import annotations

from fastweights.experiments.deblurring_model.config import (
    CONDITIONS,
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

__all__ = [
    "CONDITIONS",
    "Condition",
    "DeblurringConfig",
    "DeblurringResult",
    "Phase",
    "Rehearsal",
    "Score",
    "simulate",
]

"""How retraining some associations improves others: Hinton & Plaut (1987), sections 4.1 and 5.

Closed forms, each beside the simulation that checks it. `findings` runs them all.
"""

from __future__ import annotations

from fastweights.theory.estimates import Estimate, Finding, Series
from fastweights.theory.transfer.course import Course, course_limit, simulate_course
from fastweights.theory.transfer.findings import VERDICT_RULE, findings
from fastweights.theory.transfer.inputs import RandomInputs, binary, ternary
from fastweights.theory.transfer.pairs import (
    expected_cosine,
    pair_ratio,
    pair_ratio_limit,
    simulate_angle,
    simulate_pairs,
)
from fastweights.theory.transfer.sets import (
    load_limit,
    retrained_set_ratio,
    set_overlap,
    simulate_set,
)
from fastweights.theory.transfer.sweeps import sweeps
from fastweights.theory.transfer.two_weights import (
    circumference_fraction,
    positive_transfer,
    remaining_transfer,
    simulate_positive_pairs,
    simulate_two_weights,
)

__all__ = [
    "VERDICT_RULE",
    "Course",
    "Estimate",
    "Finding",
    "RandomInputs",
    "Series",
    "binary",
    "circumference_fraction",
    "course_limit",
    "expected_cosine",
    "findings",
    "load_limit",
    "pair_ratio",
    "pair_ratio_limit",
    "positive_transfer",
    "remaining_transfer",
    "retrained_set_ratio",
    "set_overlap",
    "simulate_angle",
    "simulate_course",
    "simulate_pairs",
    "simulate_positive_pairs",
    "simulate_set",
    "simulate_two_weights",
    "sweeps",
    "ternary",
]

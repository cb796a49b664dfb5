"""How long a fading memory can be read: Xu, Ba & Zemel (2017), equations 4–8.

Closed forms for every decay, each beside the simulation that checks it. `findings` runs them all.
"""

from __future__ import annotations

from fastweights.nn.write_rate import stable_write_rate
from fastweights.theory.memory.findings import SHOWN_DECAYS, VERDICT_RULE, findings
from fastweights.theory.memory.lifetimes import (
    best_exponential,
    best_power_law,
    exponential_lifetime,
    factorial_lifetime,
    power_law_lifetime,
)
from fastweights.theory.memory.patterns import (
    Overlap,
    Patterns,
    exact_overlap,
    measured_overlap,
)
from fastweights.theory.memory.positions import pair_ages, pair_snr
from fastweights.theory.memory.ratio import energy, lifetime, snr, weights
from fastweights.theory.memory.simulation import simulate_lifetime, simulate_snr
from fastweights.theory.memory.sweeps import LIFETIME_DECAYS, STORED, sweeps
from fastweights.theory.memory.write_rate import balanced_write_rate, unspecific_gain

__all__ = [
    "LIFETIME_DECAYS",
    "SHOWN_DECAYS",
    "STORED",
    "VERDICT_RULE",
    "Overlap",
    "Patterns",
    "balanced_write_rate",
    "best_exponential",
    "best_power_law",
    "energy",
    "exact_overlap",
    "exponential_lifetime",
    "factorial_lifetime",
    "findings",
    "lifetime",
    "measured_overlap",
    "pair_ages",
    "pair_snr",
    "power_law_lifetime",
    "simulate_lifetime",
    "simulate_snr",
    "snr",
    "stable_write_rate",
    "sweeps",
    "unspecific_gain",
    "weights",
]

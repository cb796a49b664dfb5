"""Simulations over a range of settings, for the figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fastweights.decay import Decay, Exponential, Factorial, PowerLaw, StepIndexed
from fastweights.theory.estimates import Series, draws_at
from fastweights.theory.memory.findings import SHOWN_DECAYS
from fastweights.theory.memory.patterns import Kind, Patterns, exact_overlap, measured_overlap
from fastweights.theory.memory.ratio import lifetime, snr
from fastweights.theory.memory.simulation import simulate_lifetime, simulate_snr

__all__ = ["LIFETIME_DECAYS", "MEMORIES", "STORED", "sweeps"]

MEMORIES = 100
LIFETIME_DECAYS: Mapping[str, Decay] = MappingProxyType(
    {
        "0.95^k": Exponential(0.95),
        "0.99^k": Exponential(0.99),
        "(k + 1)^−½": PowerLaw(0.5),
        "(k + 1)^−¾": PowerLaw(0.75),
        "((k + 1)!)^−½": Factorial(0.5),
        "t^−½ at step t": StepIndexed(0.5),
    }
)
STORED: Mapping[str, tuple[Kind, int]] = MappingProxyType(
    {
        "400 independent ±1": ("signs", 400),
        "20 × 20 of ±1 vectors": ("outer signs", 20),
        "20 × 20 of rectified vectors": ("outer rectified", 20),
        "one of 20 units reads": ("recall", 20),
    }
)
_AGES = (0, 1, 2, 4, 7, 12, 20, 33, 55, 90)


def sweeps(seed: int = 0, effort: float = 1.0) -> dict[str, Series]:
    """All simulated curves, each with what the formulas say.

    Args:
        seed: of all simulations.
        effort: multiplies the number of draws; 1 takes about a minute.

    Returns:
        ``snr D`` against the age for every D of `SHOWN_DECAYS`, N = 100; ``lifetime D`` against N
        for every D of `LIFETIME_DECAYS` (−1 where no memory has an SNR of 1); ``stored S`` against
        the age for every S of `STORED`, with 0.95^k. All with 100 memories.

    Raises:
        ValueError: ``effort`` is not positive.

    Example:
        >>> curves = sweeps(effort=0.01)
        >>> len(curves["snr 0.95^k"].x), len(curves["lifetime 0.95^k"].x)
        (10, 5)
    """
    draws = draws_at(effort)
    curves = {}
    for name, decay in SHOWN_DECAYS.items():
        found = simulate_snr(decay, Patterns("signs", 100), _AGES, MEMORIES, draws(4_000), seed)
        expected = snr(decay, 100, _AGES, MEMORIES).tolist()
        curves[f"snr {name}"] = Series(_AGES, tuple(found), tuple(expected))

    sizes = (10, 30, 100, 300, 1000)
    for name, decay in LIFETIME_DECAYS.items():
        # Large memories take their time; 100 to 4,000 of them are filled.
        measured = [
            simulate_lifetime(
                decay, Patterns("signs", n), MEMORIES, draws(min(4_000, 300_000 // n)), seed
            )
            for n in sizes
        ]
        lives = [lifetime(decay, n, MEMORIES) for n in sizes]
        curves[f"lifetime {name}"] = Series(
            sizes, tuple(measured), tuple(-1.0 if age is None else age for age in lives)
        )

    decay = Exponential(0.95)
    for name, (kind, size) in STORED.items():
        patterns = Patterns(kind, size)
        law = (
            measured_overlap(patterns, draws(100_000), seed + 1)
            if kind == "outer rectified"
            else exact_overlap(patterns)
        )
        found = simulate_snr(decay, patterns, _AGES, MEMORIES, draws(4_000), seed)
        expected = law.snr(decay, _AGES, MEMORIES).tolist()
        curves[f"stored {name}"] = Series(_AGES, tuple(found), tuple(expected))
    return curves

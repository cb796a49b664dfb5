"""Every formula of the paper that can be computed, and ours, each against a simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from fastweights.decay import Decay, Exponential, Factorial, Free, PowerLaw, StepIndexed
from fastweights.theory.estimates import Estimate, Finding, draws_at, verdict_rule
from fastweights.theory.memory.patterns import Patterns, exact_overlap, measured_overlap
from fastweights.theory.memory.ratio import lifetime, snr, weights
from fastweights.theory.memory.simulation import simulate_lifetime, simulate_snr

__all__ = ["SHOWN_DECAYS", "VERDICT_RULE", "findings"]

VERDICT_RULE = verdict_rule("formula")

SHOWN_DECAYS: Mapping[str, Decay] = MappingProxyType(
    {
        "0.95^k": Exponential(0.95),
        "(k + 1)^−½": PowerLaw(0.5),
        "(k + 1)^−¾": PowerLaw(0.75),
        "((k + 1)!)^−½": Factorial(0.5),
        "t^−½ at step t": StepIndexed(0.5),
        "1 for 20 steps, then 0": Free(20, values=[1.0] * 19),
    }
)
_MEMORIES = 100


def findings(seed: int = 0, effort: float = 1.0) -> list[Finding]:
    """Check every formula against its simulation.

    Args:
        seed: of all simulations.
        effort: multiplies the number of draws; 1 takes about a minute.

    Raises:
        ValueError: ``effort`` is not positive.

    Example:
        >>> rows = findings(effort=0.005)
        >>> rows[0].claim
        'equation 7, 0.95^k, N = 100: SNR at age 0'
    """
    samples = draws_at(effort)(10_000)
    return [
        *_equation_7(samples, seed),
        *_equation_8(samples, seed),
        _square_root(samples, seed),
        *_lifetimes(samples, seed),
        *_normal_synapses(samples, seed),
        *_outer_products(samples, seed),
    ]


def _equation_7(samples: int, seed: int) -> list[Finding]:
    rows = []
    for name, decay in SHOWN_DECAYS.items():
        # Of the two fastest decays nothing is left at age 10.
        ages = [0, 10] if weights(decay, 10, _MEMORIES) > 0.01 else [0, 2]
        found = simulate_snr(decay, Patterns("signs", 100), ages, _MEMORIES, samples, seed)
        expected = snr(decay, 100, ages, _MEMORIES).tolist()
        rows += [
            Finding.of(f"equation 7, {name}, N = 100: SNR at age {age}", "equation 7", theory, e)
            for age, theory, e in zip(ages, expected, found, strict=True)
        ]
    return rows


def _equation_8(samples: int, seed: int) -> list[Finding]:
    decay, ages = PowerLaw(0.75), [0, 10]
    found = simulate_snr(decay, Patterns("signs", 100), ages, 300, samples, seed)
    integral = 1 / (2 * 0.75 - 1)
    return [
        Finding.of(
            f"equation 8, (k + 1)^−¾, N = 100: the sum is nearly its integral, SNR at age {age}",
            "≈ ∫ r² dt",
            math.sqrt(100 * float(weights(decay, age)) ** 2 / integral),
            estimate,
        )
        for age, estimate in zip(ages, found, strict=True)
    ]


def _square_root(samples: int, seed: int) -> Finding:
    """The sum diverges at γ = ½, so that what is new has ever more rivals."""
    patterns = Patterns("signs", 50)
    early, late = (
        simulate_snr(PowerLaw(0.5), patterns, [0], memories, count, seed)[0]
        for memories, count in ((10, samples), (1000, max(20, samples // 4)))
    )
    return Finding.of_decline(
        "γ > ½ is needed: with the model's own γ = ½ the SNR of the newest memory falls as "
        f"memories are added, N = 50, from {early.value:.2f} at 10 memories to that at 1,000",
        "γ > 0.5 required",
        float(snr(PowerLaw(0.5), 50, 0, 1000)),
        early,
        late,
    )


def _lifetimes(samples: int, seed: int) -> list[Finding]:
    rows = []
    for name, decay in SHOWN_DECAYS.items():
        found = simulate_lifetime(decay, Patterns("signs", 50), _MEMORIES, samples, seed)
        theory = lifetime(decay, 50, _MEMORIES)
        claim = f"lifetime of {name}, N = 50, {_MEMORIES} memories"
        rows.append(Finding.of(claim, "—", -1 if theory is None else theory, found))
    return rows


def _normal_synapses(samples: int, seed: int) -> list[Finding]:
    decay, patterns = Exponential(0.95), Patterns("normal", 100)
    (found,) = simulate_snr(decay, patterns, [0], _MEMORIES, samples, seed)
    printed = float(snr(decay, 100, 0, _MEMORIES))
    ours = float(exact_overlap(patterns).snr(decay, 0, _MEMORIES))
    place = "normal instead of ±1 synapses, 0.95^k, N = 100: SNR at age 0"
    return [
        Finding.of(f"{place}, equation 7", "equation 7", printed, found),
        Finding.of(f"{place}, with the memory's own noise", "—", ours, found),
    ]


def _outer_products(samples: int, seed: int) -> list[Finding]:
    units, rows = 20, []
    pairs = units * (units - 1) // 2
    for name, decay, age in (("0.95^k", Exponential(0.95), 10), ("(k + 1)^−½", PowerLaw(), 3)):

        def found(patterns: Patterns, decay: Decay = decay, age: int = age) -> Estimate:
            return simulate_snr(decay, patterns, [age], _MEMORIES, samples, seed)[0]

        signs, recall, rectified = (
            found(Patterns(kind, units)) for kind in ("outer signs", "recall", "outer rectified")
        )
        law = measured_overlap(Patterns("outer rectified", units), 20 * samples, seed + 1)
        by_synapses = {
            n: float(snr(decay, n, age, _MEMORIES)) for n in (units**2, pairs, units - 1)
        }
        place = f"{name}, H = {units}: SNR at age {age}"
        outer, read = f"±1 outer products, {place}", f"one unit reads ±1 outer products, {place}"
        mean = f"rectified outer products, {place}"
        rows += [
            Finding.of(f"{outer}, N = H²", "equation 7", by_synapses[units**2], signs),
            Finding.of(f"{outer}, N = H(H − 1)/2", "—", by_synapses[pairs], signs),
            Finding.of(f"{read}, N = H²", "equation 7", by_synapses[units**2], recall),
            Finding.of(f"{read}, N = H − 1", "—", by_synapses[units - 1], recall),
            Finding.of(f"{mean}, N = H²", "equation 7", by_synapses[units**2], rectified),
            Finding.of(f"{mean}, N = H(H − 1)/2", "—", by_synapses[pairs], rectified),
            Finding.of(
                f"{mean}, five numbers", "—", float(law.snr(decay, age, _MEMORIES)), rectified
            ),
        ]
    return rows

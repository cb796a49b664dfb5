"""Every statement of section 5 that can be computed: as printed, by a formula, simulated."""

from __future__ import annotations

import math

from fastweights.theory.estimates import Finding, draws_at, verdict_rule
from fastweights.theory.transfer.course import simulate_course
from fastweights.theory.transfer.inputs import binary, ternary
from fastweights.theory.transfer.pairs import (
    expected_cosine,
    pair_ratio,
    simulate_angle,
    simulate_pairs,
)
from fastweights.theory.transfer.sets import (
    load_limit,
    retrained_set_ratio,
    set_overlap,
    simulate_set,
)
from fastweights.theory.transfer.two_weights import (
    circumference_fraction,
    positive_transfer,
    simulate_positive_pairs,
    simulate_two_weights,
)

__all__ = ["VERDICT_RULE", "findings"]

VERDICT_RULE = verdict_rule("figure or formula")


def findings(seed: int = 0, effort: float = 1.0) -> list[Finding]:
    """Check every formula against its simulation.

    Args:
        seed: of all simulations; each has its own stream.
        effort: multiplies the number of draws; 1 takes some seconds.

    Raises:
        ValueError: ``effort`` is not positive.

    Example:
        >>> rows = findings(effort=0.05)
        >>> rows[0].published, rows[0].verdict  # equation 2 as an expected cosine
        ('.25', 'rejected')
    """
    draws = draws_at(effort)
    return [
        *_equation_2(draws(1_000_000), seed),
        *_pairs(draws(400_000), seed),
        *_sets(draws(10_000), seed),
        *_two_weights(draws(1_000_000), draws(100_000), seed),
        *_courses(draws(400), seed),
    ]


def _equation_2(samples: int, seed: int) -> list[Finding]:
    ratio, cosine = simulate_angle(0.5, samples, seed)
    place = "two inputs with cosine ½"
    return [
        Finding.of(
            f"equation 2 for {place}, read as the expected cosine E[cos θ]", ".25", 0.25, cosine
        ),
        Finding.of(f"(2/π) c asin c for {place}: E[cos θ]", "—", expected_cosine(0.5), cosine),
        Finding.of(f"equation 2 for {place}: ratio of expected improvements", ".25", 0.25, ratio),
    ]


def _pairs(samples: int, seed: int) -> list[Finding]:
    rows = []
    for n in (10, 100):
        ratio, cosine = simulate_pairs(binary(), n, samples, seed)
        theory = pair_ratio(binary(), n)
        rows += [
            Finding.of(
                f"5.1, 0/1 pairs, n = {n}: ratio of expected improvements", ".25", theory, ratio
            ),
            Finding.of(f"5.1, 0/1 pairs, n = {n}: E[cos θ] = .25", ".25", 0.25, cosine),
        ]
    for n, p in ((25, 1 / 3), (100, 1 / 3), (100, 0.05)):
        ratio, _ = simulate_pairs(ternary(p), n, samples, seed)
        theory = pair_ratio(ternary(p), n)
        claim = f"5.2, −1/0/1 pairs, p = {p:.2g}, n = {n}: inversely proportional to n"
        rows.append(Finding.of(claim, "~ 1/n", theory, ratio))
    return rows


def _sets(networks: int, seed: int) -> list[Finding]:
    rows = []
    for m, printed in ((50, ".943"), (10, "—")):
        simulated = simulate_set(binary(), 100, m, networks, seed, unretrained=50)
        exact = retrained_set_ratio(m, set_overlap(binary(), 100))
        claim = f"5.1, 0/1 inputs, n = 100, {m} retrained: unretrained/retrained"
        rows += [
            Finding.of(f"{claim}, c = .25", printed, retrained_set_ratio(m, 0.25), simulated),
            Finding.of(f"{claim}, c exact", "—", exact, simulated),
        ]
    for n, p in ((40, 0.25), (160, 0.25), (160, 0.05), (160, 0.5)):
        simulated = simulate_set(ternary(p), n, n // 4, networks // 2, seed)
        theory = retrained_set_ratio(n // 4, set_overlap(ternary(p), n))
        claim = (
            f"5.2, −1/0/1 inputs, p = {p:g}, n = {n}, n/4 retrained: independent of n "
            f"(limit {load_limit(ternary(p), 0.25):g})"
        )
        rows.append(Finding.of(claim, "independent of n", theory, simulated))
    return rows


def _two_weights(points: int, samples: int, seed: int) -> list[Finding]:
    angle = math.pi / 3
    rows = []
    for remaining in (1.0, 0.5, 0.1):
        simulated = simulate_two_weights(angle, remaining, points, seed)
        claim = f"5.3, two weights, lines at 60°, {1 - remaining:.0%} of the error retrained"
        theory = positive_transfer(angle, remaining)
        rows.append(Finding.of(f"{claim}: P(positive transfer)", "—", theory, simulated))
        if remaining == 0.5:
            length = circumference_fraction(angle, remaining)
            rows.append(
                Finding.of(f"{claim}: P as fraction of the circumference", "—", length, simulated)
            )
    pairs = simulate_positive_pairs(binary(), 200, samples, seed)
    claim = "two long 0/1 vectors, n = 200: P(positive transfer) = 2/3, as at 60°"
    return [*rows, Finding.of(claim, "—", 2 / 3, pairs)]


def _courses(networks: int, seed: int) -> list[Finding]:
    rows = []
    for name, inputs, sweeps in (
        ("0/1 inputs", binary(), 400),
        ("sparse −1/0/1 inputs, p = .05", ternary(0.05), 200),
    ):
        course = simulate_course(inputs, 100, 50, sweeps, networks, seed)
        ratio, expected = course.ratio, course.expected_ratio.tolist()
        place = f"5.3, {name}, n = 100, 50 retrained"
        for i in (0, -1):
            claim = f"{place}: cumulative ratio when {course.removed[i]:.0%} of their error is gone"
            rows.append(Finding.of(claim, "—", expected[i], ratio[i]))
        claim = f"{place}: transfer diminishes, from {ratio[0].value:.3f}"
        rows.append(Finding.of_decline(claim, "diminishes", expected[-1], ratio[0], ratio[-1]))
    return rows

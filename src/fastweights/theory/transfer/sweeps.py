"""Simulations over a range of settings, for the figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastweights.theory.estimates import Estimate, Series, draws_at
from fastweights.theory.transfer.course import simulate_course
from fastweights.theory.transfer.inputs import binary, ternary
from fastweights.theory.transfer.pairs import simulate_angle, simulate_pairs
from fastweights.theory.transfer.sets import simulate_set
from fastweights.theory.transfer.two_weights import simulate_two_weights

__all__ = ["COURSES", "TERNARY_P", "sweeps"]

TERNARY_P = (0.05, 0.25, 0.5)
# The inputs, and for how many sweeps of which step they are retrained.
COURSES = {"binary": (binary(), 1000, 0.25), "ternary": (ternary(0.05), 500, 0.1)}


def sweeps(seed: int = 0, effort: float = 1.0) -> dict[str, Series]:
    """All simulated curves.

    Args:
        seed: of all simulations.
        effort: multiplies the number of draws; 1 takes some seconds.

    Returns:
        ``cosine ratio`` and ``cosine`` against the inputs' cosine; ``pairs binary`` and
        ``pairs ternary P`` against n; ``set`` against the number retrained of 0/1 inputs, n = 100;
        ``load P`` against n, n/4 retrained; ``two weights`` against the fraction retrained;
        ``course binary`` and ``course ternary`` against the removed fraction of the retrained
        items' error.

    Raises:
        ValueError: ``effort`` is not positive.

    Example:
        >>> curves = sweeps(effort=0.01)
        >>> [len(curves[name].x) for name in ("cosine", "load 0.5")]
        [11, 5]
    """
    draws = draws_at(effort)
    cosines = np.linspace(0, 1, 11).tolist()
    ratio, cosine = zip(*(simulate_angle(c, draws(40_000), seed) for c in cosines), strict=True)
    curves = {"cosine ratio": _series(cosines, ratio), "cosine": _series(cosines, cosine)}

    sizes = [10, 20, 40, 80, 160]
    laws = {"binary": binary(), **{f"ternary {p:g}": ternary(p) for p in TERNARY_P}}
    for name, law in laws.items():
        pairs = [simulate_pairs(law, n, draws(60_000), seed)[0] for n in sizes]
        curves[f"pairs {name}"] = _series(sizes, pairs)

    retrained = [1, 2, 5, 10, 20, 50, 90]
    measured = [simulate_set(binary(), 100, m, draws(2_000), seed, 30) for m in retrained]
    curves["set"] = _series(retrained, measured)

    loaded = [20, 40, 80, 160, 320]
    for p in TERNARY_P:
        # Large networks tell more each.
        networks = [draws(80_000 // n) for n in loaded]
        curves[f"load {p:g}"] = _series(
            loaded,
            [
                simulate_set(ternary(p), n, n // 4, k, seed)
                for n, k in zip(loaded, networks, strict=True)
            ],
        )

    gone = [0.0, 0.2, 0.4, 0.6, 0.8, 0.95]
    positive = [simulate_two_weights(np.pi / 3, 1 - x, draws(40_000), seed) for x in gone]
    curves["two weights"] = _series(gone, positive)

    for name, (law, count, step) in COURSES.items():
        course = simulate_course(law, 100, 50, count, draws(100), seed, step=step)
        curves[f"course {name}"] = Series(
            tuple(course.removed.tolist()), course.ratio, tuple(course.expected_ratio.tolist())
        )
    return curves


def _series(x: Sequence[float], y: Sequence[Estimate]) -> Series:
    return Series(tuple(float(v) for v in x), tuple(y))

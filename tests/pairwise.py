"""Few cases that together contain every pair of settings."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["all_pairs"]


def all_pairs(factors: Mapping[str, Sequence[Any]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Cases such that any two values of any two factors meet in at least one of them."""
    rng = random.Random(seed)
    names = list(factors)
    missing = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }

    def covered(case: dict[str, int]) -> set[tuple[str, int, str, int]]:
        return {(a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)} & missing

    cases = []
    while missing:
        a, i, b, j = min(missing)
        candidates = []
        for _ in range(60):
            case = {name: rng.randrange(len(factors[name])) for name in names}
            candidates.append({**case, a: i, b: j})
        best = max(candidates, key=lambda case: len(covered(case)))
        missing -= covered(best)
        cases.append({name: factors[name][k] for name, k in best.items()})
    return cases

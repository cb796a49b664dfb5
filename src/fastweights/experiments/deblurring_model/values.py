"""A result as JSON values, and back: what a run leaves in its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastweights.experiments.deblurring_model.config import DeblurringConfig
from fastweights.experiments.deblurring_model.simulation import (
    DeblurringResult,
    Phase,
    Rehearsal,
    Score,
)

__all__ = ["as_values", "from_values"]


def as_values(result: DeblurringResult) -> dict[str, Any]:
    """Plain lists, numbers and words that JSON holds; measured numbers to six decimals.

    Example:
        >>> import json
        >>> from fastweights.experiments.deblurring_model import DeblurringConfig, simulate
        >>> result = simulate(DeblurringConfig(learning_sweeps=5, hidden=4), seeds=[0])
        >>> again = from_values(json.loads(json.dumps(as_values(result))))
        >>> again.config == result.config, again.rehearsals.keys() == result.rehearsals.keys()
        (True, True)
    """
    rehearsals = [_plain(dataclasses.asdict(r)) for r in result.rehearsals.values()]
    return {
        "config": _plain(dataclasses.asdict(result.config)),
        "seeds": list(result.seeds),
        "learned": result.learned.tolist(),
        "phases": [_plain(dataclasses.asdict(phase)) for phase in result.phases],
        "rehearsals": rehearsals,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return np.round(value, 6).tolist()
    return list(value) if isinstance(value, tuple) else value


def from_values(values: Mapping[str, Any]) -> DeblurringResult:
    """The result that `as_values` was given."""
    rehearsals = [_rehearsal(r) for r in values["rehearsals"]]
    config = {**values["config"], "rehearsed": tuple(values["config"]["rehearsed"])}
    return DeblurringResult(
        config=DeblurringConfig(**config),
        seeds=tuple(values["seeds"]),
        learned=np.array(values["learned"], dtype=bool),
        phases=tuple(_phase(p) for p in values["phases"]),
        rehearsals={(r.condition, r.rehearsed): r for r in rehearsals},
    )


def _score(values: Mapping[str, Any]) -> Score:
    return Score(np.array(values["error"]), np.array(values["bits"]))


def _phase(values: Mapping[str, Any]) -> Phase:
    return Phase(
        name=values["name"],
        old=_score(values["old"]),
        new=_score(values["new"]),
        slow_norm=np.array(values["slow_norm"]),
        fast_norm=np.array(values["fast_norm"]),
    )


def _rehearsal(values: Mapping[str, Any]) -> Rehearsal:
    return Rehearsal(
        condition=values["condition"],
        rehearsed=values["rehearsed"],
        retrained=_score(values["retrained"]),
        unretrained=_score(values["unretrained"]),
        new=_score(values["new"]),
        slow_norm=np.array(values["slow_norm"]),
        fast_norm=np.array(values["fast_norm"]),
        relaxation=np.array(values["relaxation"]),
        relaxed={name: _score(score) for name, score in values["relaxed"].items()},
    )

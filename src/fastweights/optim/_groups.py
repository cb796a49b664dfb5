"""The options of fast weights inside parameter groups, and how a scheduler reaches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping
from numbers import Real
from typing import Any

import torch

from fastweights.arguments import as_float, shown

__all__ = [
    "FAST_OPTIONS",
    "FastGroups",
    "check_group",
    "check_option",
    "check_parameters",
    "describe",
]

_PREFIX = "fast_"
# name in a parameter group: what it may be, and whether a value is that
FAST_OPTIONS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "fast_lr": ("a finite number >= 0", lambda x: 0 <= x < math.inf),
    "fast_momentum": ("a number in [0, 1)", lambda x: 0 <= x < 1),
    "fast_decay": ("a number in [0, 1]", lambda x: 0 <= x <= 1),
}


def check_option(name: str, value: Any, *, shown_as: str | None = None) -> None:
    """Raise unless ``value`` is possible for the option ``name``; errors call it ``shown_as``."""
    shown_as = shown_as or name
    expected, possible = FAST_OPTIONS[name]
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{shown_as} must be {expected}, got {value!r} ({type(value).__name__})")
    if not possible(as_float(value)):
        raise ValueError(f"{shown_as} must be {expected}, got {shown(value)}")


def check_group(group: dict[str, Any], index: int) -> None:
    """Raise unless this parameter group can be trained with fast weights."""
    for name in FAST_OPTIONS:
        check_option(name, group[name], shown_as=f"{name} of parameter group {index}")
    if group.get("differentiable"):
        raise ValueError(
            f"differentiable=True in parameter group {index}: the step of SlowFast cannot be "
            "differentiated through; use differentiable=False"
        )


def check_parameters(group: dict[str, Any], index: int) -> None:
    """Raise if a parameter is in the group twice: its fast weight would be added twice."""
    if len(set(map(id, group["params"]))) != len(group["params"]):
        raise ValueError(f"params of parameter group {index} hold the same parameter twice")


def describe(group: dict[str, Any], index: int, position: int) -> str:
    """What errors call a parameter: by its name, where the optimizer was given names."""
    names = group.get("param_names")
    return f"parameter {repr(names[position]) if names else position} of group {index}"


class _FastGroup(MutableMapping[str, Any]):
    """A parameter group in which ``lr`` means ``fast_lr``, ``initial_lr`` ``fast_initial_lr``…"""

    def __init__(self, group: dict[str, Any]) -> None:
        self._group = group

    def __getitem__(self, key: str) -> Any:
        return self._group[key if key == "params" else _PREFIX + key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._group[key if key == "params" else _PREFIX + key] = value

    def __delitem__(self, key: str) -> None:
        del self._group[_PREFIX + key]

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from (key[len(_PREFIX) :] for key in self._group if key.startswith(_PREFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class FastGroups(torch.optim.Optimizer):
    """The fast weights as a scheduler sees an optimizer: its ``lr`` is the fast learning rate.

    Only for `torch.optim.lr_scheduler`, which asks for an `Optimizer` and moves ``lr`` of its
    groups. It has no state; its `step` moves nothing. It equals its owner, because trainers look
    for a scheduler's optimizer among those they train (PyTorch Lightning refuses others).
    """

    # Not calling Optimizer.__init__: it would register the parameters a second time.
    def __init__(self, owner: torch.optim.Optimizer) -> None:
        self._owner = owner

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._owner

    def __hash__(self) -> int:
        return hash(self._owner)

    def __getstate__(self) -> dict[str, Any]:
        return {"_owner": self._owner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        """The parameter groups of the owner, showing the options of the fast weights alone."""
        return [_FastGroup(group) for group in self._owner.param_groups]

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The owner's defaults for fast weights."""
        return {name[len(_PREFIX) :]: self._owner.defaults[name] for name in FAST_OPTIONS}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Called at the end of every step of the owner, so that schedulers see that it happened."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forward to the owner."""
        self._owner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Refuse: the owner's `state_dict` holds everything."""
        raise RuntimeError("save the state_dict of the SlowFast optimizer itself")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse: the owner's `load_state_dict` restores everything."""
        raise RuntimeError("load the state_dict into the SlowFast optimizer itself")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: parameters belong to the owner."""
        raise RuntimeError("add parameter groups to the SlowFast optimizer itself")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._owner.param_groups)} parameter groups)"

"""Saving and loading slow and fast weights together with what the slow optimizer remembers."""

from __future__ import annotations

from typing import Any

import torch

from fastweights.optim._groups import FAST_OPTIONS, describe
from fastweights.optim._overlay import KEYS, check_overlay, has_overlay

__all__ = ["load_with", "save_with"]


def save_with(
    slow_optimizer: torch.optim.Optimizer, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """The state of the slow optimizer, with the overlays of ``optimizer`` in it."""

    def add_slow(_: Any, own: dict[str, Any]) -> dict[str, Any]:
        saved = slow_optimizer.state_dict()
        state = dict(saved["state"])
        for key, overlay in own["state"].items():
            state[key] = {**state.get(key, {}), **overlay}
        return {**saved, "state": state}

    # First of the hooks, so that those of users see the whole.
    handle = optimizer.register_state_dict_post_hook(add_slow, prepend=True)
    try:
        return torch.optim.Optimizer.state_dict(optimizer)
    finally:
        handle.remove()


def load_with(
    slow_optimizer: torch.optim.Optimizer,
    optimizer: torch.optim.Optimizer,
    state_dict: dict[str, Any],
) -> None:
    """Give each of the two its part of what `save_with` returned."""

    def load_slow(_: Any, full: dict[str, Any]) -> dict[str, Any]:
        _check_overlays(optimizer, full)
        slow, own = {}, {}
        for key, state in full["state"].items():
            slow[key] = {k: v for k, v in state.items() if k not in KEYS}
            # A copy: two optimizers must not move one overlay.
            own[key] = {k: v.clone() for k, v in state.items() if k in KEYS}
        groups = full["param_groups"]
        if len(groups) == len(optimizer.param_groups):
            groups = [
                {**{k: now[k] for k in FAST_OPTIONS}, **saved}
                for now, saved in zip(optimizer.param_groups, groups, strict=True)
            ]
        slow_optimizer.load_state_dict(
            {
                **full,
                "state": {key: state for key, state in slow.items() if state},
                "param_groups": groups,
            }
        )
        return {
            "state": {key: state for key, state in own.items() if state},
            "param_groups": groups,
        }

    # Last of the hooks, so that it sees what those of users made of the state.
    handle = optimizer.register_load_state_dict_pre_hook(load_slow)
    try:
        torch.optim.Optimizer.load_state_dict(optimizer, state_dict)
    finally:
        handle.remove()


def _check_overlays(optimizer: torch.optim.Optimizer, full: dict[str, Any]) -> None:
    """Raise if an overlay is not one of its parameter's shape; torch itself does not look."""
    pairs = zip(optimizer.param_groups, full["param_groups"], strict=False)
    for index, (group, saved) in enumerate(pairs):
        if len(group["params"]) != len(saved["params"]):
            return  # which torch refuses
        for position, (parameter, key) in enumerate(
            zip(group["params"], saved["params"], strict=True)
        ):
            state = full["state"].get(key)
            if state is not None and has_overlay(state):
                check_overlay(parameter, state, describe(group, index, position), ValueError)

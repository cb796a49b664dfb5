"""What follows each of an optimizer's steps, whichever optimizer moves the factors: they fade.

And their gradients are used up. Trainers call ``zero_grad`` of the model, whose parameters these
are not, and would add up gradients for ever.

Torch calls hooks of every optimizer's step; ours is one for all optimizers, because an optimizer is
made after the overlay whose parameters it gets, and nobody tells the overlay. It looks for factors
of overlays among the optimizer's parameters.

- A step that is skipped (``GradScaler`` found an infinite gradient, or gradients are accumulated)
  is no step, and nothing fades. Fused optimizers are called all the same, and told by
  ``found_inf``.
- Optimizers that call another one inside their step make one step of the two: only the outermost of
  those that have a factor ends it. Who is inside whom is read off the stack of calls, and not
  remembered, since a step that raises an exception never says that it has ended.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fastweights.optim.overlay_parts import Part, State, part_of

__all__ = ["watch_steps"]

_watching = False


def watch_steps() -> None:
    """Have overlays fade after the steps of optimizers in this process."""
    global _watching
    if not _watching:
        register_optimizer_step_pre_hook(_before)
        register_optimizer_step_post_hook(_after)
        _watching = True


def _before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """What is learned adds to what has not faded by now."""
    for state in _moved_by(optimizer):
        state.moved_by(optimizer)
        state.catch_up()


def _after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    moved = _moved_by(optimizer)
    if not moved:
        return
    outer = {
        id(p)
        for other in _steps_around(optimizer)
        for group in other.param_groups
        for p in group["params"]
    }
    for state, factors in moved.items():
        last = [(part, factor) for part, factor in factors if id(factor) not in outer]
        fading = [part for part, factor in last if factor is part.fading]
        if fading and not state.fading.by_clock:
            state.fade(_unless_skipped(optimizer, state.fading.keep(1.0), fading[0]), fading)
        for _, factor in last:
            factor.grad = None


def _moved_by(optimizer: torch.optim.Optimizer) -> dict[State, list[tuple[Part, Tensor]]]:
    """The factors that an optimizer has, by overlay."""
    moved: dict[State, list[tuple[Part, Tensor]]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            part = part_of(parameter)
            if part is not None and not part.state.removed:
                moved.setdefault(part.state, []).append((part, parameter))
    return moved


def _unless_skipped(optimizer: torch.optim.Optimizer, keep: float, part: Part) -> float | Tensor:
    """``keep``, or 1 where a fused optimizer was told that its gradients are infinite."""
    found = getattr(optimizer, "found_inf", None)
    if not isinstance(found, Tensor):
        return keep
    found = found.to(part.fading.device).reshape(())
    return torch.where(found > 0, 1.0, keep).to(part.fading.dtype)


def _of_step() -> Any:
    """The code that torch lays around the step of every optimizer to call hooks."""
    return getattr(torch.optim.Optimizer.profile_hook_step(_of_step), "__code__", None)


_STEP = _of_step()


def _steps_around(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The other optimizers in whose steps this one is called."""
    if torch.compiler.is_compiling():
        return []
    around, frame = [], sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is _STEP:
            owner = frame.f_locals.get("self")
            if isinstance(owner, torch.optim.Optimizer) and owner is not optimizer:
                around.append(owner)
    return around

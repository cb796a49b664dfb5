"""What is stored beside a parameter, and how changes made to it by others are noticed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KEYS", "Watch", "new_overlay"]

KEYS = ("slow_weight", "fast_weight", "fast_update")  # s, f, Δf in the state of a parameter


def new_overlay(parameter: Tensor) -> dict[str, Tensor]:
    """The state of a parameter that has learned nothing yet: s is its value, f and Δf are zero."""
    values = (parameter.detach().clone(), torch.zeros_like(parameter), torch.zeros_like(parameter))
    return dict(zip(KEYS, values, strict=True))


class Watch:
    """Notices parameters that others wrote to, so that their slow weights can follow.

    A parameter holds w = s + f, rounded, and s is stored. Were nothing done, the next step would
    undo a change made from outside, such as the loading of a model.
    """

    def __init__(self) -> None:
        self._seen: dict[Tensor, tuple[int, int]] = {}

    def wrote(self, parameters: list[Tensor]) -> None:
        """Say that these parameters now hold s + f."""
        for parameter in parameters:
            self._seen[parameter] = (parameter._version, parameter.data_ptr())

    def follow(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        """Where the parameter does not hold s + f, make s such that it does: s ← w − f.

        The values are compared only if the parameter was written to since `wrote`, and s stays
        untouched to the last bit where they have not changed.
        """
        mark = (parameter._version, parameter.data_ptr())
        if self._seen.get(parameter) == mark:
            return
        slow, fast = state["slow_weight"], state["fast_weight"]
        with torch.no_grad():
            expected = slow + fast
            same = (parameter == expected) | (parameter.isnan() & expected.isnan())
            slow.copy_(torch.where(same, slow, parameter - fast))
        self._seen[parameter] = mark

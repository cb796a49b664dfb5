"""What code around ``nn.RNN`` and ``nn.LSTM`` expects of a layer, besides its numbers."""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["RecurrentModule", "autocasts", "check_dtype", "one_state", "without_autocast"]

State = TypeVar("State")


class RecurrentModule(nn.Module):
    """A layer that is called, taken apart and set up as ``nn.RNN`` is."""

    proj_size = 0  #: as of an ``nn.LSTM`` without a projection

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of every layer and direction, a list for each, as ``nn.RNN`` has them."""
        places: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            place = re.search(r"l\d+(_reverse)?", name)
            places.setdefault(place[0] if place else "", []).append(parameter)
        of_no_layer = places.pop("", [])
        return [*places.values(), of_no_layer] if of_no_layer else [*places.values()]

    def flatten_parameters(self) -> None:
        """Does nothing: there is no cuDNN that would want the parameters in one piece."""


def one_state(state: State | None, hx: State | None) -> State | None:
    """The state, by whichever of its two names it came; or an error if it came by both."""
    if hx is None:
        return state
    if state is not None:
        raise TypeError("state and hx are two names of one argument; give one of them, not both")
    return hx


def check_dtype(dtype: Any) -> None:
    """Raise unless parameters can be of this dtype."""
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}")


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for ``device``; some kinds, like meta, know no autocast."""
    kind = device.type
    if kind == "cpu":
        return torch.is_autocast_enabled(kind)
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products run in the precision of their operands."""
    if autocasts(device):
        return torch.autocast(device_type=device.type, enabled=False)
    return contextlib.nullcontext()

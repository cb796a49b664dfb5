"""What code around ``nn.RNN`` and ``nn.LSTM`` expects of a layer, besides its numbers."""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "RecurrentModule",
    "autocasts",
    "check_dtype",
    "check_input",
    "one_state",
    "without_autocast",
]

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


def check_input(
    x: Any, input_size: int, like: Tensor, expected: str, dims: tuple[int, ...]
) -> None:
    """Raise unless ``x`` is an input of these features that goes with the parameter ``like``.

    ``expected`` is the shape in words, ``dims`` the numbers of dimensions that it can have.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"input must be a tensor {expected}, got {type(x).__name__}")
    if x.layout is not torch.strided or x.is_nested:
        layout = "a nested one" if x.is_nested else x.layout
        raise TypeError(
            f"input must be a dense tensor {expected}, got {layout}; sequences of different "
            "lengths go into torch.nn.utils.rnn.pack_sequence"
        )
    if x.dim() not in dims:
        raise ValueError(f"input must have shape {expected}, got {tuple(x.shape)}")
    if x.shape[-1] != input_size:
        raise ValueError(
            f"input must have input_size={input_size} features in its last dimension, "
            f"got shape {tuple(x.shape)}"
        )
    if x.device != like.device:
        raise ValueError(f"input is on {x.device}, but the parameters are on {like.device}")
    if x.dtype == like.dtype:
        return
    # Autocast leaves double precision alone, so it cannot bring a double and a float together.
    cast = autocasts(x.device) and torch.float64 not in (x.dtype, like.dtype)
    if not x.is_floating_point() or not cast:
        raise TypeError(f"input must be {like.dtype} like the parameters, got {x.dtype}")


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

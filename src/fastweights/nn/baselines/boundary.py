"""The common boundary of the baselines: the layouts of ``nn.RNN``, checked and made one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastweights.nn.conventions import check_input

__all__ = ["check_state", "project", "restore", "time_first"]


def time_first(input: Any, input_size: int, batch_first: bool, like: Tensor) -> Tensor:
    """The input as (L, N, input_size), after checking it against the parameter ``like``."""
    expected = f"({'N, L' if batch_first else 'L, N'}, input_size) or (L, input_size)"
    check_input(input, input_size, like, expected, (2, 3))
    x = input[:, None] if input.dim() == 2 else input
    if batch_first and input.dim() == 3:
        x = x.transpose(0, 1)
    if x.shape[0] == 0:
        raise ValueError(f"input must have at least one step, got shape {tuple(input.shape)}")
    return x


def restore(output: Tensor, input: Tensor, batch_first: bool) -> Tensor:
    """The output (L, N, features) in the layout of the input."""
    if input.dim() == 2:
        return output[:, 0]
    return output.transpose(0, 1) if batch_first else output


def check_state(
    name: str, state: Any, shape: tuple[int, ...], like: Tensor, *, batched: bool
) -> Tensor:
    """A tensor of the state with a batch dimension, second to last, after checking it.

    ``shape`` is what it must have with the batch; unbatched input comes with a state without.
    """
    if not isinstance(state, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(state).__name__}")
    expected = shape if batched else (*shape[:-2], shape[-1])
    if tuple(state.shape) != expected:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(state.shape)}")
    if state.device != like.device:
        raise ValueError(f"{name} is on {state.device}, but the parameters are on {like.device}")
    if state.dtype != like.dtype:
        raise TypeError(f"{name} must be {like.dtype} like the parameters, got {state.dtype}")
    return state if batched else state.unsqueeze(-2)


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b for all steps at once, in the parameters' dtype whatever autocast makes of it."""
    return torch.nn.functional.linear(x, weight, bias).to(weight.dtype)

"""One call of the recurrence: do its arguments fit together, and may a kernel take them?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastweights.arguments import check_number
from fastweights.decay import Decay
from fastweights.ops.dispatch import (
    dispatch_is_traced,
    forward_mode_is_on,
    has_lost_its_memory,
    has_plain_memory,
    kernel_cannot_follow,
    with_plain_memory,
)
from fastweights.ops.fast_weights.options import Drive, LayerState, Options, SlowWeights

__all__ = ["Call", "checked"]


class Call(NamedTuple):
    """The arguments of :func:`fastweights.ops.fast_weights.fast_weights` that every form takes."""

    drive: Tensor | Drive
    weights: SlowWeights
    decay: Decay
    write_rate: Tensor | float
    state: LayerState | None
    options: Options
    lengths: Tensor | None
    resets: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """The same with every tensor replaced."""

        def each(parts: Any) -> Any:
            if isinstance(parts, tuple):
                return type(parts)(*map(each, parts))
            return function(parts) if isinstance(parts, Tensor) else parts

        return Call(*map(each, self))


def checked(call: Call) -> tuple[Call, str | None]:
    """The call, ready to run, and why no kernel may run it, or None if one may.

    Raises:
        ValueError, TypeError: the tensors do not fit together, which kernels trust them to.
    """
    rate = call.write_rate
    if not (
        torch.compiler.is_compiling()  # where a number may be a symbol
        or isinstance(rate, Tensor)
        or (type(rate) is float and math.isfinite(rate))
    ):
        call = call._replace(write_rate=check_number("write_rate", rate))
    parts = _parts(call)
    drive = call.drive
    # At every call, so as few questions as will do; whatever is unusual is looked into below.
    device, floating = drive.device, drive.dtype
    if floating.is_floating_point and not (dispatch_is_traced() or forward_mode_is_on()):
        for _, tensor, shape, dtype in parts:
            if not (
                has_plain_memory(tensor)
                and tensor.shape == shape
                and tensor.dtype is (dtype or floating)
                and tensor.device == device
            ):
                break
        else:
            return call, None
    for name, tensor, shape, dtype in parts:
        _check_part(drive, name, tensor, shape, dtype)
    if not torch.compiler.is_compiling():
        call = call.map(with_plain_memory)
        parts = _parts(call)
        for name, tensor, _, _ in parts:
            if has_lost_its_memory(tensor):
                raise ValueError(f"{name} has no memory: its storage was freed")
    tensors = [tensor for _, tensor, _, _ in parts]
    if call.decay.fixed is None:
        tensors += [*call.decay.parameters(), *call.decay.buffers()]
    return call, kernel_cannot_follow(tensors)


_Part = tuple[str, Tensor, tuple[int, ...], torch.dtype | None]


def _parts(call: Call) -> list[_Part]:
    """Every tensor: its name, itself, its shape and its dtype, None for that of the drive."""
    drive, weights, decay, write_rate, state, options, lengths, resets = call
    source, inputs, bias = drive if isinstance(drive, Drive) else (drive, None, None)
    of_source, kind = ("drive", "H") if inputs is None else ("drive.input", "I")
    if not isinstance(source, Tensor):
        raise TypeError(f"{of_source} must be a tensor, got {type(source).__name__}")
    if source.is_nested or source.dim() != 3 or source.shape[0] == 0:
        shape = "nested" if source.is_nested else tuple(source.shape)
        raise ValueError(f"{of_source} must have shape (T, B, {kind}) with T ≥ 1, got {shape}")
    if options.memory == "static" and weights.memory is None:
        raise ValueError("weights.memory must be given when options.memory is 'static'")
    if inputs is not None and (
        not isinstance(inputs, Tensor) or inputs.dim() != 2 or inputs.shape[1] != source.shape[2]
    ):
        got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"drive.weight must have shape (H, {source.shape[2]}), got {got}")
    _, batch, width = drive.shape
    square, vector, samples = (width, width), (width,), (batch,)
    parts: list[_Part] = [
        (of_source, source, source.shape, None),
        ("weights.recurrent", weights.recurrent, square, None),
    ]
    optional: list[tuple[str, Any, tuple[int, ...], torch.dtype | None]] = [
        ("drive.weight", inputs, (width, source.shape[2]), None),
        ("drive.bias", bias, vector, None),
        ("weights.norm_weight", weights.norm_weight, vector, None),
        ("weights.norm_bias", weights.norm_bias, vector, None),
        ("weights.memory", weights.memory, square, None),
        ("lengths", lengths, samples, torch.int64),
        ("resets", resets, (source.shape[0], batch), torch.bool),
    ]
    if isinstance(write_rate, Tensor):
        optional.append(("write_rate", write_rate, (), write_rate.dtype))
    if state is not None:
        hidden, steps, history, matrix, constant_before = state
        if history is not None and matrix is not None:
            raise ValueError("state must hold a history or a matrix, not both")
        memories = history.shape[:1] if isinstance(history, Tensor) else ()
        matrices = () if decay.components == 1 else (decay.components,)
        parts += [
            ("state.hidden", hidden, (batch, width), None),
            ("state.steps", steps, samples, torch.int64),
        ]
        optional += [
            ("state.history", history, (*memories, batch, width), None),
            ("state.matrix", matrix, (batch, *matrices, width, width), None),
            ("state.constant_before", constant_before, samples, torch.int64),
        ]
    return parts + [part for part in optional if part[1] is not None]


def _check_part(
    drive: Tensor | Drive,
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype | None,
) -> None:
    """Raise if a tensor is not what it must be beside the drive."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.layout is not torch.strided or tensor.is_nested:
        layout = "nested" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} must be a dense tensor, got {layout}")
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
    if tensor.device != drive.device:
        raise ValueError(f"{name} is on {tensor.device}, but drive is on {drive.device}")
    if tensor.dtype != (dtype or drive.dtype):
        like = "" if dtype else " like drive"
        raise TypeError(f"{name} must be {dtype or drive.dtype}{like}, got {tensor.dtype}")
    if dtype is None and not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {tensor.dtype}")

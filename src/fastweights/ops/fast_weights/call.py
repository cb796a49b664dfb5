"""One call of the recurrence: its arguments, and whether they fit together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastweights.arguments import check_number
from fastweights.decay import Decay
from fastweights.ops.dispatch import (
    has_lost_its_memory,
    kernel_cannot_follow,
    with_plain_memory,
)
from fastweights.ops.fast_weights.options import (
    InputProjection,
    LayerState,
    Options,
    SlowWeights,
)

__all__ = ["Call", "checked"]


class Call(NamedTuple):
    """The arguments of the recurrence, which every form takes.

    T steps, B samples, H features, I inputs, M vectors carried.

    Attributes:
        drive: C x(t) + b, shape (T, B, H), or its factors.
        weights: the slow weights.
        decay: r.
        write_rate: η, a number or a scalar tensor.
        state: h(t) and the memory to start from; None starts from nothing.
        options: what to compute.
        lengths: steps of each sample, int64, shape (B,); None for all T.
        resets: which samples forget everything before which step, bool, shape (T, B); None if
            none does.
        layered: the tensors of the state, but for ``steps``, have one more dimension, of size 1,
            in front, as a :class:`fastweights.nn.FastWeightsState` of one layer has them; so do
            those of the state that is returned. It saves a view of each.
    """

    drive: Tensor | InputProjection
    weights: SlowWeights
    decay: Decay
    write_rate: Tensor | float
    state: LayerState | None
    options: Options
    lengths: Tensor | None = None
    resets: Tensor | None = None
    layered: bool = False

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """The same with every tensor replaced."""

        def each(parts: Any) -> Any:
            if isinstance(parts, tuple):
                return type(parts)(*map(each, parts))
            return function(parts) if isinstance(parts, Tensor) else parts

        return Call(*map(each, self))

    def without_layer(self) -> Call:
        """The same, not ``layered``."""
        state = self.state
        if state is not None:
            state = LayerState(
                *(x if x is None or x is state.steps else x[0] for x in state)  # type: ignore[arg-type]
            )
        return self._replace(state=state, layered=False)


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
    drive, weights, decay, write_rate, state, options, lengths, resets, _ = call
    source, inputs, bias = drive if isinstance(drive, InputProjection) else (drive, None, None)
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
    drive: Tensor | InputProjection,
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

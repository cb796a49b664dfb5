"""Ops with a kernel of their own for each pass: how PyTorch is told of them, and their table.

An op takes the decay as a table of η·r and returns that table's gradient, so every decay works,
learned or not. Its shape is (K, R, M + T), the age last. R is 1 where r is a function of age; by
the clock it is M + T, a row for each vector that can be the newest in sight. K is 1 where all
samples have the same clock, else B.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastweights.decay import Decay
from fastweights.ops.dispatch import (
    dispatch_is_traced,
    forward_mode_is_on,
    has_plain_memory,
    has_tangent,
    with_plain_memory,
)
from fastweights.ops.fast_weights.options import (
    NORM,
    NORM_PRELIMINARY,
    LayerState,
)
from fastweights.ops.fast_weights.reference import memory_weights

__all__ = ["norms_of", "plain_gradients", "rates_by_clock", "refuse_tangents", "register"]


def register(
    name: str,
    forward: Callable[..., tuple[Tensor, ...]],
    forward_shapes: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., Sequence[Tensor]],
    backward_shapes: Callable[..., Sequence[Tensor]],
    setup_context: Callable[..., None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
) -> tuple[Any, Any]:
    """Tell PyTorch of an op and of its gradient, which has none itself; returns both.

    The ops are what compilers, exporters and everything else that looks at operations sees. Calling
    them costs more than calling the functions, which short sequences feel: so each form has an
    ``autograd.Function`` too, past PyTorch's dispatcher, for calls that nobody follows.

    The functions of shapes take the same as the passes and return empty tensors of the same shapes.
    ``setup_context`` is as PyTorch has it, and keeps tensors by
    :func:`fastweights.ops.dispatch.save_step`; ``gradients(backward, ctx, *doutputs)`` calls
    ``backward`` with what :func:`fastweights.ops.dispatch.load_step` returns, and itself returns a
    gradient, or None, for each input of ``forward``; ``ctx.needs`` says of each whether anybody
    asks for it. A program that was exported may be asked for others than the call it was made from.
    """
    op, backward_op = (
        torch.library.custom_op(
            f"fastweights::{full}",
            functools.partial(_registered, function),
            mutates_args=(),
            schema=torch.library.infer_schema(function, mutates_args=()),
        )
        for full, function in ((name, forward), (f"{name}_backward", backward))
    )
    op.register_fake(forward_shapes)
    backward_op.register_fake(backward_shapes)

    def registered_gradients(ctx: Any, *doutputs: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.needs = ctx.needs_input_grad
        return gradients(backward_op, ctx, *plain_gradients(doutputs))

    op.register_autograd(registered_gradients, setup_context=setup_context)
    backward_op.register_autograd(_no_second_derivative)
    # For the gradients of many losses at once, and for programs that hold the op already.
    op.register_vmap(functools.partial(_one_by_one, op))
    backward_op.register_vmap(functools.partial(_one_by_one, backward_op))
    return op, backward_op


def _registered(function: Callable[..., Any], *inputs: Any) -> Any:
    """A pass as PyTorch's dispatcher calls it.

    Raises:
        NotImplementedError: within forward-mode differentiation; here nobody can say any more
            whether a tensor has a tangent, which would be lost.
    """
    if forward_mode_is_on():
        raise NotImplementedError(_NO_TANGENT)
    return function(*inputs)


def refuse_tangents(inputs: Sequence[Any]) -> None:
    """Raise if forward-mode differentiation asks for what comes of one of these."""
    if forward_mode_is_on() and any(isinstance(x, Tensor) and has_tangent(x) for x in inputs):
        raise NotImplementedError(_NO_TANGENT)


_NO_TANGENT = (
    "the fused fast-weights recurrence has no forward-mode derivative; backend='reference' has one"
)


def plain_gradients(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients from outside, written out as a kernel takes them."""
    if dispatch_is_traced():
        return list(gradients)
    return [
        x if x is None or has_plain_memory(x) else with_plain_memory(x.to_dense())
        for x in gradients
    ]


def _one_by_one(op: Any, info: Any, dims: Sequence[int | None], *inputs: Any) -> Any:
    """An op on each sample of a ``vmap``, one after the other."""
    results = [
        op(*(x if dim is None else x.select(dim, i) for x, dim in zip(inputs, dims, strict=True)))
        for i in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(column) for column in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(
        "the fused fast-weights recurrence has no second derivative; "
        "backend='reference' has all of them"
    )


def norms_of(inner_steps: int, flags: int) -> int:
    """Layer norms per step: one per read, and one more if the preliminary vector has its own."""
    return inner_steps + bool(flags & NORM_PRELIMINARY) if flags & NORM else 0


def rates_by_clock(
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState | None,
    carried: int,
    drive: Tensor,
    cut: Tensor | None,
) -> Tensor:
    """The table of η r by the clock; what was written before the step ``cut`` is a constant.

    ``drive`` is anything of the call's length, dtype and device.
    """
    kind, device = torch.promote_types(drive.dtype, torch.float32), drive.device
    count = carried + drive.shape[0]
    steps = torch.zeros(1, dtype=torch.int64, device=device) if state is None else state.steps
    return _by_clock(decay, write_rate, steps - carried, count, kind, cut)


def _by_clock(
    decay: Decay,
    write_rate: Tensor | float,
    oldest: Tensor,
    count: int,
    kind: torch.dtype,
    cut: Tensor | None,
) -> Tensor:
    """The table for ``count`` vectors, the first of them written at step ``oldest`` (B,)."""
    clocks = torch.stack([oldest] if cut is None else [oldest, cut])[:, :, None, None]
    if not dispatch_is_traced() and bool((clocks == clocks[:, :1]).all()):
        clocks = clocks[:, :1]
    index = torch.arange(count, device=oldest.device)
    newest = clocks[0] + index[:, None]
    before = None if cut is None else clocks[1]
    table = memory_weights(newest - index, newest, decay, write_rate, before)
    return table.to(kind)

"""An op with a kernel of its own for each pass, and the two ways to call it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastweights.ops.dispatch import (
    dispatch_is_traced,
    forward_mode_is_on,
    has_plain_memory,
    has_tangent,
    with_plain_memory,
)

__all__ = ["FusedOp", "load", "register", "save"]


class FusedOp(NamedTuple):
    """An op and its gradient, twice: registered with PyTorch, and as plain functions.

    The registered ones are what compilers, exporters and everything else that looks at operations
    sees. Calling them costs more than calling the functions, which short sequences feel.
    """

    op: Any
    backward_op: Any
    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., Sequence[Tensor]]
    setup_context: Callable[..., None]
    gradients: Callable[..., tuple[Tensor | None, ...]]

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The op's outputs; bypasses the dispatcher unless it is being traced."""
        if dispatch_is_traced() or not _PLAIN.issuperset(map(type, inputs)):
            return self.op(*inputs)
        _refuse_tangents(inputs)
        keep = inputs[-1]
        return _Direct.apply(self, *inputs) if keep else self.forward(*inputs)


_PLAIN = frozenset((Tensor, torch.nn.Parameter, type(None), int, float, bool))


class _Direct(torch.autograd.Function):
    """A fused op called past PyTorch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, op: FusedOp, *inputs: Any) -> tuple[Tensor, ...]:
        output = op.forward(*inputs)
        ctx.op = op
        op.setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *doutputs: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.needs = ctx.needs_input_grad[1:]
        settled = _settled(doutputs)
        _refuse_tangents(settled)
        plain = not dispatch_is_traced() and all(x is None or has_plain_memory(x) for x in settled)
        op: FusedOp = ctx.op
        # With create_graph the registered op refuses the second derivative.
        backward = op.backward if plain and not torch.is_grad_enabled() else op.backward_op
        return None, *op.gradients(backward, ctx, *settled)


def register(
    name: str,
    forward: Callable[..., tuple[Tensor, ...]],
    forward_shapes: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., Sequence[Tensor]],
    backward_shapes: Callable[..., Sequence[Tensor]],
    setup_context: Callable[..., None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
) -> FusedOp:
    """Tell PyTorch of an op and of its gradient, which has none itself.

    The last input of ``forward`` says whether to keep what ``backward`` needs. The functions of
    shapes take the same as the passes and return empty tensors of the same shapes.
    ``setup_context`` is as PyTorch has it, but for :func:`save`; ``gradients(backward, ctx,
    *doutputs)`` calls ``backward`` with what :func:`load` returns, and itself returns a gradient,
    or None, for each input of ``forward``; ``ctx.needs`` says of each whether anybody asks for it.
    A program that was exported may be asked for others than the call it was made from.
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
        return gradients(backward_op, ctx, *_settled(doutputs))

    op.register_autograd(registered_gradients, setup_context=setup_context)
    backward_op.register_autograd(_no_second_derivative)
    # Gradients of a whole batch of losses at once.
    # For the gradients of many losses at once, and for programs that hold the op already.
    op.register_vmap(functools.partial(_one_by_one, op))
    backward_op.register_vmap(functools.partial(_one_by_one, backward_op))
    return FusedOp(op, backward_op, forward, backward, setup_context, gradients)


def save(ctx: Any, keep: bool, tensors: Sequence[Tensor | None]) -> None:
    """Keep tensors for the backward pass, with what :func:`load` compares them with."""
    ctx.save_for_backward(*tensors)
    ctx.keep = keep
    # A tracer may know sizes by name only; the op that it records compares nothing.
    ctx.kinds = None if dispatch_is_traced() else [_kind_of(tensor) for tensor in tensors]


def load(ctx: Any) -> tuple[Any, ...]:
    """What :func:`save` kept.

    Raises:
        RuntimeError: it is not what it was: a hook on saved tensors, or a cast or another use of a
            module's parameters between the passes; or nothing was kept.
    """
    if not ctx.keep:
        raise RuntimeError(
            "this call of the fused fast-weights recurrence kept nothing for a backward pass: it "
            "was exported or traced where no gradient was wanted; do that with gradients enabled"
        )
    tensors: tuple[Any, ...] = ctx.saved_tensors
    if ctx.kinds is not None:
        for tensor, kind in zip(tensors, ctx.kinds, strict=True):
            if _kind_of(tensor) != kind:
                raise RuntimeError(
                    f"a tensor of {_named(kind)} was saved for the backward pass of the fused "
                    f"fast-weights recurrence, and came back as one of {_named(_kind_of(tensor))}: "
                    "parameters must not be cast, moved or freed between the passes, and hooks on "
                    "saved tensors must return what they were given"
                )
    return tensors


def _kind_of(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    return tensor.shape, tensor.dtype, tensor.device, has_plain_memory(tensor)


def _named(kind: Any) -> str:
    shape, dtype, device, plain = kind
    return f"shape {tuple(shape)}, {dtype}, on {device}{'' if plain else ', without numbers'}"


def _registered(function: Callable[..., Any], *inputs: Any) -> Any:
    """A pass as PyTorch's dispatcher calls it.

    Raises:
        NotImplementedError: within forward-mode differentiation; here nobody can say any more
            whether a tensor has a tangent, which would be lost.
    """
    if forward_mode_is_on():
        raise NotImplementedError(_NO_TANGENT)
    return function(*inputs)


def _refuse_tangents(inputs: Sequence[Any]) -> None:
    if forward_mode_is_on() and any(isinstance(x, Tensor) and has_tangent(x) for x in inputs):
        raise NotImplementedError(_NO_TANGENT)


_NO_TANGENT = (
    "the fused fast-weights recurrence has no forward-mode derivative; backend='reference' has one"
)


def _settled(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
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

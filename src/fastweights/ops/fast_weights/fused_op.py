"""An op with a kernel of its own for each pass, and the two ways to call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["FusedOp", "register", "watched"]


def watched() -> bool:
    """Whether somebody traces or intercepts operations."""
    return (
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode() is not None
        or torch._C._are_functorch_transforms_active()
    )


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
        """The op's outputs, by the way that costs less where nobody looks."""
        if watched() or not _PLAIN.issuperset(map(type, inputs)):
            return self.op(*inputs)
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
        # With create_graph the registered op refuses the second derivative.
        backward = ctx.op.backward_op if torch.is_grad_enabled() else ctx.op.backward
        return None, *ctx.op.gradients(backward, ctx, *doutputs)


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
    ``setup_context`` is as PyTorch has it; ``gradients(backward, ctx, *doutputs)`` calls
    ``backward`` and returns a gradient, or None, for each input of ``forward``.
    """
    op, backward_op = (
        torch.library.custom_op(f"fastweights::{full}", function, mutates_args=())
        for full, function in ((name, forward), (f"{name}_backward", backward))
    )
    op.register_fake(forward_shapes)
    backward_op.register_fake(backward_shapes)
    op.register_autograd(
        lambda ctx, *doutputs: gradients(backward_op, ctx, *doutputs), setup_context=setup_context
    )
    backward_op.register_autograd(_no_second_derivative)
    return FusedOp(op, backward_op, forward, backward, setup_context, gradients)


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(
        "the fused fast-weights recurrence has no second derivative; "
        "backend='reference' has all of them"
    )

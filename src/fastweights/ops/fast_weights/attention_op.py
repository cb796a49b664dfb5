"""What the fused ops of the attention form share: inputs, results, and autograd.

A fused op takes the decay as a table of η·r and returns that table's gradient, so every decay
works, learned or not. Its shape is (K, R, M + T), the age last. R is 1 where r is a function of
age; by the clock it is M + T, a row for each vector that can be the newest in sight. K is 1 where
all samples have the same clock, else B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fastweights.decay import Decay
from fastweights.ops.fast_weights.options import LayerState, Options, SlowWeights
from fastweights.ops.fast_weights.reference import right_aligned, steps_after, trimmed

__all__ = [
    "AFTER_READ",
    "DETACH",
    "NORM",
    "NORM_PRELIMINARY",
    "PREVIOUS",
    "TANH",
    "FusedOp",
    "flags_of",
    "gradients_like",
    "no_second_derivative",
    "norms_of",
    "past_the_end",
    "register",
    "run",
    "why_not",
]

# The op's flags travel as one integer, because a schema of ten booleans costs more than the call.
NORM, NORM_PRELIMINARY, PREVIOUS, AFTER_READ, DETACH, TANH = 1, 2, 4, 8, 16, 32
_MEMORIES = ("hebbian", "static", "none")


def why_not(state: LayerState, options: Options) -> str | None:
    """The reason that no fused op can run this call, or None."""
    if options.memory == "hebbian" and state.matrix is not None:
        return "the state holds a matrix"
    return None


def norms_of(inner_steps: int, flags: int) -> int:
    """Layer norms per step: one per read, and one more if the preliminary vector has its own."""
    return inner_steps + bool(flags & NORM_PRELIMINARY) if flags & NORM else 0


def flags_of(options: Options) -> int:
    """The options that are yes or no, as the ops take them."""
    return (
        NORM * options.layer_norm
        | NORM_PRELIMINARY * options.norm_preliminary
        | PREVIOUS * (options.query == "previous")
        | AFTER_READ * (options.write == "after_read")
        | DETACH * options.detach_writes
        | TANH * (options.nonlinearity == "tanh")
    )


def past_the_end(
    drive: Tensor, lengths: Tensor | None, options: Options
) -> tuple[Tensor, Tensor | None]:
    """A drive that a kernel may run on past a sample's end, and where that is, (T, B, 1)."""
    if lengths is None:
        return drive, None
    steps = torch.arange(drive.shape[0], device=drive.device)
    ended = (steps[:, None] >= lengths)[:, :, None]
    if not options.layer_norm:
        # Past the end nothing keeps the numbers small, and an overflow would make NaN of a
        # gradient times zero. So deep a drive keeps h at zero.
        drive = drive.masked_fill(ended, -1e30)
    return drive, ended


def run(
    op: FusedOp,
    drive: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor,
    state: LayerState,
    options: Options,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """As :func:`fastweights.ops.fast_weights.reference.attention_form`, by ``op``."""
    length, hebbian = drive.shape[0], options.memory == "hebbian"
    past = state.hidden[None]
    if hebbian and state.history is not None:
        past = torch.cat([state.history, past])
    carried = past.shape[0] - 1
    kind = torch.promote_types(drive.dtype, torch.float32)
    if hebbian:
        r = _by_age(decay, state.steps - carried, carried + length, kind)
        rates = write_rate.to(kind) * r
    else:
        rates = drive.new_zeros(1, 1, carried + length, dtype=kind)
    drive, ended = past_the_end(drive, lengths, options)
    gain, norm_bias = weights.norm_weight, weights.norm_bias
    if options.layer_norm:
        gain = drive.new_ones(drive.shape[-1]) if gain is None else gain
        norm_bias = drive.new_zeros(drive.shape[-1]) if norm_bias is None else norm_bias
    static = weights.memory if options.memory == "static" else None
    inputs = (drive, past, weights.recurrent, rates, gain, norm_bias, static)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    hs, *_ = op(
        *inputs,
        options.inner_steps,
        options.norm_eps,
        flags_of(options),
        _MEMORIES.index(options.memory),
        keep,
    )
    output, hidden = hs[carried + 1 :], hs[-1]
    history = hs[: carried + length] if hebbian else None
    if ended is not None and lengths is not None:
        output = output.masked_fill(ended, 0.0)
        hidden = hs.gather(0, (carried + lengths)[None, :, None].expand(1, *hidden.shape))[0]
    if history is not None:
        if options.detach_writes:
            history = history.detach()
        history = trimmed(right_aligned(history, length, lengths), decay)
    return output, LayerState(hidden, steps_after(state.steps, length, lengths), history)


def _by_age(decay: Decay, oldest: Tensor, count: int, kind: torch.dtype) -> Tensor:
    """The table of r for ``count`` vectors, the first of them written at step ``oldest`` (B,)."""
    if decay.stationary:
        return decay.table(count, dtype=kind, device=oldest.device)[None, None]
    if not torch.compiler.is_compiling() and bool((oldest == oldest[:1]).all()):
        oldest = oldest[:1]
    index = torch.arange(count, device=oldest.device)
    newest = (oldest[:, None] + index)[:, :, None]
    return decay.between(newest - index, newest).to(kind)


def gradients_like(
    hs: Tensor, weight: Tensor, rates: Tensor, static: Tensor | None, length: int
) -> tuple[Tensor, ...]:
    """Tensors of the shapes that a ``backward`` of :func:`register` returns."""
    width = hs.shape[2]
    return (
        hs.new_empty(length, *hs.shape[1:]),
        hs.new_empty(hs.shape[0] - length, *hs.shape[1:]),
        torch.empty_like(weight),
        torch.empty_like(rates),
        hs.new_empty(width),
        hs.new_empty(width),
        hs.new_empty(0, 0) if static is None else torch.empty_like(static),
    )


class FusedOp(NamedTuple):
    """An op and its gradient, twice: registered with PyTorch, and as plain functions.

    The registered ones are what compilers, exporters and everything else that looks at operations
    sees. Calling them costs more than calling the functions, which short sequences feel.
    """

    op: Any
    backward_op: Any
    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, ...]]

    def __call__(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The op's outputs, by the way that costs less where nobody looks."""
        watched = (
            torch.compiler.is_compiling()
            or _get_current_dispatch_mode() is not None
            or torch._C._are_functorch_transforms_active()
        )
        if watched or any(type(x) not in _PLAIN for x in inputs):
            return self.op(*inputs)
        return _Direct.apply(self, *inputs)


_PLAIN = (Tensor, torch.nn.Parameter, type(None), int, float, bool)


class _Direct(torch.autograd.Function):
    """A fused op called past PyTorch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, op: FusedOp, *inputs: Any) -> tuple[Tensor, ...]:
        output = op.forward(*inputs)
        ctx.op = op
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, dhs: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        # With create_graph the registered op refuses the second derivative.
        backward = ctx.op.backward_op if torch.is_grad_enabled() else ctx.op.backward
        return None, *_gradients(backward, ctx, dhs)


def register(
    name: str,
    forward: Callable[..., tuple[Tensor, ...]],
    forward_shapes: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., tuple[Tensor, ...]],
    backward_shapes: Callable[..., tuple[Tensor, ...]],
) -> FusedOp:
    """Tell PyTorch of an op and of its gradient, which has none itself.

    ``forward`` returns hs and whatever else it keeps; ``backward`` takes the gradient of hs, hs,
    weight, rates, norm_weight, static, the rest that was kept, T, S, flags and memory, and returns
    the gradients of drive, past, weight, rates, norm_weight, norm_bias and static. The functions
    of shapes take the same and return empty tensors of the same shapes.
    """
    op, backward_op = (
        torch.library.custom_op(f"fastweights::{full}", function, mutates_args=())
        for full, function in ((name, forward), (f"{name}_backward", backward))
    )
    op.register_fake(forward_shapes)
    backward_op.register_fake(backward_shapes)
    op.register_autograd(
        lambda ctx, dhs, *_: _gradients(backward_op, ctx, dhs), setup_context=_setup_context
    )
    backward_op.register_autograd(no_second_derivative)
    return FusedOp(op, backward_op, forward, backward)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    drive, _, weight, rates, norm_weight, _, static, steps, _, flags, memory, _ = inputs
    ctx.save_for_backward(weight, rates, norm_weight, static, *output)
    ctx.settings = (drive.shape[0], steps, flags, memory)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _gradients(
    backward: Callable[..., tuple[Tensor, ...]], ctx: Any, dhs: Tensor | None
) -> tuple[Tensor | None, ...]:
    """One for each input of the op."""
    nothing = (None,) * 12
    if dhs is None:
        return nothing
    weight, rates, norm_weight, static, hs, *kept = ctx.saved_tensors
    ddrive, dpast, dweight, drates, dgain, dbias, dstatic = backward(
        dhs, hs, weight, rates, norm_weight, static, *kept, *ctx.settings
    )
    normed = norm_weight is not None
    gradients = (
        ddrive,
        dpast,
        dweight,
        drates,
        dgain if normed else None,
        dbias if normed else None,
        None if static is None else dstatic,
    )
    return gradients + nothing[len(gradients) :]


def no_second_derivative(ctx: Any, *gradients: Tensor) -> None:
    raise NotImplementedError(
        "the fused fast-weights recurrence has no second derivative; "
        "backend='reference' has all of them"
    )

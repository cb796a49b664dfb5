"""The chunked form as one op for PyTorch, run by the Numba kernels on the CPU.

The op takes the decay as two tables with a row for every matrix that is carried: what a write of
age k still adds to it, and what is left of it after k steps. Their gradients go on to whatever
the decay depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastweights.decay import Decay
from fastweights.ops.fast_weights import fused_op
from fastweights.ops.fast_weights.attention_op import (
    LEARNED,
    flags_of,
    last_of,
    norms_of,
    past_the_end,
)
from fastweights.ops.fast_weights.numba_cpu import (
    address,
    lanes_for,
    needs_output,
    plain,
    why_not_here,
)
from fastweights.ops.fast_weights.options import LayerState, Options, SlowWeights
from fastweights.ops.fast_weights.reference import fold, steps_after

__all__ = ["chunked_form", "why_not"]


def why_not(drive: Tensor, decay: Decay, state: LayerState | None, options: Options) -> str | None:
    """The reason this call cannot run here, or None."""
    if not decay.stationary:
        return f"{type(decay).__name__} depends on the step index, not on the age alone"
    matrix = None if state is None else state.matrix
    if matrix is not None and not torch.compiler.is_compiling() and not _symmetric(matrix):
        return "the state's matrix is not symmetric, and it keeps one half of it"
    return why_not_here(drive, options)


def _symmetric(matrix: Tensor) -> bool:
    """Whether it is its own transpose, but for the rounding of the sums that made it."""
    slack = 64 * torch.finfo(matrix.dtype).eps
    with torch.no_grad():
        largest = matrix.abs().amax((-2, -1), keepdim=True)
        return not bool(((matrix - matrix.mT).abs() > slack * largest).any())


def chunked_form(
    drive: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState,
    options: Options,
    lengths: Tensor | None = None,
    *,
    chunk_size: int,
) -> tuple[Tensor, LayerState]:
    """As :func:`fastweights.ops.fast_weights.reference.chunked_form`, fused."""
    length, batch, width = drive.shape
    chunk_size = min(chunk_size, length)
    ages = torch.arange(chunk_size + 1)
    fades = decay.remaining(torch.zeros_like(ages), ages).t().to(drive.dtype)
    writes = write_rate * decay.write_shares().to(drive.dtype)[:, None]
    writes = writes * fades[:, :-1]
    start = fold(state, decay, write_rate, options)
    single = decay.components == 1
    start = start[:, None] if single else start
    drive, ended = past_the_end(drive, lengths, options)
    gain, norm_bias = weights.norm_weight, weights.norm_bias
    if options.layer_norm:
        gain = drive.new_ones(width) if gain is None else gain
        norm_bias = drive.new_zeros(width) if norm_bias is None else norm_bias
    ends = torch.full((batch,), length) if lengths is None else lengths
    inputs = (drive, state.hidden, weights.recurrent, writes, fades, gain, norm_bias, start)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    flags = flags_of(options) | LEARNED * (writes.requires_grad or fades.requires_grad)
    output, final, *_ = _chunked(*inputs, ends, options.inner_steps, options.norm_eps, flags, keep)
    hidden = output[-1]
    if ended is not None:
        hidden = last_of(state.hidden, output, ends)
        output = output.masked_fill(ended, 0.0)
    steps = steps_after(state.steps, length, lengths)
    return output, LayerState(hidden, steps, matrix=final[:, 0] if single else final)


def _kept_shapes(
    drive: Tensor, writes: Tensor, inner_steps: int, flags: int, keep: bool
) -> list[tuple[int, ...]]:
    """Shapes of queries, centred and states; the op hands them on flat."""
    length, batch, width = drive.shape
    components, chunk = writes.shape
    norms = norms_of(inner_steps, flags)
    size = (width + 7) // 8 * 8
    if not keep:
        return [(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0)]
    return [
        (length, inner_steps, batch, width),
        (length, norms, batch, width),
        ((length + chunk - 1) // chunk, batch, components * size * (size + 8) // 2),
    ]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for number in shape:
        size = size * number
    return size


def _forward(
    drive: Tensor,
    hidden: Tensor,
    weight: Tensor,
    writes: Tensor,
    fades: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    start: Tensor,
    ends: Tensor,
    inner_steps: int,
    norm_eps: float,
    flags: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output (T, B, H), the matrices at the end, and what the backward pass needs."""
    from fastweights.ops.fast_weights import numba_calls, numba_chunked_kernels

    length, batch, width = drive.shape
    components, chunk = writes.shape
    output = drive.new_empty(length, batch, width)
    final = torch.empty_like(start, memory_format=torch.contiguous_format)
    shapes = _kept_shapes(drive, writes, inner_steps, flags, keep)
    queries, centred, states = (drive.new_empty(_size(shape)) for shape in shapes)
    given = plain(
        drive, weight, norm_weight, norm_bias, writes.sum(0), writes, fades, hidden, start
    )
    sizes = (length, batch, width, components, chunk)
    last = ends.contiguous()
    addresses = [*map(address, (*given, output, final, queries, centred, states, last))]
    norms = norms_of(inner_steps, flags)
    parts = numba_chunked_kernels.forward_parts(width, components, chunk, inner_steps, norms)
    numba_calls.run(
        numba_chunked_kernels.forward, drive, batch, parts, sizes, addresses,
        inner_steps=inner_steps, eps=norm_eps, flags=flags, keep=keep,
    )  # fmt: skip
    return output, final, queries, centred, states


def _forward_shapes(
    drive: Tensor, hidden: Tensor, weight: Tensor, writes: Tensor, fades: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, start: Tensor, ends: Tensor,
    inner_steps: int, norm_eps: float, flags: int, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    shapes = _kept_shapes(drive, writes, inner_steps, flags, keep)
    return (
        drive.new_empty(drive.shape),
        torch.empty_like(start, memory_format=torch.contiguous_format),
        *(drive.new_empty(_size(shape)) for shape in shapes),
    )


def _backward(
    doutput: Tensor,
    dfinal: Tensor,
    output: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    writes: Tensor,
    fades: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    ends: Tensor,
    queries: Tensor,
    centred: Tensor,
    states: Tensor,
    inner_steps: int,
    norm_eps: float,
    flags: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of drive, hidden, weight, writes, fades, norm_weight, norm_bias and start."""
    from fastweights.ops.fast_weights import numba_calls, numba_chunked_kernels

    length, batch, width = doutput.shape
    components, chunk = writes.shape
    lanes = lanes_for(hidden)
    blocks = -(-batch // lanes)
    learned = int(bool(flags & LEARNED))
    ddrive, earlier = hidden.new_empty(doutput.shape), hidden.new_empty(doutput.shape)
    dhidden, dstart = hidden.new_empty(hidden.shape), hidden.new_empty(dfinal.shape)
    drates = hidden.new_zeros(blocks, learned, chunk, lanes)
    dwrites = hidden.new_zeros(blocks, learned * components, chunk, lanes)
    dfades = hidden.new_zeros(blocks, learned * components, chunk + 1, lanes)
    dgain, dbias = hidden.new_empty(2, blocks, width, lanes).unbind(0)
    given = plain(
        weight.t(), norm_weight, norm_bias, writes.sum(0), writes, fades, hidden, output, queries,
        centred, states, doutput, (dfinal + dfinal.mT) / 2,
    )  # fmt: skip
    taken = (ddrive, dhidden, dstart, drates, dwrites, dfades, dgain, dbias, earlier)
    sizes = (length, batch, width, components, chunk)
    last = ends.contiguous()
    addresses = [*map(address, (*given, *taken, last))]
    norms = norms_of(inner_steps, flags)
    parts = numba_chunked_kernels.backward_parts(width, components, chunk, inner_steps, norms)
    numba_calls.run(
        numba_chunked_kernels.backward, hidden, batch, parts, sizes, addresses,
        inner_steps=inner_steps, eps=norm_eps, flags=flags,
    )  # fmt: skip
    return (
        ddrive,
        dhidden,
        ddrive.flatten(0, 1).t() @ earlier.flatten(0, 1),
        dwrites.sum((0, 3)) + drates.sum((0, 3)),
        dfades.sum((0, 3)),
        dgain.sum((0, 2)),
        dbias.sum((0, 2)),
        dstart,
    )


def _backward_shapes(
    doutput: Tensor, dfinal: Tensor, output: Tensor | None, hidden: Tensor, weight: Tensor,
    writes: Tensor, fades: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None,
    ends: Tensor, queries: Tensor, centred: Tensor, states: Tensor, inner_steps: int,
    norm_eps: float, flags: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    width, learned = hidden.shape[1], int(bool(flags & LEARNED))
    return (
        hidden.new_empty(doutput.shape),
        hidden.new_empty(hidden.shape),
        torch.empty_like(weight),
        writes.new_empty(learned * writes.shape[0], writes.shape[1]),
        fades.new_empty(learned * fades.shape[0], fades.shape[1]),
        hidden.new_empty(width),
        hidden.new_empty(width),
        hidden.new_empty(dfinal.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    drive, hidden, weight, writes, fades, gain, bias, _, ends, steps, eps, flags, _ = inputs
    result, final, *kept = output
    seen = result if needs_output(steps, flags) else None
    ctx.save_for_backward(seen, hidden, weight, writes, fades, gain, bias, ends, *kept)
    ctx.settings = (steps, eps, flags)
    ctx.shapes = (drive.shape, final.shape)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)


def _gradients(
    backward: Callable[..., tuple[Tensor, ...]],
    ctx: Any,
    doutput: Tensor | None,
    dfinal: Tensor | None,
    *_: None,
) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 13
    if doutput is None and dfinal is None:
        return nothing
    saved = ctx.saved_tensors
    hidden, gain = saved[1], saved[5]
    whole, last = ctx.shapes
    doutput = hidden.new_zeros(whole) if doutput is None else doutput
    dfinal = hidden.new_zeros(last) if dfinal is None else dfinal
    learned = ctx.settings[2] & LEARNED
    ddrive, dhidden, dweight, dwrites, dfades, dgain, dbias, dstart = backward(
        doutput, dfinal, *saved, *ctx.settings
    )
    gradients = (
        ddrive,
        dhidden,
        dweight,
        dwrites if learned else None,
        dfades if learned else None,
        None if gain is None else dgain,
        None if gain is None else dbias,
        dstart,
    )
    return gradients + nothing[len(gradients) :]


_chunked = fused_op.register(
    "chunked_form",
    _forward,
    _forward_shapes,
    _backward,
    _backward_shapes,
    _setup_context,
    _gradients,
)

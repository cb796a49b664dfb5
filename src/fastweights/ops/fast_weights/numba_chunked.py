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
from fastweights.ops.dispatch import dispatch_is_traced
from fastweights.ops.fast_weights import fused_op
from fastweights.ops.fast_weights.attention_op import (
    INPUT,
    LEARNED,
    flags_of,
    last_of,
    norms_of,
    past_the_end,
    source_like,
    source_of,
)
from fastweights.ops.fast_weights.numba_cpu import (
    addresses_of,
    lanes_for,
    multiplied_here,
    needs_output,
    plain,
    why_not_here,
)
from fastweights.ops.fast_weights.options import Drive, LayerState, Options, SlowWeights
from fastweights.ops.fast_weights.reference import constant_before, fold, steps_after

__all__ = ["chunked_form", "why_not"]


def why_not(
    drive: Tensor | Drive, decay: Decay, state: LayerState | None, options: Options
) -> str | None:
    """The reason this call cannot run here, or None."""
    if not decay.stationary:
        return f"{type(decay).__name__} depends on the step index, not on the age alone"
    matrix = None if state is None else state.matrix
    if matrix is not None and not dispatch_is_traced() and not _symmetric(matrix):
        return "the state's matrix is not symmetric, and it keeps one half of it"
    return why_not_here(drive, options)


def _symmetric(matrix: Tensor) -> bool:
    """Whether it is its own transpose, but for the rounding of the sums that made it."""
    slack = 64 * torch.finfo(matrix.dtype).eps
    with torch.no_grad():
        largest = matrix.abs().amax((-2, -1), keepdim=True)
        return not bool(((matrix - matrix.mT).abs() > slack * largest).any())


def chunked_form(
    drive: Tensor | Drive,
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
    ages = torch.arange(chunk_size + 1, device=drive.device)
    fades = decay.remaining(torch.zeros_like(ages), ages).t().to(drive.dtype)
    writes = write_rate * decay.write_shares().to(drive.dtype)[:, None]
    writes = writes * fades[:, :-1]
    start = fold(state, decay, write_rate, options, cut=constant_before(state, decay, write_rate))
    single = decay.components == 1
    start = start[:, None] if single else start
    drive, ended = past_the_end(multiplied_here(drive), lengths, options)
    source, matrix, bias = source_of(drive)
    gain, norm_bias = weights.norm_weight, weights.norm_bias
    if options.layer_norm:
        gain = source.new_ones(width) if gain is None else gain
        norm_bias = source.new_zeros(width) if norm_bias is None else norm_bias
    ends = torch.full((batch,), length, device=source.device) if lengths is None else lengths
    inputs = (
        source, state.hidden, weights.recurrent, writes, fades, gain, norm_bias, start, matrix, bias
    )  # fmt: skip
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    flags = flags_of(options)
    output, final, *_ = _chunked(*inputs, ends, options.inner_steps, options.norm_eps, flags, keep)
    hidden = output[-1]
    if ended is not None:
        hidden = last_of(state.hidden, output, ends)
        output = output.masked_fill(ended, 0.0)
    steps = steps_after(state.steps, length, lengths)
    return output, LayerState(hidden, steps, matrix=final[:, 0] if single else final)


def _kept_shapes(
    shape: tuple[int, int, int], writes: Tensor, inner_steps: int, flags: int, keep: bool
) -> list[tuple[int, ...]]:
    """Of queries, centred and states for an output of this shape; the op hands them on flat."""
    length, batch, width = shape
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
    source: Tensor,
    hidden: Tensor,
    weight: Tensor,
    writes: Tensor,
    fades: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    start: Tensor,
    matrix: Tensor | None,
    bias: Tensor | None,
    ends: Tensor,
    inner_steps: int,
    norm_eps: float,
    flags: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output (T, B, H), the matrices at the end, and what the backward pass needs."""
    from fastweights.ops.fast_weights import numba_calls, numba_chunked_kernels

    length, batch, _ = source.shape
    width, features = weight.shape[0], 0 if matrix is None else source.shape[2]
    components, chunk = writes.shape
    output = source.new_empty(length, batch, width)
    final = torch.empty_like(start, memory_format=torch.contiguous_format)
    shapes = _kept_shapes((length, batch, width), writes, inner_steps, flags, keep)
    queries, centred, states = (source.new_empty(_size(shape)) for shape in shapes)
    given = plain(
        source, matrix, bias, weight, norm_weight, norm_bias, writes.sum(0), writes, fades, hidden,
        start,
    )  # fmt: skip
    sizes = (length, batch, width, features, 0 if bias is None else width, components, chunk)
    last = ends.contiguous()
    addresses = addresses_of(*given, output, final, queries, centred, states, last)
    norms = norms_of(inner_steps, flags)
    parts = numba_chunked_kernels.forward_parts(
        width, features, components, chunk, inner_steps, norms
    )
    numba_calls.run(
        numba_chunked_kernels.forward, source, batch, parts, sizes, addresses,
        inner_steps=inner_steps, eps=norm_eps, flags=flags, keep=keep,
    )  # fmt: skip
    return output, final, queries, centred, states


def _forward_shapes(
    source: Tensor, hidden: Tensor, weight: Tensor, writes: Tensor, fades: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, start: Tensor, matrix: Tensor | None,
    bias: Tensor | None, ends: Tensor, inner_steps: int, norm_eps: float, flags: int, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    length, batch, _ = source.shape
    shape = length, batch, weight.shape[0]
    return (
        source.new_empty(shape),
        torch.empty_like(start, memory_format=torch.contiguous_format),
        *(
            source.new_empty(_size(kept))
            for kept in _kept_shapes(shape, writes, inner_steps, flags, keep)
        ),
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
    source: Tensor | None,
    matrix: Tensor | None,
    bias: Tensor | None,
    ends: Tensor,
    queries: Tensor,
    centred: Tensor,
    states: Tensor,
    inner_steps: int,
    norm_eps: float,
    flags: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of source, hidden, weight, writes, fades, norm_weight, norm_bias, start, matrix
    and bias."""
    from fastweights.ops.fast_weights import numba_calls, numba_chunked_kernels, numba_products

    length, batch, width = doutput.shape
    features = 0 if source is None else source.shape[2]
    components, chunk = writes.shape
    lanes = lanes_for(hidden)
    blocks = -(-batch // lanes)
    learned = int(bool(flags & LEARNED))
    gradients = _gradients_like(doutput, dfinal, hidden, weight, writes, fades, matrix, bias, flags)
    dsource, dhidden, dweight, _, _, dgain, dbias, dstart, dmatrix, dinput_bias = gradients
    drates = hidden.new_zeros(blocks, learned, chunk, lanes)
    dwrites = hidden.new_zeros(blocks, learned * components, chunk, lanes)
    dfades = hidden.new_zeros(blocks, learned * components, chunk + 1, lanes)
    shape = numba_products.shape_of(blocks, width, features, lanes)
    sums = hidden.new_empty(shape.groups * shape.size)
    back = matrix.t() if matrix is not None and flags & INPUT else None
    given = plain(
        source, back, weight.t(), norm_weight, norm_bias, writes.sum(0), writes, fades, hidden,
        output, queries, centred, states, doutput, (dfinal + dfinal.mT) / 2,
    )  # fmt: skip
    taken = (
        dsource, dhidden, dstart, dweight, dmatrix, dinput_bias, dgain, dbias, sums, drates,
        dwrites, dfades,
    )  # fmt: skip
    biases = 0 if bias is None else width
    sizes = (length, batch, width, features, biases, components, chunk, *shape)
    last = ends.contiguous()
    addresses = addresses_of(*given, *taken, last)
    norms = norms_of(inner_steps, flags)
    parts = numba_chunked_kernels.backward_parts(
        width, features, components, chunk, inner_steps, norms, shape, lanes
    )
    numba_calls.run(
        numba_chunked_kernels.backward, hidden, batch, parts, sizes, addresses,
        inner_steps=inner_steps, eps=norm_eps, flags=flags,
    )  # fmt: skip
    return (
        dsource,
        dhidden,
        dweight,
        dwrites.sum((0, 3)) + drates.sum((0, 3)),
        dfades.sum((0, 3)),
        dgain,
        dbias,
        dstart,
        dmatrix,
        dinput_bias,
    )


def _gradients_like(
    doutput: Tensor, dfinal: Tensor, hidden: Tensor, weight: Tensor, writes: Tensor, fades: Tensor,
    matrix: Tensor | None, bias: Tensor | None, flags: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What :func:`_backward` returns, empty."""
    width, learned = hidden.shape[1], int(bool(flags & LEARNED))
    return (
        source_like(doutput, matrix, flags),
        hidden.new_empty(hidden.shape),
        weight.new_empty(weight.shape),
        writes.new_empty(learned * writes.shape[0], writes.shape[1]),
        fades.new_empty(learned * fades.shape[0], fades.shape[1]),
        hidden.new_empty(width),
        hidden.new_empty(width),
        hidden.new_empty(dfinal.shape),
        *(hidden.new_empty(0 if x is None else x.shape) for x in (matrix, bias)),
    )


def _backward_shapes(
    doutput: Tensor, dfinal: Tensor, output: Tensor | None, hidden: Tensor, weight: Tensor,
    writes: Tensor, fades: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None,
    source: Tensor | None, matrix: Tensor | None, bias: Tensor | None, ends: Tensor,
    queries: Tensor, centred: Tensor, states: Tensor, inner_steps: int, norm_eps: float, flags: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    return _gradients_like(doutput, dfinal, hidden, weight, writes, fades, matrix, bias, flags)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    source, *tensors, _, matrix, bias, ends, steps, eps, flags, keep = inputs
    result, final, *kept = output
    seen = result if needs_output(steps, flags) else None
    product = (None if matrix is None else source, matrix, bias)
    fused_op.save(ctx, keep, [seen, *tensors, *product, ends, *kept])
    ctx.settings = (steps, eps, flags)
    ctx.shapes = (result.shape, final.shape)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)


def _gradients(
    backward: Callable[..., tuple[Tensor, ...]],
    ctx: Any,
    doutput: Tensor | None,
    dfinal: Tensor | None,
    *_: None,
) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 15
    if doutput is None and dfinal is None:
        return nothing
    saved = fused_op.load(ctx)
    hidden, gain, matrix, bias = saved[1], saved[5], saved[8], saved[9]
    whole, last = ctx.shapes
    doutput = hidden.new_zeros(whole) if doutput is None else doutput
    dfinal = hidden.new_zeros(last) if dfinal is None else dfinal
    inner_steps, eps, flags = ctx.settings
    flags = flags | INPUT * ctx.needs[0] | LEARNED * (ctx.needs[3] or ctx.needs[4])
    dsource, dhidden, dweight, dwrites, dfades, dgain, dbias, dstart, dmatrix, dinput_bias = (
        backward(doutput, dfinal, *saved, inner_steps, eps, flags)
    )
    gradients = (
        dsource if flags & INPUT else None,
        dhidden,
        dweight,
        dwrites if flags & LEARNED else None,
        dfades if flags & LEARNED else None,
        None if gain is None else dgain,
        None if gain is None else dbias,
        dstart,
        None if matrix is None else dmatrix,
        None if bias is None else dinput_bias,
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

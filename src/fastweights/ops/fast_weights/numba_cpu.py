"""The attention form as one op for PyTorch, run by the Numba kernels on the CPU."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from fastweights.decay import Decay
from fastweights.ops.fast_weights import attention_op, fused_op
from fastweights.ops.fast_weights.attention_op import (
    INPUT,
    LEARNED,
    NORM,
    norms_of,
)
from fastweights.ops.fast_weights.options import Drive, LayerState, Options, SlowWeights
from fastweights.ops.threads import threads_for

__all__ = [
    "addresses_of",
    "attention_form",
    "lanes_for",
    "multiplied_here",
    "needs_output",
    "plain",
    "why_not",
    "why_not_here",
]

# Beyond so many features C does not stay near from one step to the next.
_WIDEST_INPUT = 512


def why_not(drive: Tensor | Drive, state: LayerState | None, options: Options) -> str | None:
    """The reason this call cannot run here, or None."""
    return why_not_here(drive, options) or attention_op.why_not(state, options)


def why_not_here(drive: Tensor | Drive, options: Options) -> str | None:
    """The reason no form can run these numbers here, or None."""
    if drive.device.type != "cpu":
        return f"it runs on CPU tensors, got {drive.device.type}"
    if drive.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, got {drive.dtype}"
    if options.nonlinearity != "relu":
        return f"nonlinearity={options.nonlinearity!r} is left to the reference"
    return None


def multiplied_here(drive: Tensor | Drive) -> Tensor | Drive:
    """A drive that the kernels may multiply out, or the product if it is one for BLAS."""
    if isinstance(drive, Drive) and drive.weight.shape[1] > _WIDEST_INPUT:
        return drive.product()
    return drive


def attention_form(
    drive: Tensor | Drive,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState | None,
    options: Options,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """As :func:`fastweights.ops.fast_weights.reference.attention_form`, fused."""
    return attention_op.run(
        _attention, multiplied_here(drive), weights, decay, write_rate, state, options, lengths,
        multiplies=True,
    )  # fmt: skip


def _kept(
    like: Tensor, keep: bool, length: int, batch: int, width: int, steps: int, flags: int
) -> tuple[Tensor, Tensor]:
    """Empty queries and centred; without ``keep`` of one step, and a block for each thread.

    They are flat: a dimension that may be 1 would bind an exported program to it.
    """
    lanes = lanes_for(like)
    blocks = (batch + lanes - 1) // lanes
    slots, kept = (blocks, length) if keep else (threads_for(blocks), 1)
    row = slots * kept * width * lanes
    return like.new_empty(max(steps, 1) * row), like.new_empty(norms_of(steps, flags) * row)


def _by_lane(rates: Tensor, lanes: int) -> tuple[Tensor, tuple[int, int, int]]:
    """A table as the kernels take it, (R, ages, 1), or with a column for each lane of all blocks.

    What lanes beyond the batch get does not matter.
    """
    samples, rows, ages = rates.shape
    if samples == 1:
        return rates, (rows, ages, 1)
    return functional.pad(rates.permute(1, 2, 0), (0, lanes - samples)), (rows, ages, lanes)


def _of_samples(drates: Tensor, rates: Tensor, lanes: int) -> Tensor:
    """The gradient of a table from what each block has of it, (blocks, R · ages · lanes)."""
    samples, *shape = rates.shape
    apart = drates.view(-1, *shape, lanes)
    if samples == 1:
        return apart.sum((0, 3))[None]
    return apart.permute(0, 3, 1, 2).flatten(0, 1)[:samples]


def lanes_for(drive: Tensor) -> int:
    return _lanes_of(drive.element_size())


@functools.cache
def _lanes_of(itemsize: int) -> int:
    from fastweights.ops.simd import lanes_of  # numba takes long to import

    return lanes_of(itemsize)


def addresses_of(*tensors: Tensor | None) -> list[int]:
    """Where their numbers stand in memory; 0 where there is no tensor."""
    return [0 if x is None else x.data_ptr() for x in tensors]


def _forward(
    source: Tensor,
    past: Tensor | None,
    weight: Tensor,
    rates: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    static: Tensor | None,
    matrix: Tensor | None,
    bias: Tensor | None,
    inner_steps: int,
    norm_eps: float,
    flags: int,
    memory: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output (T, B, H) that follows on ``past`` (M + 1, B, H), the written vectors for the
    next call, and what backward needs."""
    from fastweights.ops.fast_weights import numba_calls, numba_kernels

    length, batch, _ = source.shape
    width, features = weight.shape[0], 0 if matrix is None else source.shape[2]
    lanes = lanes_for(source)
    blocks = -(-batch // lanes)
    output = source.new_empty(length, batch, width)
    written = attention_op.written_like(output, past, memory)
    queries, centred = _kept(source, keep, length, batch, width, inner_steps, flags)
    table, shape = _by_lane(rates, blocks * lanes)
    given = plain(source, matrix, bias, past, weight, norm_weight, norm_bias, table, static)
    known = 0 if past is None else past.shape[0]
    sizes = (length, batch, width, features, 0 if bias is None else width, known, *shape)
    addresses = addresses_of(*given, output, queries, centred, written)
    parts = numba_kernels.forward_parts(max(known, 1) + length, width, features)
    numba_calls.run(
        numba_kernels.forward, source, batch, parts, sizes, addresses, inner_steps=inner_steps,
        eps=norm_eps, flags=flags, memory=memory, keep=keep,
    )  # fmt: skip
    if not keep:
        return output, written, source.new_empty(0), source.new_empty(0)
    return output, written, queries, centred


def plain(*tensors: Tensor | None) -> list[Tensor | None]:
    """The same numbers, contiguous; whoever holds their addresses must hold them too."""
    # Most are contiguous, and asking costs less than a copy that is none.
    return [x if x is None or x.is_contiguous() else x.contiguous() for x in tensors]


def _forward_shapes(
    source: Tensor, past: Tensor | None, weight: Tensor, rates: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, static: Tensor | None, matrix: Tensor | None, bias: Tensor | None,
    inner_steps: int, norm_eps: float, flags: int, memory: int, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    length, batch, _ = source.shape
    width = weight.shape[0]
    output = source.new_empty(length, batch, width)
    written = attention_op.written_like(output, past, memory)
    if not keep:
        return output, written, source.new_empty(0), source.new_empty(0)
    return output, written, *_kept(source, keep, length, batch, width, inner_steps, flags)


def needs_output(inner_steps: int, flags: int) -> bool:
    """Unless layer norm comes last: then h is worked out again from what it saw."""
    return not (flags & NORM and inner_steps)


def _backward(
    doutput: Tensor,
    output: Tensor | None,
    past: Tensor | None,
    weight: Tensor,
    rates: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    static: Tensor | None,
    source: Tensor | None,
    matrix: Tensor | None,
    bias: Tensor | None,
    queries: Tensor,
    centred: Tensor,
    inner_steps: int,
    norm_eps: float,
    flags: int,
    memory: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of source, past, weight, rates, norm_weight, norm_bias, static, matrix and bias."""
    from fastweights.ops.fast_weights import numba_calls, numba_kernels, numba_products

    length, batch, width = doutput.shape
    features = 0 if source is None else source.shape[2]
    lanes = lanes_for(doutput)
    blocks = -(-batch // lanes)
    gradients = attention_op.gradients_like(
        doutput, past, weight, rates, static, flags, matrix, bias
    )
    dsource, dpast, dweight, drates, dgain, dbias, dstatic, dmatrix, dinput_bias = gradients
    table, shape = _by_lane(rates, blocks * lanes)
    back = matrix.t() if matrix is not None and flags & INPUT else None
    given = plain(
        source, back, past, weight.t(), norm_weight, norm_bias, table,
        None if static is None else static.t(), output, queries, centred, doutput,
    )  # fmt: skip
    of_rates = dread = asked = None
    if flags & LEARNED:
        of_rates = weight.new_zeros(blocks * drates[:1].numel(), lanes)
    if static is not None:
        dread, asked = weight.new_empty(2, inner_steps, length, batch, width).unbind(0)
    sums_shape = numba_products.shape_of(blocks, width, features, lanes)
    sums = weight.new_empty(sums_shape.groups * sums_shape.size)
    taken = (
        dsource, dpast, of_rates, dread, asked, dweight, dmatrix, dinput_bias, dgain, dbias, sums
    )  # fmt: skip
    known = 0 if past is None else past.shape[0]
    biases = 0 if bias is None else width
    sizes = (length, batch, width, features, biases, known, *shape, *sums_shape)
    addresses = addresses_of(*given, *taken)
    parts = numba_kernels.backward_parts(max(known, 1) + length, width, features, sums_shape, lanes)
    numba_calls.run(
        numba_kernels.backward, doutput, batch, parts, sizes, addresses,
        inner_steps=inner_steps, eps=norm_eps, flags=flags, memory=memory,
    )  # fmt: skip
    if of_rates is not None:
        drates = _of_samples(of_rates, rates, lanes)
    if dread is not None and asked is not None:
        dstatic = dread.flatten(0, 2).t() @ asked.flatten(0, 2)
    return dsource, dpast, dweight, drates, dgain, dbias, dstatic, dmatrix, dinput_bias


def _backward_shapes(
    doutput: Tensor, output: Tensor | None, past: Tensor | None, weight: Tensor, rates: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, static: Tensor | None,
    source: Tensor | None, matrix: Tensor | None, bias: Tensor | None, queries: Tensor,
    centred: Tensor, inner_steps: int, norm_eps: float, flags: int, memory: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    return attention_op.gradients_like(doutput, past, weight, rates, static, flags, matrix, bias)


_attention = fused_op.register(
    "attention_form",
    _forward,
    _forward_shapes,
    _backward,
    _backward_shapes,
    attention_op.keeping(needs_output),
    attention_op.gradients,
)

"""The attention form as one op for PyTorch, run by the Numba kernels on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fastweights.decay import Decay
from fastweights.ops.fast_weights import attention_op, fused_op
from fastweights.ops.fast_weights.attention_op import (
    LEARNED,
    NORM,
    STATIC,
    norms_of,
)
from fastweights.ops.fast_weights.options import LayerState, Options, SlowWeights
from fastweights.ops.threads import threads_for

__all__ = [
    "address",
    "attention_form",
    "lanes_for",
    "needs_output",
    "plain",
    "why_not",
    "why_not_here",
]


def why_not(drive: Tensor, state: LayerState | None, options: Options) -> str | None:
    """The reason this call cannot run here, or None."""
    return why_not_here(drive, options) or attention_op.why_not(state, options)


def why_not_here(drive: Tensor, options: Options) -> str | None:
    """The reason no form can run these numbers here, or None."""
    if drive.device.type != "cpu":
        return f"it runs on CPU tensors, got {drive.device.type}"
    if drive.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, got {drive.dtype}"
    if options.nonlinearity != "relu":
        return f"nonlinearity={options.nonlinearity!r} is left to the reference"
    return None


def attention_form(
    drive: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState | None,
    options: Options,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """As :func:`fastweights.ops.fast_weights.reference.attention_form`, fused."""
    return attention_op.run(_attention, drive, weights, decay, write_rate, state, options, lengths)


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


def _by_lane(rates: Tensor, lanes: int) -> Tensor:
    """A table as the kernels take it, (R, ages, 1), or with a column for each lane of all blocks.

    What lanes beyond the batch get does not matter.
    """
    table = rates.permute(1, 2, 0)
    extra = 0 if rates.shape[0] == 1 else lanes - rates.shape[0]
    return functional.pad(table, (0, extra)) if extra else table


def _of_samples(drates: Tensor, rates: Tensor, lanes: int) -> Tensor:
    """The gradient of a table from what each block has of it, (blocks, R · ages · lanes)."""
    samples, *shape = rates.shape
    apart = drates.view(-1, *shape, lanes)
    if samples == 1:
        return apart.sum((0, 3))[None]
    return apart.permute(0, 3, 1, 2).flatten(0, 1)[:samples]


def lanes_for(drive: Tensor) -> int:
    from fastweights.ops.simd import lanes_of  # numba takes long to import

    return lanes_of(drive.element_size())


def address(tensor: Tensor | None) -> int:
    """Where its numbers stand in memory; 0 where there is no tensor."""
    return 0 if tensor is None else tensor.data_ptr()


def _forward(
    drive: Tensor,
    past: Tensor | None,
    weight: Tensor,
    rates: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    static: Tensor | None,
    inner_steps: int,
    norm_eps: float,
    flags: int,
    memory: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output (T, B, H) that follows on ``past`` (M + 1, B, H), the written vectors for the
    next call, and what backward needs."""
    from fastweights.ops.fast_weights import numba_calls, numba_kernels

    length, batch, width = drive.shape
    lanes = lanes_for(drive)
    blocks = -(-batch // lanes)
    output = torch.empty_like(drive, memory_format=torch.contiguous_format)
    written = attention_op.written_like(drive, past, memory)
    queries, centred = _kept(drive, keep, length, batch, width, inner_steps, flags)
    table = _by_lane(rates, blocks * lanes)
    given = plain(drive, past, weight, norm_weight, norm_bias, table, static)
    sizes = (length, batch, width, 0 if past is None else past.shape[0], *table.shape)
    addresses = (*map(address, given), *map(address, (output, queries, centred, written)))
    rows = numba_kernels.scratch_rows(max(sizes[3], 1) + length, width, backwards=False)
    numba_calls.run(
        numba_kernels.forward, drive, batch, (rows,), sizes, addresses, inner_steps=inner_steps,
        eps=norm_eps, flags=flags, memory=memory, keep=keep,
    )  # fmt: skip
    if not keep:
        return output, written, drive.new_empty(0), drive.new_empty(0)
    return output, written, queries, centred


def plain(*tensors: Tensor | None) -> list[Tensor | None]:
    """The same numbers, contiguous; whoever holds their addresses must hold them too."""
    return [None if x is None else x.contiguous() for x in tensors]


def _forward_shapes(
    drive: Tensor, past: Tensor | None, weight: Tensor, rates: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, static: Tensor | None, inner_steps: int, norm_eps: float,
    flags: int, memory: int, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    given = drive.new_empty(drive.shape), attention_op.written_like(drive, past, memory)
    if not keep:
        return *given, drive.new_empty(0), drive.new_empty(0)
    length, batch, width = drive.shape
    return *given, *_kept(drive, keep, length, batch, width, inner_steps, flags)


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
    queries: Tensor,
    centred: Tensor,
    inner_steps: int,
    norm_eps: float,
    flags: int,
    memory: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of drive, past, weight, rates, norm_weight, norm_bias and static."""
    from fastweights.ops.fast_weights import numba_calls, numba_kernels

    length, batch, width = doutput.shape
    lanes = lanes_for(doutput)
    blocks = -(-batch // lanes)
    is_static = memory == STATIC
    ddrive, dpast, dweight, drates, dgain, dbias, dstatic = attention_op.gradients_like(
        doutput, past, weight, rates, static, flags
    )
    hidden = doutput.new_empty(length * batch, width)
    table = _by_lane(rates, blocks * lanes)
    given = plain(
        past, weight.t(), norm_weight, norm_bias, table, None if static is None else static.t(),
        output, queries, centred, doutput,
    )  # fmt: skip
    of_rates = None
    if flags & LEARNED:
        of_rates = weight.new_zeros(blocks * drates[:1].numel(), lanes)
    of_gain, of_bias = weight.new_empty(2, blocks, width, lanes).unbind(0)
    dread = asked = None
    if is_static:
        dread, asked = weight.new_empty(2, inner_steps, length, batch, width).unbind(0)
    taken = (ddrive, dpast, hidden, of_rates, of_gain, of_bias, dread, asked)
    sizes = (length, batch, width, 0 if past is None else past.shape[0], *table.shape)
    addresses = (*map(address, given), *map(address, taken))
    rows = numba_kernels.scratch_rows(max(sizes[3], 1) + length, width, backwards=True)
    numba_calls.run(
        numba_kernels.backward, doutput, batch, (rows,), sizes, addresses,
        inner_steps=inner_steps, eps=norm_eps, flags=flags, memory=memory,
    )  # fmt: skip
    torch.mm(ddrive.view(-1, width).t(), hidden, out=dweight)
    torch.sum(of_gain, (0, 2), out=dgain)
    torch.sum(of_bias, (0, 2), out=dbias)
    if of_rates is not None:
        drates = _of_samples(of_rates, rates, lanes)
    if dread is not None and asked is not None:
        dstatic = dread.flatten(0, 2).t() @ asked.flatten(0, 2)
    return ddrive, dpast, dweight, drates, dgain, dbias, dstatic


def _backward_shapes(
    doutput: Tensor, output: Tensor | None, past: Tensor | None, weight: Tensor, rates: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, static: Tensor | None, queries: Tensor,
    centred: Tensor, inner_steps: int, norm_eps: float, flags: int, memory: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    return attention_op.gradients_like(doutput, past, weight, rates, static, flags)


_attention = fused_op.register(
    "attention_form",
    _forward,
    _forward_shapes,
    _backward,
    _backward_shapes,
    attention_op.keeping(needs_output),
    attention_op.gradients,
)

"""The attention form as one op for PyTorch, run by the Numba kernels on the CPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastweights.decay import Decay
from fastweights.ops.fast_weights import attention_op
from fastweights.ops.fast_weights.attention_op import (
    AFTER_READ,
    DETACH,
    NORM,
    NORM_PRELIMINARY,
    PREVIOUS,
    norms_of,
)
from fastweights.ops.fast_weights.options import LayerState, Options, SlowWeights

__all__ = [
    "array",
    "attention_form",
    "for_each_block",
    "lanes_for",
    "share_out",
    "why_not",
    "why_not_here",
]


def why_not(drive: Tensor, state: LayerState, options: Options) -> str | None:
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
    write_rate: Tensor,
    state: LayerState,
    options: Options,
    lengths: Tensor | None = None,
) -> tuple[Tensor, LayerState]:
    """As :func:`fastweights.ops.fast_weights.reference.attention_form`, fused."""
    return attention_op.run(_attention, drive, weights, decay, write_rate, state, options, lengths)


@functools.cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    # Keyed by process: a pool does not survive a fork.
    return ThreadPoolExecutor(count, thread_name_prefix="fastweights")


def share_out(blocks: int, work: Callable[[int, int], None]) -> None:
    """Run ``work(start, stride)`` on as many threads as torch may use: a share of blocks each."""
    count = min(torch.get_num_threads(), blocks)
    if count <= 1:
        work(0, 1)
        return
    pool = _threads(os.getpid(), torch.get_num_threads())
    others = [pool.submit(work, start, count) for start in range(1, count)]
    work(0, count)
    for other in others:
        other.result()


def for_each_block(blocks: int, work: Callable[[int], None]) -> None:
    """Run ``work`` for every block, on as many threads as torch may use."""

    def share(start: int, stride: int) -> None:
        for block in range(start, blocks, stride):
            work(block)

    share_out(blocks, share)


def array(tensor: Tensor | None, like: Tensor, *shape: int) -> Any:
    """A contiguous NumPy view; zeros of ``shape`` where there is no tensor."""
    if tensor is None:
        return like.new_zeros(shape).numpy()
    return tensor.detach().contiguous().numpy()


def _kept_sizes(
    keep: bool,
    blocks: int,
    length: int,
    width: int,
    steps: int,
    flags: int,
    lanes: int,
) -> list[tuple[int, int]]:
    """Shapes of queries, normed and scales; of one block and step without ``keep``.

    The op hands them on flat: a dimension that may be 1 would bind an exported program to it.
    """
    slots, kept = (blocks, length) if keep else (min(blocks, torch.get_num_threads()), 1)
    row = width * lanes
    norms = norms_of(steps, flags)
    return [
        (slots, kept * max(steps, 1) * row),
        (slots, kept * norms * row),
        (slots, kept * norms * lanes),
    ]


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


def _forward(
    drive: Tensor,
    past: Tensor,
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
    """hs (M + T + 1, B, H), which starts with ``past``, and what the backward pass needs."""
    from fastweights.ops.fast_weights import numba_kernels

    length, batch, width = drive.shape
    lanes = lanes_for(drive)
    blocks = -(-batch // lanes)
    hs = drive.new_empty(past.shape[0] + length, batch, width)
    hs[: past.shape[0]] = past
    sizes = _kept_sizes(keep, blocks, length, width, inner_steps, flags, lanes)
    saved = [drive.new_empty(rows * row) for rows, row in sizes]
    arrays = (
        array(drive, drive),
        array(weight, drive),
        array(norm_weight, drive, width),
        array(norm_bias, drive, width),
        array(_by_lane(rates, blocks * lanes), drive),
        array(static, drive, 0, 0),
        hs.numpy(),
        *(tensor.view(size).numpy() for tensor, size in zip(saved, sizes, strict=True)),
    )

    def work(start: int, stride: int) -> None:
        numba_kernels.forward(
            start, stride, blocks, lanes, memory, bool(flags & NORM),
            bool(flags & NORM_PRELIMINARY), bool(flags & PREVIOUS), bool(flags & AFTER_READ),
            keep, norm_eps, inner_steps, *arrays,
        )  # fmt: skip

    share_out(blocks, work)
    if not keep:
        saved = [drive.new_empty(0) for _ in saved]
    queries, normed, scales = saved
    return hs, queries, normed, scales


def _forward_shapes(
    drive: Tensor, past: Tensor, weight: Tensor, rates: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, static: Tensor | None, inner_steps: int, norm_eps: float,
    flags: int, memory: int, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    length, batch, width = drive.shape
    lanes = lanes_for(drive)
    blocks = (batch + lanes - 1) // lanes
    hs = drive.new_empty(past.shape[0] + length, batch, width)
    if not keep:
        return hs, *(drive.new_empty(0) for _ in range(3))
    sizes = _kept_sizes(keep, blocks, length, width, inner_steps, flags, lanes)
    return hs, *(drive.new_empty(rows * row) for rows, row in sizes)


def _backward(
    dhs: Tensor,
    hs: Tensor,
    weight: Tensor,
    rates: Tensor,
    norm_weight: Tensor | None,
    static: Tensor | None,
    queries: Tensor,
    normed: Tensor,
    scales: Tensor,
    length: int,
    inner_steps: int,
    flags: int,
    memory: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of drive, past, weight, rates, norm_weight, norm_bias and static."""
    from fastweights.ops.fast_weights import numba_kernels

    batch, width = hs.shape[1:]
    lanes = lanes_for(hs)
    blocks = -(-batch // lanes)
    start = hs.shape[0] - length
    sizes = _kept_sizes(True, blocks, length, width, inner_steps, flags, lanes)
    kept = zip((queries, normed, scales), sizes, strict=True)
    is_static = memory == numba_kernels.STATIC
    ddrive, dpast = hs.new_empty(length, batch, width), hs.new_empty(start, batch, width)
    drates = hs.new_zeros(blocks, rates[0].numel() * lanes)
    dgain, dbias = hs.new_zeros(2, blocks, width * lanes).unbind(0)
    dread, asked = hs.new_zeros(2, inner_steps * is_static, length, batch, width).unbind(0)
    arrays = (
        array(weight.t(), hs),
        array(norm_weight, hs, width),
        array(_by_lane(rates, blocks * lanes), hs),
        array(None if static is None else static.t(), hs, 0, 0),
        array(hs, hs),
        *(array(x.view(size), hs) for x, size in kept),
        array(dhs, hs),
        *(x.numpy() for x in (ddrive, dpast, drates, dgain, dbias, dread, asked)),
    )

    def work(start: int, stride: int) -> None:
        numba_kernels.backward(
            start, stride, blocks, lanes, memory, bool(flags & NORM),
            bool(flags & NORM_PRELIMINARY), bool(flags & PREVIOUS), bool(flags & AFTER_READ),
            bool(flags & DETACH), inner_steps, *arrays,
        )  # fmt: skip

    share_out(blocks, work)
    dweight = ddrive.flatten(0, 1).t() @ hs[start - 1 : -1].flatten(0, 1)
    dstatic = dread.flatten(0, 2).t() @ asked.flatten(0, 2) if is_static else hs.new_empty(0, 0)
    return (
        ddrive,
        dpast,
        dweight,
        _of_samples(drates, rates, lanes),
        dgain.reshape(blocks, width, lanes).sum((0, 2)),
        dbias.reshape(blocks, width, lanes).sum((0, 2)),
        dstatic,
    )


def _backward_shapes(
    dhs: Tensor, hs: Tensor, weight: Tensor, rates: Tensor, norm_weight: Tensor | None,
    static: Tensor | None, queries: Tensor, normed: Tensor, scales: Tensor,
    length: int, inner_steps: int, flags: int, memory: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    return attention_op.gradients_like(hs, weight, rates, static, length)


_attention = attention_op.register(
    "attention_form", _forward, _forward_shapes, _backward, _backward_shapes
)

"""The attention form as one op for PyTorch, run by the Triton kernels on a GPU."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from fastweights.decay import Decay
from fastweights.ops.fast_weights import attention_op, fused_op
from fastweights.ops.fast_weights.attention_op import HEBBIAN, norms_of
from fastweights.ops.fast_weights.options import (
    AFTER_READ,
    DETACH,
    LEARNED,
    NORM,
    NORM_PRELIMINARY,
    PREVIOUS,
    TANH,
    Drive,
    LayerState,
    Options,
    SlowWeights,
)

__all__ = ["attention_form", "why_not"]

_WIDEST = 256


def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton runs kernels by NumPy on the CPU, as its documentation describes."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(drive: Tensor | Drive, state: LayerState | None, options: Options) -> str | None:
    """The reason this call cannot run here, or None."""
    if not _installed():
        return "triton is not installed"
    kind = drive.device.type
    if not (kind == "cuda" or (_interpreted() and kind == "cpu")):
        return f"it runs on CUDA tensors, got {kind}"
    if drive.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"it computes in float32, float64 and bfloat16, got {drive.dtype}"
    if drive.shape[-1] > _WIDEST:
        return f"it carries at most {_WIDEST} features, got {drive.shape[-1]}"
    return attention_op.why_not(state, options)


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


def _settings(drive: Tensor, flags: int, memory: int) -> dict[str, Any]:
    """What both kernels are compiled for."""
    import triton
    import triton.language as tl

    width = drive.shape[-1]
    block = max(16, triton.next_power_of_2(width))
    return {
        "WIDTH": width,
        "BLOCK": block,
        "KIND": tl.float64 if drive.dtype == torch.float64 else tl.float32,
        "WHOLE": block <= 128,  # then W stays in registers, at most 64 per thread in float32
        "MEMORY": memory,
        "NORM": bool(flags & NORM),
        # query="previous" leaves the preliminary vector out, and its norm with it.
        "NORM_PRELIMINARY": flags & (NORM_PRELIMINARY | PREVIOUS) == NORM_PRELIMINARY,
        "PREVIOUS": bool(flags & PREVIOUS),
        "AFTER_READ": bool(flags & AFTER_READ),
        "TANH": bool(flags & TANH),
        "num_warps": {16: 1, 32: 1, 64: 2}.get(block, 8),
        "num_stages": 1,  # loads may not run ahead of the barriers
        "enable_fp_fusion": True,
    }


def _kept_like(
    drive: Tensor, inner_steps: int, flags: int, memory: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty queries, normed and scales."""
    length, batch, width = drive.shape
    norms = norms_of(inner_steps, flags)
    kind = torch.promote_types(drive.dtype, torch.float32)
    if not keep:
        length = norms = 0
    return (
        drive.new_empty(length, inner_steps, batch, width),
        drive.new_empty(length, norms, batch, width),
        drive.new_empty(length, norms, batch, dtype=kind),
    )


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output (T, B, H) that follows on ``past`` (M + 1, B, H), the written vectors for the
    next call, and what backward needs."""
    from fastweights.ops.fast_weights import triton_kernels

    length, batch, width = drive.shape
    past = _given_past(past, drive)
    start = past.shape[0]
    hs = drive.new_empty(start + length, batch, width)
    hs[:start] = past
    kept = _kept_like(drive, inner_steps, flags, memory, keep)
    scratch = kept if keep else (drive.new_empty(batch, width), *kept[1:])
    with torch.cuda.device_of(drive):
        triton_kernels.forward[(batch,)](
            drive.contiguous(),
            weight.t().contiguous(),
            _given(norm_weight, drive),
            _given(norm_bias, drive),
            rates.contiguous(),
            drive if static is None else static.t().contiguous(),
            hs,
            *scratch,
            length,
            start - 1,
            batch,
            inner_steps,
            *_strides(rates),
            **_settings(drive, flags, memory),
            EPS=norm_eps,
            KEEP=keep,
        )
    written = hs[:-1].clone() if memory == HEBBIAN else drive.new_empty(0)
    return hs[start:], written, *kept


def _given_past(past: Tensor | None, like: Tensor) -> Tensor:
    """A start from nothing is h(0) = 0."""
    return like.new_zeros(1, *like.shape[1:]) if past is None else past


def _given(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A contiguous tensor; one that no kernel reads where there is none."""
    return stand_in if tensor is None else tensor.contiguous()


def _strides(rates: Tensor) -> tuple[int, int]:
    """From a sample's table to the next, and from a row of it to the next: 0 where there is one."""
    samples, rows, ages = rates.shape
    return 0 if samples == 1 else rows * ages, 0 if rows == 1 else ages


def _of_samples(drates: Tensor, rates: Tensor) -> Tensor:
    return drates.sum(0, keepdim=True) if rates.shape[0] == 1 else drates


def _forward_shapes(
    drive: Tensor, past: Tensor | None, weight: Tensor, rates: Tensor, norm_weight: Tensor | None,
    norm_bias: Tensor | None, static: Tensor | None, inner_steps: int, norm_eps: float,
    flags: int, memory: int, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    start, length = 1 if past is None else past.shape[0], drive.shape[0]
    output = drive.new_empty(start + length, *drive.shape[1:])[start:]
    written = attention_op.written_like(output, past, memory)
    return output, written, *_kept_like(drive, inner_steps, flags, memory, keep)


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
    normed: Tensor,
    scales: Tensor,
    inner_steps: int,
    norm_eps: float,
    flags: int,
    memory: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of drive, past, weight, rates, norm_weight, norm_bias and static."""
    from fastweights.ops.fast_weights import triton_kernels

    assert output is not None
    length, batch, width = doutput.shape
    before = _given_past(past, doutput)
    start = before.shape[0]
    kind = torch.promote_types(doutput.dtype, torch.float32)
    hs = torch.cat([before, output])
    dhistory = torch.zeros_like(hs, dtype=kind)
    dhistory[start:] = doutput
    ddrive = hs.new_empty(length, batch, width)
    drates = rates.new_zeros(batch, *rates.shape[1:])
    dgain, dbias = hs.new_zeros(2, batch, width, dtype=kind).unbind(0)
    dread = queries if static is None else torch.empty_like(queries)
    with torch.cuda.device_of(hs):
        triton_kernels.backward[(batch,)](
            weight.contiguous(),
            _given(norm_weight, hs),
            rates.contiguous(),
            _given(static, hs),
            hs,
            queries,
            normed,
            scales,
            dhistory,
            ddrive,
            drates,
            dgain,
            dbias,
            dread,
            length,
            start - 1,
            batch,
            inner_steps,
            *_strides(rates),
            **_settings(hs, flags, memory),
            DETACH=bool(flags & DETACH),
        )
    dstatic = hs.new_empty(0)
    if static is not None:
        dstatic = dread.flatten(0, 2).t() @ queries.flatten(0, 2)
    return (
        ddrive,
        hs.new_empty(0) if past is None else dhistory[:start].to(hs.dtype, copy=True),
        ddrive.flatten(0, 1).t() @ hs[start - 1 : -1].flatten(0, 1),
        _of_samples(drates, rates) if flags & LEARNED else drates.new_empty(0),
        dgain.sum(0).to(hs.dtype),
        dbias.sum(0).to(hs.dtype),
        dstatic,
    )


def _backward_shapes(
    doutput: Tensor, output: Tensor | None, past: Tensor | None, weight: Tensor, rates: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, static: Tensor | None, queries: Tensor,
    normed: Tensor, scales: Tensor, inner_steps: int, norm_eps: float, flags: int, memory: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    return attention_op.gradients_like(doutput, past, weight, rates, static, flags)


_attention = fused_op.register(
    "attention_form_triton",
    _forward,
    _forward_shapes,
    _backward,
    _backward_shapes,
    attention_op.keeping(lambda inner_steps, flags: True),  # it is the memory
    attention_op.gradients,
)

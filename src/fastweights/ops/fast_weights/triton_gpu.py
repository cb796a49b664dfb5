"""The attention form as one op for PyTorch, run by the Triton kernels on a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastweights.decay import Decay, scaled_table
from fastweights.ops.dispatch import (
    dispatch_is_traced,
    has_plain_memory,
    load_step,
    save_step,
)
from fastweights.ops.fast_weights.fused_op import (
    norms_of,
    plain_gradients,
    rates_by_clock,
    refuse_tangents,
    register,
)
from fastweights.ops.fast_weights.options import (
    AFTER_READ,
    DETACH,
    LEARNED,
    NORM,
    NORM_PRELIMINARY,
    PREVIOUS,
    TANH,
    InputProjection,
    LayerState,
    Options,
    SlowWeights,
)
from fastweights.ops.fast_weights.reference import (
    constant_before,
    right_aligned,
    steps_after,
    trimmed,
)

__all__ = ["attention_form", "unsupported_reason"]

_WIDEST = 256
_MEMORIES = ("hebbian", "static", "none")
_HEBBIAN = 0


def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton runs kernels by NumPy on the CPU, as its documentation describes."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unsupported_reason(
    drive: Tensor | InputProjection, state: LayerState | None, options: Options
) -> str | None:
    """The reason why this call cannot run here, or None."""
    if not _installed():
        return "triton is not installed"
    kind = drive.device.type
    if not (kind == "cuda" or (_interpreted() and kind == "cpu")):
        return f"it runs on CUDA tensors, got {kind}"
    if drive.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"it computes in float32, float64 and bfloat16, got {drive.dtype}"
    if drive.shape[-1] > _WIDEST:
        return f"it carries at most {_WIDEST} features, got {drive.shape[-1]}"
    if options.memory == "hebbian" and state is not None and state.matrix is not None:
        return "the state holds a matrix"
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
    length, batch, width = drive.shape
    like = weights.recurrent
    hebbian = options.memory == "hebbian"
    past = None
    if state is not None:
        past = state.hidden[None]
        if hebbian and state.history is not None:
            past = torch.cat([state.history, past])
    carried = 0 if past is None else past.shape[0] - 1
    cut = None
    if state is not None and carried:
        cut = constant_before(state, decay, write_rate)
    if not hebbian:
        rates = like.new_zeros(1, 1, 1)
    elif decay.stationary and cut is None:
        kind = torch.promote_types(drive.dtype, torch.float32)
        plain = not dispatch_is_traced()
        rates = scaled_table(
            decay, write_rate, carried + length, kind, drive.device, remember=plain
        )
    else:
        rates = rates_by_clock(decay, write_rate, state, carried, drive, cut)
    drive, ended = _past_the_end(drive, lengths, options)
    gain, norm_bias = weights.norm_weight, weights.norm_bias
    if options.layer_norm:
        gain = like.new_ones(width) if gain is None else gain
        norm_bias = like.new_zeros(width) if norm_bias is None else norm_bias
    static = weights.memory if options.memory == "static" else None
    tensors = (drive, past, like, rates, gain, norm_bias, static)
    output, written = _apply(
        *tensors,
        options.inner_steps,
        options.norm_eps,
        options.flags,
        _MEMORIES.index(options.memory),
        torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors),
    )
    history = None
    if hebbian:
        written = written.detach() if options.detach_writes else written
        history = trimmed(right_aligned(written, length, lengths), decay)
    hidden = output[-1].clone()  # of its own, not part of the output
    if ended is not None and lengths is not None:
        before = like.new_zeros(batch, width) if state is None else state.hidden
        hidden = _last_of(before, output, lengths)
        output = output.masked_fill(ended, 0.0)
    if state is not None:
        steps = steps_after(state.steps, length, lengths)
    elif lengths is None:
        steps = torch.full((batch,), length, device=drive.device)
    else:
        steps = lengths.clone()
    return output, LayerState(hidden, steps, history, constant_before=cut)


def _past_the_end(
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


def _last_of(before: Tensor, output: Tensor, lengths: Tensor) -> Tensor:
    """h after each sample's last step, or as it was where there is none."""
    index = (lengths - 1).clamp(min=0)[None, :, None].expand(1, *before.shape)
    return torch.where((lengths > 0)[:, None], output.gather(0, index)[0], before)


def _apply(*inputs: Any) -> tuple[Tensor, Tensor]:
    """The output and the written vectors; past the dispatcher unless somebody follows it."""
    if dispatch_is_traced() or not _PLAIN.issuperset(map(type, inputs)):
        output, written, *_ = _op(*inputs)
        return output, written
    refuse_tangents(inputs)
    output, written, *_ = _Direct.apply(*inputs) if inputs[-1] else _forward(*inputs)
    return output, written


_PLAIN = frozenset((Tensor, torch.nn.Parameter, type(None), int, float, bool))


class _Direct(torch.autograd.Function):
    """The op past PyTorch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output = _forward(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *doutputs: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.needs = ctx.needs_input_grad
        settled = plain_gradients(doutputs)
        refuse_tangents(settled)
        plain = all(x is None or has_plain_memory(x) for x in settled)
        # With create_graph the registered op refuses the second derivative.
        followed = dispatch_is_traced() or torch.is_grad_enabled() or not plain
        return _gradients(_backward_op if followed else _backward, ctx, *settled)


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
    written = hs[:-1].clone() if memory == _HEBBIAN else drive.new_empty(0, batch, width)
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
    past_steps = start + length - 1 if memory == _HEBBIAN else 0
    written = drive.new_empty(past_steps, *drive.shape[1:])
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
    width = doutput.shape[2]
    return (
        doutput.new_empty(doutput.shape),
        doutput.new_empty(0 if past is None else past.shape),
        weight.new_empty(weight.shape),
        rates.new_empty(rates.shape if flags & LEARNED else 0),
        doutput.new_empty(width),
        doutput.new_empty(width),
        doutput.new_empty(0 if static is None else static.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *tensors, inner_steps, eps, flags, memory, keep = inputs
    result, _, *kept = output  # the output is the memory
    save_step(ctx, keep, [result, *tensors, *kept])
    ctx.settings = (inner_steps, eps, flags, memory)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)


def _gradients(
    backward: Callable[..., tuple[Tensor, ...]],
    ctx: Any,
    doutput: Tensor | None,
    dwritten: Tensor | None,
    *_: Any,
) -> tuple[Tensor | None, ...]:
    """A gradient for each input of the op."""
    inner_steps, eps, flags, memory = ctx.settings
    if memory != _HEBBIAN:
        dwritten = None  # of no vectors
    if doutput is None and dwritten is None:
        return (None,) * 12
    saved = load_step(ctx)
    past, gain, static = saved[1], saved[4], saved[6]
    known = 0 if past is None else past.shape[0]
    if dwritten is not None:  # h(0) … h(T − 1), and output is h(1) … h(T)
        later = functional.pad(dwritten[max(known, 1) :], (0, 0, 0, 0, 0, 1))
        doutput = later if doutput is None else doutput + later
    flags = flags | LEARNED * ctx.needs[3]
    ddrive, dpast, dweight, drates, dgain, dbias, dstatic = backward(
        doutput, *saved, inner_steps, eps, flags, memory
    )
    if dwritten is not None and past is not None:
        dpast = dpast + dwritten[:known]
    return (
        ddrive,
        None if past is None else dpast,
        dweight,
        drates if flags & LEARNED else None,
        None if gain is None else dgain,
        None if gain is None else dbias,
        None if static is None else dstatic,
        *(None,) * 5,
    )


_op, _backward_op = register(
    "attention_form_triton",
    _forward,
    _forward_shapes,
    _backward,
    _backward_shapes,
    _setup_context,
    _gradients,
)

"""The recurrence as one op for PyTorch, run by the C++ kernels on the CPU.

Attention and chunked form are one kernel: chunks carry a matrix from one to the next, and without
a matrix the whole sequence is one chunk. The decay comes as tables (η r by age, or for a chunked
call what a write adds and what is left of a matrix, for each that is carried), whose gradients go
on to whatever the decay depends on.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from fastweights.decay import Decay, fixed_tables, scaled_table
from fastweights.ops import native
from fastweights.ops.dispatch import (
    dispatch_is_traced,
    forward_mode_is_on,
    has_plain_memory,
    load_step,
    save_step,
)
from fastweights.ops.fast_weights.call import Call
from fastweights.ops.fast_weights.fused_op import (
    norms_of,
    plain_gradients,
    rates_by_clock,
    refuse_tangents,
    register,
)
from fastweights.ops.fast_weights.options import INPUT, LEARNED, NORM, InputProjection, LayerState
from fastweights.ops.fast_weights.reference import constant_before, fold, steps_after

__all__ = ["Recurrence", "is_symmetric", "recurrence", "unsupported_reason"]

_MEMORIES = {"hebbian": 0, "static": 1, "none": 2}
_WIDEST_INPUT = 512  # beyond so many features C does not stay near from one step to the next
_ROWS, _MOST_GROUPS, _SLACK = 4, 16, 16  # as in native/
_COUNT = torch.zeros(1, dtype=torch.int64, device="cpu")


class Recurrence(native.Work):
    """The arguments of both passes, as `Recurrence` in native/call.h has them.

    Sizes: T steps, B samples, H features, I inputs (0 where `source` is a drive), M vectors carried
    and R vectors to remember for the next call, S inner steps. Addresses are 0 where there is
    nothing, every array is contiguous.
    """

    _fields_ = (
        ("failed", ctypes.c_int64),  # out: there was no memory
        *(
            (name, ctypes.c_int64)
            for name in (
                "length", "batch", "width", "features", "carried", "remembered",
                "inner_steps", "flags", "memory",
                "rate_samples", "rate_rows", "ages",  # shape of `rates`
                "reset_row",  # of `rates`, for a step that follows on a reset
                "components", "chunk", "chunks",  # matrices carried, steps of a chunk, chunks
            )
        ),
        ("eps", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "source",  # (T, B, I) or (T, B, H)
                "input_weight", "input_bias",  # (H, I), (H)
                "hidden", "history",  # (B, H), (M, B, H)
                "weight", "gain", "norm_bias", "fixed",  # (H, H), (H), (H), (H, H)
                "rates", "writes", "fades",  # η r; (components, chunk), (components, chunk + 1)
                "start",  # (B, components, H, H)
                "lengths", "resets",  # (B) int64, (T, B) bool
                "output", "last", "written", "final",  # (T, B, H), (B, H), (R, B, H), as start
                "kept",  # for the backward pass
                "doutput", "dlast", "dwritten", "dfinal",
                "dsource", "dinput_weight", "dinput_bias", "dhidden", "dhistory", "dweight",
                "dgain", "dnorm_bias", "dfixed", "drates", "dwrites", "dfades", "dstart",
            )
        ),
        ("sums", ctypes.c_void_p * _MOST_GROUPS),
    )  # fmt: skip


def unsupported_reason(
    drive: Tensor | InputProjection, decay: Decay, state: LayerState | None, form: str
) -> str | None:
    """The reason why this call cannot run here, or None."""
    if drive.device.type != "cpu":
        return f"it runs on CPU tensors, got {drive.device.type}"
    if drive.dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, got {drive.dtype}"
    if form == "matrix":
        return "it has the attention and the chunked form, this call needs the matrix form"
    if form == "chunked":
        if not decay.stationary:
            return f"{type(decay).__name__} depends on the step index, not on the age alone"
        matrix = None if state is None else state.matrix
        if matrix is not None and not dispatch_is_traced() and not is_symmetric(matrix):
            return "the state's matrix is not symmetric, and it keeps one half of it"
    return native.missing_reason()


# Of matrices that are known to be symmetric: their storage (a weak reference, so that no other can
# get its identity), the version of its values, and the width.
_SYMMETRIC: dict[int, tuple[StorageWeakRef, int, int]] = {}


def is_symmetric(matrix: Tensor) -> bool:
    """Whether matrices are their own transposes, but for the rounding of the sums they are.

    The kernels keep one half. Looking takes longer than a step, so it is done once, and not at all
    for what a kernel has made.

    Example:
        >>> is_symmetric(torch.eye(2)[None]), is_symmetric(torch.ones(1, 2, 2).triu())
        (True, False)
    """
    width = matrix.shape[-1]
    if not matrix.is_inference():
        known = _SYMMETRIC.get(matrix.untyped_storage()._cdata)
        whole = matrix.is_contiguous() and matrix.storage_offset() % (width * width) == 0
        if known is not None and known[1:] == (matrix._version, width) and whole:
            return True
    if not torch.equal(matrix, matrix.mT):  # as the kernels leave it
        slack = 64 * torch.finfo(matrix.dtype).eps
        with torch.no_grad():
            largest = matrix.abs().amax((-2, -1), keepdim=True)
            if bool(((matrix - matrix.mT).abs() > slack * largest).any()):
                return False
    _remember_symmetric(matrix)
    return True


def _remember_symmetric(matrix: Tensor) -> None:
    if matrix.is_inference():
        return  # has no version
    storage = matrix.untyped_storage()
    if storage.nbytes() != matrix.numel() * matrix.element_size():
        return  # there are others in it
    while len(_SYMMETRIC) >= 64:
        _SYMMETRIC.pop(next(iter(_SYMMETRIC)), None)
    _SYMMETRIC[storage._cdata] = StorageWeakRef(storage), matrix._version, matrix.shape[-1]


def recurrence(call: Call, chunk_size: int | None, *, direct: bool) -> tuple[Tensor, LayerState]:
    """As :func:`fastweights.ops.fast_weights.reference.chunked_form`, or without a ``chunk_size``
    :func:`fastweights.ops.fast_weights.reference.attention_form`; with ``resets`` as in
    :func:`fastweights.ops.fast_weights.reference.in_episodes`.

    ``direct`` says that nobody follows the operations of this call, so that it may go past
    PyTorch's dispatcher. A ``layered`` call must be direct, and its state hold no history.
    """
    drive, weights, decay, write_rate, state, options, lengths, resets, layered = call
    if isinstance(drive, InputProjection) and drive.weight.shape[1] > _WIDEST_INPUT:
        drive = drive.product()
    source, input_weight, input_bias = (
        drive if isinstance(drive, InputProjection) else (drive, None, None)
    )
    recurrent, gain, norm_bias, fixed = weights
    length, batch, _ = source.shape
    dtype, device = recurrent.dtype, source.device
    hidden = None if state is None else state.hidden
    history = rates = writes = fades = start = cut = None
    remembered = reset_row = 0
    hebbian = options.memory == "hebbian"
    if not hebbian:
        pass
    elif chunk_size is None:
        carried = 0
        if state is not None and state.history is not None:
            history = state.history
            carried = history.shape[0]
            cut = constant_before(state, decay, write_rate) if carried else None
        remembered = carried + length
        if decay.stationary and cut is None:
            rates = scaled_table(decay, write_rate, remembered, dtype, device, remember=direct)
        else:
            rates = rates_by_clock(decay, write_rate, state, carried, source, cut)
            if resets is not None:
                rates, reset_row = _with_rows_after_a_reset(rates, decay, write_rate, source)
        if decay.horizon is not None:
            remembered = min(remembered, decay.horizon)
    else:
        writes, fades, start, cut = _carried(call, min(chunk_size, length), dtype, device, direct)
    settings = Settings(
        remembered, reset_row, options.inner_steps, options.norm_eps, options.flags,
        _MEMORIES[options.memory],
    )  # fmt: skip
    tensors = (
        source, input_weight, input_bias, hidden, history, recurrent, gain, norm_bias,
        fixed if options.memory == "static" else None, rates, writes, fades, start, lengths, resets,
    )  # fmt: skip
    keep = False
    if torch.is_grad_enabled():
        for x in tensors:
            if x is not None and x.requires_grad:
                keep = True
                break
    if not direct:
        output, last, memory, _ = _op(*tensors, *settings, keep)
    elif keep:
        output, last, memory = _apply(settings, layered, *tensors)
    else:
        output, last, memory, _ = _compute(settings, layered, False, tensors)
    if direct and state is None and lengths is None and resets is None:
        steps = _COUNT.new_full((batch,), length)  # in half the time of torch.full
    else:
        steps = _steps_after(state, length, batch, lengths, resets, device)
    if not hebbian:
        return output, LayerState(last, steps)
    if chunk_size is None:
        memory = memory.detach() if options.detach_writes else memory
        if cut is not None and resets is not None:
            cut = torch.where(resets.any(0), 0, cut)
        return output, LayerState(last, steps, memory, None, cut)
    if direct:
        _remember_symmetric(memory)
    if state is None or state.matrix is None:  # else it has the shape of that
        memory = memory[:, 0] if decay.components == 1 else memory
        memory = memory[None] if layered else memory
    return output, LayerState(last, steps, None, memory)


def _carried(
    call: Call, chunk: int, dtype: torch.dtype, device: torch.device, direct: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What a chunked call begins with: tables of writes and fades, the matrices, and the cut."""
    _, weights, decay, write_rate, state, options, *_ = call
    tables = None
    if direct and not isinstance(write_rate, Tensor):
        tables = fixed_tables(decay, "chunk", write_rate, chunk, dtype, device, _chunk_tables)
    if tables is None:
        tables = _chunk_tables(decay, write_rate, chunk, dtype, device)
    writes, fades = tables
    if state is not None and state.matrix is not None:
        return writes, fades, state.matrix, None
    if state is None:
        batch, width = call.drive.shape[1], weights.recurrent.shape[0]
        state = LayerState.zeros(batch, width, dtype=dtype, device=device)
    elif call.layered:
        state = LayerState(state.hidden[0], state.steps)
    cut = constant_before(state, decay, write_rate)
    start = fold(state, decay, write_rate, options, cut=cut)
    return writes, fades, start[:, None] if decay.components == 1 else start, cut


def _chunk_tables(
    decay: Decay, write_rate: Tensor | float, chunk: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What each step of a chunk adds to each matrix until its end, and what it leaves of it."""
    ages = torch.arange(chunk + 1, device=device)
    fades = decay.remaining(torch.zeros_like(ages), ages).t().to(dtype)
    return write_rate * decay.write_shares().to(dtype)[:, None] * fades[:, :-1], fades


def _steps_after(
    state: LayerState | None,
    length: int,
    batch: int,
    lengths: Tensor | None,
    resets: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Steps that each sample has seen since it began or was reset."""
    if state is not None:
        steps = steps_after(state.steps, length, lengths)
    elif lengths is None:
        steps = torch.full((batch,), length, device=device)
    else:
        steps = lengths.clone()
    if resets is None:
        return steps
    index = torch.arange(length, device=device)[:, None]
    ends = torch.full((batch,), length, device=device) if lengths is None else lengths
    last = torch.where(resets & (index < ends), index, -1).amax(0)
    return torch.where(last < 0, steps, ends - last)


def _with_rows_after_a_reset(
    rates: Tensor, decay: Decay, write_rate: Tensor | float, source: Tensor
) -> tuple[Tensor, int]:
    """A table by the clock with rows for the clock that a reset sets to zero, and the first."""
    samples, rows, ages = rates.shape
    length, dtype = source.shape[0], rates.dtype
    if decay.stationary:
        fresh = scaled_table(decay, write_rate, length, dtype, rates.device, remember=False)
    else:
        fresh = rates_by_clock(decay, write_rate, None, 0, source, None)
    fresh = functional.pad(fresh, (0, ages - length)).expand(samples, length, -1)
    return torch.cat([rates, fresh], 1), rows


class Settings(NamedTuple):
    """What the op takes besides tensors.

    Attributes:
        remembered: R, vectors to remember for the next call.
        reset_row: the row of ``rates`` for a step that follows on a reset.
        inner_steps: S.
        eps: ε of the layer norm.
        flags: of :class:`Options`; registered ops add INPUT and LEARNED for the backward pass.
        memory: 0 for Hebbian, 1 for static, 2 for none.
    """

    remembered: int
    reset_row: int
    inner_steps: int
    eps: float
    flags: int
    memory: int


# The kernel's call. `tensors` are always those of the op, in its order: see `_INPUTS`.

_INPUTS = (
    "source", "input_weight", "input_bias", "hidden", "history", "weight", "gain", "norm_bias",
    "fixed", "rates", "writes", "fades", "start", "lengths", "resets",
)  # fmt: skip
_GRADIENTS = tuple(f"d{name}" for name in _INPUTS[:13])
_Tensors = Sequence[Tensor | None]


@functools.lru_cache(maxsize=1024)
def _template(
    settings: Settings, size: tuple[int, ...], width: int, features: int, carried: int,
    rates: tuple[int, ...] | None, writes: tuple[int, ...] | None,
) -> bytes:  # fmt: skip
    """The kernel's arguments but for the addresses."""
    length, batch, _ = size
    call = Recurrence(
        length=length, batch=batch, width=width, features=features, carried=carried,
        remembered=settings.remembered, inner_steps=settings.inner_steps, flags=settings.flags,
        memory=settings.memory, rate_samples=1, rate_rows=1, reset_row=settings.reset_row,
        chunk=length, chunks=1, eps=settings.eps,
    )  # fmt: skip
    if rates is not None:
        call.rate_samples, call.rate_rows, call.ages = rates
    if writes is not None:
        call.components, call.chunk = writes
        call.chunks = -(-length // call.chunk)
    return bytes(call)


def _prepared(settings: Settings, given: _Tensors) -> Recurrence:
    """The kernel's arguments with the addresses of what it is given, which must be contiguous."""
    source, input_weight, _, _, history, weight, _, _, _, rates, writes, *_ = given
    assert source is not None
    assert weight is not None
    size = source.shape
    call = Recurrence.from_buffer_copy(
        _template(
            settings,
            size,
            weight.shape[0],
            0 if input_weight is None else size[2],
            0 if history is None else history.shape[0],
            None if rates is None else rates.shape,
            None if writes is None else writes.shape,
        )
    )
    for name, x in zip(_INPUTS, given, strict=True):
        if x is not None:
            setattr(call, name, x.data_ptr())
    return call


def _run(kernel: str, call: Recurrence, dtype: torch.dtype) -> None:
    batch = call.batch
    groups = -(-batch // _ROWS) if batch >= 2 * _ROWS else batch
    threads = 1 if groups == 1 else native.threads_for(groups)
    native.run(native.kernel(kernel, dtype), call, threads)
    if call.failed:
        raise MemoryError(
            f"no memory for {kernel} of {call.length} steps, {batch} samples, width {call.width}"
        )


def _contiguous(tensors: _Tensors) -> _Tensors:
    for x in tensors:
        if x is not None and not x.is_contiguous():
            return [y if y is None else y.contiguous() for y in tensors]
    return tensors


def _compute(
    settings: Settings, layered: bool, keep: bool, tensors: _Tensors
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Output, h after the last step, the memory for the next call, and what is kept."""
    given = _contiguous(tensors)  # alive until the kernel is done
    source, _, _, _, _, weight, _, _, _, _, writes, _, start, _, _ = given
    assert source is not None
    assert weight is not None
    length, batch, _ = source.shape
    width = weight.shape[0]
    # Sizes one by one: a shape takes longer to read.
    output = source.new_empty(length, batch, width)
    ahead = (1,) if layered else ()
    last = source.new_empty(*ahead, batch, width)
    call = _prepared(settings, given)
    call.output, call.last = output.data_ptr(), last.data_ptr()
    if start is None:
        after = source.new_empty(*ahead, settings.remembered, batch, width)
        call.written = after.data_ptr()
    else:
        after = torch.empty_like(start)
        call.final = after.data_ptr()
    kept = None
    if keep:
        size = _kept_size(length, batch, width, settings.inner_steps, settings.flags, writes)
        kept = source.new_empty(size)
        call.kept = kept.data_ptr()
    _run("recurrence", call, source.dtype)
    return output, last, after, kept


def _compute_gradients(
    settings: Settings,
    doutputs: _Tensors,
    output: Tensor | None,
    kept: Tensor,
    tensors: _Tensors,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of source … start, None where there is no such tensor or nobody wants it."""
    given, (doutput, dlast, dafter) = _contiguous(tensors), _contiguous(doutputs)
    call = _prepared(settings, given)
    made: list[Tensor | None] = []
    for x, want, name in zip(given, wanted, _GRADIENTS, strict=False):
        if x is None or not want:
            made.append(None)
        else:
            made.append(gradient := torch.empty_like(x))
            setattr(call, name, gradient.data_ptr())
    drates = made[9]
    if drates is not None and call.rate_samples > 1:
        drates.zero_()  # samples add to their own rows as they go
    if call.batch == 0:
        return [x if x is None else x.zero_() for x in made]
    call.kept = kept.data_ptr()
    if output is not None:
        call.output = output.data_ptr()
    if doutput is not None:
        call.doutput = doutput.data_ptr()
    if dlast is not None:
        call.dlast = dlast.data_ptr()
    if dafter is not None:
        setattr(call, "dwritten" if tensors[12] is None else "dfinal", dafter.data_ptr())
    _run("recurrence_backward", call, kept.dtype)
    return made


def _kept_size(
    length: int, batch: int, width: int, inner_steps: int, flags: int, writes: Tensor | None
) -> int:
    """Numbers kept for the backward pass: see `Problem` in native/call.h."""
    norms = norms_of(inner_steps, flags)
    size = batch * (length * ((inner_steps + norms) * width + norms) + 2 * _SLACK)
    if writes is not None:
        components, chunk = writes.shape
        chunks = (length + chunk - 1) // chunk
        size = size + batch * chunks * components * (width * (width + 1) // 2)
    return size


class _Direct(torch.autograd.Function):
    """The op past PyTorch's dispatcher."""

    @staticmethod
    def forward(
        ctx: Any, settings: Settings, layered: bool, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, last, after, kept = _compute(settings, layered, True, tensors)
        save_step(ctx, True, [_needed(output, settings), kept, *tensors])
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return output, last, after

    @staticmethod
    def backward(ctx: Any, *doutputs: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.needs = ctx.needs_input_grad[2:]
        op = None
        if torch.is_grad_enabled() or dispatch_is_traced():
            op = _backward_op  # with create_graph it refuses the second derivative
        if not _are_plain(doutputs):
            doutputs = tuple(plain_gradients(doutputs))
            if not _are_plain(doutputs):
                op = _backward_op  # for those of a vmap
        if forward_mode_is_on():
            refuse_tangents(doutputs)
        return None, None, *_gradients(op, ctx, *doutputs)


def _are_plain(gradients: _Tensors) -> bool:
    return all(x is None or has_plain_memory(x) for x in gradients)


# Without looking for wrappers of transforms that are over, which a direct call has none of.
_apply = super(torch.autograd.Function, _Direct).apply


def _needed(output: Tensor, settings: Settings) -> Tensor | None:
    """The output, unless it follows from what is kept."""
    return None if settings.flags & NORM and settings.inner_steps else output


def _gradients(
    backward_op: Callable[..., tuple[Tensor, ...]] | None, ctx: Any, doutput: Tensor | None,
    dlast: Tensor | None, dafter: Tensor | None, *_: Any,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """A gradient for each input of the op, by the registered op or past the dispatcher."""
    if dafter is not None and not dafter.numel():
        dafter = None
    if doutput is None and dlast is None and dafter is None:
        return (None,) * len(ctx.needs)
    output, kept, *tensors = load_step(ctx)
    needs, doutputs = ctx.needs, (doutput, dlast, dafter)
    settings: Settings = ctx.settings
    if backward_op is None:
        found = _compute_gradients(settings, doutputs, output, kept, tensors, _wanted(needs))
    else:
        flags = settings.flags | INPUT * needs[0] | LEARNED * any(needs[9:12])
        settings = settings._replace(flags=flags)
        made = backward_op(*doutputs, output, kept, *tensors, *settings)
        found = [
            None if x is None or (x.numel() and not gradient.numel()) else gradient
            for x, gradient in zip(tensors, made, strict=False)
        ]
    return (*found, *(None,) * (len(needs) - len(found)))


def _wanted(needs: Sequence[bool]) -> Sequence[bool]:
    """Of which inputs the kernel has to find the gradient, which it may leave out for some."""
    source, _, _, hidden, history, *_ = needs
    learned = any(needs[9:12])
    return (
        source, True, True, hidden, history, True, True, True, True, learned, learned, learned,
        needs[12],
    )  # fmt: skip


# The same as PyTorch's dispatcher has it.


def _forward(
    source: Tensor, input_weight: Tensor | None, input_bias: Tensor | None, hidden: Tensor | None,
    history: Tensor | None, weight: Tensor, gain: Tensor | None, norm_bias: Tensor | None,
    fixed: Tensor | None, rates: Tensor | None, writes: Tensor | None, fades: Tensor | None,
    start: Tensor | None, lengths: Tensor | None, resets: Tensor | None, remembered: int,
    reset_row: int, inner_steps: int, eps: float, flags: int, memory: int, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What :func:`_compute` returns; ``kept`` is empty unless ``keep``."""
    tensors = (
        source, input_weight, input_bias, hidden, history, weight, gain, norm_bias, fixed, rates,
        writes, fades, start, lengths, resets,
    )  # fmt: skip
    settings = Settings(remembered, reset_row, inner_steps, eps, flags, memory)
    *results, kept = _compute(settings, False, keep, tensors)
    return *results, source.new_empty(0) if kept is None else kept  # type: ignore[return-value]


def _forward_shapes(
    source: Tensor, input_weight: Tensor | None, input_bias: Tensor | None, hidden: Tensor | None,
    history: Tensor | None, weight: Tensor, gain: Tensor | None, norm_bias: Tensor | None,
    fixed: Tensor | None, rates: Tensor | None, writes: Tensor | None, fades: Tensor | None,
    start: Tensor | None, lengths: Tensor | None, resets: Tensor | None, remembered: int,
    reset_row: int, inner_steps: int, eps: float, flags: int, memory: int, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The same, empty."""
    length, batch, _ = source.shape
    width = weight.shape[0]
    kept = _kept_size(length, batch, width, inner_steps, flags, writes) if keep else 0
    return (
        source.new_empty(length, batch, width),
        source.new_empty(batch, width),
        source.new_empty(remembered, batch, width)
        if start is None
        else start.new_empty(*start.shape),
        source.new_empty(kept),
    )


def _backward(
    doutput: Tensor | None, dlast: Tensor | None, dafter: Tensor | None, output: Tensor | None,
    kept: Tensor,
    source: Tensor, input_weight: Tensor | None, input_bias: Tensor | None, hidden: Tensor | None,
    history: Tensor | None, weight: Tensor, gain: Tensor | None, norm_bias: Tensor | None,
    fixed: Tensor | None, rates: Tensor | None, writes: Tensor | None, fades: Tensor | None,
    start: Tensor | None, lengths: Tensor | None, resets: Tensor | None, remembered: int,
    reset_row: int, inner_steps: int, eps: float, flags: int, memory: int,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor,
]:  # fmt: skip
    """What :func:`_compute_gradients` returns; of no size where that is None."""
    tensors = (
        source, input_weight, input_bias, hidden, history, weight, gain, norm_bias, fixed, rates,
        writes, fades, start, lengths, resets,
    )  # fmt: skip
    settings = Settings(remembered, reset_row, inner_steps, eps, flags & ~(INPUT | LEARNED), memory)
    wanted = _wanted_by(flags)
    made = _compute_gradients(settings, (doutput, dlast, dafter), output, kept, tensors, wanted)
    return tuple(source.new_empty(0) if x is None else x for x in made)  # type: ignore[return-value]


def _backward_shapes(
    doutput: Tensor | None, dlast: Tensor | None, dafter: Tensor | None, output: Tensor | None,
    kept: Tensor,
    source: Tensor, input_weight: Tensor | None, input_bias: Tensor | None, hidden: Tensor | None,
    history: Tensor | None, weight: Tensor, gain: Tensor | None, norm_bias: Tensor | None,
    fixed: Tensor | None, rates: Tensor | None, writes: Tensor | None, fades: Tensor | None,
    start: Tensor | None, lengths: Tensor | None, resets: Tensor | None, remembered: int,
    reset_row: int, inner_steps: int, eps: float, flags: int, memory: int,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor,
]:  # fmt: skip
    """The same, empty."""
    tensors = (
        source, input_weight, input_bias, hidden, history, weight, gain, norm_bias, fixed, rates,
        writes, fades, start, lengths, resets,
    )  # fmt: skip
    return tuple(  # type: ignore[return-value]
        source.new_empty(0) if x is None or not want else x.new_empty(*x.shape)
        for x, want in zip(tensors, _wanted_by(flags), strict=False)
    )


def _wanted_by(flags: int) -> Sequence[bool]:
    """All gradients, but those for which flags ask."""
    learned = bool(flags & LEARNED)
    return (bool(flags & INPUT), *(True,) * 8, learned, learned, learned, True)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, remembered, reset_row, inner_steps, eps, flags, memory, keep = inputs
    result, _, _, kept = output
    ctx.settings = Settings(remembered, reset_row, inner_steps, eps, flags, memory)
    save_step(ctx, keep, [_needed(result, ctx.settings), kept, *tensors])
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)


_op, _backward_op = register(
    "recurrence", _forward, _forward_shapes, _backward, _backward_shapes, _setup_context, _gradients
)

"""What the fused ops of the attention form share: inputs, results, and gradients.

A fused op takes the decay as a table of η·r and returns that table's gradient, so every decay
works, learned or not. Its shape is (K, R, M + T), the age last. R is 1 where r is a function of
age; by the clock it is M + T, a row for each vector that can be the newest in sight. K is 1 where
all samples have the same clock, else B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from fastweights.decay import Decay
from fastweights.ops.dispatch import dispatch_is_traced
from fastweights.ops.fast_weights.fused_op import FusedOp, load, save
from fastweights.ops.fast_weights.options import (
    INPUT,
    LEARNED,
    NORM,
    NORM_PRELIMINARY,
    Drive,
    LayerState,
    Options,
    SlowWeights,
    multiplied,
)
from fastweights.ops.fast_weights.reference import (
    constant_before,
    memory_weights,
    right_aligned,
    steps_after,
    trimmed,
)

__all__ = [
    "HEBBIAN",
    "STATIC",
    "gradients",
    "gradients_like",
    "keeping",
    "last_of",
    "norms_of",
    "past_the_end",
    "rates_table",
    "run",
    "source_like",
    "source_of",
    "why_not",
    "written_like",
]

_MEMORIES = ("hebbian", "static", "none")
HEBBIAN, STATIC, _ = range(len(_MEMORIES))


def why_not(state: LayerState | None, options: Options) -> str | None:
    """The reason that no fused op can run this call, or None."""
    if options.memory == "hebbian" and state is not None and state.matrix is not None:
        return "the state holds a matrix"
    return None


def norms_of(inner_steps: int, flags: int) -> int:
    """Layer norms per step: one per read, and one more if the preliminary vector has its own."""
    return inner_steps + bool(flags & NORM_PRELIMINARY) if flags & NORM else 0


def past_the_end(
    drive: Tensor | Drive, lengths: Tensor | None, options: Options
) -> tuple[Tensor | Drive, Tensor | None]:
    """A drive that a kernel may run on past a sample's end, and where that is, (T, B, 1)."""
    if lengths is None:
        return drive, None
    steps = torch.arange(drive.shape[0], device=drive.device)
    ended = (steps[:, None] >= lengths)[:, :, None]
    if not options.layer_norm:
        drive = multiplied(drive)
        # Past the end nothing keeps the numbers small, and an overflow would make NaN of a
        # gradient times zero. So deep a drive keeps h at zero.
        drive = drive.masked_fill(ended, -1e30)
    return drive, ended


def source_of(drive: Tensor | Drive) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """x, C and b; or the drive alone."""
    if isinstance(drive, Drive):
        return drive.input.contiguous(), drive.weight, drive.bias
    return drive, None, None


def run(
    op: FusedOp,
    drive: Tensor | Drive,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState | None,
    options: Options,
    lengths: Tensor | None = None,
    *,
    multiplies: bool = False,
) -> tuple[Tensor, LayerState]:
    """As :func:`fastweights.ops.fast_weights.reference.attention_form`, by ``op``.

    One that ``multiplies`` takes C and b as its last tensors, None where the first is a drive, and
    not x.
    """
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
    rates = like.new_zeros(1, 1, 1)
    if hebbian:
        rates = rates_table(decay, write_rate, state, carried, drive, cut)
    drive, ended = past_the_end(drive, lengths, options)
    gain, norm_bias = weights.norm_weight, weights.norm_bias
    if options.layer_norm:
        gain = like.new_ones(width) if gain is None else gain
        norm_bias = like.new_zeros(width) if norm_bias is None else norm_bias
    static = weights.memory if options.memory == "static" else None
    source, *product = source_of(drive)
    inputs = (source, past, like, rates, gain, norm_bias, static, *(product if multiplies else ()))
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    output, written, *_ = op(
        *inputs,
        options.inner_steps,
        options.norm_eps,
        options.flags,
        _MEMORIES.index(options.memory),
        keep,
    )
    history = None
    if hebbian:
        written = written.detach() if options.detach_writes else written
        history = trimmed(right_aligned(written, length, lengths), decay)
    hidden = output[-1].clone()  # of its own, not part of the output
    if ended is not None and lengths is not None:
        before = like.new_zeros(batch, width) if state is None else state.hidden
        hidden = last_of(before, output, lengths)
        output = output.masked_fill(ended, 0.0)
    if state is not None:
        steps = steps_after(state.steps, length, lengths)
    elif lengths is None:
        steps = torch.full((batch,), length, device=drive.device)
    else:
        steps = lengths.clone()
    return output, LayerState(hidden, steps, history, constant_before=cut)


def rates_table(
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState | None,
    carried: int,
    drive: Tensor | Drive,
    cut: Tensor | None,
) -> Tensor:
    """The table of η r; what was written before the step ``cut`` is a constant."""
    kind, device = torch.promote_types(drive.dtype, torch.float32), drive.device
    count = carried + drive.shape[0]
    if not decay.stationary:
        steps = torch.zeros(1, dtype=torch.int64, device=device) if state is None else state.steps
        return _by_clock(decay, write_rate, steps - carried, count, kind, cut)
    if cut is not None and state is not None:
        return _by_clock(decay, write_rate, state.steps - carried, count, kind, cut)
    if decay.fixed is None or isinstance(write_rate, Tensor) or dispatch_is_traced():
        return (write_rate * decay.table(count, dtype=kind, device=device))[None, None]
    # Nothing in it can change: a short call would spend much of its time on making it again.
    key = decay.fixed, write_rate, count, kind, device
    last = _LAST_TABLES.get(decay)
    if last is None or last[0] != key:
        with torch.inference_mode(False):  # it may take part in a later graph
            last = key, (write_rate * decay.table(count, dtype=kind, device=device))[None, None]
        _LAST_TABLES[decay] = last
    return last[1]


_LAST_TABLES: WeakKeyDictionary[Decay, tuple[Any, Tensor]] = WeakKeyDictionary()


def _by_clock(
    decay: Decay,
    write_rate: Tensor | float,
    oldest: Tensor,
    count: int,
    kind: torch.dtype,
    cut: Tensor | None,
) -> Tensor:
    """The table for ``count`` vectors, the first of them written at step ``oldest`` (B,)."""
    clocks = torch.stack([oldest] if cut is None else [oldest, cut])[:, :, None, None]
    if not dispatch_is_traced() and bool((clocks == clocks[:, :1]).all()):
        clocks = clocks[:, :1]
    index = torch.arange(count, device=oldest.device)
    newest = clocks[0] + index[:, None]
    before = None if cut is None else clocks[1]
    table = memory_weights(newest - index, newest, decay, write_rate, before)
    return table.to(kind)


def last_of(before: Tensor, output: Tensor, lengths: Tensor) -> Tensor:
    """h after each sample's last step, or as it was where there is none."""
    index = (lengths - 1).clamp(min=0)[None, :, None].expand(1, *before.shape)
    return torch.where((lengths > 0)[:, None], output.gather(0, index)[0], before)


def written_like(output: Tensor, past: Tensor | None, memory: int) -> Tensor:
    """Empty: h of all steps, the past ones too, but of the last; none if nothing is written."""
    if memory != HEBBIAN:
        return output.new_empty(0)
    length, batch, width = output.shape
    return output.new_empty((1 if past is None else past.shape[0]) + length - 1, batch, width)


def source_like(doutput: Tensor, matrix: Tensor | None, flags: int) -> Tensor:
    """The gradient of a drive, or of the x that C multiplies if anybody asks for it, empty."""
    if matrix is None:
        return doutput.new_empty(doutput.shape)
    return doutput.new_empty((*doutput.shape[:2], matrix.shape[1]) if flags & INPUT else 0)


def gradients_like(
    doutput: Tensor,
    past: Tensor | None,
    weight: Tensor,
    rates: Tensor,
    static: Tensor | None,
    flags: int,
    *product: Tensor | None,
) -> tuple[Tensor, ...]:
    """What a ``backward`` of :func:`keeping` returns, empty; of no size where nobody asks.

    ``product`` is C and b in an op that multiplies, else nothing.
    """
    width = doutput.shape[2]
    return (
        source_like(doutput, product[0] if product else None, flags),
        doutput.new_empty(0 if past is None else past.shape),
        weight.new_empty(weight.shape),
        rates.new_empty(rates.shape if flags & LEARNED else 0),
        doutput.new_empty(width),
        doutput.new_empty(width),
        doutput.new_empty(0 if static is None else static.shape),
        *(doutput.new_empty(0 if x is None else x.shape) for x in product),
    )


def keeping(
    needs_output: Callable[[int, int], bool],
) -> Callable[[Any, tuple[Any, ...], tuple[Tensor, ...]], None]:
    """The ``setup_context`` of an op of the attention form.

    Its ``forward`` returns the output, the written vectors (:func:`written_like`), which have no
    kernel of their own on the way back, and whatever it keeps; its ``backward`` takes the gradient
    of the output, the output (None unless ``needs_output``, a function of S and the flags), past,
    weight, rates, norm_weight, norm_bias, static, in an op that multiplies (see :func:`run`) x, C
    and b, what was kept, S, ε, flags and memory, and returns the gradients of drive (or x), past,
    weight, rates, norm_weight, norm_bias, static, C and b.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        source, *tensors, steps, eps, flags, memory, keep = inputs
        result, _, *kept = output
        seen = result if needs_output(steps, flags) else None
        product = [None if tensors[6] is None else source, *tensors[6:]] if tensors[6:] else []
        save(ctx, keep, [seen, *tensors[:6], *product, *kept])
        ctx.settings = (steps, eps, flags, memory)
        ctx.tensors = 1 + len(tensors)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)

    return setup_context


def gradients(
    backward: Callable[..., tuple[Tensor, ...]],
    ctx: Any,
    doutput: Tensor | None,
    dwritten: Tensor | None,
    *_: None,
) -> tuple[Tensor | None, ...]:
    """By the ``backward`` of :func:`keeping`, one for each input of the op."""
    nothing = (None,) * (ctx.tensors + 5)
    if ctx.settings[3] != HEBBIAN:
        dwritten = None  # of no vectors
    if doutput is None and dwritten is None:
        return nothing
    saved = load(ctx)
    past, gain, static = saved[1], saved[4], saved[6]
    known = 0 if past is None else past.shape[0]
    if dwritten is not None:  # h(0) … h(T − 1), and output is h(1) … h(T)
        later = functional.pad(dwritten[max(known, 1) :], (0, 0, 0, 0, 0, 1))
        doutput = later if doutput is None else doutput + later
    steps, eps, flags, memory = ctx.settings
    flags = flags | INPUT * ctx.needs[0] | LEARNED * ctx.needs[3]
    dsource, dpast, dweight, drates, dgain, dbias, dstatic, *dproduct = backward(
        doutput, *saved, steps, eps, flags, memory
    )
    if dwritten is not None and past is not None:
        dpast = dpast + dwritten[:known]
    found = (
        dsource if flags & INPUT else None,
        None if past is None else dpast,
        dweight,
        drates if flags & LEARNED else None,
        None if gain is None else dgain,
        None if gain is None else dbias,
        None if static is None else dstatic,
        *(None if saved[8 + i] is None else gradient for i, gradient in enumerate(dproduct)),
    )
    return found + nothing[len(found) :]

"""The attention form in Numba: forward, and the backward pass derived in README.md.

A block of samples is worked on at a time; :mod:`.numba_steps` names the rows of its arrays. Every
thread takes one block after the other until none is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastweights.ops.compiled import Region
from fastweights.ops.fast_weights.attention_op import DETACH, HEBBIAN
from fastweights.ops.fast_weights.numba_calls import call_of, next_block
from fastweights.ops.fast_weights.numba_rows import clear, fetch, gather, scatter
from fastweights.ops.fast_weights.numba_steps import (
    SCORES,
    VECTORS,
    Gradients,
    Kept,
    Slow,
    backward_step,
    forward_step,
    inlined,
    new_work,
    nothing_carried,
    result_again,
    settings_of,
)
from fastweights.ops.simd import array_at

__all__ = ["backward", "forward", "scratch_rows"]


def scratch_rows(vectors: int, width: int, *, backwards: bool) -> int:
    """Rows of scratch that a call needs, for a history of so many vectors and the steps' own."""
    if backwards:
        return (2 * vectors + VECTORS) * width + SCORES * vectors
    return (vectors + VECTORS) * width


@Region
def forward(pointer: Any) -> None:
    """All blocks, with :func:`scratch_rows` for each thread.

    ``sizes`` are T, B, H, the number of past vectors (M + 1, or 0 for a start from nothing) and
    the table's rows, ages and columns; ``addresses`` those of drive (T, B, H), past, W, gain,
    bias, the table, the static memory, and of the arrays that get something: output (T, B, H),
    queries and centred, which without ``keep`` have one step and one place for each thread, and
    the written vectors, past and new but for the last one, (…, B, H), if anything is written.
    """
    call = call_of(pointer)
    like, lanes, inner_steps, keep = call.like, call.lanes, call.inner_steps, call.keep
    addresses, sizes = call.addresses, call.sizes
    length, batch, width, known = sizes[0], sizes[1], sizes[2], sizes[3]
    carried = max(known - 1, 0)
    step = width * lanes
    steps = length if keep else 1
    settings = settings_of(lanes, call.memory, call.flags, inner_steps, like, call.eps)
    norms = settings.norms
    drive = array_at(addresses[0], like, (length, batch, width))
    past = array_at(addresses[1], like, (known, batch, width))
    slow = Slow(
        array_at(addresses[2], like, (width, width)),
        array_at(addresses[6], like, (width, width)),
        array_at(addresses[3], like, (width,)),
        array_at(addresses[4], like, (width,)),
    )
    rates = array_at(addresses[5], like, (sizes[4], sizes[5], sizes[6]))
    output = array_at(addresses[7], like, (length, batch, width))
    all_queries = array_at(addresses[8], like, (call.blocks, steps * max(inner_steps, 1) * step))
    all_centred = array_at(addresses[9], like, (call.blocks, steps * norms * step))
    count = carried + length if call.memory == HEBBIAN else 0
    written = array_at(addresses[10], like, (count, batch, width))
    whole = (carried + length + 1) * step
    history = call.scratch[:whole]
    work = new_work(call.scratch[whole:], width, lanes)
    block = next_block(call)
    while block < call.blocks:
        first = block * lanes
        slot = block if keep else call.thread
        kept = Kept(history, all_queries[slot], all_centred[slot])
        _take_past(history, past, first, width, lanes)
        for m in range(min(carried + 1, count)):
            scatter(written[m], first, history, m * step, lanes)
        for t in range(length):
            now = (carried + t) * step
            place = t if keep else 0
            gather(work.rows, work.y, drive[t], first, lanes)
            fetch(drive[min(t + 1, length - 1)], first, lanes)
            fetch(output[t], first, lanes)
            forward_step(
                settings, slow, kept, rates, nothing_carried, None, work, first, now, now + step,
                carried + t + (0 if settings.after_read else 1),
                place * max(inner_steps, 1) * step, place * settings.norms,
            )  # fmt: skip
            scatter(output[t], first, history, now + step, lanes)
            if carried + t + 1 < count:
                scatter(written[carried + t + 1], first, history, now + step, lanes)
        block = next_block(call)


@Region
def backward(pointer: Any) -> None:
    """Backwards in time.

    ``sizes`` as for :func:`forward`; ``addresses`` are those of past, Wᵀ, gain, bias, the table,
    the transposed static memory, output (not looked at where layer norm lets it be worked out
    again), queries, centred, the gradient of output; and of the arrays that get something: the
    gradient of drive (T, B, H) and of past, h(t) (T, B, H), which is the other factor of W's
    gradient, per block the gradients of the table (rows, ages, lanes), which hold zeros, and of
    gain and bias (H, lanes); with a static memory the two factors of its gradient, (S, T, B, H).
    """
    call = call_of(pointer)
    like, lanes, inner_steps, blocks = call.like, call.lanes, call.inner_steps, call.blocks
    addresses, sizes = call.addresses, call.sizes
    length, batch, width, known = sizes[0], sizes[1], sizes[2], sizes[3]
    rows, ages, columns = sizes[4], sizes[5], sizes[6]
    carried = max(known - 1, 0)
    step = width * lanes
    settings = settings_of(lanes, call.memory, call.flags, inner_steps, like, call.eps)
    norms = settings.norms
    detach = call.flags & DETACH != 0
    past = array_at(addresses[0], like, (known, batch, width))
    slow = Slow(
        array_at(addresses[1], like, (width, width)),
        array_at(addresses[5], like, (width, width)),
        array_at(addresses[2], like, (width,)),
        array_at(addresses[3], like, (width,)),
    )
    rates = array_at(addresses[4], like, (rows, ages, columns))
    output = array_at(addresses[6], like, (length, batch, width))
    all_queries = array_at(addresses[7], like, (blocks, length * max(inner_steps, 1) * step))
    all_centred = array_at(addresses[8], like, (blocks, length * norms * step))
    doutput = array_at(addresses[9], like, (length, batch, width))
    ddrive = array_at(addresses[10], like, (length, batch, width))
    dpast = array_at(addresses[11], like, (known, batch, width))
    hidden = array_at(addresses[12], like, (length, batch, width))
    learned = rows * ages * lanes if settings.learned else 0
    drates = array_at(addresses[13], like, (blocks, learned))
    dgain = array_at(addresses[14], like, (blocks, step))
    dbias = array_at(addresses[15], like, (blocks, step))
    dread = array_at(addresses[16], like, (inner_steps, length, batch, width))
    asked_for = array_at(addresses[17], like, (inner_steps, length, batch, width))
    whole = (carried + length + 1) * step
    history, dhistory = call.scratch[:whole], call.scratch[whole : 2 * whole]
    work = new_work(call.scratch[2 * whole :], width, lanes)
    block = next_block(call)
    while block < blocks:
        first = block * lanes
        kept = Kept(history, all_queries[block], all_centred[block])
        gradients = Gradients(dhistory, drates[block], dgain[block], dbias[block])
        clear(gradients.gain, np.int64(0), width, lanes)
        clear(gradients.bias, np.int64(0), width, lanes)
        _take_past(history, past, first, width, lanes)
        clear(dhistory, np.int64(0), (carried + 1) * width, lanes)
        for t in range(length):
            new = (carried + t + 1) * step
            result_again(settings, slow, kept, t * settings.norms, output, t, first, new)
            gather(dhistory, new, doutput[t], first, lanes)
            fetch(doutput[min(t + 2, length - 1)], first, lanes)
        for t in range(length - 1, -1, -1):
            now = (carried + t) * step
            fetch(ddrive[t], first, lanes)
            fetch(hidden[t], first, lanes)
            backward_step(
                settings, detach, slow, kept, rates, nothing_carried, None, work, gradients, dread,
                asked_for, t, length, first, now, now + step,
                carried + t + (0 if settings.after_read else 1),
                t * max(inner_steps, 1) * step, t * settings.norms,
            )  # fmt: skip
            scatter(ddrive[t], first, work.rows, work.dz, lanes)
            scatter(hidden[t], first, history, now, lanes)
        for m in range(known):
            scatter(dpast[m], first, dhistory, m * step, lanes)
        block = next_block(call)


@inlined
def _take_past(history: Any, past: Any, first: int, width: int, lanes: int) -> None:
    """The first rows of the history; a start from nothing is h = 0."""
    clear(history, np.int64(0), width, lanes)
    for m in range(past.shape[0]):
        gather(history, m * width * lanes, past[m], first, lanes)

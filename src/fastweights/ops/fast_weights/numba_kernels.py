"""The attention form in Numba: forward, and the backward pass derived in README.md.

A block of samples is worked on at a time; :mod:`.numba_steps` names the rows of its arrays. Every
thread takes one block after the other until none is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastweights.ops.compiled import Region
from fastweights.ops.fast_weights.attention_op import DETACH, HEBBIAN
from fastweights.ops.fast_weights.numba_calls import call_of, done, next_block, part
from fastweights.ops.fast_weights.numba_products import (
    Factors,
    Shape,
    add_factors,
    add_up,
    clear_factors,
    factor_rows,
    fetch_factors,
)
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
    new_biases,
    new_work,
    nothing_carried,
    result_again,
    settings_of,
    take_drive,
)
from fastweights.ops.simd import array_at

__all__ = ["backward", "backward_parts", "forward", "forward_parts"]


def forward_parts(vectors: int, width: int, features: int) -> tuple[int, ...]:
    """Rows of each part of the scratch that a call of :func:`forward` needs, one after the other.

    They are the history of so many vectors, the steps' own scratch, two steps' inputs, and b.
    """
    return vectors * width, VECTORS * width, 2 * features, width if features else 0


def backward_parts(
    vectors: int, width: int, features: int, shape: Shape, lanes: int
) -> tuple[int, ...]:
    """As :func:`forward_parts`, for :func:`backward`.

    They are the history and its gradient, the steps' own scratch, the gradient of a step's inputs
    and zeros to begin it with, and the factors of W's and C's gradients.
    """
    history, work, _, _ = forward_parts(vectors, width, features)
    factors = factor_rows(shape, lanes)
    return history, history, work + SCORES * vectors, features, features, *factors


@Region
def forward(pointer: Any) -> None:
    """All blocks, with :func:`forward_parts` for each thread.

    ``sizes`` are T, B, H, the features of the input, or 0 if its product is made elsewhere, and
    the numbers of b, 0 if there is none; the number of past vectors (M + 1, or 0 for a start from
    nothing) and the table's rows, ages and columns. ``addresses`` are those of x (T, B, features)
    or of the drive (T, B, H), C, b, past, W, gain, bias, the table, the static memory, and of the
    arrays that get something: output (T, B, H), queries and centred, which without ``keep`` have
    one step and one place for each thread, and the written vectors, past and new but for the last
    one, (…, B, H), if anything is written.
    """
    call = call_of(pointer)
    like, lanes, inner_steps, keep = call.like, call.lanes, call.inner_steps, call.keep
    addresses, sizes = call.addresses, call.sizes
    length, batch, width, features, known = sizes[0], sizes[1], sizes[2], sizes[3], sizes[5]
    carried = max(known - 1, 0)
    step = width * lanes
    steps = length if keep else 1
    settings = settings_of(lanes, call.memory, call.flags, inner_steps, like, call.eps)
    norms = settings.norms
    source = array_at(addresses[0], like, (length, batch, features if features else width))
    matrix = array_at(addresses[1], like, (width, features))
    past = array_at(addresses[3], like, (known, batch, width))
    slow = Slow(
        array_at(addresses[4], like, (width, width)),
        array_at(addresses[8], like, (width, width)),
        array_at(addresses[5], like, (width,)),
        array_at(addresses[6], like, (width,)),
    )
    rates = array_at(addresses[7], like, (sizes[6], sizes[7], sizes[8]))
    output = array_at(addresses[9], like, (length, batch, width))
    all_queries = array_at(addresses[10], like, (call.blocks, steps * max(inner_steps, 1) * step))
    all_centred = array_at(addresses[11], like, (call.blocks, steps * norms * step))
    count = carried + length if call.memory == HEBBIAN else 0
    written = array_at(addresses[12], like, (count, batch, width))
    history, inputs, biases = part(call, 0), part(call, 2), part(call, 3)
    work = new_work(part(call, 1), width, lanes)
    if features:
        new_biases(biases, array_at(addresses[2], like, (sizes[4],)), width, lanes)
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
            drive = take_drive(work, source, t, matrix, biases, inputs, first, lanes)
            fetch(output[t], first, lanes)
            forward_step(
                settings, slow, kept, rates, nothing_carried, None, work, drive, first, now,
                now + step, carried + t + (0 if settings.after_read else 1),
                place * max(inner_steps, 1) * step, place * settings.norms,
            )  # fmt: skip
            scatter(output[t], first, history, now + step, lanes)
            if carried + t + 1 < count:
                scatter(written[carried + t + 1], first, history, now + step, lanes)
        block = next_block(call)


@Region
def backward(pointer: Any) -> None:
    """Backwards in time.

    ``sizes`` are those of :func:`forward`, then the numbers of a :class:`Shape`. ``addresses`` are
    those of x, Cᵀ (0 if nobody asks for the gradient of x), past, Wᵀ, gain, bias, the table, the
    transposed static memory, output (not looked at where layer norm lets it be worked out again),
    queries, centred, the gradient of output; and of the arrays that get something: the gradients
    of x or of the drive and of past; per block that of the table (rows, ages, lanes), which holds
    zeros; with a static memory the two factors of its gradient, (S, T, B, H); the gradients of W,
    C, b, gain and bias; and the groups' sums.
    """
    call = call_of(pointer)
    like, lanes, inner_steps, blocks = call.like, call.lanes, call.inner_steps, call.blocks
    addresses, sizes = call.addresses, call.sizes
    length, batch, width, features, known = sizes[0], sizes[1], sizes[2], sizes[3], sizes[5]
    rows, ages, columns = sizes[6], sizes[7], sizes[8]
    carried = max(known - 1, 0)
    step = width * lanes
    settings = settings_of(lanes, call.memory, call.flags, inner_steps, like, call.eps)
    norms = settings.norms
    detach = call.flags & DETACH != 0
    x = array_at(addresses[0], like, (length, batch, features))
    back = array_at(addresses[1], like, (features if addresses[1] else 0, width))  # Cᵀ
    past = array_at(addresses[2], like, (known, batch, width))
    slow = Slow(
        array_at(addresses[3], like, (width, width)),
        array_at(addresses[7], like, (width, width)),
        array_at(addresses[4], like, (width,)),
        array_at(addresses[5], like, (width,)),
    )
    rates = array_at(addresses[6], like, (rows, ages, columns))
    output = array_at(addresses[8], like, (length, batch, width))
    all_queries = array_at(addresses[9], like, (blocks, length * max(inner_steps, 1) * step))
    all_centred = array_at(addresses[10], like, (blocks, length * norms * step))
    doutput = array_at(addresses[11], like, (length, batch, width))
    source = array_at(addresses[12], like, (length, batch, back.shape[0] if features else width))
    dpast = array_at(addresses[13], like, (known, batch, width))
    learned = rows * ages * lanes if settings.learned else 0
    drates = array_at(addresses[14], like, (blocks, learned))
    dread = array_at(addresses[15], like, (inner_steps, length, batch, width))
    asked_for = array_at(addresses[16], like, (inner_steps, length, batch, width))
    shape = sizes[9:]
    groups, size = shape[2], shape[3]
    dweight = array_at(addresses[17], like, (width, width))
    dmatrix = array_at(addresses[18], like, (width, features))
    dinput_bias = array_at(addresses[19], like, (sizes[4],))
    dgain = array_at(addresses[20], like, (width,))
    dbias = array_at(addresses[21], like, (width,))
    sums = array_at(addresses[22], like, (groups * size,))
    norms_from = shape[0] * shape[1] * lanes * lanes
    top = np.int64(0)  # functions are compiled once more for a literal 0
    history, dhistory = part(call, 0), part(call, 1)
    work = new_work(part(call, 2), width, lanes)
    flat = array_at(addresses[0], like, (length * batch * features,))
    factors = Factors(
        part(call, 5), part(call, 6), shape[0], shape[1], x, flat, back, source, part(call, 3),
        part(call, 4),
    )  # fmt: skip
    clear_factors(factors, lanes)
    group = next_block(call)
    while group < groups:
        clear(sums, group * size, size // lanes, lanes)
        start = addresses[22] + group * size * like.itemsize
        total = array_at(start, like, (size,))
        start += norms_from * like.itemsize
        gains = array_at(start, like, (step,))
        biases = array_at(start + step * like.itemsize, like, (step,))
        for block in range(group * blocks // groups, (group + 1) * blocks // groups):
            first = block * lanes
            kept = Kept(history, all_queries[block], all_centred[block])
            gradients = Gradients(dhistory, drates[block], gains, biases)
            _take_past(history, past, first, width, lanes)
            clear(dhistory, top, (carried + 1) * width, lanes)
            for t in range(length):
                new = (carried + t + 1) * step
                result_again(settings, slow, kept, t * settings.norms, output, t, first, new)
                gather(dhistory, new, doutput[t], first, lanes)
                fetch(doutput[min(t + 2, length - 1)], first, lanes)
            for t in range(length - 1, -1, -1):
                now = (carried + t) * step
                fetch_factors(factors, t, first, lanes)
                backward_step(
                    settings, detach, slow, kept, rates, nothing_carried, None, work, gradients,
                    dread, asked_for, t, length, first, now, now + step,
                    carried + t + (0 if settings.after_read else 1),
                    t * max(inner_steps, 1) * step, t * settings.norms,
                )  # fmt: skip
                add_factors(
                    total, factors, t, length, work.rows, work.dz, history, now, first, lanes
                )
            for m in range(known):
                scatter(dpast[m], first, dhistory, m * step, lanes)
        if done(call) == groups - 1:
            add_up(sums, shape, dweight, dmatrix, dinput_bias, dgain, dbias, lanes)
        group = next_block(call)


@inlined
def _take_past(history: Any, past: Any, first: int, width: int, lanes: int) -> None:
    """The first rows of the history; a start from nothing is h = 0."""
    clear(history, np.int64(0), width, lanes)
    for m in range(past.shape[0]):
        gather(history, m * width * lanes, past[m], first, lanes)

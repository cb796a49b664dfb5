"""The chunked form in Numba: forward, and the backward pass derived in README.md.

A chunk is a short run of the attention form, with the memories of all earlier chunks in packed
symmetric matrices. Rows live for one chunk only; what the backward pass needs is put by in plain
arrays (steps, B, H), so that a batch that does not fill the lanes does not pay for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastweights.ops.compiled import Region, jit
from fastweights.ops.fast_weights.attention_op import DETACH, HEBBIAN
from fastweights.ops.fast_weights.numba_calls import call_of, done, next_block, part
from fastweights.ops.fast_weights.numba_carried import (
    Carried,
    ask_matrices,
    at_ages,
    read_matrices,
    shares_at_end,
    turn,
    turn_one,
    write_backward,
)
from fastweights.ops.fast_weights.numba_products import (
    Factors,
    Shape,
    add_factors,
    add_up,
    clear_factors,
    factor_rows,
    fetch_factors,
)
from fastweights.ops.fast_weights.numba_rows import (
    add,
    clear,
    copy,
    fetch,
    gather,
    scatter,
)
from fastweights.ops.fast_weights.numba_steps import (
    SCORES,
    VECTORS,
    Gradients,
    Kept,
    Settings,
    Slow,
    backward_step,
    forward_step,
    new_biases,
    new_work,
    result_again,
    settings_of,
    take_drive,
)
from fastweights.ops.fast_weights.numba_symmetric import (
    add_products,
    packed,
    padded,
    read_matrix,
    write_matrix,
)
from fastweights.ops.simd import INTEGERS, array_at, load, spread

__all__ = ["backward", "backward_parts", "forward", "forward_parts"]


def forward_parts(
    width: int, features: int, components: int, chunk: int, inner_steps: int, norms: int
) -> tuple[int, ...]:
    """Rows of each part of the scratch that a call of :func:`forward` needs, one after the other.

    They are the history, queries and centred of a chunk, the matrices, the steps' own scratch, a
    chunk's vectors side by side, the same by their shares, and these; two steps' inputs, and b.
    """
    size = padded(width)
    return (
        (chunk + 1) * width,
        chunk * max(inner_steps, 1) * width,
        chunk * norms * width,
        components * packed(width),
        VECTORS * size,
        size * chunk,
        size * chunk,
        chunk + 1,
        2 * features,
        width if features else 0,
    )


def backward_parts(
    width: int, features: int, components: int, chunk: int, inner_steps: int, norms: int,
    shape: Shape, lanes: int,
) -> tuple[int, ...]:  # fmt: skip
    """As :func:`forward_parts`, for :func:`backward`.

    They are the history, queries and centred of a chunk, the matrices, the steps' own scratch, the
    gradients of the history and of the matrices, ȳ of each read, these and the queries side by
    side, the shares of a chunk's vectors and their gradients; the gradient of a step's inputs and
    zeros to begin it with, and the factors of W's and C's gradients.
    """
    size = padded(width)
    history, queries, centred, matrices, work, *_ = forward_parts(
        width, features, components, chunk, inner_steps, norms
    )
    return (
        history, queries, centred, matrices, work + SCORES * chunk, history, matrices, queries,
        3 * size * chunk * inner_steps, chunk + 1, chunk + 1, features, features,
        *factor_rows(shape, lanes),
    )  # fmt: skip


@Region
def forward(pointer: Any) -> None:
    """All blocks, with :func:`forward_parts` for each thread.

    ``sizes`` are T, B, H, the features of the input, or 0 if its product is made elsewhere, the
    numbers of b, 0 if there is none, M and the chunk's steps n; ``addresses`` those of x (T, B,
    features) or of the drive (T, B, H), C, b, W, gain, bias, rates (n,), which are η r(k), writes
    (M, n), each matrix' share of it, fades (M, n + 1), what is left of a matrix, the hidden
    vectors (B, H) and the matrices (B, M, H, H) to start from; and of the arrays that get
    something: output (T, B, H), the matrices after step ``ends`` (B,), and with ``keep`` the
    queries (T, S, B, H), centred (T, N, B, H) and states (chunks, B, M·packed), the matrices at
    the chunks' starts; last that of ``ends``, integers.
    """
    call = call_of(pointer)
    like, lanes, inner_steps, keep = call.like, call.lanes, call.inner_steps, call.keep
    addresses, sizes, parts = call.addresses, call.sizes, call.rows
    length, batch, width, features = sizes[0], sizes[1], sizes[2], sizes[3]
    components, chunk = sizes[5], sizes[6]
    step = width * lanes
    whole = packed(width) * lanes
    settings = settings_of(lanes, HEBBIAN, call.flags, inner_steps, like, call.eps)
    norms, slots = settings.norms, max(inner_steps, 1)
    source = array_at(addresses[0], like, (length, batch, features if features else width))
    matrix = array_at(addresses[1], like, (width, features))
    weight = array_at(addresses[3], like, (width, width))
    slow = Slow(
        weight, weight, array_at(addresses[4], like, (width,)),
        array_at(addresses[5], like, (width,)),
    )  # fmt: skip
    rates = array_at(addresses[6], like, (1, chunk, 1))
    writes = array_at(addresses[7], like, (components, chunk))
    fades = array_at(addresses[8], like, (components, chunk + 1))
    hidden = array_at(addresses[9], like, (batch, width))
    before = array_at(addresses[10], like, (batch, components, width, width))
    output = array_at(addresses[11], like, (length, batch, width))
    final = array_at(addresses[12], like, (batch, components, width, width))
    queries = array_at(addresses[13], like, (length, inner_steps, batch, width))
    centred = array_at(addresses[14], like, (length, norms, batch, width))
    chunks = -(-length // chunk)
    states = array_at(addresses[15], like, (chunks, batch, components * packed(width)))
    ends = array_at(addresses[16], INTEGERS, (batch,))
    top = np.int64(0)  # functions are compiled once more for a literal 0
    kept = Kept(part(call, 0), part(call, 1), part(call, 2))
    matrices = part(call, 3)
    carried = Carried(fades, matrices, fades, matrices, False)
    work = new_work(part(call, 4), padded(width), lanes)
    across, scaled, shares = part(call, 5), part(call, 6), part(call, 7)
    inputs, biases = part(call, 8), part(call, 9)
    if features:
        new_biases(biases, array_at(addresses[2], like, (sizes[4],)), width, lanes)
    clear(across, top, parts[5], lanes)  # the padding of the matrices' rows
    clear(scaled, top, parts[6], lanes)
    block = next_block(call)
    while block < call.blocks:
        first = block * lanes
        for m in range(components):
            read_matrix(matrices, m * whole, before[:, m], first, lanes)
        gather(kept.history, top, hidden, first, lanes)
        for begin in range(0, length, chunk):
            count = min(chunk, length - begin)
            if keep:
                scatter(states[begin // chunk], first, matrices, top, lanes)
            for k in range(count):
                t = begin + k
                drive = take_drive(work, source, t, matrix, biases, inputs, first, lanes)
                fetch(output[t], first, lanes)
                if keep:
                    _fetch_kept(settings, t, first, queries, centred)
                forward_step(
                    settings, slow, kept, rates, read_matrices, carried, work, drive, first,
                    k * step, (k + 1) * step, k + (0 if settings.after_read else 1),
                    k * slots * step, k * norms,
                )  # fmt: skip
                scatter(output[t], first, kept.history, (k + 1) * step, lanes)
                if keep:
                    _put_by(kept, settings, k, t, first, step, queries, centred)
            turn(across, top, chunk, kept.history, count, width, lanes)
            for m in range(components):
                shares_at_end(shares, writes[m], fades[m], ends, begin, count, first, lanes)
                for k in range(count):
                    share = load(shares, k * lanes)
                    turn_one(scaled, k, chunk, kept.history, k * step, share, width, lanes)
                add_products(
                    matrices, m * whole, load(shares, count * lanes), across, top, scaled, top,
                    count, chunk, width, lanes,
                )  # fmt: skip
            copy(kept.history, top, kept.history, count * step, width, lanes)
        for m in range(components):
            write_matrix(final[:, m], first, matrices, m * whole, lanes)
        block = next_block(call)


@Region
def backward(pointer: Any) -> None:
    """Backwards in time.

    ``sizes`` are those of :func:`forward`, then the numbers of a :class:`Shape`. ``addresses`` are
    those of x, Cᵀ (0 if nobody asks for the gradient of x), Wᵀ, gain, bias, rates, writes, fades,
    hidden, output (not looked at where layer norm lets it be worked out again), queries, centred
    and states as for :func:`forward`, of the gradients of output and of the final matrices
    (symmetric); and of the arrays that get something: the gradients of x or of the drive, hidden
    (B, H) and start (B, M, H, H), W, C, b, gain and bias; the groups' sums; and per block the
    gradients of rates (n, lanes), writes (M, n, lanes) and fades (M, n + 1, lanes), which hold
    zeros; last that of ``ends``.
    """
    call = call_of(pointer)
    like, lanes, inner_steps, blocks = call.like, call.lanes, call.inner_steps, call.blocks
    addresses, sizes, parts = call.addresses, call.sizes, call.rows
    length, batch, width, features = sizes[0], sizes[1], sizes[2], sizes[3]
    components, chunk = sizes[5], sizes[6]
    step = width * lanes
    whole = packed(width) * lanes
    settings = settings_of(lanes, HEBBIAN, call.flags, inner_steps, like, call.eps)
    detach = call.flags & DETACH != 0
    norms, slots = settings.norms, max(inner_steps, 1)
    x = array_at(addresses[0], like, (length, batch, features))
    back = array_at(addresses[1], like, (features if addresses[1] else 0, width))  # Cᵀ
    weight = array_at(addresses[2], like, (width, width))
    slow = Slow(
        weight, weight, array_at(addresses[3], like, (width,)),
        array_at(addresses[4], like, (width,)),
    )  # fmt: skip
    rates = array_at(addresses[5], like, (1, chunk, 1))
    writes = array_at(addresses[6], like, (components, chunk))
    fades = array_at(addresses[7], like, (components, chunk + 1))
    hidden = array_at(addresses[8], like, (batch, width))
    output = array_at(addresses[9], like, (length, batch, width))
    queries = array_at(addresses[10], like, (length, inner_steps, batch, width))
    centred = array_at(addresses[11], like, (length, norms, batch, width))
    chunks = -(-length // chunk)
    states = array_at(addresses[12], like, (chunks, batch, components * packed(width)))
    doutput = array_at(addresses[13], like, (length, batch, width))
    dfinal = array_at(addresses[14], like, (batch, components, width, width))
    source = array_at(addresses[15], like, (length, batch, back.shape[0] if features else width))
    dhidden = array_at(addresses[16], like, (batch, width))
    dstart = array_at(addresses[17], like, (batch, components, width, width))
    learned = 1 if settings.learned else 0
    drates = array_at(addresses[24], like, (blocks, learned * chunk * lanes))
    dwrites = array_at(addresses[25], like, (blocks, learned * components, chunk * lanes))
    dfades = array_at(addresses[26], like, (blocks, learned * components, (chunk + 1) * lanes))
    shape = sizes[7:]
    groups, size = shape[2], shape[3]
    dweight = array_at(addresses[18], like, (width, width))
    dmatrix = array_at(addresses[19], like, (width, features))
    dinput_bias = array_at(addresses[20], like, (sizes[4],))
    dgain = array_at(addresses[21], like, (width,))
    dbias = array_at(addresses[22], like, (width,))
    sums = array_at(addresses[23], like, (groups * size,))
    norms_from = shape[0] * shape[1] * lanes * lanes
    ends = array_at(addresses[27], INTEGERS, (batch,))
    top = np.int64(0)  # functions are compiled once more for a literal 0
    kept = Kept(part(call, 0), part(call, 1), part(call, 2))
    matrices = part(call, 3)
    work = new_work(part(call, 4), padded(width), lanes)
    dhistory, dmatrices, dreads = part(call, 5), part(call, 6), part(call, 7)
    turned, shares, dshares = part(call, 8), part(call, 9), part(call, 10)
    flat = array_at(addresses[0], like, (length * batch * features,))
    factors = Factors(
        part(call, 13), part(call, 14), shape[0], shape[1], x, flat, back, source, part(call, 11),
        part(call, 12),
    )  # fmt: skip
    clear_factors(factors, lanes)
    columns = 3 * chunk * inner_steps
    clear(turned, top, parts[8], lanes)  # the padding of the matrices' rows
    group = next_block(call)
    while group < groups:
        clear(sums, group * size, size // lanes, lanes)
        start = addresses[23] + group * size * like.itemsize
        total = array_at(start, like, (size,))
        start += norms_from * like.itemsize
        gains = array_at(start, like, (step,))
        biases = array_at(start + step * like.itemsize, like, (step,))
        for block in range(group * blocks // groups, (group + 1) * blocks // groups):
            first = block * lanes
            carried = Carried(fades, matrices, dfades[block], dreads, settings.learned)
            gradients = Gradients(dhistory, drates[block], gains, biases)
            clear(dhistory, top, width, lanes)
            for m in range(components):
                read_matrix(dmatrices, m * whole, dfinal[:, m], first, lanes)
            for begin in range((length - 1) // chunk * chunk, -1, -chunk):
                count = min(chunk, length - begin)
                gather(matrices, top, states[begin // chunk], first, lanes)
                if begin:
                    last = max(inner_steps - 1, 0)
                    if norms:
                        gather(kept.centred, last * step, centred[begin - 1, last], first, lanes)
                    result_again(settings, slow, kept, 0, output, begin - 1, first, top)
                else:
                    gather(kept.history, top, hidden, first, lanes)
                # What the later chunks have sent to h at their start, now the end of this one.
                copy(work.rows, work.g, dhistory, top, width, lanes)
                clear(dhistory, top, width, lanes)
                for k in range(count):
                    t, new = begin + k, (k + 1) * step
                    following = min(t + 1, length - 1)
                    _take_out(kept, settings, k, t, first, step, queries, centred)
                    _fetch_kept(settings, following, first, queries, centred)
                    result_again(settings, slow, kept, k * norms, output, t, first, new)
                    gather(dhistory, new, doutput[t], first, lanes)
                    fetch(doutput[following], first, lanes)
                add(dhistory, count * step, work.rows, work.g, width, lanes)
                for m in range(components):
                    shares_at_end(shares, writes[m], fades[m], ends, begin, count, first, lanes)
                    write_backward(
                        kept.history, dhistory, shares, dshares, dmatrices, matrices, m * whole,
                        work, settings.learned, detach, count, width, lanes,
                    )  # fmt: skip
                    if settings.learned:
                        at_ages(
                            dwrites[block, m], dfades[block, m], dshares, ends, begin, count, first,
                            lanes,
                        )  # fmt: skip
                for k in range(count - 1, -1, -1):
                    t = begin + k
                    fetch_factors(factors, t, first, lanes)
                    backward_step(
                        settings, detach, slow, kept, rates, ask_matrices, carried, work, gradients,
                        queries, queries, k, count, first, k * step, (k + 1) * step,
                        k + (0 if settings.after_read else 1), k * slots * step, k * norms,
                    )  # fmt: skip
                    add_factors(
                        total, factors, t, length, work.rows, work.dz, kept.history, k * step,
                        first, lanes,
                    )  # fmt: skip
                # ȳ vᵀ and its transpose, both halved, in one product: (ȳ, v) times (v, ȳ).
                reads = count * inner_steps
                turn(turned, reads, columns, kept.queries, reads, width, lanes)
                half = like.dtype.type(0.5)
                for m in range(components):
                    for n in range(reads):
                        k = n // inner_steps + (0 if settings.after_read else 1)
                        fade = spread(half * fades[m, k])
                        at = n * step
                        turn_one(turned, n, columns, dreads, at, fade, width, lanes)
                        turn_one(turned, 2 * reads + n, columns, dreads, at, fade, width, lanes)
                    shares_at_end(shares, writes[m], fades[m], ends, begin, count, first, lanes)
                    add_products(
                        dmatrices, m * whole, load(shares, count * lanes), turned, top, turned,
                        reads * lanes, 2 * reads, columns, width, lanes,
                    )  # fmt: skip
            scatter(dhidden, first, dhistory, top, lanes)
            for m in range(components):
                write_matrix(dstart[:, m], first, dmatrices, m * whole, lanes)
        if done(call) == groups - 1:
            add_up(sums, shape, dweight, dmatrix, dinput_bias, dgain, dbias, lanes)
        group = next_block(call)


@jit
def _fetch_kept(settings: Settings, t: int, first: int, queries: Any, centred: Any) -> None:
    for s in range(settings.inner_steps):
        fetch(queries[t, s], first, settings.lanes)
    for n in range(settings.norms):
        fetch(centred[t, n], first, settings.lanes)


@jit
def _put_by(
    kept: Kept, settings: Settings, k: int, t: int, first: int, step: int, queries: Any,
    centred: Any,
) -> None:  # fmt: skip
    """The rows of one of a chunk's steps to the plain arrays."""
    for s in range(settings.inner_steps):
        at = (k * settings.inner_steps + s) * step
        scatter(queries[t, s], first, kept.queries, at, settings.lanes)
    for n in range(settings.norms):
        at = (k * settings.norms + n) * step
        scatter(centred[t, n], first, kept.centred, at, settings.lanes)


@jit
def _take_out(
    kept: Kept, settings: Settings, k: int, t: int, first: int, step: int, queries: Any,
    centred: Any,
) -> None:  # fmt: skip
    """The inverse of :func:`_put_by`."""
    for s in range(settings.inner_steps):
        at = (k * settings.inner_steps + s) * step
        gather(kept.queries, at, queries[t, s], first, settings.lanes)
    for n in range(settings.norms):
        at = (k * settings.norms + n) * step
        gather(kept.centred, at, centred[t, n], first, settings.lanes)

"""The attention form in Numba: forward, and the backward pass derived in README.md.

A block of samples is worked on at a time, one sample per lane of a vector (see
:mod:`fastweights.ops.simd`). All arrays are flat; a "row" is one feature of a block, `lanes`
numbers long, so that h(τ) of a block is H rows. Rows of one block:

    history   h(−M) … h(0) … h(T)        (M + T + 1, H)
    queries   h_s(t+1), s = 0 … S−1      (T, S, H)     what the reads ask for
    normed    x̂ of each LN               (T, N, H)     N = S, and one more, the last, for the
    scales    1/σ of each LN             (T, N)         preliminary's if that is normalised
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from fastweights.ops.simd import fma, load, masked, root, spread, store

__all__ = ["HEBBIAN", "NONE", "STATIC", "backward", "forward"]

HEBBIAN, STATIC, NONE = 0, 1, 2
ROWS = 8  # accumulators per inner loop: enough to hide the latency of two FMA units

jit = njit(nogil=True, cache=True, error_model="numpy")


@jit
def _matrix_times(
    out: Any, out_at: int, start: Any, start_at: int, matrix: Any, x: Any, x_at: int, width: int,
    lanes: int,
) -> None:  # fmt: skip
    """out = start + matrix x for a block; ``out`` and ``start`` must not overlap."""
    row = 0
    while row < width:
        if width < ROWS:
            acc = load(start, start_at + row * lanes)
            for j in range(width):
                acc = fma(spread(matrix[row, j]), load(x, x_at + j * lanes), acc)
            store(out, out_at + row * lanes, acc)
            row += 1
            continue
        i = min(row, width - ROWS)  # the last rows may be worked out twice
        at = start_at + i * lanes
        a0, a1 = load(start, at), load(start, at + lanes)
        a2, a3 = load(start, at + 2 * lanes), load(start, at + 3 * lanes)
        a4, a5 = load(start, at + 4 * lanes), load(start, at + 5 * lanes)
        a6, a7 = load(start, at + 6 * lanes), load(start, at + 7 * lanes)
        for j in range(width):
            v = load(x, x_at + j * lanes)
            a0 = fma(spread(matrix[i, j]), v, a0)
            a1 = fma(spread(matrix[i + 1, j]), v, a1)
            a2 = fma(spread(matrix[i + 2, j]), v, a2)
            a3 = fma(spread(matrix[i + 3, j]), v, a3)
            a4 = fma(spread(matrix[i + 4, j]), v, a4)
            a5 = fma(spread(matrix[i + 5, j]), v, a5)
            a6 = fma(spread(matrix[i + 6, j]), v, a6)
            a7 = fma(spread(matrix[i + 7, j]), v, a7)
        at = out_at + i * lanes
        store(out, at, a0)
        store(out, at + lanes, a1)
        store(out, at + 2 * lanes, a2)
        store(out, at + 3 * lanes, a3)
        store(out, at + 4 * lanes, a4)
        store(out, at + 5 * lanes, a5)
        store(out, at + 6 * lanes, a6)
        store(out, at + 7 * lanes, a7)
        row += ROWS


@jit
def _contract(
    out: Any, start: Any, table: Any, table_at: int, outer: int, outer_step: int,
    x: Any, x_at: int, inner: int, inner_step: int, lanes: int,
) -> None:  # fmt: skip
    """out[k] = start[k] + Σ_n table[k, n] · x[n], every one of them a vector of lanes.

    With the history as table this is both halves of a read: the scores h(τ)·v (outer over τ,
    inner over features) and the sum Σ_τ c(τ) h(τ) (outer over features, inner over τ).
    ``out`` and ``start`` must not overlap.
    """
    row = 0
    while row < outer:
        if outer < ROWS:
            acc = load(start, row * lanes)
            at = table_at + row * outer_step
            for n in range(inner):
                acc = fma(load(table, at + n * inner_step), load(x, x_at + n * lanes), acc)
            store(out, row * lanes, acc)
            row += 1
            continue
        k = min(row, outer - ROWS)
        a0, a1 = load(start, k * lanes), load(start, (k + 1) * lanes)
        a2, a3 = load(start, (k + 2) * lanes), load(start, (k + 3) * lanes)
        a4, a5 = load(start, (k + 4) * lanes), load(start, (k + 5) * lanes)
        a6, a7 = load(start, (k + 6) * lanes), load(start, (k + 7) * lanes)
        at = table_at + k * outer_step
        for n in range(inner):
            v = load(x, x_at + n * lanes)
            a0 = fma(load(table, at), v, a0)
            a1 = fma(load(table, at + outer_step), v, a1)
            a2 = fma(load(table, at + 2 * outer_step), v, a2)
            a3 = fma(load(table, at + 3 * outer_step), v, a3)
            a4 = fma(load(table, at + 4 * outer_step), v, a4)
            a5 = fma(load(table, at + 5 * outer_step), v, a5)
            a6 = fma(load(table, at + 6 * outer_step), v, a6)
            a7 = fma(load(table, at + 7 * outer_step), v, a7)
            at += inner_step
        store(out, k * lanes, a0)
        store(out, (k + 1) * lanes, a1)
        store(out, (k + 2) * lanes, a2)
        store(out, (k + 3) * lanes, a3)
        store(out, (k + 4) * lanes, a4)
        store(out, (k + 5) * lanes, a5)
        store(out, (k + 6) * lanes, a6)
        store(out, (k + 7) * lanes, a7)
        row += ROWS


@jit
def _gather(rows: Any, at: int, plain: Any, first: int, lanes: int) -> None:
    """Rows of a block from a (B, H) array; lanes beyond the batch get zeros."""
    batch, width = plain.shape
    for lane in range(lanes):
        sample = first + lane
        for j in range(width):
            rows[at + j * lanes + lane] = plain[sample, j] if sample < batch else 0


@jit
def _scatter(plain: Any, first: int, rows: Any, at: int, lanes: int) -> None:
    """The inverse of :func:`_gather`."""
    batch, width = plain.shape
    for lane in range(min(lanes, batch - first)):
        for j in range(width):
            plain[first + lane, j] = rows[at + j * lanes + lane]


@jit
def _normalise(
    out: Any, out_at: int, y: Any, normed: Any, normed_at: int, scales: Any, scale_at: int,
    gain: Any, bias: Any, eps: Any, lanes: int,
) -> None:  # fmt: skip
    """out = relu(LN[y]), keeping x̂ and 1/σ."""
    width = gain.shape[0]
    zero = spread(y.dtype.type(0))
    one = spread(y.dtype.type(1))
    share = spread(y.dtype.type(1 / width))
    total = zero
    for j in range(width):
        total = total + load(y, j * lanes)
    mean = total * share
    total = zero
    for j in range(width):
        centred = load(y, j * lanes) - mean
        total = fma(centred, centred, total)
    scale = one / root(fma(total, share, spread(eps)))
    store(scales, scale_at, scale)
    for j in range(width):
        x = (load(y, j * lanes) - mean) * scale
        store(normed, normed_at + j * lanes, x)
        v = fma(x, spread(gain[j]), spread(bias[j]))
        store(out, out_at + j * lanes, masked(v, v))


@jit
def _normalise_backward(
    dx: Any, dy: Any, normed: Any, normed_at: int, scale: Any, gain: Any,
    dgain: Any, dbias: Any, lanes: int,
) -> None:  # fmt: skip
    """dx from dy, the gradient of gain · x̂ + bias; adds to dgain and dbias."""
    width = gain.shape[0]
    zero = spread(dy.dtype.type(0))
    share = spread(dy.dtype.type(1 / width))
    first, second = zero, zero
    for j in range(width):
        g = load(dy, j * lanes)
        x = load(normed, normed_at + j * lanes)
        store(dbias, j * lanes, load(dbias, j * lanes) + g)
        store(dgain, j * lanes, fma(g, x, load(dgain, j * lanes)))
        g = g * spread(gain[j])
        first = first + g
        second = fma(g, x, second)
    first, second = first * share, second * share
    for j in range(width):
        x = load(normed, normed_at + j * lanes)
        g = load(dy, j * lanes) * spread(gain[j])
        store(dx, j * lanes, (g - first - x * second) * scale)


@jit
def _decay_scores(scores: Any, count: int, rates: Any, lanes: int) -> None:
    for m in range(count):
        store(scores, m * lanes, load(scores, m * lanes) * spread(rates[count - 1 - m]))


@jit
def forward(
    block: int, slot: int, lanes: int, memory: int, norm: bool, norm_preliminary: bool,
    previous: bool, after_read: bool, keep: bool, eps: Any, steps_inner: int,
    drive: Any, weight: Any, gain: Any, bias: Any, rates: Any, static: Any, hs: Any,
    all_history: Any, all_queries: Any, all_normed: Any, all_scales: Any,
) -> None:  # fmt: skip
    """One block of samples. ``hs`` (M + T + 1, B, H) holds M + 1 vectors and gets the rest.

    ``slot`` is the block's place in the kept arrays; without ``keep`` these have one step.
    """
    length, _, width = drive.shape
    carried = hs.shape[0] - length - 1
    first = block * lanes
    step = width * lanes
    history, queries = all_history[slot], all_queries[slot]
    normed, scales = all_normed[slot], all_scales[slot]
    norms = steps_inner + (1 if norm_preliminary else 0)
    number = drive.dtype.type
    z = np.empty(step, drive.dtype)
    y = np.empty(step, drive.dtype)
    zeros = np.zeros(max(carried + length, width) * lanes, drive.dtype)
    scores = np.empty((carried + length) * lanes, drive.dtype)
    for m in range(carried + 1):
        _gather(history, m * step, hs[m], first, lanes)
    eps_number = number(eps)
    for t in range(length):
        now = (carried + t) * step
        new = now + step
        kept = t if keep else 0
        _gather(y, 0, drive[t], first, lanes)
        _matrix_times(z, 0, y, 0, weight, history, now, width, lanes)
        query = kept * max(steps_inner, 1) * step
        place = kept * norms
        if previous:
            for j in range(width):
                store(queries, query + j * lanes, load(history, now + j * lanes))
        elif norm_preliminary:
            _normalise(
                queries, query, z, normed, (place + steps_inner) * step, scales,
                (place + steps_inner) * lanes, gain, bias, eps_number, lanes,
            )  # fmt: skip
        else:
            for j in range(width):
                v = load(z, j * lanes)
                store(queries, query + j * lanes, masked(v, v))
        count = carried + t + (0 if after_read else 1)
        for s in range(steps_inner):
            asked = query + s * step
            if memory == HEBBIAN:
                _contract(
                    scores, zeros, history, 0, count, step, queries, asked, width, lanes, lanes
                )
                _decay_scores(scores, count, rates, lanes)
                _contract(y, z, history, 0, width, lanes, scores, 0, count, step, lanes)
            elif memory == STATIC:
                _matrix_times(y, 0, z, 0, static, queries, asked, width, lanes)
            else:
                y[:] = z
            last = s == steps_inner - 1
            target = history if last else queries
            target_at = new if last else asked + step
            if norm:
                _normalise(
                    target, target_at, y, normed, (place + s) * step, scales,
                    (place + s) * lanes, gain, bias, eps_number, lanes,
                )  # fmt: skip
            else:
                for j in range(width):
                    v = load(y, j * lanes)
                    store(target, target_at + j * lanes, masked(v, v))
        if steps_inner == 0:
            for j in range(width):
                store(history, new + j * lanes, load(queries, query + j * lanes))
        _scatter(hs[carried + t + 1], first, history, new, lanes)


@jit
def backward(
    block: int, lanes: int, memory: int, norm: bool, norm_preliminary: bool, previous: bool,
    after_read: bool, detach: bool, steps_inner: int,
    weight_t: Any, gain: Any, rates: Any, static_t: Any,
    all_history: Any, all_queries: Any, all_normed: Any, all_scales: Any, dhs: Any,
    ddrive: Any, dstart: Any, drates: Any, dgain: Any, dbias: Any, dread: Any, asked_for: Any,
) -> None:  # fmt: skip
    """One block of samples, backwards in time.

    ``dhs`` is the gradient of ``hs``. Gets: ``ddrive`` (T, B, H), ``dstart`` (M + 1, B, H),
    and per block ``drates`` (ages, lanes), ``dgain`` and ``dbias`` (H, lanes). With a static
    memory, ``dread`` and ``asked_for`` (S, T, B, H) get the two factors of its gradient.
    """
    length, _, width = ddrive.shape
    carried = dhs.shape[0] - length - 1
    first = block * lanes
    step = width * lanes
    history, queries = all_history[block], all_queries[block]
    normed, scales = all_normed[block], all_scales[block]
    norms = steps_inner + (1 if norm_preliminary else 0)
    drate, dgain_block, dbias_block = drates[block], dgain[block], dbias[block]
    kind = ddrive.dtype
    dhistory = np.empty((carried + length + 1) * step, kind)
    for m in range(carried + length + 1):
        _gather(dhistory, m * step, dhs[m], first, lanes)
    g, dy, dx = np.empty(step, kind), np.empty(step, kind), np.empty(step, kind)
    dz = np.empty(step, kind)
    zeros = np.zeros(max(carried + length, width) * lanes, kind)
    scores = np.empty((carried + length) * lanes, kind)
    escores = np.empty((carried + length) * lanes, kind)
    zero = spread(kind.type(0))
    for t in range(length - 1, -1, -1):
        now = (carried + t) * step
        new = now + step
        query = t * max(steps_inner, 1) * step
        place = t * norms
        for j in range(width):
            store(g, j * lanes, load(dhistory, new + j * lanes))
            store(dz, j * lanes, zero)
        count = carried + t + (0 if after_read else 1)
        for s in range(steps_inner - 1, -1, -1):
            asked = query + s * step
            last = s == steps_inner - 1
            result = history if last else queries
            result_at = new if last else asked + step
            for j in range(width):
                store(
                    dy, j * lanes, masked(load(g, j * lanes), load(result, result_at + j * lanes))
                )
            if norm:
                scale = load(scales, (place + s) * lanes)
                _normalise_backward(
                    dx, dy, normed, (place + s) * step, scale, gain, dgain_block, dbias_block,
                    lanes,
                )  # fmt: skip
            else:
                dx[:] = dy
            for j in range(width):
                store(dz, j * lanes, load(dz, j * lanes) + load(dx, j * lanes))
            if memory == HEBBIAN:
                _contract(
                    scores, zeros, history, 0, count, step, queries, asked, width, lanes, lanes
                )
                _contract(escores, zeros, history, 0, count, step, dx, 0, width, lanes, lanes)
                for m in range(count):
                    age = count - 1 - m
                    c, e = load(scores, m * lanes), load(escores, m * lanes)
                    store(drate, age * lanes, fma(c, e, load(drate, age * lanes)))
                _decay_scores(scores, count, rates, lanes)
                _decay_scores(escores, count, rates, lanes)
                _contract(g, zeros, history, 0, width, lanes, escores, 0, count, step, lanes)
                if not detach:
                    _add_writes(dhistory, count, scores, dx, escores, queries, asked, step, lanes)
            elif memory == STATIC:
                _scatter(dread[s, t], first, dx, 0, lanes)
                _scatter(asked_for[s, t], first, queries, asked, lanes)
                _matrix_times(g, 0, zeros, 0, static_t, dx, 0, width, lanes)
            else:
                g[:] = 0
        if previous:
            for j in range(width):
                at = now + j * lanes
                store(dhistory, at, load(dhistory, at) + load(g, j * lanes))
        else:
            start = history if steps_inner == 0 else queries
            start_at = new if steps_inner == 0 else query
            for j in range(width):
                store(dy, j * lanes, masked(load(g, j * lanes), load(start, start_at + j * lanes)))
            if norm_preliminary:
                scale = load(scales, (place + steps_inner) * lanes)
                _normalise_backward(
                    dx, dy, normed, (place + steps_inner) * step, scale, gain, dgain_block,
                    dbias_block, lanes,
                )  # fmt: skip
            else:
                dx[:] = dy
            for j in range(width):
                store(dz, j * lanes, load(dz, j * lanes) + load(dx, j * lanes))
        _scatter(ddrive[t], first, dz, 0, lanes)
        _matrix_times(g, 0, dhistory, now, weight_t, dz, 0, width, lanes)
        for j in range(width):
            store(dhistory, now + j * lanes, load(g, j * lanes))
    for m in range(carried + 1):
        _scatter(dstart[m], first, dhistory, m * step, lanes)


@jit
def _add_writes(
    dhistory: Any, count: int, scores: Any, dx: Any, escores: Any, queries: Any, asked: int,
    step: int, lanes: int,
) -> None:  # fmt: skip
    """dh(τ) += η r c(τ) dx + η r e(τ) v, four τ at a time."""
    m = 0
    while m + 4 <= count:
        a0, a1 = load(scores, m * lanes), load(scores, (m + 1) * lanes)
        a2, a3 = load(scores, (m + 2) * lanes), load(scores, (m + 3) * lanes)
        b0, b1 = load(escores, m * lanes), load(escores, (m + 1) * lanes)
        b2, b3 = load(escores, (m + 2) * lanes), load(escores, (m + 3) * lanes)
        at = m * step
        for row in range(0, step, lanes):
            d, v = load(dx, row), load(queries, asked + row)
            i = at + row
            store(dhistory, i, fma(b0, v, fma(a0, d, load(dhistory, i))))
            i += step
            store(dhistory, i, fma(b1, v, fma(a1, d, load(dhistory, i))))
            i += step
            store(dhistory, i, fma(b2, v, fma(a2, d, load(dhistory, i))))
            i += step
            store(dhistory, i, fma(b3, v, fma(a3, d, load(dhistory, i))))
        m += 4
    while m < count:
        a, b = load(scores, m * lanes), load(escores, m * lanes)
        for row in range(0, step, lanes):
            i = m * step + row
            d, v = load(dx, row), load(queries, asked + row)
            store(dhistory, i, fma(b, v, fma(a, d, load(dhistory, i))))
        m += 1

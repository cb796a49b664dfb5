"""Arithmetic on blocks of samples, one sample per lane of a vector (:mod:`fastweights.ops.simd`).

Arrays are flat; a "row" is one feature of a block, ``lanes`` numbers long, so that h(τ) of a block
is H rows.
"""

from __future__ import annotations

from typing import Any

from fastweights.ops.compiled import compiled
from fastweights.ops.simd import fma, load, masked, root, spread, store, transpose

__all__ = [
    "ROWS",
    "contract",
    "copy",
    "decay_scores",
    "gather",
    "jit",
    "matrix_times",
    "normalise",
    "normalise_backward",
    "relu",
    "scatter",
]

ROWS = 8  # accumulators per inner loop: enough to hide the latency of two FMA units

jit = compiled()


@jit
def matrix_times(
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
def contract(
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
def gather(rows: Any, at: int, plain: Any, first: int, lanes: int) -> None:
    """Rows of a block from a contiguous (B, H) array; lanes beyond the batch get zeros."""
    batch, width = plain.shape
    if first + lanes <= batch and width >= lanes:
        for start in range(0, width, lanes):
            j = min(start, width - lanes)  # the last rows may be written twice
            transpose(rows, at + j * lanes, lanes, plain, first * width + j, width)
        return
    for lane in range(lanes):
        sample = first + lane
        for j in range(width):
            rows[at + j * lanes + lane] = plain[sample, j] if sample < batch else 0


@jit
def scatter(plain: Any, first: int, rows: Any, at: int, lanes: int) -> None:
    """The inverse of :func:`gather`."""
    batch, width = plain.shape
    if first + lanes <= batch and width >= lanes:
        for start in range(0, width, lanes):
            j = min(start, width - lanes)
            transpose(plain, first * width + j, width, rows, at + j * lanes, lanes)
        return
    for lane in range(min(lanes, batch - first)):
        for j in range(width):
            plain[first + lane, j] = rows[at + j * lanes + lane]


@jit
def normalise(
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
def normalise_backward(
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
def decay_scores(scores: Any, count: int, rates: Any, first: int, lanes: int) -> None:
    """Scale the scores of ``count`` memories by the table (rows, ages, 1 or lanes of all)."""
    rows, ages, samples = rates.shape
    row = min(count, rows) - 1
    for m in range(count):
        age = count - 1 - m
        if samples == 1:
            rate = spread(rates[row, age, 0])
        else:
            rate = load(rates, (row * ages + age) * samples + first)
        store(scores, m * lanes, load(scores, m * lanes) * rate)


@jit
def copy(out: Any, out_at: int, x: Any, x_at: int, width: int, lanes: int) -> None:
    """out = x for ``width`` rows."""
    for j in range(0, width * lanes, lanes):
        store(out, out_at + j, load(x, x_at + j))


@jit
def relu(out: Any, out_at: int, x: Any, x_at: int, width: int, lanes: int) -> None:
    """out = relu(x) for ``width`` rows."""
    for j in range(0, width * lanes, lanes):
        v = load(x, x_at + j)
        store(out, out_at + j, masked(v, v))

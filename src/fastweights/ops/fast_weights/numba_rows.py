"""Arithmetic on blocks of samples, one sample per lane of a vector (:mod:`fastweights.ops.simd`).

Arrays are flat; a "row" is one feature of a block, ``lanes`` numbers long, so that h(τ) of a block
is H rows.
"""

from __future__ import annotations

from typing import Any

from fastweights.ops.compiled import jit
from fastweights.ops.simd import fma, load, masked, prefetch, root, spread, store, transpose

__all__ = [
    "ROWS",
    "add",
    "clear",
    "copy",
    "fetch",
    "gather",
    "matrix_times",
    "matrix_times_two",
    "normalise",
    "normalise_backward",
    "relu",
    "scaled",
    "scatter",
]

ROWS = 8  # accumulators per inner loop: enough to hide the latency of two FMA units


@jit
def matrix_times(
    out: Any, out_at: int, start: Any, start_at: int, matrix: Any, x: Any, x_at: int, lanes: int
) -> None:
    """out = start + matrix x for a block; ``out`` and ``start`` must not overlap."""
    height, width = matrix.shape
    row = 0
    while row < height:
        if height < ROWS:
            acc = load(start, start_at + row * lanes)
            for j in range(width):
                acc = fma(spread(matrix[row, j]), load(x, x_at + j * lanes), acc)
            store(out, out_at + row * lanes, acc)
            row += 1
            continue
        i = min(row, height - ROWS)  # the last rows may be worked out twice
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
def matrix_times_two(
    out: Any, out_at: int, start: Any, start_at: int, matrix: Any, x: Any, x_at: int, lanes: int
) -> None:
    """As :func:`matrix_times` from one ``start`` for two x, one after the other, as in ``out``.

    Every number of the matrix is loaded for both.
    """
    height, width = matrix.shape
    next_x, next_out = width * lanes, height * lanes
    row = 0
    while row < height:
        if height < 4:
            a0 = load(start, start_at + row * lanes)
            b0 = a0
            for j in range(width):
                at = x_at + j * lanes
                m = spread(matrix[row, j])
                a0, b0 = fma(m, load(x, at), a0), fma(m, load(x, at + next_x), b0)
            store(out, out_at + row * lanes, a0)
            store(out, out_at + row * lanes + next_out, b0)
            row += 1
            continue
        i = min(row, height - 4)  # the last rows may be worked out twice
        at = start_at + i * lanes
        a0, a1 = load(start, at), load(start, at + lanes)
        a2, a3 = load(start, at + 2 * lanes), load(start, at + 3 * lanes)
        b0, b1, b2, b3 = a0, a1, a2, a3
        for j in range(width):
            at = x_at + j * lanes
            v, w = load(x, at), load(x, at + next_x)
            m = spread(matrix[i, j])
            a0, b0 = fma(m, v, a0), fma(m, w, b0)
            m = spread(matrix[i + 1, j])
            a1, b1 = fma(m, v, a1), fma(m, w, b1)
            m = spread(matrix[i + 2, j])
            a2, b2 = fma(m, v, a2), fma(m, w, b2)
            m = spread(matrix[i + 3, j])
            a3, b3 = fma(m, v, a3), fma(m, w, b3)
        at = out_at + i * lanes
        store(out, at, a0)
        store(out, at + lanes, a1)
        store(out, at + 2 * lanes, a2)
        store(out, at + 3 * lanes, a3)
        at += next_out
        store(out, at, b0)
        store(out, at + lanes, b1)
        store(out, at + 2 * lanes, b2)
        store(out, at + 3 * lanes, b3)
        row += 4


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
def fetch(plain: Any, first: int, lanes: int) -> None:
    """Begin to bring near what :func:`gather` or :func:`scatter` will touch of a (B, H) array.

    From one step to the next it lies too far away for the machine to see it coming.
    """
    batch, width = plain.shape
    line = 64 // plain.itemsize
    for i in range(first * width, min(first + lanes, batch) * width, line):
        prefetch(plain, i)


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
    out: Any, out_at: int, y: Any, y_at: int, centred: Any, centred_at: int, gain: Any, bias: Any,
    eps: Any, lanes: int,
) -> None:  # fmt: skip
    """out = relu(LN[y]), keeping y less its mean."""
    width = gain.shape[0]
    mean = _total(y, y_at, width, lanes) * spread(y.dtype.type(1 / width))
    for j in range(0, width * lanes, lanes):
        store(centred, centred_at + j, load(y, y_at + j) - mean)
    scaled(out, out_at, centred, centred_at, gain, bias, eps, lanes)


@jit
def scaled(
    out: Any, out_at: int, centred: Any, centred_at: int, gain: Any, bias: Any, eps: Any, lanes: int
) -> None:
    """out = relu(γ x̂ + β), to the last bit the same whenever it is worked out."""
    width = gain.shape[0]
    scale = _scale_of(centred, centred_at, width, eps, lanes)
    for j in range(width):
        x = load(centred, centred_at + j * lanes) * scale
        v = fma(x, spread(gain[j]), spread(bias[j]))
        store(out, out_at + j * lanes, masked(v, v))


@jit
def _total(x: Any, at: int, width: int, lanes: int) -> Any:
    """Σ x, by four sums that need not wait for one another."""
    zero = spread(x.dtype.type(0))
    a, b, c, d = zero, zero, zero, zero
    for j in range(0, width - 3, 4):
        i = at + j * lanes
        a, b = a + load(x, i), b + load(x, i + lanes)
        c, d = c + load(x, i + 2 * lanes), d + load(x, i + 3 * lanes)
    for j in range(width - width % 4, width):
        a = a + load(x, at + j * lanes)
    return (a + b) + (c + d)


@jit
def _scale_of(centred: Any, at: int, width: int, eps: Any, lanes: int) -> Any:
    """1/σ, its sum of squares like the one above."""
    zero = spread(centred.dtype.type(0))
    a, b, c, d = zero, zero, zero, zero
    for j in range(0, width - 3, 4):
        i = at + j * lanes
        w, x = load(centred, i), load(centred, i + lanes)
        y, z = load(centred, i + 2 * lanes), load(centred, i + 3 * lanes)
        a, b, c, d = fma(w, w, a), fma(x, x, b), fma(y, y, c), fma(z, z, d)
    for j in range(width - width % 4, width):
        x = load(centred, at + j * lanes)
        a = fma(x, x, a)
    share = spread(centred.dtype.type(1 / width))
    return spread(centred.dtype.type(1)) / root(fma((a + b) + (c + d), share, spread(eps)))


@jit
def normalise_backward(
    dx: Any, dx_at: int, dy: Any, dy_at: int, centred: Any, centred_at: int, gain: Any, eps: Any,
    dgain: Any, dbias: Any, lanes: int,
) -> None:  # fmt: skip
    """dx from dy, the gradient of gain · x̂ + bias; adds to dgain and dbias."""
    width = gain.shape[0]
    zero = spread(dy.dtype.type(0))
    share = spread(dy.dtype.type(1 / width))
    first, second = zero, zero
    for j in range(width):
        g = load(dy, dy_at + j * lanes)
        x = load(centred, centred_at + j * lanes)
        store(dbias, j * lanes, load(dbias, j * lanes) + g)
        g = g * spread(gain[j])
        first = first + g
        second = fma(g, x, second)
    scale = _scale_of(centred, centred_at, width, eps, lanes)
    first, second = first * share, second * share * scale
    for j in range(width):
        x = load(centred, centred_at + j * lanes) * scale
        g = load(dy, dy_at + j * lanes)
        store(dgain, j * lanes, fma(g, x, load(dgain, j * lanes)))
        store(dx, dx_at + j * lanes, (g * spread(gain[j]) - first - x * second) * scale)


@jit
def clear(out: Any, at: int, width: int, lanes: int) -> None:
    """out = 0 for ``width`` rows."""
    zero = spread(out.dtype.type(0))
    for j in range(0, width * lanes, lanes):
        store(out, at + j, zero)


@jit
def add(out: Any, out_at: int, x: Any, x_at: int, width: int, lanes: int) -> None:
    """out += x for ``width`` rows."""
    for j in range(0, width * lanes, lanes):
        store(out, out_at + j, load(out, out_at + j) + load(x, x_at + j))


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

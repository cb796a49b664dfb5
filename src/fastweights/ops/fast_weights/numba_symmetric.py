"""Symmetric matrices of a block of samples, of which only the upper half is stored.

The matrix is cut into strips of eight rows. A strip holds its columns from the diagonal on, eight
rows of a column together, each a vector of lanes. Widths that eight does not divide are padded:
rows and columns beyond the width are zero.
"""

from __future__ import annotations

from typing import Any

from numba.extending import register_jitable

from fastweights.ops.compiled import jit
from fastweights.ops.fast_weights.numba_rows import ROWS
from fastweights.ops.simd import fma, load, spread, store

__all__ = [
    "add_products",
    "inner_product",
    "packed",
    "padded",
    "read_matrix",
    "symmetric_times",
    "write_matrix",
]


@register_jitable  # Python asks too, for how much memory to get
def padded(width: int) -> int:
    """Rows of a vector that a packed matrix multiplies."""
    return -(-width // ROWS) * ROWS


@register_jitable
def packed(width: int) -> int:
    """Vectors that a packed matrix takes."""
    size = padded(width)
    return size * (size + ROWS) // 2


@jit
def symmetric_times(
    out: Any, out_at: int, matrix: Any, at: int, x: Any, x_at: int, width: int, lanes: int
) -> None:
    """out += matrix x. Every number of the matrix is loaded once and used for two rows."""
    size = padded(width)
    for i in range(0, size, ROWS):
        row, end = x_at + i * lanes, out_at + i * lanes
        x0, x1 = load(x, row), load(x, row + lanes)
        x2, x3 = load(x, row + 2 * lanes), load(x, row + 3 * lanes)
        x4, x5 = load(x, row + 4 * lanes), load(x, row + 5 * lanes)
        x6, x7 = load(x, row + 6 * lanes), load(x, row + 7 * lanes)
        a0, a1 = load(out, end), load(out, end + lanes)
        a2, a3 = load(out, end + 2 * lanes), load(out, end + 3 * lanes)
        a4, a5 = load(out, end + 4 * lanes), load(out, end + 5 * lanes)
        a6, a7 = load(out, end + 6 * lanes), load(out, end + 7 * lanes)
        for j in range(i, i + ROWS):  # the diagonal block is stored whole
            v = load(x, x_at + j * lanes)
            a0 = fma(load(matrix, at), v, a0)
            a1 = fma(load(matrix, at + lanes), v, a1)
            a2 = fma(load(matrix, at + 2 * lanes), v, a2)
            a3 = fma(load(matrix, at + 3 * lanes), v, a3)
            a4 = fma(load(matrix, at + 4 * lanes), v, a4)
            a5 = fma(load(matrix, at + 5 * lanes), v, a5)
            a6 = fma(load(matrix, at + 6 * lanes), v, a6)
            a7 = fma(load(matrix, at + 7 * lanes), v, a7)
            at += ROWS * lanes
        for j in range(i + ROWS, size):
            v = load(x, x_at + j * lanes)
            m0, m1 = load(matrix, at), load(matrix, at + lanes)
            m2, m3 = load(matrix, at + 2 * lanes), load(matrix, at + 3 * lanes)
            b = fma(m0, x0, load(out, out_at + j * lanes))
            c = m1 * x1
            b = fma(m2, x2, b)
            c = fma(m3, x3, c)
            a0, a1, a2, a3 = fma(m0, v, a0), fma(m1, v, a1), fma(m2, v, a2), fma(m3, v, a3)
            m0, m1 = load(matrix, at + 4 * lanes), load(matrix, at + 5 * lanes)
            m2, m3 = load(matrix, at + 6 * lanes), load(matrix, at + 7 * lanes)
            b = fma(m0, x4, b)
            c = fma(m1, x5, c)
            b = fma(m2, x6, b)
            c = fma(m3, x7, c)
            a4, a5, a6, a7 = fma(m0, v, a4), fma(m1, v, a5), fma(m2, v, a6), fma(m3, v, a7)
            store(out, out_at + j * lanes, b + c)
            at += ROWS * lanes
        store(out, end, a0)
        store(out, end + lanes, a1)
        store(out, end + 2 * lanes, a2)
        store(out, end + 3 * lanes, a3)
        store(out, end + 4 * lanes, a4)
        store(out, end + 5 * lanes, a5)
        store(out, end + 6 * lanes, a6)
        store(out, end + 7 * lanes, a7)


@jit
def add_products(
    matrix: Any, at: int, fade: Any, left: Any, left_at: int, right: Any, right_at: int,
    count: int, stride: int, width: int, lanes: int,
) -> None:  # fmt: skip
    """matrix = fade · matrix + Σ_n left_n right_nᵀ, of which one half is looked at.

    ``left`` and ``right`` hold the ``count`` numbers of one row together, ``stride`` apart from
    row to row, so that the inner loop runs along memory.
    """
    size = padded(width)
    step = stride * lanes
    for i in range(0, size, ROWS):
        for j in range(i, size, 2):
            next_to = at + ROWS * lanes
            a0, a1 = fade * load(matrix, at), fade * load(matrix, at + lanes)
            a2, a3 = fade * load(matrix, at + 2 * lanes), fade * load(matrix, at + 3 * lanes)
            a4, a5 = fade * load(matrix, at + 4 * lanes), fade * load(matrix, at + 5 * lanes)
            a6, a7 = fade * load(matrix, at + 6 * lanes), fade * load(matrix, at + 7 * lanes)
            b0, b1 = fade * load(matrix, next_to), fade * load(matrix, next_to + lanes)
            b2, b3 = (
                fade * load(matrix, next_to + 2 * lanes),
                fade * load(matrix, next_to + 3 * lanes),
            )
            b4, b5 = (
                fade * load(matrix, next_to + 4 * lanes),
                fade * load(matrix, next_to + 5 * lanes),
            )
            b6, b7 = (
                fade * load(matrix, next_to + 6 * lanes),
                fade * load(matrix, next_to + 7 * lanes),
            )
            x = left_at + i * step
            y = right_at + j * step
            for _ in range(count):
                v, w = load(right, y), load(right, y + step)
                u = load(left, x)
                a0, b0 = fma(u, v, a0), fma(u, w, b0)
                u = load(left, x + step)
                a1, b1 = fma(u, v, a1), fma(u, w, b1)
                u = load(left, x + 2 * step)
                a2, b2 = fma(u, v, a2), fma(u, w, b2)
                u = load(left, x + 3 * step)
                a3, b3 = fma(u, v, a3), fma(u, w, b3)
                u = load(left, x + 4 * step)
                a4, b4 = fma(u, v, a4), fma(u, w, b4)
                u = load(left, x + 5 * step)
                a5, b5 = fma(u, v, a5), fma(u, w, b5)
                u = load(left, x + 6 * step)
                a6, b6 = fma(u, v, a6), fma(u, w, b6)
                u = load(left, x + 7 * step)
                a7, b7 = fma(u, v, a7), fma(u, w, b7)
                x += lanes
                y += lanes
            store(matrix, at, a0)
            store(matrix, at + lanes, a1)
            store(matrix, at + 2 * lanes, a2)
            store(matrix, at + 3 * lanes, a3)
            store(matrix, at + 4 * lanes, a4)
            store(matrix, at + 5 * lanes, a5)
            store(matrix, at + 6 * lanes, a6)
            store(matrix, at + 7 * lanes, a7)
            store(matrix, next_to, b0)
            store(matrix, next_to + lanes, b1)
            store(matrix, next_to + 2 * lanes, b2)
            store(matrix, next_to + 3 * lanes, b3)
            store(matrix, next_to + 4 * lanes, b4)
            store(matrix, next_to + 5 * lanes, b5)
            store(matrix, next_to + 6 * lanes, b6)
            store(matrix, next_to + 7 * lanes, b7)
            at = next_to + ROWS * lanes


@jit
def inner_product(a: Any, b: Any, at: int, width: int, lanes: int) -> Any:
    """Σ_ij a_ij b_ij for every lane."""
    size = padded(width)
    once = spread(a.dtype.type(0))
    twice = spread(a.dtype.type(0))
    for i in range(0, size, ROWS):
        for _ in range(ROWS * ROWS):
            once = fma(load(a, at), load(b, at), once)
            at += lanes
        for _ in range((size - i - ROWS) * ROWS):
            twice = fma(load(a, at), load(b, at), twice)
            at += lanes
    return once + twice + twice


@jit
def read_matrix(matrix: Any, at: int, plain: Any, first: int, lanes: int) -> None:
    """Pack the upper halves of a (B, H, H) array; lanes beyond the batch get zeros."""
    batch, width, _ = plain.shape
    size = padded(width)
    for lane in range(lanes):
        sample = first + lane
        k = at + lane
        for i in range(0, size, ROWS):
            for j in range(i, size):
                for row in range(i, i + ROWS):
                    inside = sample < batch and j < width and row < width
                    matrix[k] = plain[sample, min(row, j), max(row, j)] if inside else 0
                    k += lanes


@jit
def write_matrix(plain: Any, first: int, matrix: Any, at: int, lanes: int) -> None:
    """The inverse of :func:`read_matrix`, both halves."""
    batch, width, _ = plain.shape
    size = padded(width)
    for lane in range(min(lanes, batch - first)):
        k = at + lane
        for i in range(0, size, ROWS):
            for j in range(i, size):
                for row in range(i, i + ROWS):
                    if j < width and row < width:
                        plain[first + lane, row, j] = matrix[k]
                        plain[first + lane, j, row] = matrix[k]
                    k += lanes

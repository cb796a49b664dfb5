"""The memory that the chunked form carries from chunk to chunk: reading it and writing to it.

Forward and backward, for one block of samples; :mod:`.numba_symmetric` says how it is stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastweights.ops.compiled import jit
from fastweights.ops.fast_weights.numba_rows import clear, copy
from fastweights.ops.fast_weights.numba_steps import Work
from fastweights.ops.fast_weights.numba_symmetric import (
    inner_product,
    packed,
    padded,
    symmetric_times,
)
from fastweights.ops.simd import fma, load, spread, store

__all__ = [
    "Carried",
    "ask_matrices",
    "at_ages",
    "read_matrices",
    "shares_at_end",
    "turn",
    "turn_one",
    "write_backward",
]


class Carried(NamedTuple):
    """Packed matrices by which all before the chunk is known, ``fades`` (M, C + 1) left of them.

    A backward step adds to ``dfades`` (M, (C + 1) · lanes), and leaves ȳ of each read in ``reads``.
    """

    fades: Any
    matrices: Any
    dfades: Any
    reads: Any
    learned: Any


@jit
def read_matrices(
    carried: Carried, work: Work, queries: Any, asked: int, count: int, width: int, lanes: int
) -> None:
    """work.y += Σ fade · matrix · query."""
    for m in range(carried.fades.shape[0]):
        fade = spread(carried.fades[m, count])
        for j in range(0, width * lanes, lanes):
            store(work.rows, work.x + j, fade * load(queries, asked + j))
        symmetric_times(
            work.rows, work.y, carried.matrices, m * packed(width) * lanes, work.rows, work.x,
            width, lanes,
        )  # fmt: skip


@jit
def ask_matrices(
    carried: Carried, work: Work, dx: int, queries: Any, asked: int, count: int, width: int,
    lanes: int,
) -> None:  # fmt: skip
    """work.g += Σ fade · matrix · dx, and what each fade is worth: query · matrix · dx."""
    rows, base = work.rows, work.base
    copy(carried.reads, asked, rows, dx, width, lanes)
    copy(rows, work.x, rows, dx, width, lanes)
    for m in range(carried.fades.shape[0]):
        clear(rows, base, padded(width), lanes)
        symmetric_times(
            rows, base, carried.matrices, m * packed(width) * lanes, rows, work.x, width, lanes
        )
        fade = spread(carried.fades[m, count])
        for j in range(0, width * lanes, lanes):
            store(rows, work.g + j, fma(fade, load(rows, base + j), load(rows, work.g + j)))
        if carried.learned:
            total = load(carried.dfades[m], count * lanes)
            for j in range(0, width * lanes, lanes):
                total = fma(load(rows, base + j), load(queries, asked + j), total)
            store(carried.dfades[m], count * lanes, total)


@jit
def turn(
    out: Any, column: int, columns: int, rows: Any, count: int, width: int, lanes: int
) -> None:
    """out[j, column + k] = rows[k, j]: the same feature of successive vectors side by side."""
    one = spread(rows.dtype.type(1))
    for k in range(count):
        turn_one(out, column + k, columns, rows, k * width * lanes, one, width, lanes)


@jit
def turn_one(
    out: Any, column: int, columns: int, rows: Any, at: int, times: Any, width: int, lanes: int
) -> None:
    """out[j, column] = times · rows[j], for the vector that starts at ``at``."""
    for j in range(width):
        store(out, (j * columns + column) * lanes, times * load(rows, at + j * lanes))


@jit
def shares_at_end(
    shares: Any, writes: Any, fades: Any, ends: Any, begin: int, count: int, first: int, lanes: int
) -> None:
    """By what each vector of a chunk, and last the matrix, enter the matrix at its end.

    A sample that ends within the chunk writes no more, and one that has ended keeps its matrix.
    """
    for lane in range(lanes):
        steps = _steps_of(ends, begin, count, first + lane)
        for k in range(count):
            shares[k * lanes + lane] = writes[steps - 1 - k] if k < steps else 0
        shares[count * lanes + lane] = fades[steps]


@jit
def _steps_of(ends: Any, begin: int, count: int, sample: int) -> int:
    """Steps of a chunk that belong to the sample."""
    return min(max(ends[sample] - begin, 0), count) if sample < ends.shape[0] else count


@jit
def write_backward(
    history: Any, dhistory: Any, shares: Any, dshares: Any, dmatrices: Any, matrices: Any, at: int,
    work: Work, learned: bool, detach: bool, count: int, width: int, lanes: int,
) -> None:  # fmt: skip
    """Through A ← fade A + Σ share h hᵀ: dh, and what the shares and last the fade are worth."""
    rows, x, base = work.rows, work.x, work.base
    step = width * lanes
    if learned or not detach:
        for k in range(count):
            copy(rows, x, history, k * step, width, lanes)
            clear(rows, base, padded(width), lanes)
            symmetric_times(rows, base, dmatrices, at, rows, x, width, lanes)
            if not detach:
                share = load(shares, k * lanes)
                share = share + share
                for j in range(0, step, lanes):
                    to = k * step + j
                    store(dhistory, to, fma(share, load(rows, base + j), load(dhistory, to)))
            if learned:
                total = spread(history.dtype.type(0))
                for j in range(0, step, lanes):
                    total = fma(load(rows, base + j), load(rows, x + j), total)
                store(dshares, k * lanes, total)
    if learned:
        store(dshares, count * lanes, inner_product(dmatrices, matrices, at, width, lanes))


@jit
def at_ages(
    dwrites: Any, dfades: Any, dshares: Any, ends: Any, begin: int, count: int, first: int,
    lanes: int,
) -> None:  # fmt: skip
    """Add the gradients of :func:`shares_at_end`'s results where they came from."""
    for lane in range(lanes):
        steps = _steps_of(ends, begin, count, first + lane)
        for k in range(steps):
            dwrites[(steps - 1 - k) * lanes + lane] += dshares[k * lanes + lane]
        dfades[steps * lanes + lane] += dshares[count * lanes + lane]

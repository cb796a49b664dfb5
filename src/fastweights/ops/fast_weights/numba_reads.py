"""Reading the vectors of a history, forward and backward, one sample per lane.

Four memories at a time: their scores first, then what they add, while they are still in the
nearest cache. So the history comes from farther away once per read. The gradient of the history
need not come as often: what four reads add to it waits in their scores, and is added at once.
"""

from __future__ import annotations

from typing import Any

from fastweights.ops.compiled import jit
from fastweights.ops.fast_weights.numba_rows import clear
from fastweights.ops.simd import fma, load, spread, store

__all__ = ["TOGETHER", "add_put_off", "read_history", "read_history_backward"]

TOGETHER = 4  # reads whose additions to the gradient of the history are put off


@jit
def read_history(
    y: Any, y_at: int, history: Any, count: int, rates: Any, first: int, queries: Any, asked: int,
    width: int, lanes: int,
) -> None:  # fmt: skip
    """y += Σ ρ (h(τ)·v) h(τ) over the first ``count`` vectors of the history.

    ``rates`` is a table (rows, ages, 1 or lanes of all), of which the last row at most ``count``
    counts.
    """
    step = width * lanes
    zero = spread(y.dtype.type(0))
    for m in range(0, count - 3, 4):
        at = m * step
        a0, a1, a2, a3 = zero, zero, zero, zero
        b0, b1, b2, b3 = zero, zero, zero, zero
        for j in range(0, step - lanes, 2 * lanes):
            v, w = load(queries, asked + j), load(queries, asked + j + lanes)
            i = at + j
            a0, b0 = fma(load(history, i), v, a0), fma(load(history, i + lanes), w, b0)
            i += step
            a1, b1 = fma(load(history, i), v, a1), fma(load(history, i + lanes), w, b1)
            i += step
            a2, b2 = fma(load(history, i), v, a2), fma(load(history, i + lanes), w, b2)
            i += step
            a3, b3 = fma(load(history, i), v, a3), fma(load(history, i + lanes), w, b3)
        if width % 2:
            j = step - lanes
            v = load(queries, asked + j)
            a0 = fma(load(history, at + j), v, a0)
            a1 = fma(load(history, at + step + j), v, a1)
            a2 = fma(load(history, at + 2 * step + j), v, a2)
            a3 = fma(load(history, at + 3 * step + j), v, a3)
        a0 = (a0 + b0) * _rate(rates, count, m, first)
        a1 = (a1 + b1) * _rate(rates, count, m + 1, first)
        a2 = (a2 + b2) * _rate(rates, count, m + 2, first)
        a3 = (a3 + b3) * _rate(rates, count, m + 3, first)
        for j in range(0, step, lanes):
            i = at + j
            total = fma(a0, load(history, i), load(y, y_at + j))
            total = fma(a1, load(history, i + step), total)
            total = fma(a2, load(history, i + 2 * step), total)
            store(y, y_at + j, fma(a3, load(history, i + 3 * step), total))
    for m in range(count - count % 4, count):
        score = zero
        for j in range(0, step, lanes):
            score = fma(load(history, m * step + j), load(queries, asked + j), score)
        score = score * _rate(rates, count, m, first)
        for j in range(0, step, lanes):
            store(y, y_at + j, fma(score, load(history, m * step + j), load(y, y_at + j)))


@jit
def read_history_backward(
    g: Any, g_at: int, history: Any, dhistory: Any, count: int, rates: Any, first: int,
    drates: Any, learned: bool, detach: bool, dy: Any, dy_at: int, queries: Any, asked: int,
    scores: Any, scores_at: int, put_off: int, width: int, lanes: int,
) -> None:  # fmt: skip
    """g = Σ ρ e(τ) h(τ), the gradient of the query, with e(τ) = h(τ)·dy.

    Adds to the gradients of the history, unless ``detach``, and of the rates if ``learned``. The
    first ``put_off`` vectors, a multiple of four, get nothing yet, but from ``scores_at`` on their
    two scores: that with the query, and four rows on that with dy, eight rows for each vector.
    """
    step = width * lanes
    zero = spread(g.dtype.type(0))
    clear(g, g_at, width, lanes)
    for m in range(0, count - 3, 4):
        at = m * step
        c0, c1, c2, c3 = zero, zero, zero, zero
        e0, e1, e2, e3 = zero, zero, zero, zero
        for j in range(0, step, lanes):
            v, d = load(queries, asked + j), load(dy, dy_at + j)
            h = load(history, at + j)
            c0, e0 = fma(h, v, c0), fma(h, d, e0)
            h = load(history, at + step + j)
            c1, e1 = fma(h, v, c1), fma(h, d, e1)
            h = load(history, at + 2 * step + j)
            c2, e2 = fma(h, v, c2), fma(h, d, e2)
            h = load(history, at + 3 * step + j)
            c3, e3 = fma(h, v, c3), fma(h, d, e3)
        if learned:
            _add_at_age(drates, rates, count, m, c0 * e0, lanes)
            _add_at_age(drates, rates, count, m + 1, c1 * e1, lanes)
            _add_at_age(drates, rates, count, m + 2, c2 * e2, lanes)
            _add_at_age(drates, rates, count, m + 3, c3 * e3, lanes)
        rate = _rate(rates, count, m, first)
        c0, e0 = rate * c0, rate * e0
        rate = _rate(rates, count, m + 1, first)
        c1, e1 = rate * c1, rate * e1
        rate = _rate(rates, count, m + 2, first)
        c2, e2 = rate * c2, rate * e2
        rate = _rate(rates, count, m + 3, first)
        c3, e3 = rate * c3, rate * e3
        if m < put_off:
            i = scores_at + m * 2 * TOGETHER * lanes
            store(scores, i, c0)
            store(scores, i + TOGETHER * lanes, e0)
            i += 2 * TOGETHER * lanes
            store(scores, i, c1)
            store(scores, i + TOGETHER * lanes, e1)
            i += 2 * TOGETHER * lanes
            store(scores, i, c2)
            store(scores, i + TOGETHER * lanes, e2)
            i += 2 * TOGETHER * lanes
            store(scores, i, c3)
            store(scores, i + TOGETHER * lanes, e3)
        for j in range(0, step, lanes):
            i = at + j
            total = fma(e0, load(history, i), load(g, g_at + j))
            total = fma(e1, load(history, i + step), total)
            total = fma(e2, load(history, i + 2 * step), total)
            store(g, g_at + j, fma(e3, load(history, i + 3 * step), total))
            if not detach and m >= put_off:
                v, d = load(queries, asked + j), load(dy, dy_at + j)
                store(dhistory, i, fma(e0, v, fma(c0, d, load(dhistory, i))))
                i += step
                store(dhistory, i, fma(e1, v, fma(c1, d, load(dhistory, i))))
                i += step
                store(dhistory, i, fma(e2, v, fma(c2, d, load(dhistory, i))))
                i += step
                store(dhistory, i, fma(e3, v, fma(c3, d, load(dhistory, i))))
    for m in range(count - count % 4, count):
        at = m * step
        c, e = zero, zero
        for j in range(0, step, lanes):
            h = load(history, at + j)
            c, e = fma(h, load(queries, asked + j), c), fma(h, load(dy, dy_at + j), e)
        if learned:
            _add_at_age(drates, rates, count, m, c * e, lanes)
        rate = _rate(rates, count, m, first)
        c, e = rate * c, rate * e
        for j in range(0, step, lanes):
            i = at + j
            store(g, g_at + j, fma(e, load(history, i), load(g, g_at + j)))
            if not detach:
                v, d = load(queries, asked + j), load(dy, dy_at + j)
                store(dhistory, i, fma(e, v, fma(c, d, load(dhistory, i))))


@jit
def add_put_off(
    dhistory: Any, put_off: int, scores: Any, scores_at: int, dy: Any, dy_at: int, queries: Any,
    asked: int, width: int, lanes: int,
) -> None:  # fmt: skip
    """What four reads in a row have left to be added to the first ``put_off`` vectors.

    Their scores stand side by side, their queries and dy one after the other.
    """
    step = width * lanes
    for m in range(0, put_off, 2):
        i = scores_at + m * 2 * TOGETHER * lanes
        c0, c1 = load(scores, i), load(scores, i + lanes)
        c2, c3 = load(scores, i + 2 * lanes), load(scores, i + 3 * lanes)
        e0, e1 = load(scores, i + 4 * lanes), load(scores, i + 5 * lanes)
        e2, e3 = load(scores, i + 6 * lanes), load(scores, i + 7 * lanes)
        i += 2 * TOGETHER * lanes
        c4, c5 = load(scores, i), load(scores, i + lanes)
        c6, c7 = load(scores, i + 2 * lanes), load(scores, i + 3 * lanes)
        e4, e5 = load(scores, i + 4 * lanes), load(scores, i + 5 * lanes)
        e6, e7 = load(scores, i + 6 * lanes), load(scores, i + 7 * lanes)
        for j in range(0, step, lanes):
            i = m * step + j
            a, b = load(dhistory, i), load(dhistory, i + step)
            v, d = load(queries, asked + j), load(dy, dy_at + j)
            a, b = fma(e0, v, fma(c0, d, a)), fma(e4, v, fma(c4, d, b))
            v, d = load(queries, asked + step + j), load(dy, dy_at + step + j)
            a, b = fma(e1, v, fma(c1, d, a)), fma(e5, v, fma(c5, d, b))
            v, d = load(queries, asked + 2 * step + j), load(dy, dy_at + 2 * step + j)
            a, b = fma(e2, v, fma(c2, d, a)), fma(e6, v, fma(c6, d, b))
            v, d = load(queries, asked + 3 * step + j), load(dy, dy_at + 3 * step + j)
            a, b = fma(e3, v, fma(c3, d, a)), fma(e7, v, fma(c7, d, b))
            store(dhistory, i, a)
            store(dhistory, i + step, b)


@jit
def _rate(rates: Any, count: int, m: int, first: int) -> Any:
    """What is left of memory ``m`` of ``count``, for every lane."""
    rows, ages, columns = rates.shape
    row, age = min(count, rows) - 1, count - 1 - m
    if columns == 1:
        return spread(rates[row, age, 0])
    return load(rates, (row * ages + age) * columns + first)


@jit
def _add_at_age(drates: Any, rates: Any, count: int, m: int, value: Any, lanes: int) -> None:
    """Add to the gradient of :func:`_rate`; ``drates`` (rows, ages, lanes) is flat."""
    rows, ages, _ = rates.shape
    at = ((min(count, rows) - 1) * ages + count - 1 - m) * lanes
    store(drates, at, load(drates, at) + value)

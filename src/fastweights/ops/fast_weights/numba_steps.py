"""One step of the recurrence, forward and backward, shared by the forms that have a kernel.

A form decides which vectors are in the history at hand and what memory there is beside them: the
attention form keeps every vector and has no matrix, the chunked form keeps those of the chunk.
Rows of one block, for a history of n steps after M carried vectors:

    history   h(−M) … h(0) … h(n)        (M + n + 1, H)
    queries   h_s(t+1), s = 0 … S−1      (n, S, H)     what the reads ask for
    normed    x̂ of each LN               (n, N, H)     N = S, and one more, the last, for the
    scales    1/σ of each LN             (n, N)         preliminary's if that is normalised
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from fastweights.ops.fast_weights.numba_rows import (
    contract,
    copy,
    decay_scores,
    jit,
    matrix_times,
    normalise,
    normalise_backward,
    relu,
    scatter,
)
from fastweights.ops.fast_weights.numba_symmetric import packed, padded, symmetric_times
from fastweights.ops.simd import fma, load, masked, spread, store

__all__ = [
    "HEBBIAN",
    "NONE",
    "STATIC",
    "Carried",
    "Gradients",
    "Kept",
    "Settings",
    "Slow",
    "backward_step",
    "forward_step",
    "new_work",
]

HEBBIAN, STATIC, NONE = 0, 1, 2

# Put into its caller before it is typed: compiled once less, and no tuple goes through memory.
inlined = njit(nogil=True, error_model="numpy", inline="always")


class Settings(NamedTuple):
    """The options; ``norms`` is N, ``eps`` of the arrays' own type."""

    lanes: Any
    memory: Any
    norm: Any
    norm_preliminary: Any
    previous: Any
    after_read: Any
    inner_steps: Any
    norms: Any
    eps: Any


class Slow(NamedTuple):
    """W and the memory in the place of A, (H, H), transposed on the way back; LN's two vectors."""

    weight: Any
    static: Any
    gain: Any
    bias: Any


class Kept(NamedTuple):
    """What the backward pass needs, as rows."""

    history: Any
    queries: Any
    normed: Any
    scales: Any


class Carried(NamedTuple):
    """The memory: η r for the history, and packed matrices by which all else is known.

    ``rates`` (rows, ages, 1 or lanes of all blocks) has one row, or one for every number of
    vectors in sight. ``fades`` (matrices, ages) is what is left of each matrix when the history
    holds so many memories that are read.
    """

    rates: Any
    fades: Any
    matrices: Any


class Gradients(NamedTuple):
    """What a backward step adds to, all but ``reads``, where it leaves ȳ of each read.

    ``rates`` (rows, ages, lanes) is flat.
    """

    history: Any
    rates: Any
    fades: Any
    gain: Any
    bias: Any
    reads: Any


class Work(NamedTuple):
    """Scratch: vectors of rows, padded for the packed matrices, and one row per memory."""

    z: Any
    y: Any
    base: Any
    x: Any
    dx: Any
    dz: Any
    g: Any
    scores: Any
    escores: Any
    zeros: Any


@jit
def new_work(width: int, ages: int, lanes: int, kind: Any) -> Work:
    """Scratch for a history of so many vectors."""
    size = padded(width) * lanes
    return Work(
        np.empty(size, kind),
        np.empty(size, kind),
        np.empty(size, kind),
        np.zeros(size, kind),  # its padding stays zero
        np.empty(size, kind),
        np.empty(size, kind),
        np.empty(size, kind),
        np.empty(ages * lanes, kind),
        np.empty(ages * lanes, kind),
        np.zeros(max(ages, width) * lanes, kind),
    )


@inlined
def forward_step(
    settings: Settings, slow: Slow, kept: Kept, carried: Carried, work: Work,
    first: int, now: int, new: int, count: int, query: int, place: int,
) -> None:  # fmt: skip
    """h(t+1) from h(t), from ``now`` to ``new`` of the history; ``work.y`` holds the drive.

    The first ``count`` vectors of the history are read. The step's queries start at ``query``,
    its normed rows at the N-fold ``place``.
    """
    lanes, width = settings.lanes, slow.weight.shape[0]
    step = width * lanes
    history, queries, normed, scales = kept
    z, y, scores = work.z, work.y, work.scores
    matrix_times(z, 0, y, 0, slow.weight, history, now, width, lanes)
    if settings.previous:
        copy(queries, query, history, now, width, lanes)
    elif settings.norm_preliminary:
        at = place + settings.inner_steps
        normalise(
            queries, query, z, normed, at * step, scales, at * lanes, slow.gain, slow.bias,
            settings.eps, lanes,
        )  # fmt: skip
    else:
        relu(queries, query, z, 0, width, lanes)
    for s in range(settings.inner_steps):
        asked = query + s * step
        if settings.memory == HEBBIAN:
            base = z
            if carried.fades.shape[0]:
                base = work.base
                _read_matrices(carried, work, queries, asked, count, width, lanes)
            contract(
                scores, work.zeros, history, 0, count, step, queries, asked, width, lanes, lanes
            )
            decay_scores(scores, count, carried.rates, first, lanes)
            contract(y, base, history, 0, width, lanes, scores, 0, count, step, lanes)
        elif settings.memory == STATIC:
            matrix_times(y, 0, z, 0, slow.static, queries, asked, width, lanes)
        else:
            y[:] = z
        last = s == settings.inner_steps - 1
        target = history if last else queries
        target_at = new if last else asked + step
        if settings.norm:
            normalise(
                target, target_at, y, normed, (place + s) * step, scales, (place + s) * lanes,
                slow.gain, slow.bias, settings.eps, lanes,
            )  # fmt: skip
        else:
            relu(target, target_at, y, 0, width, lanes)
    if settings.inner_steps == 0:
        copy(history, new, queries, query, width, lanes)


@jit
def _read_matrices(
    carried: Carried, work: Work, queries: Any, asked: int, count: int, width: int, lanes: int
) -> None:
    """work.base = z + Σ fade · matrix · query."""
    copy(work.base, 0, work.z, 0, width, lanes)
    for m in range(carried.fades.shape[0]):
        fade = spread(carried.fades[m, count])
        for j in range(0, width * lanes, lanes):
            store(work.x, j, fade * load(queries, asked + j))
        symmetric_times(
            work.base, carried.matrices, m * packed(width) * lanes, work.x, width, lanes
        )


@inlined
def backward_step(
    settings: Settings, detach: bool, slow: Slow, kept: Kept, carried: Carried, work: Work,
    gradients: Gradients, dread: Any, asked_for: Any, t: int, first: int,
    now: int, new: int, count: int, query: int, place: int,
) -> None:  # fmt: skip
    """From the gradient of h(t+1) to that of z(t), left in ``work.dz``, and of all before.

    With a static memory, ``dread`` and ``asked_for`` (S, T, B, H) get the two factors of its
    gradient at step t.
    """
    lanes, width = settings.lanes, slow.weight.shape[0]
    step = width * lanes
    history, queries, normed, scales = kept
    dhistory = gradients.history
    g, dx, dz, dy = work.g, work.dx, work.dz, work.y
    scores, escores = work.scores, work.escores
    copy(g, 0, dhistory, new, width, lanes)
    dz[:] = 0
    for s in range(settings.inner_steps - 1, -1, -1):
        asked = query + s * step
        last = s == settings.inner_steps - 1
        result = history if last else queries
        result_at = new if last else asked + step
        for j in range(0, step, lanes):
            store(dy, j, masked(load(g, j), load(result, result_at + j)))
        if settings.norm:
            scale = load(scales, (place + s) * lanes)
            normalise_backward(
                dx, dy, normed, (place + s) * step, scale, slow.gain, gradients.gain,
                gradients.bias, lanes,
            )  # fmt: skip
        else:
            copy(dx, 0, dy, 0, width, lanes)
        for j in range(0, step, lanes):
            store(dz, j, load(dz, j) + load(dx, j))
        if settings.memory == HEBBIAN:
            contract(
                scores, work.zeros, history, 0, count, step, queries, asked, width, lanes, lanes
            )
            contract(escores, work.zeros, history, 0, count, step, dx, 0, width, lanes, lanes)
            rows, ages, _ = carried.rates.shape
            newest = ((min(count, rows) - 1) * ages + count - 1) * lanes
            for m in range(count):
                age = newest - m * lanes
                c, e = load(scores, m * lanes), load(escores, m * lanes)
                store(gradients.rates, age, fma(c, e, load(gradients.rates, age)))
            decay_scores(scores, count, carried.rates, first, lanes)
            decay_scores(escores, count, carried.rates, first, lanes)
            contract(g, work.zeros, history, 0, width, lanes, escores, 0, count, step, lanes)
            if not detach:
                _add_writes(dhistory, count, scores, dx, escores, queries, asked, step, lanes)
            if carried.fades.shape[0]:
                copy(gradients.reads, asked, dx, 0, width, lanes)
                _ask_matrices(carried, work, gradients, queries, asked, count, width, lanes)
        elif settings.memory == STATIC:
            scatter(dread[s, t], first, dx, 0, lanes)
            scatter(asked_for[s, t], first, queries, asked, lanes)
            matrix_times(g, 0, work.zeros, 0, slow.static, dx, 0, width, lanes)
        else:
            g[:] = 0
    if settings.previous:
        for j in range(0, step, lanes):
            store(dhistory, now + j, load(dhistory, now + j) + load(g, j))
    else:
        start = history if settings.inner_steps == 0 else queries
        start_at = new if settings.inner_steps == 0 else query
        for j in range(0, step, lanes):
            store(dy, j, masked(load(g, j), load(start, start_at + j)))
        if settings.norm_preliminary:
            at = place + settings.inner_steps
            scale = load(scales, at * lanes)
            normalise_backward(
                dx, dy, normed, at * step, scale, slow.gain, gradients.gain, gradients.bias, lanes
            )
        else:
            copy(dx, 0, dy, 0, width, lanes)
        for j in range(0, step, lanes):
            store(dz, j, load(dz, j) + load(dx, j))
    matrix_times(g, 0, dhistory, now, slow.weight, dz, 0, width, lanes)
    copy(dhistory, now, g, 0, width, lanes)


@jit
def _ask_matrices(
    carried: Carried, work: Work, gradients: Gradients, queries: Any, asked: int, count: int,
    width: int, lanes: int,
) -> None:  # fmt: skip
    """g += Σ fade · matrix · dx, and what each fade is worth: query · matrix · dx."""
    copy(work.x, 0, work.dx, 0, width, lanes)
    for m in range(carried.fades.shape[0]):
        work.base[:] = 0
        symmetric_times(
            work.base, carried.matrices, m * packed(width) * lanes, work.x, width, lanes
        )
        fade = spread(carried.fades[m, count])
        total = load(gradients.fades[m], count * lanes)
        for j in range(0, width * lanes, lanes):
            u = load(work.base, j)
            total = fma(u, load(queries, asked + j), total)
            store(work.g, j, fma(fade, u, load(work.g, j)))
        store(gradients.fades[m], count * lanes, total)


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

"""One step of the recurrence, forward and backward, shared by the forms that have a kernel.

A form decides which vectors are in the history at hand and what memory there is beside them: the
attention form keeps every vector and has no matrix, the chunked form keeps those of the chunk.
Rows of one block, for a history of n steps after M carried vectors:

    history   h(−M) … h(0) … h(n)        (M + n + 1, H)
    queries   h_s(t+1), s = 0 … S−1      (n, S, H)     what the reads ask for
    centred   what each LN saw, less     (n, N, H)     N = S, and one more, the last, for the
              its mean                                 preliminary's if that is normalised
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from fastweights.ops.fast_weights.numba_reads import read_history, read_history_backward
from fastweights.ops.fast_weights.numba_rows import (
    copy,
    gather,
    jit,
    matrix_times,
    normalise,
    normalise_backward,
    relu,
    scaled,
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
    "result_again",
]

HEBBIAN, STATIC, NONE = 0, 1, 2

# Put into its caller before it is typed: compiled once less, and no tuple goes through memory.
inlined = njit(nogil=True, error_model="numpy", inline="always")


class Settings(NamedTuple):
    """The options; ``norms`` is N, ``eps`` of the arrays' own type.

    ``learned`` asks for the gradient of the decay's table.
    """

    lanes: Any
    memory: Any
    norm: Any
    norm_preliminary: Any
    previous: Any
    after_read: Any
    learned: Any
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
    centred: Any


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
    its centred rows at the N-fold ``place``.
    """
    lanes, width = settings.lanes, slow.weight.shape[0]
    step = width * lanes
    history, queries, centred = kept
    z, y = work.z, work.y
    matrix_times(z, 0, y, 0, slow.weight, history, now, width, lanes)
    if settings.previous:
        copy(queries, query, history, now, width, lanes)
    elif settings.norm_preliminary:
        at = (place + settings.inner_steps) * step
        normalise(queries, query, z, centred, at, slow.gain, slow.bias, settings.eps, lanes)
    else:
        relu(queries, query, z, 0, width, lanes)
    for s in range(settings.inner_steps):
        asked = query + s * step
        if settings.memory == HEBBIAN:
            copy(y, 0, z, 0, width, lanes)
            if carried.fades.shape[0]:
                _read_matrices(carried, work, queries, asked, count, width, lanes)
            read_history(y, history, count, carried.rates, first, queries, asked, width, lanes)
        elif settings.memory == STATIC:
            matrix_times(y, 0, z, 0, slow.static, queries, asked, width, lanes)
        else:
            y[:] = z
        last = s == settings.inner_steps - 1
        target = history if last else queries
        target_at = new if last else asked + step
        if settings.norm:
            normalise(
                target, target_at, y, centred, (place + s) * step, slow.gain, slow.bias,
                settings.eps, lanes,
            )  # fmt: skip
        else:
            relu(target, target_at, y, 0, width, lanes)
    if settings.inner_steps == 0:
        copy(history, new, queries, query, width, lanes)


@inlined
def result_again(
    settings: Settings, slow: Slow, kept: Kept, place: int, output: Any, t: int, first: int,
    new: int,
) -> None:  # fmt: skip
    """h(t+1) at ``new`` of the history, from the centred rows at ``place`` or from ``output``."""
    lanes, width = settings.lanes, slow.weight.shape[0]
    if settings.norm and settings.inner_steps:
        last = (place + settings.inner_steps - 1) * width * lanes
        scaled(kept.history, new, kept.centred, last, slow.gain, slow.bias, settings.eps, lanes)
    else:
        gather(kept.history, new, output[t], first, lanes)


@jit
def _read_matrices(
    carried: Carried, work: Work, queries: Any, asked: int, count: int, width: int, lanes: int
) -> None:
    """work.y += Σ fade · matrix · query."""
    for m in range(carried.fades.shape[0]):
        fade = spread(carried.fades[m, count])
        for j in range(0, width * lanes, lanes):
            store(work.x, j, fade * load(queries, asked + j))
        symmetric_times(work.y, carried.matrices, m * packed(width) * lanes, work.x, width, lanes)


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
    history, queries, centred = kept
    dhistory = gradients.history
    g, dx, dz, dy = work.g, work.dx, work.dz, work.y
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
            normalise_backward(
                dx, dy, centred, (place + s) * step, slow.gain, settings.eps, gradients.gain,
                gradients.bias, lanes,
            )  # fmt: skip
        else:
            copy(dx, 0, dy, 0, width, lanes)
        for j in range(0, step, lanes):
            store(dz, j, load(dz, j) + load(dx, j))
        if settings.memory == HEBBIAN:
            read_history_backward(
                g, history, dhistory, count, carried.rates, first, gradients.rates,
                settings.learned, detach, dx, queries, asked, width, lanes,
            )  # fmt: skip
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
            normalise_backward(
                dx, dy, centred, (place + settings.inner_steps) * step, slow.gain, settings.eps,
                gradients.gain, gradients.bias, lanes,
            )  # fmt: skip
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

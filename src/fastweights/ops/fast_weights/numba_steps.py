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

from fastweights.ops.compiled import jit
from fastweights.ops.fast_weights.attention_op import (
    AFTER_READ,
    HEBBIAN,
    LEARNED,
    NORM,
    NORM_PRELIMINARY,
    PREVIOUS,
    STATIC,
)
from fastweights.ops.fast_weights.numba_reads import (
    TOGETHER,
    add_put_off,
    read_history,
    read_history_backward,
)
from fastweights.ops.fast_weights.numba_rows import (
    add,
    clear,
    copy,
    fetch,
    gather,
    matrix_times,
    matrix_times_two,
    normalise,
    normalise_backward,
    relu,
    scaled,
    scatter,
)
from fastweights.ops.simd import load, masked, spread, store

__all__ = [
    "SCORES",
    "VECTORS",
    "Gradients",
    "Kept",
    "Settings",
    "Slow",
    "Work",
    "backward_step",
    "forward_step",
    "inlined",
    "new_biases",
    "new_work",
    "nothing_carried",
    "result_again",
    "settings_of",
    "take_drive",
]

VECTORS = 11  # of a step's scratch
SCORES = 2 * TOGETHER  # rows beside them for every vector of the history, on the way back

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


@inlined
def settings_of(
    lanes: int, memory: int, flags: int, inner_steps: int, like: Any, eps: Any
) -> Settings:
    """From what the ops take."""
    norm, preliminary = flags & NORM != 0, flags & NORM_PRELIMINARY != 0
    return Settings(
        lanes, memory, norm, preliminary, flags & PREVIOUS != 0, flags & AFTER_READ != 0,
        flags & LEARNED != 0, inner_steps,
        inner_steps + (1 if preliminary else 0) if norm else 0, like.dtype.type(eps),
    )  # fmt: skip


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


class Gradients(NamedTuple):
    """What a backward step adds to; ``rates`` (rows, ages, lanes) is flat."""

    history: Any
    rates: Any
    gain: Any
    bias: Any


class Work(NamedTuple):
    """Scratch: one array of rows, and where in it each vector begins.

    ``dx`` has four of them, one for each of the reads that are put off together; on the way forward
    the drives of two steps.
    """

    rows: Any
    z: Any
    y: Any
    x: Any
    base: Any
    dz: Any
    g: Any
    zeros: Any
    dx: Any
    scores: Any


@jit
def new_work(rows: Any, size: int, lanes: int) -> Work:
    """The vectors of :class:`Work`, in its order, of so many rows each."""
    step = size * lanes
    clear(rows, 2 * step, size, lanes)  # the padding of x, which matrices multiply, stays zero
    clear(rows, 6 * step, size, lanes)
    return Work(
        rows, 0, step, 2 * step, 3 * step, 4 * step, 5 * step, 6 * step, 7 * step, VECTORS * step
    )


@jit
def nothing_carried(*_: Any) -> None:
    """For the two steps below: there is no memory but the history."""


@jit
def new_biases(rows: Any, bias: Any, width: int, lanes: int) -> None:
    """b in all lanes, zero where there is none."""
    for i in range(width):
        value = bias[i] if bias.size else rows.dtype.type(0)
        store(rows, i * lanes, spread(value))


@inlined
def take_drive(
    work: Work, source: Any, t: int, matrix: Any, biases: Any, inputs: Any, first: int,
    lanes: int,
) -> int:  # fmt: skip
    """Where in ``work.rows`` the drive of step ``t`` is: ``source[t]`` (B, H), or C x plus b.

    An even step makes that of the next one too.
    """
    height, features = matrix.shape
    at = work.dx
    following = min(t + 1, source.shape[0] - 1)
    if not features:
        gather(work.rows, at, source[t], first, lanes)
    elif t % 2:
        at += height * lanes
    else:
        top = np.int64(0)  # functions are compiled once more for a literal 0
        gather(inputs, top, source[t], first, lanes)
        gather(inputs, features * lanes, source[following], first, lanes)
        matrix_times_two(work.rows, at, biases, top, matrix, inputs, top, lanes)
    fetch(source[min(following + 1, source.shape[0] - 1)], first, lanes)
    return at


@inlined
def forward_step(
    settings: Settings, slow: Slow, kept: Kept, rates: Any, read_carried: Any, carried: Any,
    work: Work, drive: int, first: int, now: int, new: int, count: int, query: int, place: int,
) -> None:  # fmt: skip
    """h(t+1) from h(t), from ``now`` to ``new`` of the history; ``drive`` is in ``work.rows``.

    The first ``count`` vectors of the history are read, by ``rates`` (rows, ages, 1 or lanes of
    all blocks), which has one row, or one for every number of vectors in sight. ``read_carried``
    adds what ``carried``, any memory beside them, answers. The step's queries start at ``query``,
    its centred rows at the N-fold ``place``.
    """
    lanes, width = settings.lanes, slow.weight.shape[0]
    step = width * lanes
    history, queries, centred = kept
    rows, z, y = work.rows, work.z, work.y
    matrix_times(rows, z, rows, drive, slow.weight, history, now, lanes)
    if settings.previous:
        copy(queries, query, history, now, width, lanes)
    elif settings.norm_preliminary:
        at = (place + settings.inner_steps) * step
        normalise(queries, query, rows, z, centred, at, slow.gain, slow.bias, settings.eps, lanes)
    else:
        relu(queries, query, rows, z, width, lanes)
    for s in range(settings.inner_steps):
        asked = query + s * step
        if settings.memory == STATIC:
            matrix_times(rows, y, rows, z, slow.static, queries, asked, lanes)
        else:
            copy(rows, y, rows, z, width, lanes)
        if settings.memory == HEBBIAN:
            read_carried(carried, work, queries, asked, count, width, lanes)
            read_history(rows, y, history, count, rates, first, queries, asked, width, lanes)
        last = s == settings.inner_steps - 1
        target = history if last else queries
        target_at = new if last else asked + step
        if settings.norm:
            normalise(
                target, target_at, rows, y, centred, (place + s) * step, slow.gain, slow.bias,
                settings.eps, lanes,
            )  # fmt: skip
        else:
            relu(target, target_at, rows, y, width, lanes)
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


@inlined
def backward_step(
    settings: Settings, detach: bool, slow: Slow, kept: Kept, rates: Any, ask_carried: Any,
    carried: Any, work: Work, gradients: Gradients, dread: Any, asked_for: Any, t: int,
    length: int, first: int, now: int, new: int, count: int, query: int, place: int,
) -> None:  # fmt: skip
    """From the gradient of h(t+1) to that of z(t), left in ``work.dz``, and of all before.

    The steps come from ``length`` − 1 down to 0. With a static memory, ``dread`` and ``asked_for``
    (S, T, B, H) get the two factors of its gradient at step t. ``ask_carried`` adds to ``work.g``
    and to the gradients in ``carried``.
    """
    lanes, width = settings.lanes, slow.weight.shape[0]
    step = width * lanes
    history, queries, centred = kept
    dhistory = gradients.history
    rows, g, dz, dy = work.rows, work.g, work.dz, work.y
    turn = t % TOGETHER
    dx = work.dx + turn * step
    put_off = 0
    if settings.inner_steps == 1 and not detach and t - turn + TOGETHER <= length:
        put_off = (count - turn) // 4 * 4  # what the first of these steps has in sight
    copy(rows, g, dhistory, new, width, lanes)
    clear(rows, dz, width, lanes)
    for s in range(settings.inner_steps - 1, -1, -1):
        asked = query + s * step
        last = s == settings.inner_steps - 1
        result = history if last else queries
        result_at = new if last else asked + step
        for j in range(0, step, lanes):
            store(rows, dy + j, masked(load(rows, g + j), load(result, result_at + j)))
        if settings.norm:
            normalise_backward(
                rows, dx, rows, dy, centred, (place + s) * step, slow.gain, settings.eps,
                gradients.gain, gradients.bias, lanes,
            )  # fmt: skip
        else:
            copy(rows, dx, rows, dy, width, lanes)
        add(rows, dz, rows, dx, width, lanes)
        if settings.memory == HEBBIAN:
            read_history_backward(
                rows, g, history, dhistory, count, rates, first, gradients.rates,
                settings.learned, detach, rows, dx, queries, asked, rows,
                work.scores + turn * lanes, put_off, width, lanes,
            )  # fmt: skip
            if put_off and turn == 0:
                add_put_off(
                    dhistory, put_off, rows, work.scores, rows, dx, queries, asked, width, lanes
                )
            ask_carried(carried, work, dx, queries, asked, count, width, lanes)
        elif settings.memory == STATIC:
            scatter(dread[s, t], first, rows, dx, lanes)
            scatter(asked_for[s, t], first, queries, asked, lanes)
            matrix_times(rows, g, rows, work.zeros, slow.static, rows, dx, lanes)
        else:
            clear(rows, g, width, lanes)
    if settings.previous:
        add(dhistory, now, rows, g, width, lanes)
    else:
        start = history if settings.inner_steps == 0 else queries
        start_at = new if settings.inner_steps == 0 else query
        for j in range(0, step, lanes):
            store(rows, dy + j, masked(load(rows, g + j), load(start, start_at + j)))
        if settings.norm_preliminary:
            # Not into dx: a read that was put off still needs what stands there.
            normalise_backward(
                rows, g, rows, dy, centred, (place + settings.inner_steps) * step, slow.gain,
                settings.eps, gradients.gain, gradients.bias, lanes,
            )  # fmt: skip
            add(rows, dz, rows, g, width, lanes)
        else:
            add(rows, dz, rows, dy, width, lanes)
    matrix_times(rows, g, dhistory, now, slow.weight, rows, dz, lanes)
    copy(dhistory, now, rows, g, width, lanes)

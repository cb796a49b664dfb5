"""The chunked form in Numba: forward, and the backward pass derived in README.md.

A chunk is a short run of the attention form, with the memories of all earlier chunks in packed
symmetric matrices. Rows live for one chunk only; what the backward pass needs is put by in plain
arrays (steps, B, H), so that a batch that does not fill the lanes does not pay for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastweights.ops.fast_weights.numba_rows import copy, gather, jit, scatter
from fastweights.ops.fast_weights.numba_steps import (
    HEBBIAN,
    Carried,
    Gradients,
    Kept,
    Settings,
    Slow,
    backward_step,
    forward_step,
    new_work,
    result_again,
)
from fastweights.ops.fast_weights.numba_symmetric import (
    add_products,
    inner_product,
    packed,
    padded,
    read_matrix,
    symmetric_times,
    write_matrix,
)
from fastweights.ops.simd import fma, load, spread, store

__all__ = ["backward", "forward"]


@jit
def forward(
    block: int, lanes: int, norm: bool, norm_preliminary: bool, previous: bool, after_read: bool,
    keep: bool, eps: Any, inner_steps: int, drive: Any, weight: Any, gain: Any, bias: Any,
    rates: Any, writes: Any, fades: Any, ends: Any, hidden: Any, start: Any, output: Any,
    final: Any, queries: Any, centred: Any, states: Any,
) -> None:  # fmt: skip
    """One block of samples. ``output`` (T, B, H) gets what follows on ``hidden`` (B, H).

    ``rates`` (1, C, 1) are η r(k); ``writes`` (M, C) each matrix' share of it, ``fades`` (M, C + 1)
    what is left of a matrix. ``start`` and ``final`` (B, M, H, H) are the matrices before the
    first step and after step ``ends`` (B,). With ``keep``: ``queries`` (T, S, B, H), ``centred``
    (T, N, B, H) and ``states`` (chunks, B, M·packed), the matrices at the chunks' starts.
    """
    length, _, width = drive.shape
    components, chunk = writes.shape
    first = block * lanes
    step = width * lanes
    size = packed(width) * lanes
    settings = Settings(
        lanes, HEBBIAN, norm, norm_preliminary, previous, after_read, True, inner_steps,
        (inner_steps if norm else 0) + (1 if norm_preliminary else 0), drive.dtype.type(eps),
    )  # fmt: skip
    slow = Slow(weight, weight, gain, bias)
    kept = _new_rows(settings, chunk, width, drive.dtype)
    matrices = np.empty(components * size, drive.dtype)
    carried = Carried(rates, fades, matrices)
    work = new_work(width, chunk, lanes, drive.dtype)
    across = np.zeros(padded(width) * chunk * lanes, drive.dtype)
    scaled = np.zeros(padded(width) * chunk * lanes, drive.dtype)
    shares = np.empty((chunk + 1) * lanes, drive.dtype)
    slots = max(inner_steps, 1)
    for m in range(components):
        read_matrix(matrices, m * size, start[:, m], first, lanes)
    gather(kept.history, 0, hidden, first, lanes)
    for begin in range(0, length, chunk):
        count = min(chunk, length - begin)
        if keep:
            scatter(states[begin // chunk], first, matrices, 0, lanes)
        for k in range(count):
            gather(work.y, 0, drive[begin + k], first, lanes)
            forward_step(
                settings, slow, kept, carried, work, first, k * step, (k + 1) * step,
                k + (0 if after_read else 1), k * slots * step, k * settings.norms,
            )  # fmt: skip
            scatter(output[begin + k], first, kept.history, (k + 1) * step, lanes)
        if keep:
            _put_by(kept, settings, begin, count, first, step, queries, centred)
        _turn(across, 0, chunk, kept.history, count, width, lanes)
        for m in range(components):
            _shares_at_end(shares, writes[m], fades[m], ends, begin, count, first, lanes)
            for j in range(width):
                for k in range(count):
                    at = (j * chunk + k) * lanes
                    store(scaled, at, load(across, at) * load(shares, k * lanes))
            add_products(
                matrices, m * size, load(shares, count * lanes), across, 0, scaled, 0, count, chunk,
                width, lanes,
            )  # fmt: skip
        copy(kept.history, 0, kept.history, count * step, width, lanes)
    for m in range(components):
        write_matrix(final[:, m], first, matrices, m * size, lanes)


@jit
def backward(
    block: int, lanes: int, norm: bool, norm_preliminary: bool, previous: bool, after_read: bool,
    detach: bool, eps: Any, inner_steps: int, weight_t: Any, gain: Any, bias: Any, rates: Any,
    writes: Any, fades: Any, ends: Any, hidden: Any, output: Any, queries: Any, centred: Any,
    states: Any, doutput: Any, dfinal: Any, ddrive: Any, dhidden: Any, dstart: Any, drates: Any,
    dwrites: Any, dfades: Any, dgain: Any, dbias: Any, before: Any,
) -> None:  # fmt: skip
    """One block of samples, backwards in time.

    ``output`` may be empty where layer norm lets it be worked out again. ``doutput`` and
    ``dfinal`` (symmetric) are the gradients of ``output`` and ``final``. Gets ``ddrive``
    (T, B, H), ``dhidden`` (B, H), ``dstart`` (B, M, H, H), and per block ``drates`` (C, lanes),
    ``dwrites`` (M, C, lanes), ``dfades`` (M, C + 1, lanes), ``dgain`` and ``dbias`` (H, lanes);
    ``before`` (T, B, H) gets h(t), the other factor of W's gradient.
    """
    length, _, width = ddrive.shape
    components, chunk = writes.shape
    first = block * lanes
    step = width * lanes
    size = packed(width) * lanes
    kind = ddrive.dtype
    settings = Settings(
        lanes, HEBBIAN, norm, norm_preliminary, previous, after_read, True, inner_steps,
        (inner_steps if norm else 0) + (1 if norm_preliminary else 0), kind.type(eps),
    )  # fmt: skip
    slow = Slow(weight_t, weight_t, gain, bias)
    kept = _new_rows(settings, chunk, width, kind)
    matrices = np.empty(components * size, kind)
    dmatrices = np.empty(components * size, kind)
    carried = Carried(rates, fades, matrices)
    slots = max(inner_steps, 1)
    gradients = Gradients(
        np.empty((chunk + 1) * step, kind), drates[block], dfades[block], dgain[block],
        dbias[block], np.empty(chunk * slots * step, kind),
    )  # fmt: skip
    work = new_work(width, chunk, lanes, kind)
    reads = chunk * inner_steps
    turned = np.zeros(padded(width) * 2 * reads * lanes, kind)
    shares = np.empty((chunk + 1) * lanes, kind)
    nothing = np.empty((0, 0, 0, 0), kind)
    dhistory = gradients.history
    dhistory[:step] = 0
    for m in range(components):
        read_matrix(dmatrices, m * size, dfinal[:, m], first, lanes)
    for begin in range((length - 1) // chunk * chunk, -1, -chunk):
        count = min(chunk, length - begin)
        gather(matrices, 0, states[begin // chunk], first, lanes)
        if begin:
            last = max(inner_steps - 1, 0)
            if settings.norms:
                gather(kept.centred, last * step, centred[begin - 1, last], first, lanes)
            result_again(settings, slow, kept, 0, output, begin - 1, first, 0)
        else:
            gather(kept.history, 0, hidden, first, lanes)
        _take_out(kept, settings, begin, count, first, step, queries, centred)
        for k in range(count):
            place = k * settings.norms
            result_again(settings, slow, kept, place, output, begin + k, first, (k + 1) * step)
            scatter(before[begin + k], first, kept.history, k * step, lanes)
        # What the later chunks have sent to h at their start, now the end of this one.
        copy(work.g, 0, dhistory, 0, width, lanes)
        dhistory[:step] = 0
        for k in range(1, count + 1):
            gather(dhistory, k * step, doutput[begin + k - 1], first, lanes)
        for j in range(0, step, lanes):
            at = count * step + j
            store(dhistory, at, load(dhistory, at) + load(work.g, j))
        for m in range(components):
            _shares_at_end(shares, writes[m], fades[m], ends, begin, count, first, lanes)
            _write_backward(
                kept.history, dhistory, shares, dmatrices, matrices, m * size, work, detach, count,
                width, lanes,
            )  # fmt: skip
            _at_ages(dwrites[block, m], dfades[block, m], work.scores, work.escores, ends, begin,
                     count, first, lanes)  # fmt: skip
            fade = load(shares, count * lanes)
            for at in range(m * size, (m + 1) * size, lanes):
                store(dmatrices, at, fade * load(dmatrices, at))
        for k in range(count - 1, -1, -1):
            backward_step(
                settings, detach, slow, kept, carried, work, gradients, nothing, nothing, 0, first,
                k * step, (k + 1) * step, k + (0 if after_read else 1), k * slots * step,
                k * settings.norms,
            )  # fmt: skip
            scatter(ddrive[begin + k], first, work.dz, 0, lanes)
        if inner_steps:
            reads = count * inner_steps
            one = spread(kind.type(1))
            half = reads * lanes
            _turn(turned, reads, 2 * reads, kept.queries, reads, width, lanes)
            for m in range(components):
                _turn(turned, 0, 2 * reads, gradients.reads, reads, width, lanes)
                _scale(turned, fades[m], after_read, inner_steps, reads, width, lanes)
                # ȳ vᵀ and its transpose, both halved: the symmetric part
                add_products(
                    dmatrices, m * size, one, turned, 0, turned, half, reads, 2 * reads, width,
                    lanes,
                )  # fmt: skip
                add_products(
                    dmatrices, m * size, one, turned, half, turned, 0, reads, 2 * reads, width,
                    lanes,
                )  # fmt: skip
    scatter(dhidden, first, dhistory, 0, lanes)
    for m in range(components):
        write_matrix(dstart[:, m], first, dmatrices, m * size, lanes)


@jit
def _new_rows(settings: Settings, chunk: int, width: int, kind: Any) -> Kept:
    lanes = settings.lanes
    step = width * lanes
    return Kept(
        np.empty((chunk + 1) * step, kind),
        np.empty(chunk * max(settings.inner_steps, 1) * step, kind),
        np.empty(chunk * settings.norms * step, kind),
    )


@jit
def _put_by(
    kept: Kept, settings: Settings, begin: int, count: int, first: int, step: int,
    queries: Any, centred: Any,
) -> None:  # fmt: skip
    """A chunk's rows to the plain arrays."""
    lanes = settings.lanes
    for k in range(count):
        t = begin + k
        for s in range(settings.inner_steps):
            at = (k * settings.inner_steps + s) * step
            scatter(queries[t, s], first, kept.queries, at, lanes)
        for n in range(settings.norms):
            at = (k * settings.norms + n) * step
            scatter(centred[t, n], first, kept.centred, at, lanes)


@jit
def _take_out(
    kept: Kept, settings: Settings, begin: int, count: int, first: int, step: int,
    queries: Any, centred: Any,
) -> None:  # fmt: skip
    """The inverse of :func:`_put_by`."""
    lanes = settings.lanes
    for k in range(count):
        t = begin + k
        for s in range(settings.inner_steps):
            at = (k * settings.inner_steps + s) * step
            gather(kept.queries, at, queries[t, s], first, lanes)
        for n in range(settings.norms):
            at = (k * settings.norms + n) * step
            gather(kept.centred, at, centred[t, n], first, lanes)


@jit
def _turn(
    out: Any, column: int, columns: int, rows: Any, count: int, width: int, lanes: int
) -> None:
    """out[j, column + k] = rows[k, j]: the same feature of successive vectors side by side."""
    for k in range(count):
        for j in range(width):
            store(out, (j * columns + column + k) * lanes, load(rows, (k * width + j) * lanes))


@jit
def _scale(
    turned: Any, fades: Any, after_read: bool, inner_steps: int, reads: int, width: int, lanes: int
) -> None:
    """Half of what is left of the matrix at each read, times the ȳ of that read."""
    half = turned.dtype.type(0.5)
    for n in range(reads):
        fade = spread(half * fades[n // inner_steps + (0 if after_read else 1)])
        for j in range(width):
            at = (j * 2 * reads + n) * lanes
            store(turned, at, fade * load(turned, at))


@jit
def _shares_at_end(
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
def _write_backward(
    history: Any, dhistory: Any, shares: Any, dmatrices: Any, matrices: Any, at: int, work: Any,
    detach: bool, count: int, width: int, lanes: int,
) -> None:  # fmt: skip
    """Through A ← fade A + Σ share h hᵀ: dh, and what the shares are worth.

    ``work.scores`` gets hᵀ dA h for every vector, ``work.escores`` ⟨dA, A⟩.
    """
    step = width * lanes
    for k in range(count):
        copy(work.x, 0, history, k * step, width, lanes)
        work.base[:] = 0
        symmetric_times(work.base, dmatrices, at, work.x, width, lanes)
        share = load(shares, k * lanes)
        share = share + share
        total = spread(history.dtype.type(0))
        for j in range(0, step, lanes):
            u = load(work.base, j)
            total = fma(u, load(work.x, j), total)
            if not detach:
                store(dhistory, k * step + j, fma(share, u, load(dhistory, k * step + j)))
        store(work.scores, k * lanes, total)
    store(work.escores, 0, inner_product(dmatrices, matrices, at, width, lanes))


@jit
def _at_ages(
    dwrites: Any, dfades: Any, of_shares: Any, of_fade: Any, ends: Any, begin: int, count: int,
    first: int, lanes: int,
) -> None:  # fmt: skip
    """Add the gradients of :func:`_shares_at_end`'s results where they came from."""
    for lane in range(lanes):
        steps = _steps_of(ends, begin, count, first + lane)
        for k in range(steps):
            dwrites[(steps - 1 - k) * lanes + lane] += of_shares[k * lanes + lane]
        dfades[steps * lanes + lane] += of_fade[lane]

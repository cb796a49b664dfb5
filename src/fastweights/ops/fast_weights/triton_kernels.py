"""The attention form in Triton: forward, and the backward pass derived in README.md.

One program works on one sample, from its first step to its last, so the numbers of a sample do
not depend on the batch. Vectors of H features live in registers, filled up with zeros to BLOCK, a
power of two. Arrays in global memory, a "row" being the H features of one sample:

    hs        h(−M) … h(0) … h(T)        (M + T + 1, B, H)    the output is the memory
    queries   h_s(t+1), s = 0 … S−1      (T, S, B, H)
    normed    x̂ of each LN               (T, N, B, H)   N = S, and one more, the first, for
    scales    1/σ of each LN             (T, N, B)      the preliminary's if that is normalised

Within a program the arrays are walked through by pointers, forwards or backwards. What one thread
stores another may load after a barrier.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["backward", "forward"]

_HEBBIAN: tl.constexpr = tl.constexpr(0)
_STATIC: tl.constexpr = tl.constexpr(1)
_MEMORIES: tl.constexpr = tl.constexpr(16)  # memories read at a time
_INPUTS: tl.constexpr = tl.constexpr(32)  # rows of a streamed matrix read at a time


@triton.jit
def _activation(x, TANH: tl.constexpr):
    if TANH:
        return 1 - 2 / (tl.exp(2 * x) + 1)
    return tl.where(x <= 0, 0, x)  # not maximum, which may drop a NaN


@triton.jit
def _activation_backward(g, result, TANH: tl.constexpr):
    if TANH:
        return g * (1 - result * result)
    return tl.where(result <= 0, 0, g)


@triton.jit
def _normalised(y, real, EPS: tl.constexpr, WIDTH: tl.constexpr):
    """x̂ and 1/σ."""
    centred = tl.where(real, y - tl.sum(y, axis=0) / WIDTH, 0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / WIDTH + EPS)
    return centred * scale, scale


@triton.jit
def _normalised_backward(q, x, scale, real, WIDTH: tl.constexpr):
    mean = tl.sum(q, axis=0) / WIDTH
    along = tl.sum(q * x, axis=0) / WIDTH
    return tl.where(real, (q - mean - x * along) * scale, 0)


@triton.jit
def _whole(matrix, WIDTH: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """A matrix as one tile, to stay on the chip."""
    j = tl.arange(0, BLOCK)
    inside = (j < WIDTH)[:, None] & (j < WIDTH)[None, :]
    tile = tl.load(matrix + j[:, None] * WIDTH + j[None, :], mask=inside, other=0)
    return tile.to(KIND)


@triton.jit
def _streamed(matrix, x, WIDTH: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """Σ_i matrix[i] x[i] with both in global memory, for a matrix too large to stay."""
    tl.debug_barrier()  # x has just been stored
    j = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((_INPUTS, BLOCK), KIND)
    for first in range(0, WIDTH, _INPUTS):
        i = first + tl.arange(0, _INPUTS)
        part = tl.load(x + i, mask=i < WIDTH, other=0).to(KIND)
        inside = (i < WIDTH)[:, None] & (j < WIDTH)
        tile = tl.load(matrix + i[:, None] * WIDTH + j, mask=inside, other=0).to(KIND)
        total += tile * part[:, None]
    return tl.sum(total, axis=0)


@triton.jit
def _read(v, history, rates, count, row, real):
    """Σ_τ ρ (h(τ)·v) h(τ) over the oldest ``count`` memories, one ``row`` apart.

    ``rates`` are those of the newest one's row of the table.
    """
    total = tl.zeros((_MEMORIES, v.shape[0]), v.dtype)
    for first in range(0, count, _MEMORIES):
        m = first + tl.arange(0, _MEMORIES)
        seen = m < count
        at = m.to(tl.int64)[:, None] * row + tl.arange(0, v.shape[0])[None, :]
        h = tl.load(history + at, mask=seen[:, None] & real[None, :], other=0).to(v.dtype)
        rho = tl.load(rates + (count - 1 - m), mask=seen, other=0)
        total += h * (rho * tl.sum(h * v[None, :], axis=1))[:, None]
    return tl.sum(total, axis=0)


@triton.jit
def _read_backward(
    dy, v, history, dhistory, rates, drates, count, row,
    real, DETACH: tl.constexpr,
):  # fmt: skip
    """The gradient of v; adds to those of the memories and of the rates."""
    total = tl.zeros((_MEMORIES, v.shape[0]), v.dtype)
    for first in range(0, count, _MEMORIES):
        m = first + tl.arange(0, _MEMORIES)
        seen = m < count
        inside = seen[:, None] & real[None, :]
        at = m.to(tl.int64)[:, None] * row + tl.arange(0, v.shape[0])[None, :]
        h = tl.load(history + at, mask=inside, other=0).to(v.dtype)
        c, e = tl.sum(h * v[None, :], axis=1), tl.sum(h * dy[None, :], axis=1)
        age = count - 1 - m
        before = tl.load(drates + age, mask=seen, other=0)
        tl.store(drates + age, before + c * e, mask=seen)
        rho = tl.load(rates + age, mask=seen, other=0)
        c, e = rho * c, rho * e
        total += h * e[:, None]
        if not DETACH:
            written = tl.load(dhistory + at, mask=inside, other=0)
            written += c[:, None] * dy[None, :] + e[:, None] * v[None, :]
            tl.store(dhistory + at, written, mask=inside)
    tl.debug_barrier()
    return tl.sum(total, axis=0)


@triton.jit(
    do_not_specialize=["length", "carried", "batch", "steps", "sample_stride", "row_stride"]
)
def forward(
    drive, weight_t, gain, bias, rates, static_t, hs,
    queries, normed, scales, length, carried, batch, steps, sample_stride, row_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, WHOLE: tl.constexpr,
    MEMORY: tl.constexpr, NORM: tl.constexpr, NORM_PRELIMINARY: tl.constexpr,
    PREVIOUS: tl.constexpr, AFTER_READ: tl.constexpr, TANH: tl.constexpr, EPS: tl.constexpr,
    KEEP: tl.constexpr,
):  # fmt: skip
    """One sample. ``hs`` holds M + 1 vectors and gets the rest.

    Matrices come transposed. Without ``KEEP`` only a streamed static memory uses ``queries``, one
    row per sample.
    """
    sample = tl.program_id(0).to(tl.int64)
    row = batch.to(tl.int64) * WIDTH
    j = tl.arange(0, BLOCK)
    real = j < WIDTH
    feature = sample * WIDTH + j
    drive += feature
    queries += sample * WIDTH
    normed += feature
    scales += sample
    rates += sample * sample_stride
    history = hs + sample * WIDTH
    now = history + carried * row
    if WHOLE:
        weights = _whole(weight_t, WIDTH, BLOCK, KIND)
        if MEMORY == _STATIC:
            fixed = _whole(static_t, WIDTH, BLOCK, KIND)
    if NORM:
        gamma = tl.load(gain + j, mask=real, other=0).to(KIND)
        beta = tl.load(bias + j, mask=real, other=0).to(KIND)
    h = tl.load(now + j, mask=real, other=0).to(KIND)
    count = carried + (0 if AFTER_READ else 1)
    for _ in range(length):
        z = tl.load(drive, mask=real, other=0).to(KIND)
        if WHOLE:
            z += tl.sum(weights * h[:, None], axis=0)
        else:
            z += _streamed(weight_t, now, WIDTH, BLOCK, KIND)
        if PREVIOUS:
            v = h
        elif NORM_PRELIMINARY:
            x, scale = _normalised(z, real, EPS, WIDTH)
            if KEEP:
                tl.store(normed, x, mask=real)
                tl.store(scales, scale)
                normed += row
                scales += batch
            v = _activation(gamma * x + beta, TANH)
        else:
            v = _activation(z, TANH)
        for _ in range(steps):
            if KEEP or (MEMORY == _STATIC and not WHOLE):
                tl.store(queries + j, v, mask=real)
            y = z
            if MEMORY == _HEBBIAN:
                y += _read(v, history, rates + (count - 1) * row_stride, count, row, real)
            elif MEMORY == _STATIC:
                if WHOLE:
                    y += tl.sum(fixed * v[:, None], axis=0)
                else:
                    y += _streamed(static_t, queries, WIDTH, BLOCK, KIND)
                    tl.debug_barrier()  # before the next query takes this one's place
            if NORM:
                x, scale = _normalised(y, real, EPS, WIDTH)
                if KEEP:
                    tl.store(normed, x, mask=real)
                    tl.store(scales, scale)
                    normed += row
                    scales += batch
                y = gamma * x + beta
            v = _activation(y, TANH)
            if KEEP:
                queries += row
        now += row
        tl.store(now + j, v, mask=real)
        h = v.to(hs.dtype.element_ty).to(KIND)  # what is read back later
        tl.debug_barrier()
        count += 1
        drive += row


@triton.jit(
    do_not_specialize=["length", "carried", "batch", "steps", "sample_stride", "row_stride"]
)
def backward(
    weight, gain, rates, static, hs, queries, normed,
    scales, dhs, ddrive, drates, dgain, dbias, dread,
    length, carried, batch, steps, sample_stride, row_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, WHOLE: tl.constexpr,
    MEMORY: tl.constexpr, NORM: tl.constexpr, NORM_PRELIMINARY: tl.constexpr,
    PREVIOUS: tl.constexpr, AFTER_READ: tl.constexpr, TANH: tl.constexpr, DETACH: tl.constexpr,
):  # fmt: skip
    """One sample, backwards in time.

    ``dhs`` is the gradient of ``hs``; its first M + 1 rows become that of the past. Gets:
    ``ddrive`` (T, B, H), and per sample ``drates`` (rows, ages), ``dgain`` and ``dbias`` (H).
    With a static memory, ``dread`` (T, S, B, H) gets the gradient of what each query reads.
    """
    sample = tl.program_id(0).to(tl.int64)
    row = batch.to(tl.int64) * WIDTH
    j = tl.arange(0, BLOCK)
    real = j < WIDTH
    feature = sample * WIDTH + j
    reads = length.to(tl.int64) * steps
    norms = reads + (length if NORM_PRELIMINARY else 0)
    history, dhistory = hs + sample * WIDTH, dhs + sample * WIDTH
    new = (carried + length) * row + j
    ddrive += (length - 1) * row + sample * WIDTH
    queries += (reads - 1) * row + feature
    dread += (reads - 1) * row + sample * WIDTH
    normed += (norms - 1) * row + feature
    scales += (norms - 1) * batch + sample
    rates += sample * sample_stride
    drates += sample * ((carried + length) * tl.maximum(row_stride, 1))
    if WHOLE:
        weights = _whole(weight, WIDTH, BLOCK, KIND)
        if MEMORY == _STATIC:
            fixed = _whole(static, WIDTH, BLOCK, KIND)
    if NORM:
        gamma = tl.load(gain + j, mask=real, other=0).to(KIND)
    dgamma = tl.zeros((BLOCK,), KIND)
    dbeta = tl.zeros((BLOCK,), KIND)
    sent = tl.zeros((BLOCK,), KIND)  # to h(t+1), by the step after
    count = carried + length - (1 if AFTER_READ else 0)
    for _ in range(length):
        g = sent + tl.load(dhistory + new, mask=real, other=0)
        result = tl.load(history + new, mask=real, other=0).to(KIND)
        dz = tl.zeros((BLOCK,), KIND)
        for _ in range(steps):
            v = tl.load(queries, mask=real, other=0).to(KIND)
            dy = _activation_backward(g, result, TANH)
            if NORM:
                x = tl.load(normed, mask=real, other=0).to(KIND)
                dgamma += dy * x
                dbeta += dy
                dy = _normalised_backward(gamma * dy, x, tl.load(scales), real, WIDTH)
                normed -= row
                scales -= batch
            dz += dy
            if MEMORY == _HEBBIAN:
                newest = (count - 1) * row_stride
                g = _read_backward(
                    dy, v, history, dhistory, rates + newest, drates + newest, count, row, real,
                    DETACH,
                )  # fmt: skip
            elif MEMORY == _STATIC:
                tl.store(dread + j, dy, mask=real)
                if WHOLE:
                    g = tl.sum(fixed * dy[:, None], axis=0)
                else:
                    g = _streamed(static, dread, WIDTH, BLOCK, KIND)
                dread -= row
            else:
                g = tl.zeros((BLOCK,), KIND)
            result = v
            queries -= row
        if PREVIOUS:
            sent = g
        else:
            dy = _activation_backward(g, result, TANH)
            if NORM_PRELIMINARY:
                x = tl.load(normed, mask=real, other=0).to(KIND)
                dgamma += dy * x
                dbeta += dy
                dy = _normalised_backward(gamma * dy, x, tl.load(scales), real, WIDTH)
                normed -= row
                scales -= batch
            dz += dy
            sent = tl.zeros((BLOCK,), KIND)
        tl.store(ddrive + j, dz, mask=real)
        if WHOLE:
            sent += tl.sum(weights * dz[:, None], axis=0)
        else:
            sent += _streamed(weight, ddrive, WIDTH, BLOCK, KIND)
        new -= row
        ddrive -= row
        count -= 1
    before = tl.load(dhistory + new, mask=real, other=0)
    tl.store(dhistory + new, before + sent, mask=real)
    if NORM:
        tl.store(dgain + feature, dgamma, mask=real)
        tl.store(dbias + feature, dbeta, mask=real)

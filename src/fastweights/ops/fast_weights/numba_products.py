"""Gradients of matrices: Σ g(n) u(n)ᵀ over the steps and samples of a batch.

The backward pass makes both factors a step at a time. It puts them side by side here, and every
few steps their product, then still near, is added to what there is. A group of blocks has a sum to
itself, and whoever ends last adds the groups' up in their order: neither the number of threads nor
their luck can be seen in the result.

``left`` holds g in strips of ``lanes`` columns, ``right`` holds u in strips twice as wide, row
after row, so that a product reads both from beginning to end. The sum likewise has a strip of u's
columns after the other. u is h(t), and after it x(t) and a 1 if the kernel makes the input's
product too, each part filling up its last vector.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from fastweights.ops.compiled import jit
from fastweights.ops.fast_weights.numba_rows import clear, fetch, matrix_times, scatter
from fastweights.ops.simd import array_at, fma, load, spread, store, transpose

__all__ = [
    "Factors",
    "Sums",
    "add_factors",
    "add_up",
    "factor_rows",
    "fetch_factors",
    "new_factors",
    "new_sums",
    "sum_of",
    "sums_size",
]

GROUPS = 64  # at most so many sums
SLICE = 16  # steps whose factors stand side by side


class Factors(NamedTuple):
    """Scratch for a slice of both, and how many vectors a row of each takes; and what else becomes
    of the gradient of z: that of x (T, B, features), by Cᵀ, (features, H), if anybody asks; or of
    the drive, if there is no x. ``inputs`` is a step's, and ``zeros`` what it begins with."""

    left: Any
    right: Any
    lefts: Any
    rights: Any
    x: Any
    back: Any
    source: Any
    inputs: Any
    zeros: Any


class Sums(NamedTuple):
    """All groups' sums, one after the other, how many and how long, and the gradients that come
    out: of W and C, (H, H) and (H, features), of b, (H,), and of layer norm's vectors, (H,)."""

    groups: Any
    count: Any
    size: Any
    weight: Any
    inputs: Any
    bias: Any
    gain: Any
    norm_bias: Any


@register_jitable  # Python asks too, for how much memory to get
def _vectors(width: int, features: int, lanes: int) -> tuple[int, int]:
    """Those of h, and of all of u, filled up to an even number; ``features`` may be 0."""
    hidden = -(-width // lanes)
    inputs = -(-(features + 1) // lanes) if features else 0
    return hidden, (hidden + inputs + 1) // 2 * 2


@register_jitable
def factor_rows(width: int, features: int, lanes: int) -> tuple[int, int]:
    """Rows of scratch that each of the factors takes."""
    lefts, rights = _vectors(width, features, lanes)
    return lefts * SLICE * lanes, rights * SLICE * lanes


@register_jitable
def _groups(blocks: int) -> int:
    """One, though there is no block: its sum is zero."""
    return max(1, min(blocks, GROUPS))


def sums_size(blocks: int, width: int, features: int, lanes: int) -> int:
    """Numbers of all groups' sums."""
    return _groups(blocks) * _sum_size(width, features, lanes)


@register_jitable
def _sum_size(width: int, features: int, lanes: int) -> int:
    """Numbers of one group's sum: the product, and a row for each number of LN's two vectors."""
    lefts, rights = _vectors(width, features, lanes)
    return (lefts * rights * lanes + 2 * width) * lanes


@jit
def new_factors(
    x: Any, back: Any, source: Any, inputs: Any, zeros: Any, left: Any, right: Any, width: int,
    lanes: int,
) -> Factors:  # fmt: skip
    """Of scratch of :func:`factor_rows`, and of two times as many rows as x has features."""
    features = x.shape[2]
    lefts, rights = _vectors(width, features, lanes)
    clear(right, np.int64(0), right.size // lanes, lanes)  # what fills up is multiplied too
    clear(zeros, np.int64(0), features, lanes)
    return Factors(left, right, lefts, rights, x, back, source, inputs, zeros)


@jit
def fetch_factors(factors: Factors, t: int, first: int, lanes: int) -> None:
    """Begin to bring near what :func:`add_factors` will touch of the plain arrays."""
    if factors.x.shape[2]:
        fetch(factors.x[t], first, lanes)
    if factors.source.shape[2]:
        fetch(factors.source[t], first, lanes)


@jit
def add_factors(
    total: Any, factors: Factors, t: int, length: int, rows: Any, dz: int, history: Any, now: int,
    first: int, lanes: int,
) -> None:  # fmt: skip
    """Put those of a step into the slice, and add its product to ``total`` when it is full.

    They are the gradient of z in ``rows`` and h(t) in ``history`` of a block, and x(t). The steps
    come from ``length`` − 1 down to 0.
    """
    k = (length - 1 - t) % SLICE
    for s in range(factors.lefts):
        at = s * lanes * lanes
        to = (s * SLICE + k) * lanes * lanes
        transpose(factors.left, to, lanes, rows, dz + at, lanes)
        to = _in_right(s, k * lanes, lanes)
        transpose(factors.right, to, 2 * lanes, history, now + at, lanes)
    if factors.x.shape[2]:
        _put_inputs(factors, k, factors.x, t, first, lanes)
    if t == 0 or k == SLICE - 1:
        _add_product(total, factors, k + 1, lanes)
    if factors.back.size:
        top = np.int64(0)
        matrix_times(factors.inputs, top, factors.zeros, top, factors.back, rows, dz, lanes)
        scatter(factors.source[t], first, factors.inputs, top, lanes)
    elif factors.source.shape[2]:
        scatter(factors.source[t], first, rows, dz, lanes)


@jit
def _put_inputs(factors: Factors, k: int, x: Any, t: int, first: int, lanes: int) -> None:
    _, batch, features = x.shape
    flat = x.reshape(x.size)
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for lane in range(lanes):
        there = first + lane < batch
        start = (t * batch + first + lane) * features
        for s in range(features // lanes + 1):
            to = _in_right(factors.lefts + s, k * lanes + lane, lanes)
            if there and (s + 1) * lanes <= features:
                store(factors.right, to, load(flat, start + s * lanes))
                continue
            for c in range(lanes):
                j = s * lanes + c
                beyond = one if j == features else zero
                factors.right[to + c] = flat[start + j] if there and j < features else beyond


@jit
def _in_right(vector: int, row: int, lanes: int) -> int:
    return (vector // 2 * SLICE * lanes + row) * 2 * lanes + vector % 2 * lanes


@jit
def _add_product(total: Any, factors: Factors, steps: int, lanes: int) -> None:
    """total += Σ g uᵀ over the first steps of the slice."""
    left, right = factors.left, factors.right
    high = factors.lefts * lanes
    for strip in range(factors.rights // 2):
        for i in range(0, high, 4):
            at = (strip * high + i) * 2 * lanes
            a0, b0 = load(total, at), load(total, at + lanes)
            a1, b1 = load(total, at + 2 * lanes), load(total, at + 3 * lanes)
            a2, b2 = load(total, at + 4 * lanes), load(total, at + 5 * lanes)
            a3, b3 = load(total, at + 6 * lanes), load(total, at + 7 * lanes)
            g = i // lanes * SLICE * lanes * lanes + i % lanes
            u = strip * SLICE * lanes * 2 * lanes
            for _ in range(steps * lanes):
                p, q = load(right, u), load(right, u + lanes)
                a0, b0 = fma(spread(left[g]), p, a0), fma(spread(left[g]), q, b0)
                a1, b1 = fma(spread(left[g + 1]), p, a1), fma(spread(left[g + 1]), q, b1)
                a2, b2 = fma(spread(left[g + 2]), p, a2), fma(spread(left[g + 2]), q, b2)
                a3, b3 = fma(spread(left[g + 3]), p, a3), fma(spread(left[g + 3]), q, b3)
                g += lanes
                u += 2 * lanes
            store(total, at, a0)
            store(total, at + lanes, b0)
            store(total, at + 2 * lanes, a1)
            store(total, at + 3 * lanes, b1)
            store(total, at + 4 * lanes, a2)
            store(total, at + 5 * lanes, b2)
            store(total, at + 6 * lanes, a3)
            store(total, at + 7 * lanes, b3)


@jit
def new_sums(
    like: Any, addresses: Any, blocks: int, width: int, features: int, biases: int, lanes: int
) -> Sums:
    """Of the addresses of the gradients, in their order, and of the groups' sums."""
    count, size = _groups(blocks), _sum_size(width, features, lanes)
    return Sums(
        array_at(addresses[5], like, (count * size,)),
        count,
        size,
        array_at(addresses[0], like, (width, width)),
        array_at(addresses[1], like, (width, features)),
        array_at(addresses[2], like, (biases,)),
        array_at(addresses[3], like, (width,)),
        array_at(addresses[4], like, (width,)),
    )


@jit
def sum_of(sums: Sums, group: int, lanes: int) -> tuple[Any, Any, Any]:
    """A group's sum, zero at first, and the parts of it that are layer norm's two vectors."""
    total = sums.groups[group * sums.size : (group + 1) * sums.size]
    clear(total, np.int64(0), sums.size // lanes, lanes)
    norms = sums.size - 2 * sums.gain.size * lanes
    half = sums.size - sums.gain.size * lanes
    return total, total[norms:half], total[half:]


@jit
def add_up(sums: Sums, lanes: int) -> None:
    """From the groups' sums, in their order, to the gradients; one without numbers is not asked
    for."""
    groups, count, size = sums.groups, sums.count, sums.size
    height, features = sums.inputs.shape
    lefts, rights = _vectors(height, features, lanes)
    norms = lefts * rights * lanes * lanes
    for i in range(height):
        at = norms + i * lanes
        sums.gain[i] = _over_lanes(groups, at, size, count, lanes)
        sums.norm_bias[i] = _over_lanes(groups, at + height * lanes, size, count, lanes)
    for v in range(rights):
        for i in range(height):
            at = (v // 2 * lefts * lanes + i) * 2 * lanes + v % 2 * lanes
            total = load(groups, at)
            for group in range(1, count):
                total = total + load(groups, group * size + at)
            store(groups, at, total)
            if v < lefts:
                _put_out(sums.weight[i], v * lanes, groups, at, lanes)
            else:
                j = (v - lefts) * lanes
                _put_out(sums.inputs[i], j, groups, at, lanes)
                if sums.bias.size and 0 <= features - j < lanes:
                    sums.bias[i] = groups[at + features - j]


@jit
def _put_out(row: Any, j: int, groups: Any, at: int, lanes: int) -> None:
    """One vector into a row of a gradient, from its column ``j`` on; the row may end before."""
    if j + lanes <= row.size:
        store(row, j, load(groups, at))
    else:
        for c in range(row.size - j):
            row[j + c] = groups[at + c]


@jit
def _over_lanes(groups: Any, at: int, size: int, count: int, lanes: int) -> Any:
    """One number of LN's vectors: all groups, then all lanes."""
    total = load(groups, at)
    for group in range(1, count):
        total = total + load(groups, group * size + at)
    store(groups, at, total)
    number = groups[at]
    for lane in range(1, lanes):
        number += groups[at + lane]
    return number

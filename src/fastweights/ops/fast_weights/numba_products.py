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

from fastweights.ops.compiled import jit
from fastweights.ops.fast_weights.numba_rows import clear, fetch, matrix_times, scatter
from fastweights.ops.fast_weights.numba_steps import inlined
from fastweights.ops.simd import fma, load, spread, store, transpose

__all__ = [
    "GROUPS",
    "Factors",
    "Shape",
    "add_factors",
    "add_up",
    "clear_factors",
    "factor_rows",
    "fetch_factors",
    "shape_of",
]

GROUPS = 64  # at most so many sums
SLICE = 16  # steps whose factors stand side by side


class Factors(NamedTuple):
    """Scratch for a slice of both, and how many vectors a row of each takes; and what else becomes
    of the gradient of z: that of x (T, B, features), by Cᵀ, (features, H), if anybody asks; or of
    the drive, if there is no x. ``flat`` is x as one row; ``inputs`` is the gradient of a step's
    x, and ``zeros`` what it begins with."""

    left: Any
    right: Any
    lefts: Any
    rights: Any
    x: Any
    flat: Any
    back: Any
    source: Any
    inputs: Any
    zeros: Any


class Shape(NamedTuple):
    """What Python works out for a call: how many vectors a row of each factor takes, how many
    groups there are, and how many numbers the sum of one."""

    lefts: int
    rights: int
    groups: int
    size: int


def shape_of(blocks: int, width: int, features: int, lanes: int) -> Shape:
    """Of a batch of so many blocks; of u's vectors an even number, ``features`` may be 0.

    A sum is the product, and a row for each number of layer norm's two vectors. No block is a group
    too: its sum is zero.
    """
    lefts = -(-width // lanes)
    inputs = -(-(features + 1) // lanes) if features else 0
    rights = (lefts + inputs + 1) // 2 * 2
    size = (lefts * rights * lanes + 2 * width) * lanes
    return Shape(lefts, rights, max(1, min(blocks, GROUPS)), size)


def factor_rows(shape: Shape, lanes: int) -> tuple[int, int]:
    """Rows of scratch that each of the factors takes."""
    return shape.lefts * SLICE * lanes, shape.rights * SLICE * lanes


@jit
def clear_factors(factors: Factors, lanes: int) -> None:
    """What fills up u's vectors is multiplied too; and the zeros."""
    top = np.int64(0)
    clear(factors.right, top, factors.right.size // lanes, lanes)
    clear(factors.zeros, top, factors.zeros.size // lanes, lanes)


@inlined
def fetch_factors(factors: Factors, t: int, first: int, lanes: int) -> None:
    """Begin to bring near what :func:`add_factors` will touch of the plain arrays."""
    if factors.x.shape[2]:
        fetch(factors.x[t], first, lanes)
    if factors.source.shape[2]:
        fetch(factors.source[t], first, lanes)


@inlined
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
        _, batch, features = factors.x.shape
        _put_inputs(
            factors.right, k * lanes, factors.lefts, factors.flat, (t * batch + first) * features,
            features, batch - first, lanes,
        )  # fmt: skip
    if t == 0 or k == SLICE - 1:
        _add_product(total, factors, k + 1, lanes)
    if factors.back.size:
        top = np.int64(0)
        matrix_times(factors.inputs, top, factors.zeros, top, factors.back, rows, dz, lanes)
        scatter(factors.source[t], first, factors.inputs, top, lanes)
    elif factors.source.shape[2]:
        scatter(factors.source[t], first, rows, dz, lanes)


@jit
def _put_inputs(
    right: Any, place: int, before: int, x: Any, start: int, features: int, there: int, lanes: int
) -> None:
    """The rows x of ``there`` samples, from ``start`` of a flat array, and a 1, after ``before``
    vectors of u; zeros for lanes beyond them."""
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for lane in range(lanes):
        for s in range(features // lanes + 1):
            to = _in_right(before + s, place + lane, lanes)
            at = start + lane * features + s * lanes
            if lane < there and (s + 1) * lanes <= features:
                store(right, to, load(x, at))
                continue
            for c in range(lanes):
                j = s * lanes + c
                right[to + c] = one if j == features else zero
                if lane < there and j < features:
                    right[to + c] = x[at + c]


@jit
def _in_right(vector: int, row: int, lanes: int) -> int:
    return (vector // 2 * SLICE * lanes + row) * 2 * lanes + vector % 2 * lanes


@jit
def _add_product(total: Any, factors: Factors, steps: int, lanes: int) -> None:
    """total += Σ g uᵀ over the first steps of the slice."""
    left, right = factors.left, factors.right
    high, height = factors.lefts * lanes, factors.back.shape[1]
    for strip in range(factors.rights // 2):
        for i in range(0, height, 4):
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
def add_up(
    sums: Any,
    shape: Any,
    weight: Any,
    inputs: Any,
    bias: Any,
    gain: Any,
    norm_bias: Any,
    lanes: int,
) -> None:
    """From the groups' sums, in their order, to the gradients of W, C, b, and of layer norm's two
    vectors; b has no numbers if there is none."""
    lefts, rights, groups, size = shape[0], shape[1], shape[2], shape[3]
    height, features = inputs.shape
    for at in range(0, size, lanes):
        total = load(sums, at)
        for group in range(1, groups):
            total = total + load(sums, group * size + at)
        store(sums, at, total)
    for i in range(height):
        for v in range(rights):
            at = _in_sum(v, i, lefts, lanes)
            j = (v - lefts) * lanes
            for c in range(min(lanes, height - v * lanes)):
                weight[i, v * lanes + c] = sums[at + c]
            for c in range(min(lanes, features - j) if j >= 0 else 0):
                inputs[i, j + c] = sums[at + c]
        if bias.size:
            at = _in_sum(lefts + features // lanes, i, lefts, lanes)
            bias[i] = sums[at + features % lanes]
        at = (lefts * rights * lanes + i) * lanes
        gain[i] = norm_bias[i] = sums.dtype.type(0)
        for lane in range(lanes):
            gain[i] += sums[at + lane]
            norm_bias[i] += sums[at + height * lanes + lane]


@jit
def _in_sum(v: int, i: int, lefts: int, lanes: int) -> int:
    """Where vector ``v`` of row ``i`` begins."""
    return (v // 2 * lefts * lanes + i) * 2 * lanes + v % 2 * lanes

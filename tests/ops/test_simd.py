"""The vector type, lane by lane against NumPy."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numba import njit

from fastweights.ops import simd

DTYPES = [np.float32, np.float64]


@njit
def _arithmetic(a, b, c, out, lanes):
    x, y, z = simd.load(a, 0), simd.load(b, 0), simd.load(c, 0)
    simd.store(out, 0, x + y)
    simd.store(out, lanes, x - y)
    simd.store(out, 2 * lanes, x * y)
    simd.store(out, 3 * lanes, x / y)
    simd.store(out, 4 * lanes, simd.fma(x, y, z))
    simd.store(out, 5 * lanes, simd.masked(x, y))
    simd.store(out, 6 * lanes, simd.root(x * x))
    simd.store(out, 7 * lanes, simd.spread(a[1]))


@njit
def _shifted(a, out, start):
    simd.store(out, start, simd.load(a, start + 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic(dtype):
    lanes = simd.lanes_of(np.dtype(dtype).itemsize)
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, lanes)).astype(dtype)
    out = np.full(8 * lanes, np.nan, dtype)
    _arithmetic(a, b, c, out, lanes)
    rows = out.reshape(8, lanes)
    expected = [a + b, a - b, a * b, a / b, None, np.where(b > 0, a, 0), None, a[1]]
    for row, value in zip(rows, expected, strict=True):
        if value is not None:
            np.testing.assert_array_equal(row, value)
    exact = a.astype(np.longdouble) * b + c
    size = np.abs(a * b) + np.abs(c)  # rounded twice at most, also where the sum cancels
    assert (np.abs(rows[4] - exact) <= 2 * np.finfo(dtype).eps * size).all()
    np.testing.assert_allclose(rows[6], np.abs(a), rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_lets_nan_through(dtype):
    """ReLU must not turn a NaN into a quiet zero; −0 and +0 are not positive."""
    lanes = simd.lanes_of(np.dtype(dtype).itemsize)
    a, by, ones = np.ones((3, lanes), dtype)
    by[:4] = [np.nan, -0.0, 0.0, np.inf]
    out = np.empty(8 * lanes, dtype)
    _arithmetic(a, by, ones, out, lanes)
    assert out.reshape(8, lanes)[5, :4].tolist() == [1.0, 0.0, 0.0, 1.0]
    a[0] = np.nan
    _arithmetic(a, a, ones, out, lanes)
    assert np.isnan(out.reshape(8, lanes)[5, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_addresses_need_no_alignment_and_nothing_else_is_touched(dtype):
    lanes = simd.lanes_of(np.dtype(dtype).itemsize)
    a = np.arange(3 * lanes, dtype=dtype)
    out = np.full(3 * lanes, -1, dtype)
    _shifted(a, out, 3)
    np.testing.assert_array_equal(out[3 : 3 + lanes], a[4 : 4 + lanes])
    assert (out[:3] == -1).all()
    assert (out[3 + lanes :] == -1).all()


def test_lanes_fill_one_register():
    assert simd.lanes_of(4) == 2 * simd.lanes_of(8) == simd.LANES[numba.float32]
    assert simd.LANES[numba.float64] == simd.lanes_of(8) >= 2


@njit
def _transposed(out, out_step, x, x_step):
    simd.transpose(out, 2, out_step, x, 3, x_step)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_moves_a_square_and_nothing_else(dtype):
    lanes = simd.lanes_of(np.dtype(dtype).itemsize)
    x = np.arange(3 + (lanes + 5) * lanes).astype(dtype)
    out = np.full(2 + (lanes + 1) * lanes, -1, dtype)
    _transposed(out, lanes + 1, x, lanes + 5)
    square = x[3:].reshape(lanes, lanes + 5)[:, :lanes]
    found = out[2:].reshape(lanes, lanes + 1)
    np.testing.assert_array_equal(found[:, :lanes], square.T)
    assert (found[:, lanes] == -1).all()
    assert (out[:2] == -1).all()

"""The compiled half of `numba_cpu`; importing this imports Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, prange, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["step_parallel", "step_serial"]


def _as_pointer(context: Any, address: Any) -> Any:
    """An address as a pointer, for `carray`: making NumPy arrays of tensors would cost more than
    the whole update of a small network."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


_pointer: Any = intrinsic(_as_pointer)


@njit(cache=True, error_model="numpy", nogil=True)
def _step_span(
    at_w: Any, at_g: Any, at_v: Any, at_f: Any, at_u: Any, start: Any, stop: Any, options: Any
) -> None:
    n = stop - start
    skip = np.int64(start) * options.itemsize
    w = carray(_pointer(at_w + skip), n, options.dtype)
    g = carray(_pointer(at_g + skip), n, options.dtype)
    v = carray(_pointer(at_v + skip), n, options.dtype)
    f = carray(_pointer(at_f + skip), n, options.dtype)
    u = carray(_pointer(at_u + skip), n, options.dtype)
    sign, weight_decay, v_keep, v_gain, along_g, along_v, u_keep, u_gain, keep = (
        options[0],
        options[1],
        options[2],
        options[3],
        options[4],
        options[5],
        options[6],
        options[7],
        options[8],
    )
    for i in range(n):
        slow = w[i] - f[i]
        gradient = sign * g[i] + weight_decay * slow
        velocity = v_keep * v[i] + v_gain * gradient
        update = u_keep * u[i] + u_gain * g[i]
        overlay = keep * (f[i] + update)
        slow -= along_g * gradient + along_v * velocity
        v[i] = velocity
        u[i] = update
        f[i] = overlay
        w[i] = slow + overlay


@njit(cache=True, nogil=True)
def step_serial(addresses: Any, sizes: Any, options: Any) -> None:
    for k in range(sizes.size):
        a = addresses[:, k]
        _step_span(a[0], a[1], a[2], a[3], a[4], 0, sizes[k], options)


@njit(cache=True, parallel=True, nogil=True)
def step_parallel(addresses: Any, sizes: Any, options: Any, chunk: Any) -> None:
    for k in range(sizes.size):
        # Plain numbers, taken out of the parallel loop: with array elements inside it the inner
        # loop is not vectorised and runs at half the speed.
        w, g, v, f, u = (
            addresses[0, k],
            addresses[1, k],
            addresses[2, k],
            addresses[3, k],
            addresses[4, k],
        )
        n = sizes[k]
        for j in prange((n + chunk - 1) // chunk):
            _step_span(w, g, v, f, u, j * chunk, min(n, (j + 1) * chunk), options)

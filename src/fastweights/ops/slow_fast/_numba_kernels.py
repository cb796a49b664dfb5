"""The compiled half of `numba_cpu`; importing this imports Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, prange, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from fastweights.ops.compiled import compiled

__all__ = ["step_parallel", "step_serial"]


def _as_pointer(context: Any, address: Any) -> Any:
    """An address as a pointer, for `carray`: making NumPy arrays of tensors would cost more than
    the whole update of a small network."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


_pointer: Any = intrinsic(_as_pointer)


@compiled()
def _step_span(
    w_at: Any,
    g_at: Any,
    v_at: Any,
    s_at: Any,
    f_at: Any,
    u_at: Any,
    start: Any,
    stop: Any,
    options: Any,
) -> None:
    n = stop - start
    skip = np.int64(start) * options.itemsize
    w = carray(_pointer(w_at + skip), n, options.dtype)
    g = carray(_pointer(g_at + skip), n, options.dtype)
    v = carray(_pointer(v_at + skip), n, options.dtype)
    s = carray(_pointer(s_at + skip), n, options.dtype)
    f = carray(_pointer(f_at + skip), n, options.dtype)
    u = carray(_pointer(u_at + skip), n, options.dtype)
    sign, weight_decay, v_keep, v_gain = options[0], options[1], options[2], options[3]
    along_g, along_v = options[4], options[5]
    u_keep, u_gain, keep = options[6], options[7], options[8]
    for i in range(n):
        gradient = sign * g[i] + weight_decay * s[i]
        velocity = v_keep * v[i] + v_gain * gradient
        slow = s[i] - (along_g * gradient + along_v * velocity)
        update = u_keep * u[i] + u_gain * g[i]
        overlay = keep * (f[i] + update)
        v[i] = velocity
        s[i] = slow
        u[i] = update
        f[i] = overlay
        w[i] = slow + overlay


@compiled()
def step_serial(addresses: Any, sizes: Any, options: Any) -> None:
    for k in range(sizes.size):
        a = addresses[:, k]
        _step_span(a[0], a[1], a[2], a[3], a[4], a[5], 0, sizes[k], options)


@compiled(parallel=True)
def step_parallel(addresses: Any, sizes: Any, options: Any, chunk: Any) -> None:
    for k in range(sizes.size):
        # Plain numbers, taken out of the parallel loop: with array elements inside it the inner
        # loop is not vectorised and runs at half the speed.
        w, g, v = addresses[0, k], addresses[1, k], addresses[2, k]
        s, f, u = addresses[3, k], addresses[4, k], addresses[5, k]
        n = sizes[k]
        for j in prange((n + chunk - 1) // chunk):
            _step_span(w, g, v, s, f, u, j * chunk, min(n, (j + 1) * chunk), options)

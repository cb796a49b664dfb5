"""The compiled half of `numba_cpu`; importing this imports Numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastweights.ops.compiled import Region, jit
from fastweights.ops.simd import FLOATS, INTEGERS, address_of, array_at, claim
from fastweights.ops.threads import CLAIMED

__all__ = ["CHUNK", "OPTIONS", "step"]

CHUNK = 16384  # weights one thread takes at a time: six such float32 arrays fit in a 512 KiB cache
OPTIONS = 9
_ARRAYS = 6
_BYTES = 8


@jit
def _step_span(like: Any, addresses: Any, tensor: Any, start: Any, n: Any, options: Any) -> None:
    """The update of weights ``start`` … ``start + n − 1`` of a tensor and its arrays."""
    skip = start * like.itemsize
    w = array_at(addresses[0, tensor] + skip, like, (n,))
    g = array_at(addresses[1, tensor] + skip, like, (n,))
    v = array_at(addresses[2, tensor] + skip, like, (n,))
    s = array_at(addresses[3, tensor] + skip, like, (n,))
    f = array_at(addresses[4, tensor] + skip, like, (n,))
    u = array_at(addresses[5, tensor] + skip, like, (n,))
    number = like.dtype.type
    sign, weight_decay = number(options[0]), number(options[1])
    v_keep, v_gain = number(options[2]), number(options[3])
    along_g, along_v = number(options[4]), number(options[5])
    u_keep, u_gain, keep = number(options[6]), number(options[7]), number(options[8])
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


@Region
def step(pointer: Any) -> None:
    """All tensors, chunk by chunk.

    After the claimed there are the number of tensors, ``OPTIONS`` floating-point numbers, the size
    of each tensor, and the addresses of all weights, of all gradients and so on.
    """
    start = address_of(pointer)
    like = array_at(start, pointer, (0,))
    claimed = array_at(start, INTEGERS, (CLAIMED,))
    at = start + _BYTES * CLAIMED
    tensors = array_at(at, INTEGERS, (1,))[0]
    options = array_at(at + _BYTES, FLOATS, (OPTIONS,))
    at += _BYTES * (1 + OPTIONS)
    sizes = array_at(at, INTEGERS, (tensors,))
    addresses = array_at(at + _BYTES * tensors, INTEGERS, (_ARRAYS, tensors))
    tensor, before = 0, np.int64(0)  # chunks of the tensors before this one
    chunk = claim(claimed, 0)
    while tensor < tensors:
        size = sizes[tensor]
        if (chunk - before) * CHUNK < size:
            first = (chunk - before) * CHUNK
            _step_span(like, addresses, tensor, first, min(CHUNK, size - first), options)
            chunk = claim(claimed, 0)
        else:
            before += -(-size // CHUNK)
            tensor += 1

"""Slow and fast weights on the CPU in one pass over memory, the slow moved by SGD with momentum.

Ten arrays move (v, s, f, Δf in and out, g in, w out) where separate operations would move
twenty-five, and `torch.optim.SGD` alone moves eight (foreach) or five (fused).
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable

import torch
from torch import Tensor

from fastweights.ops import native
from fastweights.ops.threads import threads_for

__all__ = ["sgd_step", "why_not"]

_SERIAL_BELOW = 65536  # fewer weights than this are done before other threads have woken up
_SPAN = 16384  # weights that a thread takes at a time, kSpan in native/slow_fast.h


class _SlowFastStep(native.Work):
    """The struct of that name in ``native/slow_fast.h``."""

    _fields_ = (
        ("tensors", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("sizes", "weights", "gradients")),
        *((name, ctypes.c_void_p) for name in ("slow", "fast", "updates")),
        *((name, ctypes.c_double) for name in ("sign", "weight_decay")),
        *((name, ctypes.c_double) for name in ("fast_momentum", "fast_lr", "keep")),
    )


class _SgdStep(_SlowFastStep):
    _fields_ = (
        ("velocities", ctypes.c_void_p),
        *((name, ctypes.c_double) for name in ("velocity_keep", "velocity_gain")),
        *((name, ctypes.c_double) for name in ("along_gradient", "along_velocity")),
    )


def why_not(tensors: Iterable[Tensor]) -> str | None:
    """The reason why `sgd_step` cannot work on these tensors, or None if it can.

    Example:
        >>> why_not([torch.zeros(3)]), why_not([torch.zeros(3, dtype=torch.bfloat16)])
        (None, 'a tensor is torch.bfloat16, not float32 or float64')
    """
    for tensor in tensors:
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return f"a tensor is a {type(tensor).__name__}"
        if tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}, not on the CPU"
        if tensor.dtype not in (torch.float32, torch.float64):
            return f"a tensor is {tensor.dtype}, not float32 or float64"
        if not tensor.is_contiguous():
            return "a tensor is not contiguous"
    return native.missing_reason()


def sgd_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    slow: list[Tensor],
    fast: list[Tensor],
    updates: list[Tensor],
    *,
    slow_lr: float,
    slow_momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
    fast_lr: float,
    fast_momentum: float,
    keep: float,
    maximize: bool = False,
) -> None:
    """Both halves of the update in place; arguments and result as in the reference.

    All tensors share one dtype, and `why_not` has nothing against any of them. They must be
    initialised, also ``buffers`` where ``first``. The result does not depend on the number of
    threads.

    Example:
        >>> w, g, v, s, f, update = (torch.tensor([x]) for x in (3.0, 1.0, 0.0, 2.0, 1.0, 0.0))
        >>> sgd_step([w], [g], [v], [s], [f], [update], slow_lr=1.0, slow_momentum=0.9,
        ...          dampening=0.0, weight_decay=0.0, nesterov=False, first=True, fast_lr=0.5,
        ...          fast_momentum=0.5, keep=0.5)
        >>> w, s, f
        (tensor([1.2500]), tensor([1.]), tensor([0.2500]))
    """
    if not weights:
        return
    sizes = [weight.numel() for weight in weights]
    columns = (weights, gradients, slow, fast, updates, buffers)
    rows = [array("q", sizes)]
    rows += (array("q", [tensor.data_ptr() for tensor in column]) for column in columns)
    *addresses, velocities = (row.buffer_info()[0] for row in rows)
    step = _SgdStep(
        0, 0, 0, len(sizes), *addresses,
        sign=-1.0 if maximize else 1.0,
        weight_decay=weight_decay,
        fast_momentum=fast_momentum,
        fast_lr=fast_lr,
        keep=keep,
        velocities=velocities,
        velocity_keep=0.0 if first else slow_momentum,
        velocity_gain=1.0 if first else 1.0 - dampening,
        along_gradient=slow_lr if nesterov else 0.0,
        along_velocity=slow_lr * slow_momentum if nesterov else slow_lr,
    )  # fmt: skip
    # Autograd cannot see the writing, and must: a backward pass through changed weights is wrong.
    torch.autograd.graph.increment_version(weights)
    spans = sum(-(-size // _SPAN) for size in sizes)
    threads = 1 if sum(sizes) < _SERIAL_BELOW else threads_for(spans)
    native.run(native.kernel("sgd_step", weights[0].dtype), step, threads)

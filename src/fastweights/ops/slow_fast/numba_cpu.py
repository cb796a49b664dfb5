"""Slow and fast weights on the CPU in one pass over memory, the slow moved by SGD with momentum.

Ten arrays move (v, s, f, Δf in and out, g in, w out) where separate operations would move
twenty-five, and `torch.optim.SGD` alone moves eight (foreach) or five (fused).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fastweights.ops.threads import bits_of, run_on, threads_for

__all__ = ["sgd_step", "why_not"]

_SERIAL_BELOW = 65536  # fewer weights than this are done before other threads have woken up


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
    return None


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
    initialised, also ``buffers`` where ``first``. The first call compiles, for seconds; the result
    is cached on disk.

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
    sign = -1.0 if maximize else 1.0
    options = (
        sign,
        weight_decay,
        0.0 if first else slow_momentum,
        1.0 if first else 1.0 - dampening,
        slow_lr if nesterov else 0.0,
        slow_lr * slow_momentum if nesterov else slow_lr,
        fast_momentum,
        -sign * fast_lr,
        keep,
    )
    # Imported here: Numba takes longer to import than most programs want to wait for an optimizer.
    from fastweights.ops.slow_fast._numba_kernels import CHUNK, step

    sizes = [weight.numel() for weight in weights]
    addresses: list[int] = []
    for column in (weights, gradients, buffers, slow, fast, updates):
        addresses += [tensor.data_ptr() for tensor in column]
    # Autograd cannot see the writing, and must: a backward pass through changed weights is wrong.
    torch.autograd.graph.increment_version(weights)
    chunks = sum(-(-size // CHUNK) for size in sizes)
    threads = 1 if sum(sizes) < _SERIAL_BELOW else threads_for(chunks)
    numbers = (len(sizes), *bits_of(*options), *sizes, *addresses)
    run_on(threads, step.address(weights[0].dtype), numbers)

"""Slow and fast weights on the CPU in one pass over memory, the slow moved by SGD or by Adam.

With SGD and momentum ten arrays move (v, s, f, Δf in and out, g in, w out) where separate
operations would move twenty-five, and `torch.optim.SGD` alone moves eight (foreach) or five
(fused). With Adam there are two more.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastweights.ops import native
from fastweights.ops.dispatch import has_plain_memory, kernel_cannot_follow, plain_addresses

__all__ = ["adam_step", "sgd_step", "unsupported_reason"]

_SERIAL_BELOW = 65536  # fewer weights than this are done before other threads have woken up
_SPAN = 16384  # weights that a thread takes at a time, kSpan in native/slow_fast.h


class _WeightTensor(ctypes.Structure):
    """As in ``native/slow_fast.h``."""

    _fields_ = (
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("weights", "gradients", "slow", "fast", "updates")),
        *((name, ctypes.c_void_p) for name in ("moment", "square")),
        *((name, ctypes.c_double) for name in ("step_size", "scale")),
    )


class _SlowFastStep(native.Work):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("tensors", ctypes.POINTER(_WeightTensor)),
        *((name, ctypes.c_double) for name in ("sign", "fast_momentum", "fast_lr", "keep")),
    )


class _SgdStep(_SlowFastStep):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("weight_decay", "moment_keep", "moment_gain")),
        *((name, ctypes.c_double) for name in ("rate", "momentum")),
        ("nesterov", ctypes.c_int64),
    )


class _AdamStep(_SlowFastStep):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("weight_decay", "slow_keep", "moment_gain")),
        *((name, ctypes.c_double) for name in ("square_keep", "square_gain", "eps")),
    )


def unsupported_reason(weights: Sequence[Tensor], **columns: Sequence[Tensor | None]) -> str | None:
    """The reason why the kernels cannot work on these tensors, or None if they can.

    A kernel gets addresses, and believes that the values of each tensor lie there one after
    another, as many as the weight has, in its dtype, and that nothing else is written to them.

    Args:
        weights: w.
        columns: what is handed over with them, by its name in messages; each list holds one tensor
            for every weight, or None where there is none yet.

    Example:
        >>> unsupported_reason([torch.zeros(3)], slow=[torch.zeros(3)])
        >>> unsupported_reason([torch.zeros(3)], slow=[torch.zeros(3, dtype=torch.float64)])
        'slow is torch.float64, but its weight torch.float32'
        >>> unsupported_reason([torch.zeros(3, dtype=torch.bfloat16)])
        'a weight is torch.bfloat16, not float32 or float64'
    """
    reason = kernel_cannot_follow((), registered=False)
    if reason is not None:
        return reason
    named = {"a weight": weights, **columns}
    starts = None
    if weights and weights[0].dtype in _DTYPES:
        starts = plain_addresses(named.values(), weights, weights[0].dtype)
    if starts is None:
        for name, column in named.items():
            for tensor, weight in zip(column, weights, strict=True):
                reason = None if tensor is None else _mismatch(tensor, weight)
                if reason is not None:
                    return f"{name} {reason}"
        starts = [0 if x is None else x.data_ptr() for column in named.values() for x in column]
    if _overlap(tuple(starts), tuple([weight.nbytes for weight in weights])):
        return "two of the tensors share memory"
    return native.missing_reason()


@functools.lru_cache(maxsize=64)
def _overlap(starts: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether columns of tensors of these sizes in bytes overlap; 0 is where there is none."""
    placed = zip(starts, itertools.cycle(sizes), strict=False)
    spans = sorted((start, start + size) for start, size in placed if start and size)
    return any(start < end for (_, end), (start, _) in itertools.pairwise(spans))


_DTYPES = frozenset((torch.float32, torch.float64))


def _mismatch(tensor: Tensor, weight: Tensor) -> str | None:
    """Why the values of a tensor do not lie as those of its weight must."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"is a {type(tensor).__name__}"
    if not tensor.is_cpu:
        return f"is on {tensor.device}, not on the CPU"
    if tensor.layout is not torch.strided:
        return f"has the layout {tensor.layout}"
    if tensor.dtype not in _DTYPES:
        return f"is {tensor.dtype}, not float32 or float64"
    if tensor.dtype is not weight.dtype:
        return f"is {tensor.dtype}, but its weight {weight.dtype}"
    if tensor.shape != weight.shape:
        return f"has shape {tuple(tensor.shape)}, but its weight {tuple(weight.shape)}"
    if tensor._is_zerotensor():
        return "has no memory: its zeros are only promised"
    if tensor.is_neg():
        return "is negated only when it is read"
    if tensor.numel() and not has_plain_memory(tensor):
        return "has no memory of its own"
    if not tensor.is_contiguous():
        return "is not contiguous"
    if (
        tensor.untyped_storage().nbytes()
        < tensor.storage_offset() * tensor.itemsize + tensor.nbytes
    ):
        return "has less memory than its shape says"
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

    `unsupported_reason` must have nothing against the tensors. They must be initialised, also
    ``buffers`` where ``first``. The result does not depend on the number of threads.

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
    step = _SgdStep(
        sign=-1.0 if maximize else 1.0,
        fast_momentum=fast_momentum,
        fast_lr=fast_lr,
        keep=keep,
        weight_decay=weight_decay,
        moment_keep=0.0 if first else slow_momentum,
        moment_gain=1.0 if first else 1.0 - dampening,
        rate=slow_lr,
        momentum=slow_momentum,
        nesterov=nesterov,
    )
    _run("sgd_step", step, (weights, gradients, slow, fast, updates, buffers))


def adam_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    moments: list[Tensor],
    squares: list[Tensor],
    slow: list[Tensor],
    fast: list[Tensor],
    updates: list[Tensor],
    *,
    steps: Sequence[float],
    slow_lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    fast_lr: float,
    fast_momentum: float,
    keep: float,
    maximize: bool = False,
) -> None:
    """Both halves of the update in place; arguments and result as in the reference.

    `unsupported_reason` must have nothing against the tensors. The result does not depend on the
    number of threads.

    Example:
        >>> start = (3.0, 2.0, 0.0, 0.0, 2.0, 1.0, 0.0)
        >>> w, g, m, q, s, f, update = (torch.tensor([x]) for x in start)
        >>> adam_step([w], [g], [m], [q], [s], [f], [update], steps=[1], slow_lr=0.5,
        ...           betas=(0.5, 0.5), eps=0.0, weight_decay=0.0, decoupled=True, fast_lr=0.5,
        ...           fast_momentum=0.5, keep=0.5)
        >>> w, s, f
        (tensor([1.5000]), tensor([1.5000]), tensor([0.]))
    """
    if not weights:
        return
    first, second = betas
    step = _AdamStep(
        sign=-1.0 if maximize else 1.0,
        fast_momentum=fast_momentum,
        fast_lr=fast_lr,
        keep=keep,
        weight_decay=0.0 if decoupled else weight_decay,
        slow_keep=1.0 - slow_lr * weight_decay if decoupled else 1.0,
        moment_gain=1.0 - first,
        square_keep=second,
        square_gain=1.0 - second,
        eps=eps,
    )
    columns = (weights, gradients, slow, fast, updates, moments, squares)
    corrections = (
        [slow_lr / (1.0 - first**n) for n in steps],
        [(1.0 - second**n) ** -0.5 for n in steps],
    )
    _run("adam_step", step, columns, corrections)


def _run(
    kernel: str,
    step: _SlowFastStep,
    columns: tuple[list[Tensor], ...],
    corrections: tuple[list[float], ...] = (),
) -> None:
    """Run a kernel: ``columns`` and ``corrections`` fill the fields of `_WeightTensor` in turn."""
    weights = columns[0]
    sizes = tuple([weight.numel() for weight in weights])
    addresses = tuple([x.data_ptr() for column in columns for x in column])
    rows, spans, total = _rows(sizes, addresses)
    for name, numbers in zip(("step_size", "scale"), corrections, strict=False):
        for row, number in zip(rows, numbers, strict=True):
            setattr(row, name, number)
    step.count = len(rows)
    step.tensors = rows
    # Autograd cannot see the writing, and must: a backward pass through changed weights is wrong.
    torch.autograd.graph.increment_version(weights)
    threads = 1 if total < _SERIAL_BELOW else native.threads_for(spans)
    native.run(native.kernel(kernel, weights[0].dtype), step, threads)


@functools.lru_cache(maxsize=64)
def _rows(sizes: tuple[int, ...], addresses: tuple[int, ...]) -> tuple[Any, int, int]:
    """The tensors as the kernel takes them, in how many spans, and how many weights there are.

    Kept, since most tensors stay where they are from step to step.
    """
    count = len(sizes)
    columns = [addresses[i : i + count] for i in range(0, len(addresses), count)]
    rows = (_WeightTensor * count)(
        *(_WeightTensor(*row) for row in zip(sizes, *columns, strict=True))
    )
    return rows, sum(-(-size // _SPAN) for size in sizes), sum(sizes)

"""The attention form in Numba: forward, and the backward pass derived in README.md.

A block of samples is worked on at a time; :mod:`.numba_steps` names the rows of its arrays. A call
takes the blocks start, start + stride, …: one thread's share.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastweights.ops.fast_weights.numba_rows import gather, jit, scatter
from fastweights.ops.fast_weights.numba_steps import (
    HEBBIAN,
    NONE,
    STATIC,
    Carried,
    Gradients,
    Kept,
    Settings,
    Slow,
    backward_step,
    forward_step,
    new_work,
)

__all__ = ["HEBBIAN", "NONE", "STATIC", "backward", "forward"]


@jit
def forward(
    start: int, stride: int, blocks: int, lanes: int, memory: int, norm: bool,
    norm_preliminary: bool, previous: bool, after_read: bool, keep: bool, eps: Any,
    inner_steps: int,
    drive: Any, weight: Any, gain: Any, bias: Any, rates: Any, static: Any, hs: Any,
    all_queries: Any, all_normed: Any, all_scales: Any,
) -> None:  # fmt: skip
    """``hs`` (M + T + 1, B, H) holds M + 1 vectors and gets the rest.

    Without ``keep`` the kept arrays have one step, and one place for each thread's blocks.
    """
    length, _, width = drive.shape
    carried = hs.shape[0] - length - 1
    step = width * lanes
    settings = Settings(
        lanes, memory, norm, norm_preliminary, previous, after_read, inner_steps,
        inner_steps + (1 if norm_preliminary else 0), drive.dtype.type(eps),
    )  # fmt: skip
    slow = Slow(weight, static, gain, bias)
    nothing = np.empty((0, 0), drive.dtype)
    memories = Carried(rates, nothing, nothing[0:0].ravel())
    history = np.empty((carried + length + 1) * step, drive.dtype)
    work = new_work(width, carried + length, lanes, drive.dtype)
    for block in range(start, blocks, stride):
        first = block * lanes
        slot = block if keep else start
        kept = Kept(history, all_queries[slot], all_normed[slot], all_scales[slot])
        for m in range(carried + 1):
            gather(history, m * step, hs[m], first, lanes)
        for t in range(length):
            now = (carried + t) * step
            place = t if keep else 0
            gather(work.y, 0, drive[t], first, lanes)
            forward_step(
                settings, slow, kept, memories, work, first, now, now + step,
                carried + t + (0 if after_read else 1), place * max(inner_steps, 1) * step,
                place * settings.norms,
            )  # fmt: skip
            scatter(hs[carried + t + 1], first, history, now + step, lanes)


@jit
def backward(
    start: int, stride: int, blocks: int, lanes: int, memory: int, norm: bool,
    norm_preliminary: bool, previous: bool, after_read: bool, detach: bool, inner_steps: int,
    weight_t: Any, gain: Any, rates: Any, static_t: Any,
    hs: Any, all_queries: Any, all_normed: Any, all_scales: Any, dhs: Any,
    ddrive: Any, dstart: Any, drates: Any, dgain: Any, dbias: Any, dread: Any, asked_for: Any,
) -> None:  # fmt: skip
    """Backwards in time.

    ``dhs`` is the gradient of ``hs``. Gets: ``ddrive`` (T, B, H), ``dstart`` (M + 1, B, H),
    and per block ``drates`` (rows, ages, lanes), ``dgain`` and ``dbias`` (H, lanes). With a static
    memory, ``dread`` and ``asked_for`` (S, T, B, H) get the two factors of its gradient.
    """
    length, _, width = ddrive.shape
    carried = dhs.shape[0] - length - 1
    step = width * lanes
    kind = ddrive.dtype
    settings = Settings(
        lanes, memory, norm, norm_preliminary, previous, after_read, inner_steps,
        inner_steps + (1 if norm_preliminary else 0), kind.type(0),
    )  # fmt: skip
    slow = Slow(weight_t, static_t, gain, gain)
    nothing = np.empty((0, 0), kind)
    memories = Carried(rates, nothing, nothing[0:0].ravel())
    history = np.empty((carried + length + 1) * step, kind)
    dhistory = np.empty((carried + length + 1) * step, kind)
    work = new_work(width, carried + length, lanes, kind)
    for block in range(start, blocks, stride):
        first = block * lanes
        kept = Kept(history, all_queries[block], all_normed[block], all_scales[block])
        gradients = Gradients(
            dhistory, drates[block], nothing, dgain[block], dbias[block], nothing[0:0].ravel()
        )
        for m in range(carried + length + 1):
            gather(history, m * step, hs[m], first, lanes)
            gather(dhistory, m * step, dhs[m], first, lanes)
        for t in range(length - 1, -1, -1):
            now = (carried + t) * step
            backward_step(
                settings, detach, slow, kept, memories, work, gradients, dread, asked_for, t, first,
                now, now + step, carried + t + (0 if after_read else 1),
                t * max(inner_steps, 1) * step, t * settings.norms,
            )  # fmt: skip
            scatter(ddrive[t], first, work.dz, 0, lanes)
        for m in range(carried + 1):
            scatter(dstart[m], first, dhistory, m * step, lanes)

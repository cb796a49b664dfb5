"""How the Numba kernels are called: everything in one row of integers.

Threads that run a kernel know where this row begins, and nothing else. It holds what
:mod:`fastweights.ops.threads` says, then what :func:`run` puts there, and :func:`call_of` reads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastweights.ops import simd
from fastweights.ops.compiled import Region, jit
from fastweights.ops.fast_weights.numba_steps import inlined
from fastweights.ops.simd import FLOATS, INTEGERS, lanes_of
from fastweights.ops.threads import CLAIMED, bits_of, run_on, threads_for

__all__ = ["Call", "call_of", "done", "next_block", "part", "run"]

_FIXED = 11  # integers before the rows
_BYTES = 8
# As Numba sees them: without the argument that it puts in itself.
address_of: Any = simd.address_of
array_at: Any = simd.array_at
claim: Any = simd.claim


def run(
    region: Region,
    like: Tensor,
    batch: int,
    rows: Sequence[int],
    sizes: Sequence[int],
    addresses: Sequence[int],
    *,
    inner_steps: int,
    eps: float,
    flags: int,
    memory: int = 0,
    keep: bool = True,
) -> None:
    """Run a kernel on all blocks of a batch, on as many threads as PyTorch may use.

    Args:
        region: the kernel.
        like: a tensor of the kind of number to compute in.
        batch: samples.
        rows: of each part of the scratch that a thread needs to itself; :func:`part` finds them.
        sizes: what the kernel calls so, and ``addresses`` likewise.
        inner_steps, eps, flags, memory, keep: as the ops take them; a kernel of one memory looks
            at no other.
    """
    lanes, itemsize = lanes_of(like.element_size()), like.element_size()
    blocks = -(-batch // lanes)
    threads = threads_for(blocks)
    own = sum(rows) * lanes
    scratch = like.new_empty(threads * own)
    numbers = (
        blocks, lanes, inner_steps, memory, flags, keep, _bits_of(eps)[0], scratch.data_ptr(),
        own * itemsize, len(rows), len(sizes), *rows, *sizes, *addresses,
    )  # fmt: skip
    run_on(threads, region.address(like.dtype), numbers)


_bits_of = functools.lru_cache(bits_of)  # the same from call to call


class Call(NamedTuple):
    """What :func:`run` was given; ``like`` is an empty array, ``thread`` this one's number, and
    ``scratch`` this thread's own, of as many ``rows`` as each part has."""

    like: Any
    claimed: Any
    blocks: Any
    lanes: Any
    inner_steps: Any
    memory: Any
    flags: Any
    keep: Any
    eps: Any
    rows: Any
    sizes: Any
    addresses: Any
    thread: Any
    scratch: Any


@inlined
def call_of(pointer: Any) -> Call:
    """Of the pointer that a region gets; a thread asks once."""
    start = address_of(pointer)
    like = array_at(start, pointer, (0,))
    claimed = array_at(start, INTEGERS, (CLAIMED,))
    at = start + _BYTES * CLAIMED
    fixed = array_at(at, INTEGERS, (_FIXED,))
    eps = array_at(at, FLOATS, (_FIXED,))[6]
    at += _BYTES * _FIXED
    rows = array_at(at, INTEGERS, (fixed[9],))
    at += _BYTES * fixed[9]
    sizes = array_at(at, INTEGERS, (fixed[10],))
    addresses = array_at(at + _BYTES * fixed[10], INTEGERS, (32,))  # nobody looks beyond the last
    thread = claim(claimed, 1)
    scratch = fixed[7] + thread * fixed[8]
    return Call(
        like, claimed, fixed[0], fixed[1], fixed[2], fixed[3], fixed[4], fixed[5] != 0, eps, rows,
        sizes, addresses, thread, scratch,
    )  # fmt: skip


@inlined
def next_block(call: Call) -> int:
    """The number of a block that no other thread has; none is left when there is no such block."""
    return claim(call.claimed, 0)


@inlined
def done(call: Call) -> int:
    """To be called at the end of whatever was claimed: the number of those that ended before."""
    return claim(call.claimed, 2)


@inlined
def part(call: Call, index: int) -> Any:
    """That part of the scratch."""
    # Functions are compiled once more for every literal.
    before = _rows_before(call.rows, np.int64(index)) * call.lanes * call.like.itemsize
    return array_at(call.scratch + before, call.like, (call.rows[index] * call.lanes,))


@jit
def _rows_before(rows: Any, index: int) -> Any:
    total = np.int64(0)
    for before in range(index):
        total += rows[before]
    return total

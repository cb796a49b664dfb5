"""Work shared out among PyTorch's own threads.

PyTorch's threads are OpenMP's. When they have nothing to do they go on spinning for a while, so
threads of our own would find the cores taken, and start late. So we run on theirs, through the
entry point that compilers use for a parallel region; where there is none, on a pool. No thread
needs Python for its share, or they would wait for each other.
"""

from __future__ import annotations

import ctypes
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

__all__ = ["Kernel", "run_on_threads", "threads_for"]

_HOME = os.getpid()


def threads_for(blocks: int) -> int:
    """How many threads to share so many blocks out to: one at least."""
    return max(1, min(torch.get_num_threads(), blocks))


class Kernel(NamedTuple):
    """A compiled function of one pointer: to call, where it begins, and what it is called."""

    call: Any
    address: int
    name: str = ""


def run_on_threads(threads: int, kernel: Kernel, arguments: int) -> None:
    """Enter a kernel on so many threads at once, or on fewer, and wait for all.

    Args:
        threads: at most so many, of :func:`threads_for`.
        kernel: it shares its work out among the threads that come.
        arguments: the address that each of them gets.

    Example:
        >>> came = []
        >>> call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(came.append)
        >>> run_on_threads(1, Kernel(call, ctypes.cast(call, ctypes.c_void_p).value), 7)
        >>> came
        [7]
    """
    if threads == 1:
        kernel.call(arguments)
        return
    # A fork takes neither OpenMP's threads along nor the knowledge that they are gone.
    openmp = _openmp() if os.getpid() == _HOME else None
    if openmp is not None:
        openmp.GOMP_parallel(kernel.address, arguments, threads, 0)
        return
    pool = _pool(os.getpid(), torch.get_num_threads())
    for share in [pool.submit(kernel.call, arguments) for _ in range(threads)]:
        share.result()


@functools.cache
def _openmp() -> Any:
    """The OpenMP that PyTorch has loaded, if it has GNU's entry points, else None."""
    try:
        library = ctypes.CDLL(torch._C.__file__)  # looks among all that it was linked with
        pointer, number = ctypes.c_void_p, ctypes.c_uint
        library.GOMP_parallel.argtypes = (pointer, pointer, number, number)
        library.GOMP_parallel.restype = None
    except (AttributeError, OSError):
        return None
    return library


@functools.cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    # Keyed by process: a pool does not survive a fork.
    return ThreadPoolExecutor(count, thread_name_prefix="fastweights")

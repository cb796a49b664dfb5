"""Work shared out among PyTorch's own threads.

PyTorch's threads are OpenMP's. When they have nothing to do they go on spinning for a while, so
threads of our own would find the cores taken, and start late. So we run on theirs, through the
entry point that compilers use for a parallel region; where there is none, on a pool.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

__all__ = ["share_out"]

_HOME = os.getpid()
_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share_out(blocks: int, work: Callable[[int, int], None]) -> None:
    """Run ``work(start, stride)`` on as many threads as torch may use: a share of blocks each.

    Example:
        >>> done = []
        >>> share_out(5, lambda start, stride: done.extend(range(start, 5, stride)))
        >>> sorted(done)
        [0, 1, 2, 3, 4]
    """
    count = min(torch.get_num_threads(), blocks)
    if count <= 1:
        work(0, 1)
        return
    # A fork takes neither OpenMP's threads along nor the knowledge that they are gone.
    openmp = _openmp() if os.getpid() == _HOME else None
    if openmp is None:
        pool = _pool(os.getpid(), torch.get_num_threads())
        others = [pool.submit(work, start, count) for start in range(1, count)]
        work(0, count)
        for other in others:
            other.result()
    else:
        _in_parallel(openmp, count, work)


def _in_parallel(openmp: Any, count: int, work: Callable[[int, int], None]) -> None:
    failures: list[BaseException] = []

    def region(_: int | None) -> None:
        try:  # inside of another region there is one thread, whatever was asked for
            work(openmp.omp_get_thread_num(), openmp.omp_get_num_threads())
        except BaseException as failure:  # cannot pass through OpenMP
            failures.append(failure)

    openmp.GOMP_parallel(_Region(region), None, count, 0)
    if failures:
        raise failures[0]


@functools.cache
def _openmp() -> Any:
    """The OpenMP that PyTorch has loaded, if it has GNU's entry points, else None."""
    try:
        library = ctypes.CDLL(torch._C.__file__)  # looks among all that it was linked with
        library.GOMP_parallel.argtypes = (_Region, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        library.GOMP_parallel.restype = None
        _ = library.omp_get_thread_num, library.omp_get_num_threads
    except (AttributeError, OSError):
        return None
    return library


@functools.cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    # Keyed by process: a pool does not survive a fork.
    return ThreadPoolExecutor(count, thread_name_prefix="fastweights")

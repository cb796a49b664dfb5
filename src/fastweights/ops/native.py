"""The C++ kernels of ``native/``: found, loaded once, and run on PyTorch's threads.

There is a shared object for every instruction set, and the one is loaded that PyTorch's own
kernels run with (``ATEN_CPU_CAPABILITY=avx2`` chooses another, for both). Nothing is loaded before
the first kernel is asked for.

PyTorch's threads are OpenMP's. When they have nothing to do they go on spinning for a while, so
threads of our own would find the cores taken, and start late. So kernels run on theirs, through the
entry point that compilers use for a parallel region; where there is none, on a pool. No thread
needs Python for its share, or they would wait for each other.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from fastweights import ops

__all__ = [
    "Kernel",
    "Work",
    "kernel",
    "missing_reason",
    "run",
    "run_on_threads",
    "threads_for",
    "vector_bytes",
]

ABI_VERSION = 1  # as in native/library.cpp: one more with every change to a kernel's arguments

_SETS = {"AVX512": ("avx512", "avx2", "baseline"), "AVX2": ("avx2", "baseline")}
_SUFFIX = ".dll" if sys.platform == "win32" else ".so"
_HOME = os.getpid()


class Kernel(NamedTuple):
    """A compiled function of one pointer: to call, where it begins, and what it is called."""

    call: Any
    address: int
    name: str = ""


class Work(ctypes.Structure):
    """What the threads of one call share: every kernel's arguments begin with it, zero at first.

    ``claimed`` counts the items of work taken, ``came`` the threads that came, ``done`` those that
    ended. A kernel's own arguments follow, in a subclass that names them as its C++ struct does.

    Example:
        >>> class Arguments(Work):
        ...     _fields_ = (("samples", ctypes.c_int64), ("x", ctypes.c_void_p))
        >>> x = torch.zeros(3)
        >>> Arguments(samples=3, x=x.data_ptr()).claimed
        0
    """

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = (
        ("claimed", ctypes.c_int64),
        ("came", ctypes.c_int64),
        ("done", ctypes.c_int64),
    )


def run(kernel: Kernel, arguments: Work, threads: int = 1) -> None:
    """Enter a kernel with its arguments on so many threads, or fewer, and wait for all.

    Args:
        kernel: of :func:`kernel`.
        arguments: its C++ struct, as a subclass of :class:`Work`; ``claimed``, ``came`` and
            ``done`` are zero. Whatever its addresses point to must live until this returns.
        threads: of :func:`threads_for`.
    """
    run_on_threads(threads, kernel, ctypes.addressof(arguments))


def threads_for(blocks: int) -> int:
    """How many threads to share so many blocks out to: one at least."""
    return max(1, min(torch.get_num_threads(), blocks))


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


@functools.cache
def kernel(name: str, dtype: torch.dtype) -> Kernel:
    """The kernel ``fastweights_{name}_{dtype}``.

    Raises:
        RuntimeError: the library is missing, and the message says what to do; check
            :func:`missing_reason` before.

    Example:
        >>> kernel("sgd_step", torch.float32).address > 0
        True
    """
    function = getattr(_library(), f"fastweights_{name}_{str(dtype).removeprefix('torch.')}")
    function.argtypes, function.restype = (ctypes.c_void_p,), None
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return Kernel(function, address, name)


@functools.cache
def vector_bytes() -> int:
    """Bytes of a vector register: rows that a kernel reads whole are padded to a multiple.

    Example:
        >>> vector_bytes() in (16, 32, 64)
        True
    """
    return int(_library().fastweights_vector_bytes())


def missing_reason() -> str | None:
    """Why the kernels cannot be had on this machine, and what to do, or None if they can.

    Example:
        >>> missing_reason() is None
        True
    """
    return _load()[1]


# What torch.compiler.assume_constant_result does, which would import all of the compiler: a traced
# call finds the answer, and does not try to trace how a library is loaded.
missing_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _library() -> ctypes.CDLL:
    library, reason = _load()
    if library is None:
        raise RuntimeError(reason)
    return library


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    sets = _SETS.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))
    return load(sets, [Path(folder) / "_native" for folder in ops.__path__])


def load(
    instruction_sets: Iterable[str], folders: Iterable[Path]
) -> tuple[ctypes.CDLL | None, str | None]:
    """The first library that can be loaded, or None and the reason.

    Args:
        instruction_sets: the best first.
        folders: where to look. An editable installation has two: beside the sources, where
            CMake alone puts it, and where ``pip`` puts it. The one built last is taken.
    """
    found: list[str] = []
    folders = list(folders)
    for instruction_set in instruction_sets:
        name = f"libfastweights_{instruction_set}{_SUFFIX}"
        paths = [folder / name for folder in folders if (folder / name).is_file()]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                library = ctypes.CDLL(os.fspath(path))
                version = library.fastweights_abi_version()
            except (OSError, AttributeError) as error:
                found.append(f"{path} does not load ({error})")
                continue
            if version == ABI_VERSION:
                return library, None
            found.append(f"{path} is of another version ({version}, not {ABI_VERSION})")
    what = "; ".join(found) or f"none are in {' or '.join(map(str, folders))}"
    return None, (
        f"the compiled kernels are missing: {what}. Install a C++ compiler (g++ 11 or clang 14, or "
        "newer), then fastweights again, with pip install --force-reinstall --no-deps "
        "--no-cache-dir (and -v, should there be a compiler already)"
    )

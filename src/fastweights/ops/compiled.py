"""Numba's compiler for kernels that are spread over several files.

Numba keeps what it has compiled on disk, and takes it up again while the file of the function is
unchanged. What other files contributed (functions it calls, the width of a vector) it does not
look at, so after a change there it would run old code on new arrays. Here the folder of the
compiled code is named after the content of every file in `fastweights.ops`.

Nor does it keep two processes from filing different code under one name when they end compiling at
the same moment, which a third would then run on the wrong types. Here they file one by one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import torch
from filelock import FileLock
from numba.core import sigutils, types
from numba.core.ccallback import CFunc

__all__ = ["Region", "jit"]

_njit: Any = numba.njit  # its types do not know all of its options
# For what regions call. They get all their memory from outside: without reference counts they run
# faster, and compile in half the time. Nor is there a way in from Python, or a copy on disk.
jit = _njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)

_HERE = Path(__file__).parent
_config: Any = numba.config


class Region:
    """A function of one pointer, which threads outside of Python can run, for each kind of number.

    The type of the pointer is the kind of number, and says nothing about what stands there.
    Compiled when it is first asked for, and kept below ``NUMBA_CACHE_DIR`` if that is set, else
    beside the sources, else, where these cannot be written to, in the user's cache. Only functions
    that stand in a file can be kept.

    Example:
        >>> from fastweights.ops.fast_weights.numba_kernels import forward
        >>> forward.name, forward.address(torch.float32) != 0
        ('forward', True)
    """

    def __init__(self, function: Callable[[Any], None]) -> None:
        self.name = function.__name__
        self._function = function
        self._compiled: dict[torch.dtype, Any] = {}
        self._lock = threading.Lock()

    def address(self, kind: torch.dtype) -> int:
        """Where the function for this kind of number begins."""
        found = self._compiled.get(kind)
        if found is None:
            with self._lock:
                found = self._compiled.get(kind) or self._compile(kind)
                self._compiled[kind] = found
        return found.address

    def _compile(self, kind: torch.dtype) -> Any:
        signature = types.void(types.CPointer(_KINDS[kind]))
        options = {"error_model": "numpy", "_nrt": False}
        region: Any = CFunc(self._function, sigutils.normalize_signature(signature), {}, options)
        with _kept_on_disk() as folder:
            region.enable_caching()
        region._cache.save_overload = _one_at_a_time(region._cache.save_overload, folder)
        with _no_collection():
            region.compile()
        return region


_KINDS = {torch.float32: types.float32, torch.float64: types.float64}


@contextlib.contextmanager
def _kept_on_disk() -> Iterator[Path]:
    """What is decorated here will be filed in this folder."""
    given = _config.CACHE_DIR  # read by Numba while it decorates
    folder = _root(given) / f"kernels-{_fingerprint(_HERE)}"
    _config.CACHE_DIR = str(folder)
    try:
        yield folder
    finally:
        _config.CACHE_DIR = given


def _one_at_a_time(save: Callable[..., None], folder: Path) -> Callable[..., None]:
    """`save`, but in no two processes at once."""

    def locked(*args: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            save(*args)

    return locked


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Numba makes millions of small objects, hardly any of them garbage: looking through them again
    and again would take a good part of the time of a compilation."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _root(given: str) -> Path:
    if given:
        return Path(given)
    if os.access(_HERE, os.W_OK):
        return _HERE / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fastweights"


@functools.cache
def _fingerprint(folder: Path) -> str:
    """A name for the content of all Python files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]

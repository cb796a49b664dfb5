"""Numba's compiler for kernels that are spread over several files.

Numba keeps what it has compiled on disk, and takes it up again while the file of the function is
unchanged. What other files contributed (functions it calls, the width of a vector) it does not
look at, so after a change there it would run old code on new arrays. Here the folder of the
compiled code is named after the content of every file in `fastweights.ops`.

Nor does it keep two processes from filing different code under one name when they end compiling at
the same moment, which a third would then run on the wrong types. Here they file one by one.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numba
from filelock import FileLock
from numba.core import event

__all__ = ["compiled"]

_HERE = Path(__file__).parent
_config: Any = numba.config


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` that lets go of the GIL, divides as NumPy does, and keeps its code on disk.

    The code goes below ``NUMBA_CACHE_DIR`` if that is set, else beside the sources, else, where
    these cannot be written to, into the user's cache.

    Args:
        options: of `numba.njit`.

    Only functions that stand in a file can be kept::

        @compiled()
        def double(x):
            return 2 * x
    """

    def decorate(function: Callable[..., Any]) -> Any:
        given = _config.CACHE_DIR  # read by Numba while it decorates
        folder = _root(given) / f"kernels-{_fingerprint(_HERE)}"
        _config.CACHE_DIR = str(folder)
        try:
            kernel = numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
        finally:
            _config.CACHE_DIR = given
        kernel._cache.save_overload = _one_at_a_time(kernel._cache.save_overload, folder)
        _KERNELS.add(kernel)
        return kernel

    return decorate


def _one_at_a_time(save: Callable[..., None], folder: Path) -> Callable[..., None]:
    """`save`, but in no two processes at once."""

    def locked(*args: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            save(*args)

    return locked


class _Uncollected(event.Listener):
    """No garbage collection while a kernel is compiled.

    Numba makes millions of small objects, hardly any of them garbage: looking through them again
    and again would take a good part of the time.
    """

    def __init__(self) -> None:
        self._depth = 0  # kernels compile the functions they call
        self._enabled = False

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] not in _KERNELS:
            return
        if not self._depth:
            self._enabled = gc.isenabled()
            gc.disable()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        if event.data["dispatcher"] not in _KERNELS:
            return
        self._depth -= 1
        if not self._depth and self._enabled:
            gc.enable()


_KERNELS: WeakSet[Any] = WeakSet()
event.register("numba:compile", _Uncollected())


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

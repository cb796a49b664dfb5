"""Times of calls that compete: interleaved in one process, medians with quartiles."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

__all__ = [
    "FEWEST",
    "give_back_memory",
    "interleaved",
    "keep_memory",
    "load",
    "seconds_of",
    "using_threads",
]

FEWEST = 3  # rounds that a median is taken over at least
_SHORTEST = 0.02  # seconds: quicker calls are repeated, and their mean is one measurement

Call = Callable[[], object]


def seconds_of(call: Call, device: str, repeats: int = 1) -> float:
    """Seconds of one call, the mean of ``repeats``."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def interleaved(
    calls: Mapping[str, Call], *, rounds: int, budget: float, device: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """Milliseconds of every call, each round timing one after the other.

    Args:
        calls: by name; each is called twice before it is timed.
        rounds: that the medians are taken over.
        budget: seconds that one call may take in all; a slow one takes part in fewer rounds,
            three at least.
        device: that is waited for.

    Returns:
        For every name ``median``, ``low`` and ``high`` (the quartiles) in milliseconds, and
        ``rounds``.

    Example:
        >>> times = interleaved({"nothing": lambda: None}, rounds=5, budget=1.0)
        >>> sorted(times["nothing"]), times["nothing"]["rounds"]
        (['high', 'low', 'median', 'rounds'], 5)
    """
    repeats, wanted = {}, {}
    for name, call in calls.items():
        call()
        guess = max(seconds_of(call, device), 1e-7)
        repeats[name] = max(1, round(_SHORTEST / guess))
        affordable = int(budget / (guess * repeats[name]))
        wanted[name] = min(rounds, max(FEWEST, affordable))
    times: dict[str, list[float]] = {name: [] for name in calls}
    with _no_garbage():
        for round_ in range(rounds):
            for name, call in calls.items():
                if round_ < wanted[name]:
                    times[name].append(1e3 * seconds_of(call, device, repeats[name]))
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, Any]:
    low, median, high = (float(x) for x in np.quantile(values, (0.25, 0.5, 0.75)))
    return {"median": median, "low": low, "high": high, "rounds": len(values)}


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """No garbage collection in the middle of somebody's measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch use this many threads, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> bool:
    """Let the C library keep freed memory, if it is glibc; returns whether it does.

    Out of the box it hands large blocks back to the system at every free, and the page faults of
    getting them again can cost a peer that saves much more than its arithmetic.
    """
    trim_threshold, mmap_max = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def give_back_memory() -> None:
    """Let go of what :func:`keep_memory` kept; the next case needs blocks of other sizes."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def load() -> float | None:
    """How many processes wanted to run in the last minute, our own included."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None

"""What a training step of our layer on the CPU is made of, and what bounds it from below."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastweights.bench.cases import INPUTS, Case
from fastweights.bench.timing import interleaved

__all__ = ["bytes_moved", "parts_of"]

_COPIED = 1 << 26  # bytes, more than a cache holds


def bytes_moved(case: Case) -> int:
    """Bytes that a training step in single precision reads and writes at least, in its own arrays.

    Per step and sample: x twice (its product, and the gradient of C), and of vectors of H numbers
    the output once and once more for the state, its gradient once, and the two kept ones twice
    each. With a state also its matrix: read forward and backward, and written for the next step.

    Example:
        >>> bytes_moved(Case(1, 1, 100)) == 4 * (2 * 37 + 7 * 100)
        True
        >>> bytes_moved(Case(1, 1, 8, state=True)) - bytes_moved(Case(1, 1, 8)) == 4 * 3 * 8 * 8
        True
    """
    numbers = 2 * INPUTS + 7 * case.width + 3 * case.width**2 * case.state
    return 4 * case.batch * case.length * numbers


def parts_of(call: Callable[[], object], *, rounds: int, budget: float) -> dict[str, Any]:
    """Milliseconds of a training step and of its kernels; and the bandwidth.

    Args:
        call: a forward and a backward pass of the layer, on one thread.
        rounds: that medians are taken over.
        budget: seconds that each of the measurements may take.

    Returns:
        ``whole``, ``forward`` and ``backward`` (the kernels) in milliseconds,
        ``gigabytes_per_second`` of copying more than a cache holds.
    """
    found: dict[str, list[float]] = {"whole": [], "forward": [], "backward": []}
    stop = time.perf_counter() + budget
    with _kernels_timed() as seconds:
        while len(found["whole"]) < 3 or (
            len(found["whole"]) < 20 * rounds and time.perf_counter() < stop
        ):
            seconds.clear()
            start = time.perf_counter()
            call()
            found["whole"].append(time.perf_counter() - start)
            found["forward"].append(seconds.get("recurrence", 0.0))
            found["backward"].append(seconds.get("recurrence_backward", 0.0))
    source = torch.zeros(_COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    copied = interleaved({"copy": lambda: target.copy_(source)}, rounds=rounds, budget=budget)
    medians = {name: 1e3 * statistics.median(values) for name, values in found.items()}
    return {
        **medians,
        "gigabytes_per_second": 2 * _COPIED / copied["copy"]["median"] / 1e6,
    }


@contextlib.contextmanager
def _kernels_timed() -> Iterator[dict[str, float]]:
    """Seconds spent in the forward and the backward kernels, added up by name."""
    from fastweights.ops import native

    seconds: dict[str, float] = {}
    run = native.run

    def timed(kernel: native.Kernel, arguments: native.Work, threads: int = 1) -> None:
        start = time.perf_counter()
        run(kernel, arguments, threads)
        seconds[kernel.name] = seconds.get(kernel.name, 0.0) + time.perf_counter() - start

    native.run = timed
    try:
        yield seconds
    finally:
        native.run = run

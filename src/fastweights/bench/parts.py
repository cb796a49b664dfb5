"""What a training step of our layer on the CPU is made of, and what bounds it from below."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastweights.bench.cases import INPUTS, Case
from fastweights.bench.timing import interleaved

__all__ = ["bytes_moved", "parts_of"]

_COPIED = 1 << 26  # bytes, more than a cache holds


def bytes_moved(case: Case) -> int:
    """Bytes that a training step in single precision reads and writes at least, in its own arrays.

    Per step and sample: x three times (the product and the gradient of C, and once as it was
    made), and of vectors of H numbers the drive twice, the output once and once more for the
    state, its gradient once, the two kept ones twice each, the drive's gradient three times and
    h(t) for W's gradient twice.

    Example:
        >>> bytes_moved(Case(1, 1, 100)) == 4 * (3 * 37 + 14 * 100)
        True
    """
    numbers = 3 * INPUTS + 14 * case.width
    return 4 * case.batch * case.length * numbers


def parts_of(
    case: Case, call: Callable[[], object], x: Tensor, *, rounds: int, budget: float
) -> dict[str, Any]:
    """Milliseconds of a training step, of its kernels and of its products; and the bandwidth.

    Args:
        case: what is timed.
        call: a forward and a backward pass of the layer, on one thread.
        x: its input, shape (T, B, inputs).
        rounds: that medians are taken over.
        budget: seconds that each of the measurements may take.

    Returns:
        ``whole``, ``forward`` and ``backward`` (the kernels), ``products`` (those with C, and the
        gradients of C, b and W, left to BLAS) in milliseconds, ``gigabytes_per_second`` of
        copying more than a cache holds.
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
            for name in ("forward", "backward"):
                found[name].append(seconds.get(name, 0.0))
    flat = x.flatten(0, 1)
    weight, bias = torch.zeros(case.width, INPUTS), torch.zeros(case.width)
    gradient = torch.zeros(len(flat), case.width)

    def products() -> None:
        F.linear(flat, weight, bias)
        gradient.t().mm(flat)
        gradient.t().mm(gradient)
        gradient.sum(0)

    source = torch.zeros(_COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    others = interleaved(
        {"products": products, "copy": lambda: target.copy_(source)}, rounds=rounds, budget=budget
    )
    medians = {name: 1e3 * statistics.median(values) for name, values in found.items()}
    return {
        **medians,
        "products": others["products"]["median"],
        "gigabytes_per_second": 2 * _COPIED / others["copy"]["median"] / 1e6,
    }


@contextlib.contextmanager
def _kernels_timed() -> Iterator[dict[str, float]]:
    """Seconds spent in the forward and the backward kernels, added up by name."""
    from fastweights.ops.fast_weights import numba_calls

    seconds: dict[str, float] = {}
    run = numba_calls.run

    def timed(region: Any, *arguments: Any, **options: Any) -> None:
        start = time.perf_counter()
        run(region, *arguments, **options)
        seconds[region.name] = seconds.get(region.name, 0.0) + time.perf_counter() - start

    numba_calls.run = timed
    try:
        yield seconds
    finally:
        numba_calls.run = run

"""How near two results must be: one table for the whole suite, never loosened."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TOLERANCES", "assert_close"]

# Largest deviation, relative to the largest number of the expected tensor.
TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.bfloat16: 2.0**-6,  # a few steps of its 8 bits
    torch.int64: 0,
}


def assert_close(actual: Tensor, expected: Tensor, what: str = "result") -> None:
    """Raise unless ``actual`` is ``expected`` to the tolerance of its own dtype.

    ``expected`` may be more precise than ``actual``. Shapes must agree, and every number must be
    finite: two NaN are no agreement.
    """
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    if not expected.numel():
        return
    wide = actual.detach().to(torch.float64)
    truth = expected.detach().to(torch.float64)
    assert truth.isfinite().all(), f"{what}: the expected numbers are not finite"
    assert wide.isfinite().all(), f"{what}: not finite"
    allowed = TOLERANCES[actual.dtype] * truth.abs().max().clamp(min=1e-3).item()
    worst = (wide - truth).abs().max().item()
    assert worst <= allowed, f"{what}: off by {worst:.3g}, allowed {allowed:.3g}"

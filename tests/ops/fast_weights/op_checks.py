"""What torch asks of an op, for the fused ops of the attention form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastweights.ops.fast_weights.options import INPUT, LEARNED, NORM

__all__ = ["check_native_ops", "check_ops"]


def check_ops(
    forward: Any,
    backward: Any,
    *,
    batch: int,
    keep: bool,
    kind: str,
    device: str = "cpu",
) -> None:
    """Schema, fake tensors, autograd and tracing, with dynamic shapes too.

    ``kind`` is "static" for a static memory, "clocks" for a decay with a table for every sample
    and a row for every step, "shared" for one with a single row, which starts from nothing.
    """
    length, width, steps = 3, 4, 2
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)
        return x.requires_grad_(keep)

    static = kind == "static"
    memory = draw(width, width) if static else None
    call = (
        draw(length, batch, width),
        None if kind == "shared" else draw(2, batch, width),
        draw(width, width),
        draw(*((batch, 1 + length) if kind == "clocks" else (1, 1)), 1 + length),
        draw(width),
        draw(width),
        memory,
        steps,
        1e-3,
        INPUT | (NORM if static else NORM | LEARNED),
        1 if static else 0,
        keep,
    )
    torch.library.opcheck(forward, call)
    if keep:
        with torch.no_grad():
            output, _, *kept = forward(*call)
        back = (
            torch.randn_like(output),
            output,
            *call[1:7],
            *kept,
            *call[-5:-1],
        )
        back = tuple(x.detach() if isinstance(x, Tensor) else x for x in back)
        torch.library.opcheck(backward, back)


def check_native_ops(*, batch: int, keep: bool, kind: str) -> None:
    """The same for the CPU's op; kind "chunks" carries a matrix."""
    length, width, features, steps = 5, 4, 6, 2
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return x.requires_grad_(keep)

    static, clocks, chunks = kind == "static", kind == "clocks", kind == "chunks"
    carried = 2 if clocks else 0
    ages = carried + length
    tensors = (
        draw(length, batch, width if clocks else features),
        None if clocks else draw(width, features),
        None if clocks else draw(width),
        draw(batch, width),
        draw(carried, batch, width) if carried else None,
        draw(width, width),
        draw(width),
        draw(width),
        draw(width, width) if static else None,
        None if static or chunks else draw(*((batch, ages) if clocks else (1, 1)), ages),
        draw(1, 2) if chunks else None,
        draw(1, 3) if chunks else None,
        # Zeros: the kernel takes the matrix for symmetric, which opcheck does not know.
        torch.zeros(batch, 1, width, width, dtype=torch.float64) if chunks else None,
        torch.tensor([length, 2, 0, 1, length][:batch]) if chunks else None,
        None,
    )
    flags = INPUT | (NORM if static else NORM | LEARNED)
    remembered = 0 if static or chunks else ages
    settings = (remembered, 0, steps, 1e-3, flags, 1 if static else 0)
    call = (*tensors, *settings, keep)
    torch.library.opcheck(torch.ops.fastweights.recurrence.default, call)
    if not keep:
        return
    with torch.no_grad():
        output, last, after, kept = torch.ops.fastweights.recurrence(*call)
    gradients = (torch.randn_like(output), torch.randn_like(last), torch.randn_like(after))
    back = (*gradients, output, kept, *tensors, *settings)
    back = tuple(x.detach() if isinstance(x, Tensor) else x for x in back)
    torch.library.opcheck(torch.ops.fastweights.recurrence_backward.default, back)

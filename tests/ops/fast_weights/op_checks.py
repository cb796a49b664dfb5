"""What torch asks of an op, for the fused ops of the attention form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastweights.ops.fast_weights.attention_op import LEARNED, NORM

__all__ = ["check_ops"]


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
        NORM if static else NORM | LEARNED,
        1 if static else 0,
        keep,
    )
    torch.library.opcheck(forward, call)
    if keep:
        with torch.no_grad():
            output, _, *kept = forward(*call)
        back = (torch.randn_like(output), output, *call[1:7], *kept, *call[7:11])
        back = tuple(x.detach() if isinstance(x, Tensor) else x for x in back)
        torch.library.opcheck(backward, back)

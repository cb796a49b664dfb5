"""What torch asks of an op, for the fused ops of the attention form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastweights.ops.fast_weights.attention_op import INPUT, LEARNED, NORM

__all__ = ["check_ops"]


def check_ops(
    forward: Any,
    backward: Any,
    *,
    batch: int,
    keep: bool,
    kind: str,
    multiplies: bool,
    device: str = "cpu",
) -> None:
    """Schema, fake tensors, autograd and tracing, with dynamic shapes too.

    ``kind`` is "static" for a static memory, "clocks" for a decay with a table for every sample
    and a row for every step, "shared" for one with a single row, which starts from nothing. An
    op that ``multiplies`` does so where the kind is not "clocks".
    """
    length, width, steps = 3, 4, 2
    product: tuple[Tensor | None, ...] = ()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)
        return x.requires_grad_(keep)

    static = kind == "static"
    memory = draw(width, width) if static else None
    features = width
    if multiplies:
        features = width if kind == "clocks" else 6
        product = (None, None) if kind == "clocks" else (draw(width, features), draw(width))
    call = (
        draw(length, batch, features),
        None if kind == "shared" else draw(2, batch, width),
        draw(width, width),
        draw(*((batch, 1 + length) if kind == "clocks" else (1, 1)), 1 + length),
        draw(width),
        draw(width),
        memory,
        *product,
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
        source = (call[0] if product[0] is not None else None,) if product else ()
        back = (
            torch.randn_like(output),
            output,
            *call[1:7],
            *source,
            *product,
            *kept,
            *call[-5:-1],
        )
        back = tuple(x.detach() if isinstance(x, Tensor) else x for x in back)
        torch.library.opcheck(backward, back)

"""The buffers of a model, which follow its weights without gradients (BatchNorm's statistics)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["copy_buffers", "put_buffers", "reshard"]


def copy_buffers(model: nn.Module | None) -> dict[str, Tensor]:
    """What the buffers of the model hold now, by their names."""
    if model is None:
        return {}
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def put_buffers(model: nn.Module | None, saved: dict[str, Tensor]) -> None:
    """Make the buffers of the model what `copy_buffers` found."""
    if model is None:
        return
    for name, value in saved.items():
        path, _, key = name.rpartition(".")
        owner = model.get_submodule(path)
        buffer = getattr(owner, key, None)
        if isinstance(buffer, Tensor) and buffer.shape == value.shape:
            buffer.copy_(value)
        else:  # the module has put another in its place, as caches that grow do
            setattr(owner, key, value.clone())


def reshard(model: nn.Module | None) -> None:
    """Let FSDP2 forget the copies it may have gathered of parameters that have changed now."""
    for module in model.modules() if model is not None else ():
        gathered: Any = module
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            gathered.reshard()

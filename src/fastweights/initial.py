"""What parameters hold at the start, also where they are sharded or on the meta device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["set_identity", "set_normal", "set_values"]


def set_values(tensor: Tensor, values: Tensor | float) -> None:
    """The values in the place of what ``tensor`` holds; nothing where that is on the meta device.

    A sharded tensor gets its part of what the first process has, whatever the others drew.

    Example:
        >>> bias = torch.empty(3)
        >>> set_values(bias, torch.arange(3))
        >>> bias
        tensor([0., 1., 2.])
    """
    with torch.no_grad():
        if not isinstance(values, Tensor):
            tensor.fill_(values)
            return
        if hasattr(tensor, "device_mesh"):  # of fully_shard and its like
            from torch.distributed.tensor import distribute_tensor

            where = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
            values = distribute_tensor(values.to(tensor.device, tensor.dtype), *where)
        tensor.copy_(values)


def set_identity(tensor: Tensor, scale: float) -> None:
    """``scale`` times the identity.

    Not by ``nn.init.eye_``, which overwrites a shard with the first rows of the whole.
    """
    set_values(tensor, torch.eye(len(tensor), dtype=tensor.dtype, device=tensor.device) * scale)


def set_normal(tensor: Tensor, std: float) -> None:
    """Normal numbers around 0, drawn from the default generator."""
    drawn = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    set_values(tensor, drawn.normal_(std=std))

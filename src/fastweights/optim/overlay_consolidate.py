"""What the slow weights would be with an overlay added to them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastweights.optim.overlay_layers import kind_called
from fastweights.optim.overlay_parts import State

__all__ = ["new_weights"]


def new_weights(model: nn.Module, state: State) -> dict[str, tuple[Tensor, Tensor]]:
    """For every weight by its name: the weight, and what it is to be.

    Raises:
        ValueError: a weight cannot be changed, or not without changing another layer.
    """
    users: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                users.setdefault(id(parameter), []).append(f"{path}.{key}" if path else key)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for path, part in state.parts.items():
        layer, kind = model.get_submodule(path), kind_called(part.kind)
        name = f"{path}.weight" if path else "weight"
        weight = layer._parameters.get("weight")
        assert kind is not None
        if weight is None or not weight.is_floating_point() or weight.dtype.itemsize < 2:
            raise ValueError(f"{name} is quantised or computed, and cannot be changed")
        shared = [user for user in users[id(weight)] if user != name]
        if shared:
            raise ValueError(f"{name} is {shared[0]} too, which would change with it")
        added = kind.dense(layer, *part.factors(None))
        found[name] = weight, _sum(weight, added)
    return found


def _sum(weight: Any, added: Tensor) -> Tensor:
    """Rounded once, to what the weight is in."""
    if hasattr(weight, "device_mesh"):  # sharded; every process has all of what is added
        from torch.distributed.tensor import DTensor, Replicate

        mesh = weight.device_mesh
        whole = DTensor.from_local(added, mesh, [Replicate()] * mesh.ndim, run_check=False)
        added = whole.redistribute(mesh, weight.placements)
    total: Tensor = (weight.detach().to(added.dtype) + added).to(weight.dtype)
    if tuple(total.shape) != tuple(weight.shape):
        raise ValueError(f"the weight has the shape {list(weight.shape)}, not {list(total.shape)}")
    return total

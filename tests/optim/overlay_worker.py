"""One of two processes that train an overlay together: `python overlay_worker.py RANK FOLDER`.

See test_overlay_torch. With DistributedDataParallel each has the whole model, with FSDP2 a shard of
every parameter; in both each has the whole overlay.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastweights

__all__ = ["learn", "network"]


def network() -> nn.Module:
    """The network all processes start from."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def learn(model: nn.Module, folder: Path, rank: int, world: int) -> dict[str, list[Tensor]]:
    """Rehearse on every world-th case of each batch; what is there at the end."""
    torch.manual_seed(rank)  # what starts random must not depend on it
    overlay = fastweights.Overlay(model, rank=2, modules=nn.Linear, half_life=20)
    optimizer = torch.optim.AdamW(overlay.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    slow = [whole(p).clone() for p in model.parameters()]

    def batch() -> tuple[Tensor, Tensor]:
        return (
            torch.randn(8, 6, generator=generator, dtype=torch.float64)[rank::world],
            torch.randn(8, 3, generator=generator, dtype=torch.float64)[rank::world],
        )

    for _ in range(8):
        for _ in range(2):  # gradients of two batches are added up
            x, y = batch()
            (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    x, _ = batch()
    with overlay.off(), torch.no_grad():
        off = model(torch.ones(1, 6, dtype=torch.float64))
    on = model(torch.ones(1, 6, dtype=torch.float64)).detach()
    assert all(map(torch.equal, slow, map(whole, model.parameters())))
    path = folder / f"{type(model).__name__}-{rank}.safetensors"
    overlay.save(path)
    fast = [overlay.fast_weights(name) for name in overlay.layers]
    overlay.remove()
    overlay = fastweights.Overlay.load(path, model)
    assert all(map(torch.equal, fast, map(overlay.fast_weights, overlay.layers)))
    overlay.consolidate()
    with torch.no_grad():
        kept = model(torch.ones(1, 6, dtype=torch.float64))
    return {"fast": fast, "off": [off], "on": [on], "kept": [kept], "slow": slow}


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may have a shard."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def frozen_shards(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    model.requires_grad_(False)
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, spread in {"ddp": DistributedDataParallel, "fsdp": frozen_shards}.items():
        torch.save(learn(spread(network()), folder, rank, 2), folder / f"{name}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Gloo's threads may still hold tensors, and abort a process that is being taken down.
    os._exit(0)


if __name__ == "__main__":
    _main()

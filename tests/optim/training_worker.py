"""One of two processes that train together: `python training_worker.py RANK FOLDER`.

See test_models. They train with DistributedDataParallel, where each has the whole model, and with
FSDP2, where each has a shard of every parameter.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fastweights.optim import SlowFast

__all__ = ["SLOW", "learn", "network"]

SLOW = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
}


def network() -> nn.Module:
    """The network all processes start from."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def learn(model: nn.Module, slow: str, rank: int, world: int) -> dict[str, list[Tensor]]:
    """Train on every world-th case of each batch; the weights and fast weights at the end."""
    params = list(model.parameters())
    optimizer = SlowFast(SLOW[slow](params), lr=0.05, momentum=0.5, decay=0.02, model=model)
    generator = torch.Generator().manual_seed(1)

    def step() -> None:
        x = torch.randn(8, 6, generator=generator, dtype=torch.float64)[rank::world]
        y = torch.randn(8, 3, generator=generator, dtype=torch.float64)[rank::world]
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()

    for _ in range(10):
        step()
    norm = torch.tensor(optimizer.fast_norm())
    with optimizer.rehearsal():
        for _ in range(5):
            step()
    optimizer.relax(3)
    with optimizer.slow_only():
        model(torch.zeros(1, 6, dtype=torch.float64))
    for _ in range(5):
        step()
    optimizer.consolidate()
    for _ in range(5):
        step()
    if world > 1:
        resume(model, optimizer, slow)
    step()
    with torch.no_grad():  # as distributed checkpoints write: a DTensor's version does not count it
        for p in params:
            (p.to_local() if hasattr(p, "to_local") else p).mul_(0.5)
    step()
    return {
        "weights": [whole(p.detach()).clone() for p in params],
        "slow": [whole(optimizer.slow_weights(p)) for p in params],
        "fast": [whole(optimizer.fast_weights(p)) for p in params],
        "norm": [norm, torch.tensor(optimizer.fast_norm())],
    }


def resume(model: nn.Module, optimizer: SlowFast, slow: str) -> None:
    """Save as distributed checkpoints do, forget, and load."""
    saved = checkpoint.get_optimizer_state_dict(model, optimizer)
    assert any("fast_weight" in state for state in saved["state"].values())
    saved = copy.deepcopy(saved)
    optimizer.clear()
    optimizer.slow_optimizer.state.clear()
    checkpoint.set_optimizer_state_dict(model, optimizer, saved)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(optimizer.state[p]["slow_weight"] + optimizer.state[p]["fast_weight"])


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may have a shard."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard(model: nn.Module) -> nn.Module:
    # As one unit: its parameters stay gathered after a forward pass.
    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


def _main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, spread in {"ddp": DistributedDataParallel, "fsdp": shard}.items():
        for slow in SLOW:
            ended = learn(spread(network()), slow, rank, 2)
            torch.save(ended, folder / f"{name}-{slow}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Gloo's threads may still hold tensors, and abort a process whose interpreter is already
    # being taken down (PyTorch's pull request 179291): what is tested is in the files by now.
    os._exit(0)


if __name__ == "__main__":
    _main()

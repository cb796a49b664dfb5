"""Checkpoints: one safetensors file, whole or absent, that loads without executing code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fastweights.training.files import write_atomically

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, progress: dict[str, Any]
) -> None:
    """Write model, optimizer, random state and ``progress`` (JSON values) to one file.

    Raises:
        OSError: it cannot be written; the checkpoint before it is still there.
    """
    state = optimizer.state_dict()["state"]
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, entries in state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    metadata = {"progress": json.dumps(progress), "optimizer": json.dumps(scalars)}
    try:
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put a checkpoint into ``model``, ``optimizer`` and the random state; return its progress.

    Raises:
        ValueError: the file is not one of ours, or belongs to another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        progress, scalars = json.loads(metadata["progress"]), json.loads(metadata["optimizer"])
        random = tensors["random.cpu"]
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    prefix = "model."
    weights = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another model: {error}") from error
    entries: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            entries.setdefault(int(index), {})[name] = value
    for key, value in scalars.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    torch.set_rng_state(random)
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return progress

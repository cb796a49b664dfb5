"""Checkpoints: one safetensors file, whole or absent, that loads without executing code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from fastweights.training.files import write_atomically

__all__ = ["Carried", "load_checkpoint", "load_model", "read_progress", "save_checkpoint"]


class Carried(Protocol):
    """What a training hands from one update to the next beside the parameters."""

    def tensors(self) -> Mapping[str, Tensor]:
        """All of it, by names."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what ``tensors`` gave."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    progress: dict[str, Any],
    carried: Carried | None = None,
) -> None:
    """Write model, optimizer, random state and ``progress`` (JSON values) to one file.

    What is ``carried`` goes there too.

    Raises:
        OSError: it cannot be written; the checkpoint before it is still there.
    """
    state = optimizer.state_dict()["state"]
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if carried is not None:
        tensors |= {f"carried.{k}": v for k, v in carried.tensors().items()}
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


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, carried: Carried | None = None
) -> dict[str, Any]:
    """Put a checkpoint into model, optimizer, random state and ``carried``; return its progress.

    Raises:
        ValueError: the file is not one of ours, or belongs to another model.
    """
    tensors, metadata = _read(path)
    _fill(path, model, tensors)
    entries: dict[int, dict[str, Any]] = {}
    for key, value in _below("optimizer.", tensors).items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    for key, value in metadata["optimizer"].items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    if carried is not None:
        carried.restore(_below("carried.", tensors))
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return metadata["progress"]


def load_model(path: Path, model: nn.Module) -> None:
    """Put the model of a checkpoint into ``model`` and leave all else.

    Raises:
        ValueError: the file is not one of ours, or belongs to another model.

    Example:
        >>> import tempfile
        >>> one, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "checkpoint.safetensors"
        ...     save_checkpoint(path, one, torch.optim.AdamW(one.parameters()), {"update": 7})
        ...     load_model(path, other)
        ...     read_progress(path)
        {'update': 7}
        >>> torch.equal(one.weight, other.weight)
        True
    """
    _fill(path, model, _read(path)[0])


def read_progress(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        ValueError: the file is not one of ours.
    """
    return _read(path)[1]["progress"]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and what stands beside them."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(text) for key, text in file.metadata().items()}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if missing := {"progress", "optimizer"} - set(metadata) | {"random.cpu"} - set(tensors):
            raise KeyError(*missing)
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    return tensors, metadata


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _fill(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(_below("model.", tensors))
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another model: {error}") from error

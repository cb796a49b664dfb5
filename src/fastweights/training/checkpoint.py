"""Checkpoints: one safetensors file, whole or absent, that loads without executing code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from fastweights.files import parse_json, read_bytes, write_atomically

__all__ = ["Carried", "load_checkpoint", "load_model", "read_progress", "save_checkpoint"]


LIMIT = 2**30  # bytes of a checkpoint


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

    What is ``carried`` goes there too, and a checksum of it all.

    Raises:
        OSError: it cannot be written; the checkpoint before it is still there.
        ValueError: it is longer than can be read again.
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
    metadata["checksum"] = json.dumps(_checksum(tensors, metadata))
    content = save(tensors, metadata)
    if len(content) > LIMIT:
        raise ValueError(f"{path} would have {len(content)} bytes; at most {LIMIT} are read again")
    write_atomically(path, content)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, carried: Carried | None = None
) -> dict[str, Any]:
    """Put a checkpoint into model, optimizer, random state and ``carried``; return its progress.

    Raises:
        ValueError: the file is not one of ours, or belongs to another model.
    """
    tensors, metadata = _read(path)
    try:
        state = _optimizer_state(optimizer, tensors, metadata)
        _fill(path, model, tensors)
        optimizer.load_state_dict(state)
        if carried is not None:
            carried.restore(_below("carried.", tensors))
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} belongs to another training: {reason}") from error
    return metadata["progress"]


def load_model(path: Path, model: nn.Module, *, checksum: bool = False) -> None:
    """Put the model of a checkpoint into ``model`` and leave all else.

    Args:
        path: of the checkpoint.
        model: the model.
        checksum: refuse a checkpoint without a checksum, as earlier versions made them.

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
    _fill(path, model, _read(path, checksum=checksum)[0])


def read_progress(path: Path, *, checksum: bool = False) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Args:
        path: of the checkpoint.
        checksum: refuse one without a checksum, as earlier versions made them.

    Raises:
        ValueError: the file is not one of ours.
    """
    return _read(path, checksum=checksum)[1]["progress"]


def _read(path: Path, *, checksum: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and what stands beside them."""
    content = read_bytes(path, limit=LIMIT)
    try:
        tensors = load(content)
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        texts = header["__metadata__"]
        metadata = {key: parse_json(text) for key, text in texts.items()}
        if missing := {"progress", "optimizer"} - set(metadata) | {"random.cpu"} - set(tensors):
            raise KeyError(*missing)
        for key in ("progress", "optimizer"):
            if not isinstance(metadata[key], dict):
                raise TypeError(f"{key} is {metadata[key]!r}")
        if checksum and "checksum" not in texts:
            raise ValueError("it is damaged: it has lost its checksum")
        if "checksum" in texts and metadata["checksum"] != _checksum(tensors, texts):
            raise ValueError("it is damaged: it does not match its checksum")
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint: {type(error).__name__}: {error}"
        ) from error
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 of everything that is not the checksum itself."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        total.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    for key in sorted(set(texts) - {"checksum"}):
        total.update(f"{key} {texts[key]}\n".encode())
    return total.hexdigest()


def _optimizer_state(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """The optimizer's state as a checkpoint has it, each part as large as its parameter.

    Raises:
        TypeError, KeyError, IndexError: it is that of other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    found = {**_below("optimizer.", tensors), **metadata["optimizer"]}
    for key, value in sorted(found.items(), key=lambda item: item[0]):
        index, _, name = key.partition(".")
        if not index.isdecimal() or not int(index) < len(parameters):
            raise KeyError(key)
        if isinstance(value, Tensor) and value.dim():
            shape = parameters[int(index)].shape
            if value.shape != shape or not value.is_floating_point():
                raise TypeError(f"{key} is {value.dtype}{list(value.shape)}, not {list(shape)}")
        entries.setdefault(int(index), {})[name] = value
    return {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _fill(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(_below("model.", tensors))
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another model: {error}") from error

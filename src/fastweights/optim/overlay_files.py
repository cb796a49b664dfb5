"""An overlay as a file: safetensors, with what it says of itself and a checksum beside the factors.

A file that came from elsewhere is read up to a bound, never executed, and looked at as a whole
before anything in the model changes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastweights.files import parse_json, read_bytes, write_atomically
from fastweights.optim.overlay_fading import Fading, parse_half_life
from fastweights.optim.overlay_layers import Kind, kind_called, kind_of
from fastweights.optim.overlay_match import near
from fastweights.optim.overlay_parts import State

__all__ = ["LIMIT", "Read", "check_factors", "read_overlay", "safetensors", "write_overlay"]

LIMIT = 2**30  # bytes of an overlay
_FORMAT = "fastweights.Overlay 1"
_SAMPLED = 32  # weights of each layer that tell another model
_ANOTHER = 0.25  # how far they may be off, as a part of their size: training moves them less

Factors = dict[str, tuple[nn.Module, Kind, Tensor, Tensor]]


class Read:
    """What a file holds, once all of it is known to fit the model."""

    def __init__(self, name: str, fading: Fading, seed: int) -> None:
        self.name = name
        self.fading = fading
        self.seed = seed
        self.factors: Factors = {}
        self.buffers: dict[str, Tensor] = {}


def safetensors() -> Any:
    """The module that reads and writes the format."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("overlays are saved as safetensors: pip install safetensors") from error
    return safetensors.torch


def write_overlay(path: Path, model: nn.Module, state: State, buffers: dict[str, Tensor]) -> None:
    """Write the overlay to a file, whole or not at all."""
    tensors = {f"buffer {name}": value for name, value in buffers.items()}
    layers = {}
    for name, part in state.parts.items():
        tensors[f"{name} A"], tensors[f"{name} B"] = part.a, part.b
        weights = _sample(model.get_submodule(name))
        layers[name] = {"kind": part.kind, "weights": weights}
    about = {
        "name": state.name,
        "half_life": state.fading.half_life if math.isfinite(state.fading.amount) else None,
        "seed": state.seed,
        "layers": layers,
    }
    tensors = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    metadata = {"format": _FORMAT, "overlay": json.dumps(about, allow_nan=False)}
    metadata["checksum"] = _checksum(tensors, metadata)
    content = safetensors().save(tensors, metadata)
    if len(content) > LIMIT:
        raise ValueError(f"{path} would have {len(content)} bytes; at most {LIMIT} are read again")
    write_atomically(path, content)


def read_overlay(path: Path, model: nn.Module) -> Read:
    """All of a file, checked against the model.

    Raises:
        ValueError: it is none of ours, damaged, or of another model; the message names the part.
        OSError: it cannot be read.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} holds no overlay: its format is {metadata.get('format')!r:.60}")
    if metadata.get("checksum") != _checksum(tensors, metadata):
        raise ValueError(f"{path} is damaged or was altered: it does not match its checksum")
    try:
        return _believed(parse_json(metadata["overlay"]), tensors, model)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no overlay: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} does not fit the model: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the texts beside them in a file of safetensors.

    Raises:
        ValueError: it is something else, or too long.
    """
    content = read_bytes(path, limit=LIMIT, follow_links=True)
    library = safetensors()
    try:
        tensors = library.load(content)
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = dict(header.get("__metadata__", {}))
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable file of safetensors: {type(error).__name__}: {error}"
        ) from error
    return tensors, metadata


def _believed(about: dict[str, Any], tensors: dict[str, Tensor], model: nn.Module) -> Read:
    half_life = math.inf if about["half_life"] is None else about["half_life"]
    seed = about["seed"]
    if not isinstance(about["name"], str) or isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError("its name must be text, and its seed an integer")
    read = Read(about["name"], parse_half_life(half_life), seed)
    named = dict(model.named_modules())
    expected = set()
    for name, described in about["layers"].items():
        if name not in named:
            raise ValueError(f"the model has no layer {name!r}{near(name, list(named))}")
        layer, kind = named[name], kind_called(described["kind"])
        if kind is None or kind is not kind_of(layer):
            raise ValueError(
                f"layer {name!r} is a {type(layer).__name__}, not of the kind "
                f"{described['kind']!r:.40} that the overlay was made for"
            )
        a, b = tensors[f"{name} A"], tensors[f"{name} B"]
        check_factors(name, layer, kind, a, b)
        _check_weights(name, layer, described["weights"])
        read.factors[name] = layer, kind, a, b
        expected |= {f"{name} A", f"{name} B"}
    if not read.factors:
        raise ValueError("it has no layers")
    buffers = dict(model.named_buffers())
    for key in set(tensors) - expected:
        name = key.removeprefix("buffer ")
        if name == key or name not in buffers or buffers[name].shape != tensors[key].shape:
            raise ValueError(
                f"the model has no buffer {name!r:.80} of shape {list(tensors[key].shape)}"
            )
        read.buffers[name] = tensors[key]
    return read


def check_factors(name: str, layer: nn.Module, kind: Kind, a: Tensor, b: Tensor) -> None:
    """Raise unless these are factors of a layer: by shape, dtype and size of their numbers."""
    rank = b.shape[1] if b.dim() == 2 else 0
    shapes = kind.shapes(layer, rank)
    if (a.shape, b.shape) != shapes or not 1 <= rank <= kind.largest_rank(layer):
        raise ValueError(
            f"layer {name!r} takes factors of the shapes {list(shapes[0])} and "
            f"{list(kind.shapes(layer, max(1, rank))[1])}, the file has {list(a.shape)} and "
            f"{list(b.shape)}"
        )
    for factor in (a, b):
        if not factor.is_floating_point() or not factor.isfinite().all():
            raise ValueError(f"a factor of layer {name!r} holds something else than finite numbers")


def _sample(layer: nn.Module) -> list[float] | None:
    """Some weights of a layer; None where there are none to look at in this process."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or type(weight.data) is not Tensor or weight.is_meta:
        return None
    if not weight.is_floating_point() or weight.dtype.itemsize < 2 or not weight.numel():
        return None
    places = torch.linspace(0, weight.numel() - 1, min(_SAMPLED, weight.numel())).long()
    values = weight.detach().reshape(-1)[places.to(weight.device)].double().cpu()
    return values.tolist() if bool(values.isfinite().all()) else None


def _check_weights(name: str, layer: nn.Module, stored: Any) -> None:
    """Raise if the layer's weights are of another model than those that the overlay was made for.

    They may have been trained on, or be of another dtype.
    """
    here = _sample(layer)
    if stored is None or here is None:
        return
    if len(stored) != len(here):
        raise ValueError(f"the weights of layer {name!r} are of another shape")
    expected = torch.tensor(stored, dtype=torch.float64)
    off = (torch.tensor(here, dtype=torch.float64) - expected).norm()
    if not off <= _ANOTHER * expected.norm():
        raise ValueError(
            f"the weights of layer {name!r} are not those that the overlay was made for, but of "
            "another model of the same shape"
        )


def _checksum(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 of everything that is not the checksum itself."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].cpu()
        total.update(f"{key!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for key in sorted(set(texts) - {"checksum"}):
        total.update(f"{key!r} {texts[key]!r}\n".encode())
    return total.hexdigest()

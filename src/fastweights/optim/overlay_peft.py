"""peft's format of a LoRA adapter: a folder with ``adapter_config.json`` and safetensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastweights.files import parse_json, read_bytes, write_atomically
from fastweights.optim.overlay_files import (
    LIMIT,
    Factors,
    check_factors,
    read_tensors,
    safetensors,
)
from fastweights.optim.overlay_layers import Kind, kind_of
from fastweights.optim.overlay_match import near
from fastweights.optim.overlay_parts import State

__all__ = ["read_adapter", "write_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_CONFIG_LIMIT = 2**20
# Options that make an adapter something else than a product of two factors.
_REFUSED = (
    "use_dora",
    "modules_to_save",
    "layer_replication",
    "lora_bias",
    "trainable_token_indices",
    "use_qalora",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
)


def write_adapter(folder: Path, model: nn.Module, state: State) -> None:
    """Write what the overlay is now as an adapter, which does not fade.

    Raises:
        ValueError: a layer has no counterpart there.
    """
    tensors, ranks = {}, {}
    for name, part in state.parts.items():
        layer = model.get_submodule(name)
        kind = _kind(name, layer)
        keys = _keys(kind)
        a, b = (factor.detach().clone() for factor in (part.a, part.b))
        ranks[name] = b.shape[1]
        for key, value in zip(keys, _to_peft(kind, a, b), strict=True):
            tensors[f"{_PREFIX}{name}.{key}"] = value.contiguous()
    rank = max(ranks.values())
    different = {name: r for name, r in ranks.items() if r != rank}
    transposed = {
        _kind(name, model.get_submodule(name)).name == "linear-transposed" for name in ranks
    }
    if len(transposed) > 1:
        raise ValueError("peft has one fan_in_fan_out for all layers: save the Conv1D apart")
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": rank,  # with rank_pattern and alpha_pattern, the product itself: no scaling
        "rank_pattern": different,
        "alpha_pattern": different,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": transposed == {True},
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    content = safetensors().save(tensors, {"format": "pt"})
    if len(content) > LIMIT:
        raise ValueError(
            f"{folder} would have {len(content)} bytes; at most {LIMIT} are read again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _WEIGHTS, content)
    write_atomically(folder / _CONFIG, json.dumps(config, indent=2).encode())


def read_adapter(folder: Path, model: nn.Module) -> Factors:
    """The factors of an adapter, its scaling multiplied into those that will fade.

    Raises:
        ValueError: it is of another kind or model; the message names the option or the layer.
        OSError: it cannot be read.
    """
    path = folder / _CONFIG
    try:
        config = parse_json(read_bytes(path, limit=_CONFIG_LIMIT, follow_links=True))
        _check_config(config)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an overlay: {error}") from error
    tensors, _ = read_tensors(folder / _WEIGHTS)
    try:
        return _factors(config, tensors, model)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / _WEIGHTS} does not fit the model: {error}") from error


def _check_config(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(f"peft_type is {config.get('peft_type')!r:.40}, must be 'LORA'")
    if config.get("bias", "none") != "none":
        raise ValueError(f"bias is {config['bias']!r:.40}, must be 'none'")
    for option in _REFUSED:
        if config.get(option):
            raise ValueError(f"{option} is set, and an overlay has nothing like it")


def _factors(config: dict[str, Any], tensors: dict[str, Tensor], model: nn.Module) -> Factors:
    named = dict(model.named_modules())
    ends = (".lora_A.weight", ".lora_embedding_A", ".lora_B.weight", ".lora_embedding_B")
    names: dict[str, None] = {}
    for key in tensors:
        end = next((end for end in ends if key.endswith(end)), None)
        if end is None or not key.startswith(_PREFIX):
            raise ValueError(f"{key!r:.120} is no factor of a layer")
        names[key.removeprefix(_PREFIX).removesuffix(end)] = None
    if not names:
        raise ValueError("it has no layers")
    for name in names:
        if name not in named:
            raise ValueError(f"the model has no layer {name!r:.120}{near(name, list(named))}")
    factors: Factors = {}
    for name in (name for name in named if name in names):
        layer = named[name]
        kind = _kind(name, layer)
        key_a, key_b = (f"{_PREFIX}{name}.{key}" for key in _keys(kind))
        a, b = _from_peft(kind, tensors[key_a], tensors[key_b])
        scaling = _scaling(config, name, b.shape[-1])
        a, b = (a * scaling, b) if kind.fading == 0 else (a, b * scaling)
        check_factors(name, layer, kind, a, b)
        factors[name] = layer, kind, a, b
    return factors


def _scaling(config: dict[str, Any], name: str, rank: int) -> float:
    """α / r, or α / √r, with the α of this layer."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if name == pattern or name.endswith(f".{pattern}"):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"lora_alpha must be a number, got {alpha!r:.40}")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _kind(name: str, layer: nn.Module) -> Kind:
    kind = kind_of(layer)
    if kind is None:
        raise ValueError(f"layer {name!r} is a {type(layer).__name__}")
    if getattr(layer, "groups", 1) != 1:
        raise ValueError(f"layer {name!r} convolves in groups, which adapters do in another way")
    return kind


def _keys(kind: Kind) -> tuple[str, str]:
    if kind.name == "embedding":
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A.weight", "lora_B.weight"


def _to_peft(kind: Kind, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if kind.name == "embedding":
        return a.mT, b
    return a, b[(..., *[None] * (a.dim() - 2))]


def _from_peft(kind: Kind, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    wide = a.double() if a.dtype.itemsize > 4 else a.float()
    other = b.to(wide.dtype)
    if kind.name == "embedding":
        return wide.mT.contiguous(), other
    return wide, other.flatten(1)

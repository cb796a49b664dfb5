"""The layers of a model that a user asks for by names, patterns and types."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from fastweights.optim.overlay_layers import Kind, kind_of, layer_types, unsupported_reason

__all__ = ["Layers", "find_layers", "near"]

Layers = dict[str, tuple[nn.Module, Kind]]


def find_layers(model: nn.Module, modules: Any) -> Layers:
    """The layers by their names in the model, in its order.

    Raises:
        TypeError: something else than names, patterns and types was asked for.
        ValueError: there is no such layer, or no overlay can be laid over it.
    """
    if isinstance(modules, str | re.Pattern | type):
        modules = [modules]
    if not isinstance(modules, Iterable):
        raise TypeError(f"modules must be a list of {_EXPECTED}, got {type(modules).__name__}")
    wanted = list(modules)
    if not wanted:
        raise ValueError(f"modules must name at least one layer, by {_EXPECTED}")
    named = dict(model.named_modules())
    found: set[str] = set()
    for entry in wanted:
        found |= _matching(named, entry)
    kinds = {path: (module, kind_of(module)) for path, module in named.items() if path in found}
    return {path: (module, kind) for path, (module, kind) in kinds.items() if kind is not None}


_EXPECTED = "names of layers, patterns (* and ?, or compiled ones) and types"


def _matching(named: dict[str, nn.Module], entry: Any) -> set[str]:
    matching = {path for path, module in named.items() if _is_meant(path, module, entry)}
    supported = {path for path in matching if kind_of(named[path]) is not None}
    if supported:
        return supported
    shown = f"type {entry.__name__}" if isinstance(entry, type) else repr(_text(entry))
    if matching:
        path = min(matching)
        module = named[path]
        reason = unsupported_reason(module) or f"overlays can be laid over {layer_types}"
        below = [name for name in _supported(named) if name.startswith(f"{path}.")]
        hint = f"; below it: {_listed(below)}" if below else ""
        raise ValueError(f"{shown} is a {type(module).__name__}: {reason}{hint}")
    raise ValueError(
        f"no layer of the model matches {shown}{near(_text(entry), _supported(named))}"
    )


def _is_meant(path: str, module: nn.Module, entry: Any) -> bool:
    if isinstance(entry, type):
        return isinstance(module, entry)
    if isinstance(entry, re.Pattern):
        return entry.fullmatch(path) is not None
    if not isinstance(entry, str):
        raise TypeError(f"modules must be {_EXPECTED}, got {entry!r} ({type(entry).__name__})")
    if any(sign in entry for sign in "*?["):
        return fnmatch.fnmatchcase(path, entry)
    return path == entry or path.endswith(f".{entry}")


def _supported(named: dict[str, nn.Module]) -> list[str]:
    return [path for path, module in named.items() if kind_of(module) is not None]


def _text(entry: Any) -> str:
    return entry.__name__ if isinstance(entry, type) else getattr(entry, "pattern", None) or entry


def near(name: str, names: Sequence[str]) -> str:
    """What to add to the error that there is no such name: those that look like it.

    Example:
        >>> near("q_porj", ["layers.0.q_proj", "layers.0.v_proj"])
        '; near it: layers.0.q_proj, layers.0.v_proj'
    """
    if not names:
        return "; there are none"
    last = {known: known.rpartition(".")[2] for known in names}
    close = difflib.get_close_matches(name, [*names, *set(last.values())], n=3, cutoff=0.5)
    chosen = [known for known in names if known in close or last[known] in close]
    return f"; near it: {_listed(chosen)}" if chosen else f"; there are: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

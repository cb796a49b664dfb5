"""Laying overlays over a model and taking them off: hooks, and nothing else that one can see."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fastweights.optim.overlay_buffers import Buffers, LoadedBuffers
from fastweights.optim.overlay_files import Factors
from fastweights.optim.overlay_parts import Part, Selection, Site, State

__all__ = ["attach", "check_name", "detach", "selection_of", "unwrapped", "without"]

_SELECTION = "_fastweights_overlays"  # of a model, beside its parameters, buffers and modules


def attach(model: nn.Module, state: State, factors: Factors) -> None:
    """Lay an overlay of these factors over the model; nothing here can fail halfway."""
    selection = selection_of(model)
    if selection is None:
        selection = Selection(Buffers(model))
        model.register_state_dict_post_hook(selection.buffers)
        model.register_load_state_dict_pre_hook(LoadedBuffers(selection.buffers))
        model.__dict__[_SELECTION] = selection
        model.__dict__.setdefault("zero_grad", _ZeroGrad(model, selection))
    anew = False
    for path, (layer, kind, a, b) in factors.items():
        site = _site_of(layer)
        if site is None:
            site, anew = Site(kind, path, selection), True
            # First of the hooks, so that those of users see what the layer gives.
            layer.register_forward_hook(site, prepend=True, with_kwargs=True)
        part = Part(state, kind, a, b)
        device = _device_of(layer)
        if device.type != "meta":
            part.move(device)
        site.parts[state.name] = state.parts[path] = part
    selection.states[state.name] = state
    selection.show(model, {*selection.on, state.name}, selection.samples)
    if anew:
        _compile_anew()


def detach(model: nn.Module, state: State) -> None:
    """Take an overlay off, and the hooks with the last one."""
    selection = selection_of(model)
    assert selection is not None
    selection.show(model, set(selection.on) - {state.name}, selection.samples)
    selection.buffers.forget(model, state.name, selection.key)
    del selection.states[state.name]
    for path in state.parts:
        layer = model.get_submodule(path)
        site = _site_of(layer)
        if site is not None:
            site.parts.pop(state.name, None)
            if not site.parts:
                _unhook(layer._forward_hooks, site, layer._forward_hooks_with_kwargs)
    if not selection.states:
        _unhook(model._state_dict_hooks, selection.buffers)
        for hook in list(model._load_state_dict_pre_hooks.values()):
            if isinstance(getattr(hook, "hook", hook), LoadedBuffers):
                _unhook(model._load_state_dict_pre_hooks, hook)
        del model.__dict__[_SELECTION]
        if isinstance(model.__dict__.get("zero_grad"), _ZeroGrad):
            del model.__dict__["zero_grad"]
    state.removed = True


class _ZeroGrad:
    """``zero_grad`` of a model with overlays: trainers mean all that learns by it."""

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self._model = model
        self._selection = selection

    def __call__(self, set_to_none: bool = True) -> None:
        type(self._model).zero_grad(self._model, set_to_none)
        for state in self._selection.states.values():
            for part in state.parts.values():
                part.a.grad = part.b.grad = None


def _unhook(hooks: dict[int, Any], hook: Any, *others: dict[int, Any]) -> None:
    """Not by torch's handles: copying one copies all that its hooks lead to."""
    for key in [key for key, known in hooks.items() if known is hook]:
        for kept in (hooks, *others):
            kept.pop(key, None)


def selection_of(model: nn.Module) -> Selection | None:
    found: Selection | None = model.__dict__.get(_SELECTION)
    return found


def _site_of(layer: nn.Module) -> Site | None:
    return next((hook for hook in layer._forward_hooks.values() if isinstance(hook, Site)), None)


@contextmanager
def without(model: nn.Module, selection: Selection, names: set[str]) -> Iterator[None]:
    on, samples = set(selection.on), selection.samples
    left = None if samples is None else tuple(None if s in names else s for s in samples)
    selection.show(model, on - names, left)
    try:
        yield
    finally:
        selection.show(model, (on & names) | set(selection.on), samples)


def check_name(model: nn.Module, name: Any) -> None:
    """Raise unless an overlay of that name can be laid over the model."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be text, got {name!r}")
    selection = selection_of(model)
    if selection is not None and name in selection.states:
        raise ValueError(
            f"the model has an overlay {name!r} already: give this one another name=, or remove() "
            "that one"
        )
    for path, module in model.named_modules():
        site = _site_of(module)
        if site is not None and site.selection is not selection:
            raise ValueError(
                f"layer {path!r} has overlays that were laid over another module, of which it is a "
                "part, or which is a part of this model: lay all over the same"
            )


def unwrapped(model: Any) -> nn.Module:
    """The model itself inside what compiles or distributes it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    while True:
        inside = model.__dict__.get("_modules", {}).get("_orig_mod")
        if inside is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inside = model.module
        if inside is None:
            return model
        model = inside


def _device_of(layer: nn.Module) -> torch.device:
    tensors = (*layer.parameters(recurse=False), *layer.buffers(recurse=False))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _compile_anew() -> None:
    """Have compiled models see new hooks: they look out only for changes of those they know."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()

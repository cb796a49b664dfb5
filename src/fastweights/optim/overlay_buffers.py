"""The buffers of a model with overlays, such as BatchNorm's running statistics.

What a rehearsal does to them belongs to the overlays that were on. The model beneath has its own,
and gets them back bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Buffers"]

Key = tuple[str, ...]  # the names of the overlays that are on
_COMPARED = 2**16  # elements; of larger buffers autograd's count of changes is believed


class Buffers:
    """What the buffers hold without overlays, and with each combination that was ever on.

    Registered at the model, so that what is saved and loaded as the model's state is the state of
    the model beneath.
    """

    def __init__(self, model: nn.Module) -> None:
        self._slow = {name: _copy(buffer) for name, buffer in model.named_buffers()}
        self._kept: dict[Key, dict[str, Tensor]] = {}
        self._shown: Key | None = ()
        self._versions = {name: _version(buffer) for name, buffer in model.named_buffers()}

    def change(self, model: nn.Module, old: Key | None, new: Key | None) -> None:
        """Show what belongs to the overlays ``new``, and keep what there was with ``old``.

        None is for each sample with its own overlay: nothing is kept of it, since there is no
        telling whose it is.
        """
        if old == new:
            return
        self._shown = new
        live = dict(model.named_buffers())
        changed = self._changed(live)
        if old == ():
            self._slow.update({name: _copy(live[name]) for name in changed if name in live})
            changed = {}
        elif old is not None:
            self._kept[old] = {name: _copy(live[name]) for name in changed}
        if new is not None and new not in self._kept:
            # Overlays that are added to others go on from theirs.
            goes_on = new and old is not None and set(old) <= set(new)
            self._kept[new] = dict(self._kept.get(old, {})) if goes_on and old else {}
        self._put(model, set(changed), self._kept.get(new, {}) if new else {})

    def of(self, model: nn.Module, name: str, on: Key | None) -> dict[str, Tensor]:
        """The buffers that one overlay alone changed, and what they hold with it."""
        if on == (name,):
            live = dict(model.named_buffers())
            return {changed: _copy(live[changed]) for changed in self._changed(live)}
        return dict(self._kept.get((name,), {}))

    def give(self, model: nn.Module, name: str, on: Key | None, values: dict[str, Tensor]) -> None:
        """Make these what the buffers hold with one overlay alone."""
        self._kept[(name,)] = {key: _copy(value) for key, value in values.items()}
        if on == (name,):
            self._put(model, set(values), self._kept[(name,)])

    def forget(self, model: nn.Module, name: str, on: Key | None) -> None:
        """Bring back what belongs to the model beneath, wherever this overlay was on."""
        if on is not None and name in on:
            self._put(model, set(self._changed(dict(model.named_buffers()))), {})
        self._kept = {key: kept for key, kept in self._kept.items() if name not in key}

    def consolidate(self, model: nn.Module, name: str, on: Key | None) -> None:
        """Make what one overlay changed the model's own."""
        live = dict(model.named_buffers())
        if on is not None and name in on:
            self._slow.update({key: _copy(live[key]) for key in self._changed(live)})
        else:
            self._slow.update(self._kept.get((name,), {}))
            if on == ():
                self._put(model, set(self._kept.get((name,), {})), {})
        self._kept = {key: kept for key, kept in self._kept.items() if name not in key}

    def _changed(self, live: dict[str, Tensor]) -> dict[str, Tensor]:
        """The buffers that do not hold, bit for bit, what they hold without overlays."""
        return {
            name: buffer
            for name, buffer in live.items()
            if name in self._slow and not self._same(name, buffer)
        } | {name: buffer for name, buffer in live.items() if name not in self._slow}

    def _same(self, name: str, buffer: Tensor) -> bool:
        slow = self._slow[name]
        if buffer.shape != slow.shape or buffer.is_meta:
            return buffer.is_meta
        if buffer.numel() > _COMPARED and self._versions.get(name) == _version(buffer):
            return True
        return torch.equal(_bits(buffer), _bits(slow.to(buffer)))

    @torch.no_grad()
    def _put(self, model: nn.Module, changed: set[str], values: dict[str, Tensor]) -> None:
        for name in changed | set(values):
            value = values.get(name, self._slow.get(name))
            path, _, key = name.rpartition(".")
            owner = model.get_submodule(path)
            buffer = getattr(owner, key, None)
            if value is None:  # it was not there without overlays: nothing to bring back
                continue
            if isinstance(buffer, Tensor) and buffer.shape == value.shape:
                buffer.copy_(value)
            else:  # the module has put another in its place, as caches that grow do
                setattr(owner, key, value.clone())
            if name not in values:
                self._versions[name] = _version(getattr(owner, key))
            else:
                self._versions.pop(name, None)

    # -- what torch calls while it saves and loads the state of the model ------------------------

    def __call__(self, model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        """The saved state is that of the model beneath."""
        if self._shown == ():  # which may have learned since
            return
        for name in self._changed(dict(model.named_buffers())):
            if prefix + name in state and name in self._slow:
                state[prefix + name] = self._slow[name].to(state[prefix + name])


class LoadedBuffers:
    """Buffers that are loaded are those of the model beneath, whatever is on."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers

    def __call__(
        self, model: nn.Module, state: dict[str, Any], prefix: str, *_: Any, **__: Any
    ) -> None:
        for name, buffer in model.named_buffers():
            value = state.get(prefix + name)
            if isinstance(value, Tensor) and value.shape == buffer.shape:
                self._buffers._slow[name] = _copy(value).to(buffer)
                self._buffers._versions.pop(name, None)
                for kept in self._buffers._kept.values():
                    kept.pop(name, None)


def _copy(buffer: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return buffer.detach().clone()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _version(buffer: Tensor) -> tuple[int, int] | None:
    """Changes with every change that autograd can see."""
    return None if buffer.is_inference() else (id(buffer), buffer._version)

"""What is stored beside a parameter, and how changes made to it by others are noticed."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

__all__ = ["KEYS", "Watch", "check_overlay", "has_overlay", "new_overlay", "whole_norm"]

KEYS = ("slow_weight", "fast_weight", "fast_update")  # s, f, Δf in the state of a parameter

_PLAIN = frozenset((Tensor, torch.nn.Parameter))

logger = logging.getLogger("fastweights")


def new_overlay(parameter: Tensor) -> dict[str, Tensor]:
    """The state of a parameter that has learned nothing yet: s is its value, f and Δf are zero."""
    values = (parameter.detach().clone(), torch.zeros_like(parameter), torch.zeros_like(parameter))
    return dict(zip(KEYS, values, strict=True))


def has_overlay(state: dict[str, Any] | None) -> bool:
    """Whether there is any part of an overlay in the state of a parameter."""
    return bool(state) and not state.keys().isdisjoint(KEYS)  # type: ignore[union-attr]


def check_overlay(
    parameter: Tensor, state: dict[str, Any], name: str, error: type[Exception]
) -> None:
    """Raise unless this is the overlay of a parameter of this shape."""
    for key in KEYS:
        value = state.get(key)
        if not isinstance(value, Tensor):
            raise error(
                f"{key} in the state of {name} must be a tensor of shape "
                f"{tuple(parameter.shape)}, got {type(value).__name__}"
            )
        if value.shape != parameter.shape:
            raise error(
                f"{key} in the state of {name} has shape {tuple(value.shape)}, but the parameter "
                f"{tuple(parameter.shape)}: it belongs to another model, or the parameter has been "
                "given a new shape, which takes a new SlowFast"
            )


def whole_norm(tensor: Tensor) -> float:
    """The Euclidean norm of a tensor, and of all of it where this process holds a shard."""
    return float(_whole(torch.linalg.vector_norm(tensor)))


def _whole(tensor: Any) -> Tensor:
    """All of a tensor: where it is sharded, every process must ask, and gets the same."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


class Watch:
    """Notices parameters that others wrote to, so that their slow weights can follow.

    A parameter holds w = s + f, rounded, and s is stored. Were nothing done, the next step would
    undo a change made from outside, such as the loading of a model. And if others threw the stored
    s and f away, nobody would know any more which part of w is to fade.

    A parameter that nobody wrote to is recognised by its version. A tensor around other tensors,
    such as a ``DTensor``, has a version that does not count what is written to those, as by
    `torch.distributed.checkpoint.load`: its values are compared every time.
    """

    def __init__(self) -> None:
        self._seen: dict[Tensor, tuple[Any, ...]] = {}
        self._loaded: dict[Tensor, tuple[Any, ...]] = {}
        self._overlays: dict[Tensor, dict[str, Tensor]] = {}

    def wrote(self, parameters: list[Tensor]) -> None:
        """Say that these parameters now hold s + f."""
        for parameter in parameters:
            self._seen[parameter] = _mark(parameter)

    def loaded(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        """Say that this overlay was loaded, or copied: the parameter may not hold it yet."""
        self._overlays[parameter] = {key: state[key] for key in KEYS if key in state}
        self._loaded[parameter] = _mark(parameter)

    def overlay(self, parameter: Tensor) -> dict[str, Tensor] | None:
        """The overlay the parameter has, also where others removed it from the optimizer."""
        return self._overlays.get(parameter)

    def unchanged(self, parameter: Tensor) -> bool:
        """Whether nobody wrote to the parameter since it was made to hold s + f.

        Where it is sharded, the answer is about all of it, and every process must ask.
        """
        if self._seen.get(parameter) != _mark(parameter):
            return False
        overlay = self._overlays.get(parameter)
        if overlay is None or _counts_writes(parameter):
            return True
        return bool(_whole(_same(parameter, _effective(overlay, parameter)).all()))

    def is_as_left(self, parameter: Tensor, state: dict[str, Tensor]) -> bool:
        """Whether certainly nobody has touched a parameter and its overlay since `wrote`.

        Of one that was touched `follow` has to make sure; it may then still be found unchanged.
        """
        overlay = self._overlays.get(parameter)
        if overlay is None or type(parameter) not in _PLAIN or self._loaded:
            return False
        shape, dtype, device = parameter.shape, parameter.dtype, parameter.device
        for key in KEYS:
            tensor = state.get(key)
            if (
                tensor is not overlay[key]
                or tensor.shape != shape
                or tensor.dtype is not dtype
                or tensor.device != device
            ):
                return False
        return self._seen.get(parameter) == _mark(parameter)

    def check_kept(self, parameter: Tensor, name: str) -> None:
        """Raise if the parameter, which has no overlay in ``optimizer.state``, still holds one."""
        overlay = self._overlays.get(parameter)
        if overlay is None:
            return
        if whole_norm(overlay["fast_weight"]) != 0:
            raise RuntimeError(
                f"{name} still holds fast weights that were removed from the state of SlowFast, as "
                "by optimizer.state.clear(). Call its clear() to take them out of the parameters, "
                "or its consolidate() to keep them there for good, before anything else"
            )
        for memory in (self._overlays, self._seen, self._loaded):
            memory.pop(parameter, None)

    def follow(self, parameter: Tensor, state: dict[str, Tensor], name: str) -> None:
        """Where the parameter does not hold s + f, make s such that it does: s ← w − f.

        The values are compared only if the parameter was, or may have been, written to since
        `wrote`, and s stays untouched to the last bit where they have not changed. An overlay goes
        with its parameter to another dtype or device.

        Raises:
            RuntimeError: the overlay is not one of a parameter of this shape.
        """
        check_overlay(parameter, state, name, RuntimeError)
        mark = _mark(parameter)
        moved = [
            key
            for key in KEYS
            if state[key].dtype != parameter.dtype or state[key].device != parameter.device
        ]
        if self._seen.get(parameter) == mark and not moved and _counts_writes(parameter):
            self._overlays[parameter] = {key: state[key] for key in KEYS}
            return
        with torch.no_grad():
            expected = _effective(state, parameter)
            for key in moved:
                state[key] = state[key].to(parameter)
            slow, fast = state["slow_weight"], state["fast_weight"]
            same = _same(parameter, expected)
            slow.copy_(torch.where(same, slow, parameter - fast))
        self._seen[parameter] = mark
        self._overlays[parameter] = {key: state[key] for key in KEYS}
        if self._loaded.pop(parameter, None) == mark and not _local(same).all():
            logger.warning(
                "SlowFast: %s does not hold what the optimizer's loaded state says. Load the "
                "model's own state as well; otherwise its slow weight is what it holds, less the "
                "loaded fast weight",
                name,
            )


def _mark(parameter: Tensor) -> tuple[Any, ...]:
    """Changes with every change of a parameter that autograd can see, and with new memory."""
    return parameter._version, parameter.data_ptr(), parameter.dtype, parameter.stride()


def _counts_writes(parameter: Tensor) -> bool:
    """Whether the version of a parameter counts everything that can be written to it."""
    return type(parameter) in _PLAIN


def _effective(overlay: dict[str, Tensor], parameter: Tensor) -> Tensor:
    """s + f in the parameter's dtype, rounded as it was: model.double() changes no weight."""
    return (overlay["slow_weight"] + overlay["fast_weight"]).to(parameter)


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local

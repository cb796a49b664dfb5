"""What is done with fast weights between steps: let them decay, forget them, fold them in, look."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastweights.ops.slow_fast import reference
from fastweights.optim._buffers import copy_buffers, put_buffers, reshard
from fastweights.optim._groups import FAST_OPTIONS, check_group, describe
from fastweights.optim._overlay import Watch, has_overlay, whole_norm

__all__ = ["OverlayUses"]


class OverlayUses(torch.optim.Optimizer):
    """The part of `SlowFast` that needs no gradients and no slow optimizer.

    Works on the overlays that learning left in ``state``.
    """

    model: nn.Module | None = None

    def _start(self) -> None:
        self._slow_only = False
        self._slow_buffers: dict[str, Tensor] | None = None  # from before a rehearsal
        self._watch = Watch()  # parameters it has not seen are compared by value

    def _complete_groups(self) -> None:
        for group in self.param_groups:
            for name in FAST_OPTIONS:
                group.setdefault(name, self.defaults[name])

    @contextmanager
    def slow_only(self) -> Iterator[None]:
        """Inside, parameters hold their slow weights: the model's long-term knowledge alone.

        On leaving, also by an exception, every parameter is bit for bit what it was before;
        whatever was written to parameters inside is lost. Learning, changing the overlay and
        saving the optimizer are refused inside.

        Where the optimizer was given the ``model``, the same holds for the model's buffers: inside
        they hold what they held before the rehearsal that the overlay is of, or what they hold
        anyway if there was none; on leaving they are what they were.

        FSDP2 computes with copies of the parameters that it gathered in the last forward pass, if
        no backward pass followed. Where the optimizer was given the ``model``, they are gathered
        anew; otherwise call ``model.reshard()`` on entering and after leaving.

        Example: see the class.
        """
        if self._slow_only:
            yield
            return
        overlays = list(self._overlays())
        held = [(p, p.detach().clone()) for p, _ in overlays]
        buffers = copy_buffers(self.model)
        self._slow_only = True
        try:
            with torch.no_grad():
                for p, state in overlays:
                    p.copy_(state["slow_weight"])
            put_buffers(self.model, self._slow_buffers or {})
            reshard(self.model)
            yield
        finally:
            self._slow_only = False
            with torch.no_grad():
                for p, effective in held:
                    p.copy_(effective)
            put_buffers(self.model, buffers)
            reshard(self.model)
            self._watch.wrote([p for p, _ in held])

    @torch.no_grad()
    def relax(self, steps: int) -> None:
        """Let the fast weights decay as in ``steps`` steps without learning: f ← (1 − h)^steps f.

        The last fast updates Δf stay, as in such steps, and so do the model's buffers.

        Args:
            steps: how many, at least 0.

        Raises:
            TypeError: ``steps`` is not an integer.
            ValueError: ``steps`` is negative.
            RuntimeError: inside `slow_only`.

        Example: see the class.
        """
        if isinstance(steps, bool) or not isinstance(steps, int):
            raise TypeError(f"steps must be an integer >= 0, got {steps!r}")
        if steps < 0:
            raise ValueError(f"steps must be an integer >= 0, got {steps!r}")
        self._refuse_in_slow_only("relax")
        self._complete_groups()
        for index, group in enumerate(self.param_groups):
            check_group(group, index)
            keep = (1.0 - float(group["fast_decay"])) ** steps
            for p, state in self._overlays(index):
                p.copy_(state["slow_weight"])
                reference.apply_overlay([p], [state["fast_weight"]], None, keep=keep)
                self._watch.wrote([p])
        reshard(self.model)

    @torch.no_grad()
    def clear(self) -> None:
        """Forget the overlay: parameters hold their slow weights, f and Δf are zero.

        Where the optimizer was given the ``model``, and nothing slow was learned since a rehearsal,
        the model's buffers are what they were before that rehearsal. An overlay that somebody
        removed from ``state`` is forgotten too.

        Raises:
            RuntimeError: inside `slow_only`.

        Example:
            >>> import torch
            >>> from fastweights.optim import SlowFast
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> optimizer = SlowFast(torch.optim.SGD([p]), lr=0.5, momentum=0.0, decay=0.0)
            >>> with optimizer.rehearsal():
            ...     p.sum().backward(); optimizer.step()
            >>> optimizer.clear(); p.data, optimizer.fast_norm()
            (tensor([1.]), 0.0)
        """
        self._refuse_in_slow_only("clear")
        self._take_back_removed()
        for p, state in self._overlays():
            p.copy_(state["slow_weight"])
            state["fast_weight"].zero_()
            state["fast_update"].zero_()
            self._watch.wrote([p])
        put_buffers(self.model, self._slow_buffers or {})
        self._slow_buffers = None
        reshard(self.model)

    @torch.no_grad()
    def consolidate(self) -> None:
        """Fold the overlay into the slow weights: s ← s + f, then f and Δf are zero.

        Parameters keep their values, and buffers of the model theirs.

        Raises:
            RuntimeError: inside `slow_only`.

        Example:
            >>> import torch
            >>> from fastweights.optim import SlowFast
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> optimizer = SlowFast(torch.optim.SGD([p]), lr=0.5, momentum=0.0, decay=0.0)
            >>> with optimizer.rehearsal():
            ...     p.sum().backward(); optimizer.step()
            >>> optimizer.consolidate(); optimizer.slow_weights(p), optimizer.fast_norm()
            (tensor([0.5000]), 0.0)
        """
        self._refuse_in_slow_only("consolidate")
        self._take_back_removed()
        for p, state in self._overlays():
            state["slow_weight"].copy_(p)
            state["fast_weight"].zero_()
            state["fast_update"].zero_()
        self._slow_buffers = None

    @torch.no_grad()
    def slow_weights(self, parameter: Tensor) -> Tensor:
        """The slow weights s of one parameter, as a new tensor of its shape.

        Raises:
            ValueError: the parameter is not in a parameter group.

        Example: see the class.
        """
        state = self._overlay_of(parameter)
        return (state["slow_weight"] if state else parameter.detach()).clone()

    @torch.no_grad()
    def fast_weights(self, parameter: Tensor) -> Tensor:
        """The fast weights f of one parameter, as a new tensor of its shape.

        Raises:
            ValueError: the parameter is not in a parameter group.

        Example: see the class.
        """
        state = self._overlay_of(parameter)
        return state["fast_weight"].clone() if state else torch.zeros_like(parameter)

    @torch.no_grad()
    def fast_norm(self) -> float:
        """The Euclidean norm of all fast weights together.

        Parameters that are sharded over processes as a ``DTensor`` (FSDP2, tensor parallelism)
        count whole, so every process must ask for it, and gets the same.

        Example: see the class.
        """
        return math.hypot(*(whole_norm(state["fast_weight"]) for _, state in self._overlays()))

    def _overlay_of(self, parameter: Tensor) -> dict[str, Tensor] | None:
        for index, group in enumerate(self.param_groups):
            for position, p in enumerate(group["params"]):
                if p is parameter:
                    return self._find_overlay(p, describe(group, index, position))
        raise ValueError("parameter must be one that this optimizer was given")

    def _overlays(self, only: int | None = None) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The parameters that have an overlay, of one group or of all."""
        for index, group in enumerate(self.param_groups):
            if only is None or index == only:
                for position, p in enumerate(group["params"]):
                    state = self._find_overlay(p, describe(group, index, position))
                    if state is not None:
                        yield p, state

    def _find_overlay(self, p: Tensor, name: str) -> dict[str, Tensor] | None:
        state = self.state.get(p)
        if state is None or not has_overlay(state):
            self._watch.check_kept(p, name)
            return None
        if not self._slow_only:
            self._watch.follow(p, state, name)
        return state

    def _take_back_removed(self) -> None:
        """Overlays that others removed from ``state``, and that parameters still hold."""
        for group in self.param_groups:
            for p in group["params"]:
                overlay = self._watch.overlay(p)
                if overlay is not None and not has_overlay(self.state.get(p)):
                    self.state[p] = overlay

    def _refuse_in_slow_only(self, what: str) -> None:
        if self._slow_only:
            raise RuntimeError(
                f"{what}() inside slow_only(): the parameters hold slow weights alone; leave it "
                "first"
            )

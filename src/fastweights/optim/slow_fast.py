"""A fast weight beside every slow one, for any module and any torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastweights.ops.dispatch import choose_backend
from fastweights.ops.slow_fast import foreach, reference
from fastweights.optim._buffers import copy_buffers
from fastweights.optim._groups import (
    FastGroups,
    check_group,
    check_option,
    check_parameters,
)
from fastweights.optim._overlay import Watch, has_overlay
from fastweights.optim._saving import load_with, save_with
from fastweights.optim._step import (
    Bucket,
    build_buckets,
    check_slow_optimizer,
    check_transforms,
    fused_step,
    separate_step,
    unsupported_reason,
)
from fastweights.optim._uses import OverlayUses

__all__ = ["SlowFast"]

_BACKENDS = ("auto", "native", "foreach", "reference")


class SlowFast(OverlayUses):
    r"""Gives every connection a fast weight that learns quickly and decays, beside the slow one.

    The network uses :math:`w = s + f`, and that is what a parameter holds: the model needs no
    change. Both get the same gradient :math:`g = \partial E / \partial w`,

    .. math::
        \Delta s &\leftarrow \alpha_s \Delta s - \varepsilon_s g, & s &\leftarrow s + \Delta s \\
        \Delta f &\leftarrow \alpha_f \Delta f - \varepsilon_f g, &
        f &\leftarrow (1 - h)(f + \Delta f)

    where the slow line is what ``slow_optimizer`` does (as written: `torch.optim.SGD` with
    momentum) and :math:`\varepsilon_f, \alpha_f, h` are ``lr``, ``momentum`` and ``decay``. While
    the slow optimizer steps, the parameters hold :math:`s`; so its weight decay pulls on the slow
    weights alone.

    It shares ``param_groups`` with the slow optimizer: ``lr`` there is the slow learning rate,
    which a scheduler given this optimizer moves, and ``fast_lr``, ``fast_momentum``,
    ``fast_decay`` are the fast options, each of which a group may set for itself. A scheduler
    given `fast` moves ``fast_lr``. ``maximize`` of a group holds for both.

    :math:`s`, :math:`f` and :math:`\Delta f` are stored beside the parameter, in its dtype: three
    arrays more than the slow optimizer has. So slow weights that nothing moves stay what they are
    to the last bit, however long a rehearsal and whatever becomes of :math:`f`. Who changes a
    parameter from outside (loads a model, clips weights) changes its slow weight; it has to be a
    change that autograd can see, as in ``with torch.no_grad(): p.clamp_(-1, 1)``: one made through
    ``p.data`` is undone by the next step.

    A parameter without a gradient (``grad`` is None: frozen, or not used) learns nothing in that
    step, and its fast weight decays. A step that `torch.amp.GradScaler` skips changes nothing.

    :math:`s`, :math:`f` and :math:`\Delta f` go with their parameter to another dtype or device
    (``model.double()``); what the slow optimizer remembers does so if its own `step` can. They must
    not be removed from ``state``: the parameters would hold the fast weights for ever. Who does it,
    as by ``optimizer.state.clear()``, gets an error from whatever is called next; `clear` and
    `consolidate` then say what is to become of them.

    Parameters that are sharded as ``DTensor`` (FSDP2) train as they do with the slow optimizer.

    Source: Hinton & Plaut, "Using fast weights to deblur old memories" (1987), section 3.

    Args:
        slow_optimizer: any `torch.optim.Optimizer` that computes a step from one gradient. From
            here on step this optimizer, not that one.
        lr: fast learning rate ε_f.
        momentum: fast momentum α_f, in [0, 1).
        decay: h, the part of a fast weight that is lost in each step, in [0, 1].
        backend: "auto", or "native" (both updates in one pass, on the CPU with SGD and momentum,
            Adam or AdamW), "foreach" or "reference" for the fast half. "auto" is the first of them
            that can run a step: "reference" runs any, also where something follows operations and
            on subclasses of `torch.Tensor`. Rehearsal runs "foreach" where this is "native".
        model: the model whose buffers belong to the weights, such as BatchNorm's statistics, or
            None. The buffers that it has when a `rehearsal` begins are kept until a step moves the
            slow weights again, or `consolidate`: they are what `clear` brings back, and what
            `slow_only` shows. In steps that move both weights there is one set of statistics,
            that of w, and nothing to bring back.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of its range, the slow optimizer cannot be used, or the
            backend cannot run it.

    Example:
        >>> import torch
        >>> from fastweights.optim import SlowFast
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(3, 1)
        >>> slow = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        >>> optimizer = SlowFast(slow, lr=0.02, momentum=0.5, decay=0.01)
        >>> model(torch.ones(3)).square().sum().backward()
        >>> optimizer.step(); optimizer.zero_grad()
        >>> s, f = optimizer.slow_weights(model.weight), optimizer.fast_weights(model.weight)
        >>> torch.allclose(model.weight, s + f)
        True
        >>> with optimizer.slow_only():  # the model without its fast weights
        ...     torch.equal(model.weight, s)
        True
        >>> optimizer.relax(1000); optimizer.fast_norm() < 1e-4  # they are gone
        True
    """

    def __init__(
        self,
        slow_optimizer: torch.optim.Optimizer,
        *,
        lr: float,
        momentum: float,
        decay: float,
        backend: str = "auto",
        model: torch.nn.Module | None = None,
    ) -> None:
        check_slow_optimizer(slow_optimizer)
        if model is not None and not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module or None, got {type(model).__name__}")
        options = {"fast_lr": lr, "fast_momentum": momentum, "fast_decay": decay}
        for name, value in options.items():
            check_option(name, value, shown_as=name.removeprefix("fast_"))
        if backend not in _BACKENDS:
            raise ValueError(
                f"backend must be one of {', '.join(map(repr, _BACKENDS))}, got {backend!r}"
            )
        if backend == "native":
            reason = unsupported_reason(slow_optimizer, [])
            if reason is not None:
                raise ValueError(
                    f"backend='native' cannot run this slow_optimizer: {reason}; "
                    "backend='foreach' can"
                )
        for index, group in enumerate(slow_optimizer.param_groups):
            check_group({**options, **group}, index)
            check_parameters(group, index)
        self.slow_optimizer = slow_optimizer
        self.backend = backend
        self.model = model
        self._start()
        super().__init__(slow_optimizer.param_groups, {**slow_optimizer.defaults, **options})

    def _start(self) -> None:
        super()._start()
        self._rehearsing = False
        self._fast: FastGroups | None = None

    # -- parameter groups: those of the slow optimizer, with three options more ----------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of the slow optimizer, the very same list."""
        return self.slow_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if groups:  # The base class starts from an empty list and adds what is there already.
            self.slow_optimizer.param_groups = groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, with options for the slow optimizer and ``fast_…`` options.

        Args:
            param_group: as for any optimizer; what it does not set is as in the other groups.

        Raises:
            TypeError: the group is not a dict, or an option is of the wrong type.
            ValueError: an option is out of its range, or a parameter is already in a group.

        Example:
            >>> import torch
            >>> from fastweights.optim import SlowFast
            >>> a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
            >>> optimizer = SlowFast(torch.optim.SGD([a]), lr=0.1, momentum=0.5, decay=0.01)
            >>> optimizer.add_param_group({"params": [b], "fast_lr": 0.2})
            >>> [group["fast_lr"] for group in optimizer.param_groups]
            [0.1, 0.2]
        """
        if not any(param_group is group for group in self.param_groups):
            if isinstance(param_group, dict):
                check_group({**self.defaults, **param_group}, len(self.param_groups))
            self.slow_optimizer.add_param_group(param_group)
            try:
                check_parameters(param_group, len(self.param_groups) - 1)
            except ValueError:
                self.param_groups.pop()
                raise
        self._complete_groups()

    @property
    def fast(self) -> torch.optim.Optimizer:
        """What to give a scheduler that is to move the fast learning rate.

        Always the same object. It equals this optimizer, so that trainers that look for a
        scheduler's optimizer among their own, as PyTorch Lightning does, accept the scheduler.

        Example:
            >>> import torch
            >>> from fastweights.optim import SlowFast
            >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
            >>> optimizer = SlowFast(sgd, lr=0.1, momentum=0.5, decay=0.01)
            >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer.fast, 1, gamma=0.5)
            >>> optimizer.step(); scheduler.step()
            >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["fast_lr"]
            (1.0, 0.05)
        """
        if self._fast is None:
            self._fast = FastGroups(self)
        return self._fast

    # -- learning --------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move slow and fast weights once.

        Args:
            closure: computes the loss and its gradients, at w = s + f; called once, before the
                step.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: inside `slow_only`, ``torch.jit.trace`` or a transform of ``torch.func``;
                a parameter or a gradient is sparse, or, where ``torch.compile`` compiles the step,
                negated or conjugated only when it is read; or an overlay was removed from ``state``
                or does not go with its parameter. Nothing is changed.
            ValueError: the backend cannot run this step; nothing is changed.
        """
        self._refuse_in_slow_only("step")
        check_transforms()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._complete_groups()
        compiled = torch.compiler.is_compiling()
        buckets = build_buckets(self.param_groups, self.state, self._watch, compiled=compiled)
        backend = self._choose(buckets)
        ops = reference if backend == "reference" else foreach
        try:
            if backend == "native":
                fused_step(ops, buckets, self.slow_optimizer)
            else:
                separate_step(ops, buckets, None if self._rehearsing else self.slow_optimizer)
        finally:
            for bucket in buckets:
                self._watch.wrote(bucket.weights)
        if not self._rehearsing:
            self._slow_buffers = None
        if self._fast is not None:
            self._fast.step()
        return loss

    def _choose(self, buckets: list[Bucket]) -> str:
        reasons: dict[str, Callable[[], str | None]] = {
            "native": lambda: unsupported_reason(self.slow_optimizer, buckets),
            "foreach": lambda: foreach.unsupported_reason(
                *(
                    column
                    for b in buckets
                    for column in (b.weights, b.gradients, b.slow, b.fast, b.updates)
                )
            ),
            "reference": lambda: None,
        }
        requested, operation = self.backend, "step of slow and fast weights"
        if self._rehearsing:
            del reasons["native"]  # it would move the slow weights
            operation = "rehearsal of fast weights"
        if requested == "native" and (self._rehearsing or torch.compiler.is_compiling()):
            requested = "auto"
        return choose_backend(requested, reasons, operation=operation)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Inside, steps move the fast weights alone.

        The slow weights and everything the slow optimizer remembers (momentum, moments, its count
        of steps) stay as they are; learning goes on from there afterwards. So do, for `clear` and
        `slow_only`, the buffers of the ``model`` that the optimizer was given.

        Example:
            >>> import torch
            >>> from fastweights.optim import SlowFast
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> optimizer = SlowFast(torch.optim.SGD([p]), lr=0.5, momentum=0.0, decay=0.0)
            >>> with optimizer.rehearsal():
            ...     p.sum().backward(); optimizer.step()
            >>> optimizer.slow_weights(p), optimizer.fast_weights(p)
            (tensor([1.]), tensor([-0.5000]))
        """
        if self.model is not None and self._slow_buffers is None:
            self._slow_buffers = copy_buffers(self.model)
        before, self._rehearsing = self._rehearsing, True
        try:
            yield
        finally:
            self._rehearsing = before

    # -- saving and copying ----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the slow optimizer saves, and ``slow_weight``, ``fast_weight``, ``fast_update``.

        With the model's own state (which holds w) it resumes exactly. The slow optimizer's class
        can load it too. After a rehearsal, ``slow_buffers`` are there as well, if the optimizer
        was given the ``model``.

        Raises:
            RuntimeError: inside `slow_only`, where the model's own state would not belong to it;
                or fast weights were removed from ``state``.
        """
        self._refuse_in_slow_only("state_dict")
        list(self._overlays())  # what is saved goes with what the parameters hold
        saved = save_with(self.slow_optimizer, self)
        if self._slow_buffers is not None:
            saved["slow_buffers"] = dict(self._slow_buffers)
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; call the model's own ``load_state_dict`` as well.

        The state of a slow optimizer alone loads too: as one without fast weights. Parameters that
        nobody wrote to since the last step lose their fast weights then, and hold the slow ones.
        Where a loaded overlay does not go with what a parameter holds, the parameter decides: its
        slow weight becomes what it holds less the loaded fast weight, and a warning is logged.

        Raises:
            ValueError: the parameter groups do not match, a slow or fast weight is not of its
                parameter's shape, or there are ``slow_buffers`` and this optimizer has no model;
                nothing is changed.
            RuntimeError: inside `slow_only`.
        """
        self._refuse_in_slow_only("load_state_dict")
        slow_buffers = state_dict.get("slow_buffers")
        if slow_buffers is not None and self.model is None:
            raise ValueError(
                "state_dict has slow_buffers, of an optimizer that was given its model: give this "
                "one its model too, SlowFast(..., model=model)"
            )
        watch, parameters = self._watch, [p for g in self.param_groups for p in g["params"]]
        held = [(p, watch.overlay(p)) for p in parameters if watch.unchanged(p)]
        load_with(self.slow_optimizer, self, state_dict)
        with torch.no_grad():
            for p, overlay in held:
                if overlay is not None and not has_overlay(self.state.get(p)):
                    p.copy_(overlay["slow_weight"])
        self._slow_buffers = None if slow_buffers is None else _clones(slow_buffers)

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_in_slow_only("copy")
        list(self._overlays())  # what is copied goes with what the parameters hold
        return {
            "defaults": self.defaults,
            "state": self.state,
            "slow_optimizer": self.slow_optimizer,
            "backend": self.backend,
            "model": self.model,
            "_slow_buffers": self._slow_buffers,
            "_fast": self._fast,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Called for copies, and by load_state_dict with groups the slow optimizer has loaded.
        if "slow_optimizer" in state:
            self._start()
        self._watch = Watch()
        super().__setstate__({k: v for k, v in state.items() if k != "param_groups"})
        self._complete_groups()
        for parameter, overlay in self.state.items():
            if has_overlay(overlay):
                self._watch.loaded(parameter, overlay)


def _clones(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}

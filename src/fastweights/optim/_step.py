"""One step over all parameters: what is gathered, and the two ways to run it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from fastweights.ops.slow_fast import cpu
from fastweights.optim._groups import check_group, describe
from fastweights.optim._overlay import Watch, check_overlay, has_overlay, new_overlay
from fastweights.optim._uses import OverlayUses

__all__ = [
    "Bucket",
    "build_buckets",
    "check_slow_optimizer",
    "check_transforms",
    "fused_step",
    "separate_step",
    "unsupported_reason",
]


def check_slow_optimizer(slow_optimizer: Any) -> None:
    """Raise unless this optimizer can move the slow weights."""
    if isinstance(slow_optimizer, OverlayUses) or not isinstance(
        slow_optimizer, torch.optim.Optimizer
    ):
        raise TypeError(
            "slow_optimizer must be a torch.optim.Optimizer that is not itself a SlowFast, got "
            f"{type(slow_optimizer).__name__}"
        )
    closure = inspect.signature(type(slow_optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"slow_optimizer={type(slow_optimizer).__name__} evaluates the loss several times in "
            "a step; SlowFast needs one that steps from a single gradient, such as SGD or AdamW"
        )


def check_transforms() -> None:
    """Raise inside of what cannot follow the writing to parameters, as with torch's optimizers."""
    if torch.compiler.is_compiling():
        return
    inside = None
    if torch._C._are_functorch_transforms_active():
        inside = "a transform of torch.func (vmap, grad, jvp)"
    elif torch._C._is_tracing():
        inside = "torch.jit.trace"
    if inside is not None:
        raise RuntimeError(
            f"SlowFast cannot step inside {inside}, whatever the backend: compute gradients "
            "inside, and step outside"
        )


@dataclass(slots=True)
class Bucket:
    """Parameters of one group, device and dtype, all with a gradient or all without.

    Without a gradient (``learns`` false) nothing is learned and the fast weights only decay.
    """

    group: dict[str, Any]
    learns: bool
    weights: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    slow: list[Tensor] = field(default_factory=list)
    fast: list[Tensor] = field(default_factory=list)
    updates: list[Tensor] = field(default_factory=list)
    remembered: list[dict[str, Any]] = field(default_factory=list)  #: by the slow optimizer

    @property
    def keep(self) -> float:
        return 1.0 - float(self.group["fast_decay"])

    @property
    def maximize(self) -> bool:
        return bool(self.group.get("maximize", False))


# torch.compile would stop at every question about a tensor, and compile anew for each shape.
@_disable_dynamo  # as torch's own optimizers have it: torch.compiler.disable is slow to import
def build_buckets(
    groups: list[dict[str, Any]],
    states: dict[Tensor, dict[str, Tensor]],
    watch: Watch,
    *,
    compiled: bool = False,
) -> list[Bucket]:
    """Sort the parameters that this step moves into buckets.

    A parameter with its first gradient gets its fast weights; one that others have changed gets
    the slow weights that go with it.

    Args:
        groups: the parameter groups.
        states: the overlays, by parameter.
        watch: knows what others have changed.
        compiled: torch.compile makes the code that works on the buckets.

    Raises:
        RuntimeError: a parameter or its gradient is sparse or belongs to a transform of
            torch.func; compiled code may misread one; or a parameter's overlay was removed or is
            not one of its shape. Nothing has been changed then.
    """
    moved: list[tuple[int, Tensor, Tensor | None, dict[str, Tensor] | None, str]] = []
    for index, group in enumerate(groups):
        check_group(group, index)
        for position, parameter in enumerate(group["params"]):
            gradient = parameter.grad
            state = states.get(parameter)
            if (
                not compiled
                and state is not None
                and (gradient is None or _is_usual(gradient))
                and watch.is_as_left(parameter, state)
            ):
                moved.append((index, parameter, gradient, state, ""))
                continue
            name = describe(group, index, position)
            if not has_overlay(state):
                watch.check_kept(parameter, name)
                if gradient is None:
                    continue
            _check_tensors(parameter, gradient, name)
            if state and has_overlay(state):
                check_overlay(parameter, state, name, RuntimeError)
            if compiled:
                _check_compiled(parameter, gradient, state or {}, name)
            moved.append((index, parameter, gradient, None, name))
    buckets: dict[Any, Bucket] = {}
    for index, parameter, gradient, state, name in moved:
        if state is None:
            state = states.get(parameter)
            if state is None or not has_overlay(state):
                states[parameter] = state = {**(state or {}), **new_overlay(parameter)}
            watch.follow(parameter, state, name)
        key = (index, parameter.device, parameter.dtype, gradient is None)
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = Bucket(groups[index], gradient is not None)
        bucket.weights.append(parameter)
        if gradient is not None:
            bucket.gradients.append(gradient)
        bucket.slow.append(state["slow_weight"])
        bucket.fast.append(state["fast_weight"])
        bucket.updates.append(state["fast_update"])
    return list(buckets.values())


def _check_tensors(parameter: Tensor, gradient: Tensor | None, name: str) -> None:
    for tensor in (parameter, gradient):
        if tensor is None:
            continue
        if tensor.layout is not torch.strided:
            what = "gradients" if tensor is gradient else "parameters"
            raise RuntimeError(
                f"SlowFast does not support sparse {what}: {name} (shape "
                f"{tuple(parameter.shape)}) has one of layout {tensor.layout}; use sparse=False in "
                "nn.Embedding, or train it with an optimizer of its own"
            )
        if _is_wrapped(tensor):
            raise RuntimeError(
                f"SlowFast cannot step with a tensor of a transform of torch.func: {name} or its "
                "gradient is one. Let the transform return gradients, and set them outside"
            )


def _is_usual(gradient: Tensor) -> bool:
    return gradient.layout is torch.strided and not _is_wrapped(gradient)


_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def _check_compiled(
    parameter: Tensor, gradient: Tensor | None, state: dict[str, Tensor], name: str
) -> None:
    """Raise where inductor's code would read the bits of a tensor as if they were its values."""
    for tensor in (parameter, gradient, *state.values()):
        if isinstance(tensor, Tensor) and (tensor.is_neg() or tensor.is_conj()):
            raise RuntimeError(
                f"SlowFast cannot step inside torch.compile with {name}: it, its gradient or its "
                "state is negated or conjugated only when it is read, which compiled code may "
                "overlook. Use .resolve_neg() and .resolve_conj(), or do not compile the step"
            )


def separate_step(
    ops: ModuleType, buckets: list[Bucket], slow_optimizer: torch.optim.Optimizer | None
) -> None:
    """The step for any slow optimizer: it runs while the parameters hold their slow weights.

    If it raises, slow and fast weights are as before (the fast updates Δf are not).

    Args:
        ops: `reference` or `foreach`.
        buckets: what `build_buckets` returned.
        slow_optimizer: None leaves the slow weights where they are.
    """
    for bucket in buckets:
        if bucket.learns:
            # Before the slow step: SGD with Nesterov momentum, foreach, overwrites gradients.
            ops.learn(
                bucket.updates,
                bucket.gradients,
                lr=float(bucket.group["fast_lr"]),
                momentum=float(bucket.group["fast_momentum"]),
                maximize=bucket.maximize,
            )
    for bucket in buckets:
        ops.copy(bucket.weights, bucket.slow)
    if slow_optimizer is not None:
        try:
            slow_optimizer.step()
        except BaseException:
            for bucket in buckets:
                ops.copy(bucket.weights, bucket.slow)
                ops.apply_overlay(bucket.weights, bucket.fast, None, keep=1.0)
            raise
    for bucket in buckets:
        if slow_optimizer is not None:
            ops.copy(bucket.slow, bucket.weights)
        ops.apply_overlay(
            bucket.weights,
            bucket.fast,
            bucket.updates if bucket.learns else None,
            keep=bucket.keep,
        )


# What the kernels know: the optimizers, and the tensors that they remember for each parameter.
_ADAM = ("exp_avg", "exp_avg_sq")
_REMEMBERED: dict[type, tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
}


def unsupported_reason(slow_optimizer: torch.optim.Optimizer, buckets: list[Bucket]) -> str | None:
    """The reason why `fused_step` cannot replace this step, or None if it can."""
    if torch.compiler.is_compiling():
        return "torch.compile cannot look into another compiler's kernel"
    kind = type(slow_optimizer)
    if kind not in _REMEMBERED:
        return f"the slow optimizer is {kind.__name__}, not SGD, Adam or AdamW of torch.optim"
    if "step" in vars(slow_optimizer):
        return "the step of the slow optimizer is wrapped, as by a scheduler of its own"
    # The only way to learn of hooks, which have to run.
    if slow_optimizer._optimizer_step_pre_hooks or slow_optimizer._optimizer_step_post_hooks:
        return "the slow optimizer has step hooks"
    for bucket in buckets:
        group = bucket.group
        if kind is torch.optim.SGD and not group["momentum"]:
            return "SGD runs without momentum"
        for name in ("amsgrad", "capturable", "differentiable"):
            if kind is not torch.optim.SGD and group[name]:
                return f"{kind.__name__} runs with {name}"
        options = (group["lr"], group["weight_decay"], group.get("momentum"))
        if any(isinstance(option, Tensor) for option in (*options, *group.get("betas", ()))):
            return f"an option of {kind.__name__} is a tensor"
        columns = {"slow": bucket.slow, "fast": bucket.fast, "update": bucket.updates}
        if bucket.learns:
            columns["gradient"] = bucket.gradients
            known = slow_optimizer.state
            bucket.remembered = states = [known.get(weight, {}) for weight in bucket.weights]
            for name in _REMEMBERED[kind]:
                columns[name] = [state.get(name) for state in states]
            if kind is not torch.optim.SGD and not all(map(_is_complete, states)):
                return f"{kind.__name__} has a state that is not its own"
        reason = cpu.unsupported_reason(bucket.weights, **columns)
        if reason is not None:
            return reason
    return None if buckets else cpu.unsupported_reason([])


def _is_complete(state: dict[str, Any]) -> bool:
    """Whether Adam knows what it needs of a parameter, or nothing yet."""
    if not state:
        return True
    step, *moments = (state.get(name) for name in ("step", *_ADAM))
    counts = isinstance(step, Tensor) and step.numel() == 1 and step.is_floating_point()
    return counts and all(isinstance(moment, Tensor) for moment in moments)


def fused_step(
    ops: ModuleType, buckets: list[Bucket], slow_optimizer: torch.optim.Optimizer
) -> None:
    """The step in one pass; what the slow optimizer remembers is kept where it keeps it.

    Args:
        ops: moves the fast weights that only decay.
        buckets: what `build_buckets` returned, seen by `unsupported_reason`.
        slow_optimizer: its `step` is not called.
    """
    for bucket in buckets:
        if not bucket.learns:
            ops.copy(bucket.weights, bucket.slow)
            ops.apply_overlay(bucket.weights, bucket.fast, None, keep=bucket.keep)
            continue
        group = bucket.group
        options = {
            "slow_lr": float(group["lr"]),
            "weight_decay": float(group["weight_decay"]),
            "fast_lr": float(group["fast_lr"]),
            "fast_momentum": float(group["fast_momentum"]),
            "keep": bucket.keep,
            "maximize": bucket.maximize,
        }
        states = bucket.remembered
        if not all(states):  # one remembers nothing yet, and has no place for it
            states = [slow_optimizer.state[weight] for weight in bucket.weights]
        if type(slow_optimizer) is torch.optim.SGD:
            _fused_sgd(bucket, states, options)
        else:
            decoupled = type(slow_optimizer) is torch.optim.AdamW
            _fused_adam(bucket, states, options, decoupled=decoupled)


def _fused_sgd(bucket: Bucket, states: list[dict[str, Any]], options: dict[str, Any]) -> None:
    columns = (bucket.weights, bucket.gradients, bucket.slow, bucket.fast, bucket.updates)
    new = [state.get("momentum_buffer") is None for state in states]
    for weight, state, first in zip(bucket.weights, states, new, strict=True):
        if first:  # as SGD makes it, with the gradient itself for v
            state["momentum_buffer"] = torch.zeros_like(weight)
    buffers = [state["momentum_buffer"] for state in states]
    for first in (True, False):
        if first not in new:
            continue
        weights, gradients, slow, fast, updates, momenta = (
            [x for x, is_new in zip(column, new, strict=True) if is_new is first]
            for column in (*columns, buffers)
        )
        cpu.sgd_step(
            weights,
            gradients,
            momenta,
            slow,
            fast,
            updates,
            slow_momentum=float(bucket.group["momentum"]),
            dampening=float(bucket.group["dampening"]),
            nesterov=bucket.group["nesterov"],
            first=first,
            **options,
        )


def _fused_adam(
    bucket: Bucket, states: list[dict[str, Any]], options: dict[str, Any], *, decoupled: bool
) -> None:
    double = torch.get_default_dtype() == torch.float64
    for weight, state in zip(bucket.weights, states, strict=True):
        if not state:  # as Adam makes it
            state["step"] = torch.zeros((), dtype=torch.float64 if double else torch.float32)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
    torch._foreach_add_([state["step"] for state in states], 1.0)
    cpu.adam_step(
        bucket.weights,
        bucket.gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        bucket.slow,
        bucket.fast,
        bucket.updates,
        steps=[float(state["step"]) for state in states],
        betas=bucket.group["betas"],
        eps=float(bucket.group["eps"]),
        decoupled=bucket.group.get("decoupled_weight_decay", decoupled),
        **options,
    )

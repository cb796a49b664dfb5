"""Slow and fast weights with one call per operation for all parameters, and no new tensor.

Same functions as the reference, same results up to rounding. On accelerators `torch._foreach_*`
runs many tensors in one launch; elsewhere it loops in C++.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["apply_overlay", "copy", "learn", "unsupported_reason"]

_PLAIN = frozenset((Tensor, torch.nn.Parameter))


def unsupported_reason(*columns: Iterable[Tensor]) -> str | None:
    """The reason why these functions cannot work on such tensors, or None if they can.

    Example:
        >>> unsupported_reason([torch.zeros(3)])
        >>> unsupported_reason([torch.zeros(3).as_subclass(type("Odd", (Tensor,), {}))])
        'a tensor is a Odd, which may lack operations on lists'
    """
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation has no derivative of all operations on lists"
    for column in columns:
        for tensor in column:
            if type(tensor) not in _PLAIN:
                return f"a tensor is a {type(tensor).__name__}, which may lack operations on lists"
            # torch.compile would stop here at every tensor; SlowFast has asked before.
            if not torch.compiler.is_compiling() and (tensor.is_neg() or tensor.is_conj()):
                return "a tensor is negated or conjugated only when it is read"
    return None


def copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """w ← s before the slow optimizer steps on the parameters, s ← w after.

    Example:
        >>> w, s = torch.tensor([3.0]), torch.tensor([2.0])
        >>> copy([w], [s]); w
        tensor([2.])
    """
    torch._foreach_copy_(targets, sources)


def learn(
    updates: list[Tensor],
    gradients: list[Tensor],
    *,
    lr: float,
    momentum: float,
    maximize: bool = False,
) -> None:
    """The fast update: Δf ← α_f Δf − ε_f g, in place (+ ε_f g to maximize).

    Example:
        >>> update = torch.tensor([1.0])
        >>> learn([update], [torch.tensor([2.0])], lr=0.1, momentum=0.5); update
        tensor([0.3000])
    """
    torch._foreach_mul_(updates, momentum)
    torch._foreach_add_(updates, gradients, alpha=lr if maximize else -lr)


def apply_overlay(
    weights: list[Tensor],
    fast: list[Tensor],
    updates: list[Tensor] | None,
    *,
    keep: float,
) -> None:
    """f ← keep · (f + Δf), then every weight goes from s to w = s + f, in place.

    Example:
        >>> w, f, update = (torch.tensor([x]) for x in (2.0, 1.0, 3.0))
        >>> apply_overlay([w], [f], [update], keep=0.5); w, f
        (tensor([4.]), tensor([2.]))
    """
    if updates is not None:
        torch._foreach_add_(fast, updates)
    torch._foreach_mul_(fast, keep)
    torch._foreach_add_(weights, fast)

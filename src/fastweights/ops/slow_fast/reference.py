"""Slow and fast weights (Hinton & Plaut 1987), one parameter after another: the specification.

    Δs ← α_s Δs − ε_s g        s ← s + Δs
    Δf ← α_f Δf − ε_f g        f ← (1 − h)(f + Δf)        w = s + f,   g = ∂E/∂w

A parameter tensor holds the effective weight w; s, f and Δf are tensors beside it. s is stored, not
taken as w − f: while it is frozen it must not wander by a rounding error per step, and it has to
survive an f that overflows. Every function works in place and allocates whatever it likes; the
other backends may not.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["adam_step", "apply_overlay", "copy", "learn", "sgd_step"]


def copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """w ← s before the slow optimizer steps on the parameters, s ← w after.

    Example:
        >>> import torch
        >>> w, s = torch.tensor([3.0]), torch.tensor([2.0])
        >>> copy([w], [s]); w
        tensor([2.])
    """
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


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
        >>> import torch
        >>> update = torch.tensor([1.0])
        >>> learn([update], [torch.tensor([2.0])], lr=0.1, momentum=0.5); update
        tensor([0.3000])
    """
    sign = 1.0 if maximize else -1.0
    for Δf, g in zip(updates, gradients, strict=True):
        Δf.copy_(momentum * Δf + sign * lr * g)


def apply_overlay(
    weights: list[Tensor],
    fast: list[Tensor],
    updates: list[Tensor] | None,
    *,
    keep: float,
) -> None:
    """Move the fast weights, f ← keep · (f + Δf), and lay them over the slow ones, w ← s + f.

    Args:
        weights: hold the slow weights s on entry, the effective weights w after.
        fast: the fast weights f.
        updates: Δf, or None where nothing was learned and f only decays.
        keep: what one step leaves of a fast weight, 1 − h.

    Example:
        >>> import torch
        >>> w, f, update = (torch.tensor([x]) for x in (2.0, 1.0, 3.0))
        >>> apply_overlay([w], [f], [update], keep=0.5); w, f
        (tensor([4.]), tensor([2.]))
    """
    for i, (w, f) in enumerate(zip(weights, fast, strict=True)):
        learned = f if updates is None else f + updates[i]
        f.copy_(keep * learned)
        w.copy_(w + f)


def sgd_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    slow: list[Tensor],
    fast: list[Tensor],
    updates: list[Tensor],
    *,
    slow_lr: float,
    slow_momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
    fast_lr: float,
    fast_momentum: float,
    keep: float,
    maximize: bool = False,
) -> None:
    """Both halves of the update, the slow one as `torch.optim.SGD` with momentum does it.

    SGD keeps v = −Δs / ε_s in ``buffers``: v ← α_s v + (1 − dampening) g, s ← s − ε_s v, which is
    the equation above while ε_s is constant. Its weight decay pulls on s, never on f.

    Args:
        weights: effective weights w, written in place, as are all lists but the next.
        gradients: g, one per weight; not changed.
        buffers: SGD's momentum buffers; their content is ignored if ``first``.
        slow: s.
        fast: f.
        updates: Δf.
        slow_lr, slow_momentum, dampening, weight_decay, nesterov: as in `torch.optim.SGD`.
        first: these parameters have not been moved before (SGD then sets v to g).
        fast_lr, fast_momentum: ε_f, α_f.
        keep: 1 − h.
        maximize: climb instead of descend, with both.

    Example:
        >>> import torch
        >>> w, g, v, s, f, update = (torch.tensor([x]) for x in (3.0, 1.0, 0.0, 2.0, 1.0, 0.0))
        >>> sgd_step([w], [g], [v], [s], [f], [update], slow_lr=1.0, slow_momentum=0.9,
        ...          dampening=0.0, weight_decay=0.0, nesterov=False, first=True, fast_lr=0.5,
        ...          fast_momentum=0.5, keep=0.5)
        >>> w, s, f  # s: 2 - 1, f: (1 - 0.5) / 2
        (tensor([1.2500]), tensor([1.]), tensor([0.2500]))
    """
    learn(updates, gradients, lr=fast_lr, momentum=fast_momentum, maximize=maximize)
    for s, g, v in zip(slow, gradients, buffers, strict=True):
        g = -g if maximize else g
        if weight_decay:
            g = g + weight_decay * s
        v.copy_(g if first else slow_momentum * v + (1 - dampening) * g)
        s.copy_(s - slow_lr * (g + slow_momentum * v if nesterov else v))
    copy(weights, slow)
    apply_overlay(weights, fast, updates, keep=keep)


def adam_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    moments: list[Tensor],
    squares: list[Tensor],
    slow: list[Tensor],
    fast: list[Tensor],
    updates: list[Tensor],
    *,
    steps: Sequence[float],
    slow_lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    fast_lr: float,
    fast_momentum: float,
    keep: float,
    maximize: bool = False,
) -> None:
    """Both halves of the update, the slow one as `torch.optim.Adam` or `torch.optim.AdamW` does it.

    Args:
        weights: effective weights w, written in place, as are all lists but the next.
        gradients: g, one per weight; not changed.
        moments, squares: the running means of g and of g² (``exp_avg``, ``exp_avg_sq``).
        slow: s.
        fast: f.
        updates: Δf.
        steps: how many steps each parameter has moved, this one included.
        slow_lr, betas, eps, weight_decay: as in `torch.optim.Adam`.
        decoupled: the weight decay pulls on s itself, as in AdamW, not on its gradient.
        fast_lr, fast_momentum: ε_f, α_f.
        keep: 1 − h.
        maximize: climb instead of descend, with both.

    Example:
        >>> import torch
        >>> start = (3.0, 2.0, 0.0, 0.0, 2.0, 1.0, 0.0)
        >>> w, g, m, q, s, f, update = (torch.tensor([x]) for x in start)
        >>> adam_step([w], [g], [m], [q], [s], [f], [update], steps=[1], slow_lr=0.5,
        ...           betas=(0.5, 0.5), eps=0.0, weight_decay=0.0, decoupled=True, fast_lr=0.5,
        ...           fast_momentum=0.5, keep=0.5)
        >>> w, s, f  # s: 2 - 0.5 · sign(g), f: (1 - 0.5 · 2) / 2
        (tensor([1.5000]), tensor([1.5000]), tensor([0.]))
    """
    learn(updates, gradients, lr=fast_lr, momentum=fast_momentum, maximize=maximize)
    first, second = betas
    for s, g, m, q, n in zip(slow, gradients, moments, squares, steps, strict=True):
        g = -g if maximize else g
        if decoupled:
            s.copy_(s * (1 - slow_lr * weight_decay))
        elif weight_decay:
            g = g + weight_decay * s
        m.copy_(first * m + (1 - first) * g)
        q.copy_(second * q + (1 - second) * g * g)
        mean, spread = m / (1 - first**n), (q / (1 - second**n)).sqrt()
        s.copy_(s - slow_lr * mean / (spread + eps))
    copy(weights, slow)
    apply_overlay(weights, fast, updates, keep=keep)

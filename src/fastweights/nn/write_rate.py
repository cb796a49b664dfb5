r"""How strongly to write without layer norm, so that h does not grow for ever.

Without layer norm what is read makes h longer, a longer h is written, and the next read makes it
longer still. Let no f(C x + b) be longer than √E, with f the rectifier, and leave W aside. If no h
so far is longer than g √E, a memory of T of them makes nothing that it reads for more than
u = g² a times as long,

.. math:: a = η E \sum_{k<T} r(k), \qquad |h| \le (1 + u + \ldots + u^S) \sqrt E,

with S reads in a step. So h stays within g √E if there is a g = 1 + u + … + u^S, and there is one
up to a = max u / (1 + … + u^S)²: 1/4 for one read, 4/27 for many, and for one too if it starts from
the previous h. If every step has the same input nothing is lost on the way: h overflows right
beyond that. The rule is a = 1/8, below all of them, with E = H, which is what inputs of unit length
give as layers start (half of it is cut off on average).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastweights.arguments import check_integer
from fastweights.decay import Decay, has_values, made_anew
from fastweights.ops.fast_weights import InputProjection, LayerState, Options
from fastweights.ops.fast_weights.options import project

__all__ = ["choose_write_rate", "feeds_back", "overflow_of", "stable_write_rate"]

_RATE = 0.5  # of Ba et al. (2016), who normalise


def stable_write_rate(decay: Decay, hidden_size: int, length: int = 1000) -> float:
    """η with which a layer of rectifiers stays finite without layer norm.

    .. math:: η = \\frac{1}{8 H \\sum_{k<T} |r(k)|}

    For inputs of about unit length and a layer as it starts; for others divide by the square of
    their length. It holds for every sequence. Where inputs differ from step to step up to six times
    as much stays finite, and in sequences shorter than the memory's span more.

    Args:
        decay: how memories fade; a learned one, as it starts.
        hidden_size: H.
        length: T, steps of a sequence, where the decay does not end the sum before.

    Raises:
        ValueError, TypeError: ``hidden_size`` or ``length`` is not a positive integer.

    Example:
        >>> from fastweights.decay import Exponential, PowerLaw
        >>> round(stable_write_rate(Exponential(0.95), 50), 6)
        0.000125
        >>> round(stable_write_rate(PowerLaw(0.5), 50, length=55), 6)
        0.000186
    """
    hidden_size = check_integer("hidden_size", hidden_size)
    length = check_integer("length", length)
    own = made_anew(decay, torch.device("cpu"))  # the decay itself may be on the meta device
    return _stable(own, hidden_size, length)


def _stable(decay: Decay, energy: float, length: int) -> float:
    with torch.no_grad():
        read = torch.tensor(length, device="cpu")
        written = torch.arange(1, length + 1, device="cpu")
        total = decay.between(written, read).abs().sum().item()
    return 1 / (8 * energy * max(total, 1.0))


def feeds_back(options: Options) -> bool:
    """Whether h can grow by what it has written: nothing bounds it."""
    return (
        not options.layer_norm
        and options.nonlinearity == "relu"
        and options.memory == "hebbian"
        and options.inner_steps > 0
    )


def choose_write_rate(options: Options, decay: Decay, hidden_size: int) -> float:
    """What write_rate="auto" stands for."""
    return stable_write_rate(decay, hidden_size) if feeds_back(options) else _RATE


def overflow_of(
    drive: Tensor | InputProjection, decay: Decay, write_rate: Tensor | float, after: LayerState
) -> str | None:
    """What to say if h has overflowed because η is too large, else None.

    Looks on the CPU only, where that does not wait for anything.
    """
    hidden = after.hidden
    if hidden.device.type != "cpu" or not has_values(hidden) or bool(hidden.isfinite().all()):
        return None
    with torch.no_grad():
        base = project(drive).relu().flatten(0, 1).double()
        if not base.isfinite().all():
            return None  # it came so
        energy = base.square().sum(-1).max().item()
        steps, given = int(after.steps.max()), float(write_rate)
        stable = _stable(decay, energy, steps) if energy > 0 else math.inf
    if given <= stable:
        return None  # of another cause, such as W
    return (
        f"h overflowed: without layer norm what is read makes h longer, and what is written next "
        f"longer still. write_rate={given:.3g} is too much for these inputs over {steps} steps; "
        f"write_rate={stable:.2g} is not. Inputs of unit length take more"
    )

"""How an overlay fades: by half in so many updates, or in so much clock time."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__ = ["Fading", "clock", "parse_half_life", "strength_now"]

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_CLOCK = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*")
_EXPECTED = 'a number of updates above 0, or a clock time such as "90s", "30min", "6h" or "2d"'


@dataclasses.dataclass(frozen=True)
class Fading:
    """A half-life in updates, or in seconds of clock time.

    Attributes:
        half_life: as it was given.
        amount: updates or seconds.
        by_clock: which of the two.
    """

    half_life: float | str
    amount: float
    by_clock: bool

    def keep(self, amount: float) -> float:
        """The part that is left after so many updates, or seconds.

        Example:
            >>> parse_half_life("6h").keep(12 * 3600), parse_half_life(200).keep(100) ** 2
            (0.25, 0.5000000000000001)
        """
        return 2.0 ** (-amount / self.amount)

    def __str__(self) -> str:
        return str(self.half_life) if self.by_clock else f"{self.half_life:g} updates"


def parse_half_life(value: Any) -> Fading:
    """A half-life as a user writes it.

    Raises:
        TypeError: it is neither a number nor text.
        ValueError: it is not above 0, or no clock time.

    Example:
        >>> parse_half_life("90min").amount, parse_half_life(200).by_clock
        (5400.0, False)
    """
    if isinstance(value, str):
        found = _CLOCK.fullmatch(value)
        amount = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if found is None or not 0 < amount < math.inf:
            raise ValueError(f"half_life must be {_EXPECTED}, got {value[:40]!r}")
        return Fading(value.strip(), amount, by_clock=True)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"half_life must be {_EXPECTED}, got {value!r} ({type(value).__name__})")
    if not float(value) > 0:  # NaN is not, either; infinity is an overlay that does not fade
        raise ValueError(f"half_life must be {_EXPECTED}, got {value!r}")
    return Fading(float(value), float(value), by_clock=False)


def clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.time()


@torch.library.custom_op(
    "fastweights::overlay_strength",
    mutates_args=(),
    schema="(Tensor like, float since, float half_life) -> Tensor",
)
def _strength(like: Tensor, since: float, half_life: float) -> Tensor:
    return like.new_tensor(2.0 ** (-max(0.0, clock() - since) / half_life))


@_strength.register_fake
def _(like: Tensor, since: float, half_life: float) -> Tensor:
    return like.new_empty(())


def strength_now(like: Tensor, since: float, fading: Fading) -> Tensor | float:
    """What is left now of an overlay that had its whole strength at the time ``since``.

    A compiler would make the clock's reading a constant of what it compiles, so it gets an operator
    that it cannot look into.
    """
    if torch.compiler.is_compiling():
        left: Tensor = _strength(like.detach(), since, fading.amount)
        return left
    return fading.keep(max(0.0, clock() - since))

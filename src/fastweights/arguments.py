"""Arguments as plain Python numbers, or an error that names what is wrong with them."""

from __future__ import annotations

import math
import numbers
from typing import Any

__all__ = ["as_float", "check_flag", "check_integer", "check_number", "shown"]

_LARGEST = 2**31 - 1  # what kernels count with


def check_flag(name: str, value: Any) -> bool:
    """``value`` if it is True or False, or an error that names it.

    Example:
        >>> check_flag("bias", 1)
        Traceback (most recent call last):
        ...
        TypeError: bias must be True or False, got 1
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def check_integer(name: str, value: Any, low: int = 1, high: int = _LARGEST) -> int:
    """``value``, of Python or NumPy, as an integer in low … high, or an error that names it.

    Example:
        >>> import numpy as np
        >>> check_integer("hidden_size", np.int64(50))
        50
        >>> check_integer("hidden_size", 0)
        Traceback (most recent call last):
        ...
        ValueError: hidden_size must be at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    number = int(value)
    if number < low:
        raise ValueError(f"{name} must be at least {low}, got {shown(value)}")
    if number > high:
        raise ValueError(f"{name} must be at most {high}, got {shown(value)}")
    return number


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, ends: str = "[]"
) -> float:
    """``value``, of Python or NumPy, as a finite number of an interval, or an error that names it.

    ``ends`` says of each end of the interval whether it is part of it, as mathematics does.

    Example:
        >>> check_number("dropout", 1, 0, 1)
        1.0
        >>> check_number("norm_eps", 0.0, 0, ends="()")
        Traceback (most recent call last):
        ...
        ValueError: norm_eps must be finite and above 0, got 0.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = as_float(value)
    above = low < number or (ends[0] == "[" and low == number)
    below = number < high or (ends[1] == "]" and high == number)
    if above and below and math.isfinite(number):  # NaN is neither
        return number
    if high < math.inf:
        expected = f"lie in {ends[0]}{low:g}, {high:g}{ends[1]}"
    elif low > -math.inf:
        expected = f"be finite and {'at least' if ends[0] == '[' else 'above'} {low:g}"
    else:
        expected = "be finite"
    raise ValueError(f"{name} must {expected}, got {shown(value)}")


def as_float(value: Any) -> float:
    """``value``, of Python or NumPy, as a float; an infinite one where no float can hold it.

    Example:
        >>> as_float(10**400)
        inf
    """
    try:
        return float(value)
    except OverflowError:  # an integer or a fraction
        return math.inf if value > 0 else -math.inf


def shown(value: object) -> str:
    """``value`` as an error may show it."""
    try:
        text = str(value)
    except ValueError:  # Python does not write out integers of thousands of digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"

"""Random integers that are the same on every platform and in every version of every library.

The distributions of a random number library may change between versions, and floating-point ones
between machines. The raw output of a counter-based generator cannot: it is a published function
from a key and a counter to words. Everything random in a task is made from these words by integer
arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SEED", "below", "check_integer", "stream"]

MAX_SEED = 2**64 - 1


def stream(seed: int, purpose: str, first: int = 0, second: int = 0) -> np.random.Philox:
    """A stream of 64-bit words; call ``random_raw(n)`` for the next n of them.

    Philox4x64-10 with the key (seed, purpose) and a 256-bit counter that starts at
    (0, 0, first, second), lowest word first, and is raised by one before every block of four
    words. Streams that differ in any argument have no block of the generator in common.

    Args:
        seed: 0 … 2^64 − 1.
        purpose: what the words are for, 1 to 8 ASCII characters.
        first: 0 … 2^64 − 1, for example which split.
        second: 0 … 2^64 − 1, for example which epoch.

    Raises:
        TypeError, ValueError: an argument is not an integer or out of range.

    Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).

    Example:
        >>> [int(word) % 1000 for word in stream(0, "example").random_raw(3)]
        [146, 720, 929]
    """
    for name, value in (("seed", seed), ("first", first), ("second", second)):
        check_integer(name, value, 0, MAX_SEED)
    code = purpose.encode("ascii")
    if not 1 <= len(code) <= 8:
        raise ValueError(f"purpose must have 1 to 8 ASCII characters, got {purpose!r}")
    key = np.array([seed, int.from_bytes(code, "little")], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, first, second], dtype=np.uint64))


def below(words: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
    """Integers uniform on 0 … bound − 1, one from each word, by multiplying and shifting.

    The high bits of a word, read as a fraction, are scaled by ``bound`` and rounded down: 59 of
    them up to a bound of 32, and as many as fit above. A value's probability is off from
    1 / bound by less than 2^-44, which no experiment can see.

    Args:
        words: uniform 64-bit words, any shape.
        bound: 1 … 2^20.

    Example:
        >>> below(np.array([0, 2**63, 2**64 - 1], dtype=np.uint64), 10)
        array([0, 5, 9])
    """
    check_integer("bound", bound, 1, 2**20)
    room = max(5, (bound - 1).bit_length())  # so that the product fits into 64 bits
    scaled = (words >> np.uint64(room)) * np.uint64(bound) >> np.uint64(64 - room)
    return scaled.astype(np.int64)


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an integer in [low, high], or an error that names the argument.

    Example:
        >>> check_integer("seed", -1, 0, MAX_SEED)
        Traceback (most recent call last):
        ...
        ValueError: seed must be in 0 … 18446744073709551615, got -1
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"in {low} … {high}"
        raise ValueError(f"{name} must be {wanted}, got {value}")
    return int(value)

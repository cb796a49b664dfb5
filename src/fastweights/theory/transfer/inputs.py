"""Random input vectors with independent components: 0/1 and −1/0/1."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["RandomInputs", "binary", "ternary"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class RandomInputs:
    """The distribution of a component; make one with `binary` or `ternary`.

    Attributes:
        kind: ``"binary"``, 1 with probability p and else 0; or ``"ternary"``, 1 and −1 with
            probability p each and else 0.
        p: that probability.

    Example:
        >>> RandomInputs("ternary", 0.25).sample(np.random.default_rng(0), (3, 4)).shape
        (3, 4)
    """

    kind: Literal["binary", "ternary"]
    p: float

    def __post_init__(self) -> None:
        if self.kind not in ("binary", "ternary"):
            raise ValueError(f"kind must be binary or ternary, got {self.kind!r}")
        highest = 1.0 if self.kind == "binary" else 0.5
        if not 0 < self.p <= highest:
            raise ValueError(f"p must be in (0, {highest:g}] for {self.kind} inputs, got {self.p}")

    @property
    def mean(self) -> float:
        """μ_1, of a component."""
        return self.p if self.kind == "binary" else 0.0

    @property
    def mean_square(self) -> float:
        """μ_2, of a component; also its fourth moment, for its values are 0 and ± 1."""
        return self.p if self.kind == "binary" else 2 * self.p

    @property
    def mean_share(self) -> float:
        """κ = μ_1² / μ_2, how much of a vector's length its mean makes; p or 0."""
        return self.mean**2 / self.mean_square

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Independent components, of the given shape."""
        uniform = rng.random(shape, dtype=np.float32)
        ones = (uniform < self.p).astype(np.float64)
        if self.kind == "ternary":
            ones -= uniform >= 1 - self.p
        return ones

    def sample_nonzero(self, rng: np.random.Generator, count: int, n: int) -> Array:
        """Vectors (count, n), those without any component drawn again."""
        vectors = self.sample(rng, (count, n))
        while len(empty := np.flatnonzero(~vectors.any(axis=1))):
            vectors[empty] = self.sample(rng, (len(empty), n))
        return vectors


def binary(p: float = 0.5) -> RandomInputs:
    """Components 1 with probability p, else 0.

    Raises:
        ValueError: p is outside (0, 1].

    Example:
        >>> binary().mean_share
        0.5
    """
    return RandomInputs("binary", p)


def ternary(p: float = 1 / 3) -> RandomInputs:
    """Components 1 and −1 with probability p each, else 0.

    Raises:
        ValueError: p is outside (0, ½].

    Example:
        >>> ternary(0.25).mean_square
        0.5
    """
    return RandomInputs("ternary", p)

"""The fast-weights RNN as nested loops over samples and steps, in NumPy.

Written from the equations (Ba et al., 2016) with nothing from the package, so that the package
can be held against it. A(t) is summed up anew at every step from all that was ever written, each
outer product with a weight that depends on when it was written and when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = ["DECAYS", "fast_weight_matrix", "fast_weights_rnn"]

WeightAt = Callable[[int, int], float]


def _power_law(exponent: float) -> WeightAt:
    return lambda written, read: float(read - written + 1) ** -exponent


def _exponential(rate: float) -> WeightAt:
    def weight(written: int, read: int) -> float:
        product = 1.0
        for _ in range(read - written):
            product *= rate
        return product

    return weight


def _exponentials(shares: list[float], speeds: list[float]) -> WeightAt:
    def weight(written: int, read: int) -> float:
        return sum(
            share * math.exp(-speed * (read - written))
            for share, speed in zip(shares, speeds, strict=True)
        )

    return weight


def _factorial(exponent: float) -> WeightAt:
    def weight(written: int, read: int) -> float:
        product = 1.0
        for j in range(1, read - written + 2):
            product *= j**-exponent
        return product

    return weight


def _step_indexed(exponent: float) -> WeightAt:
    def weight(written: int, read: int) -> float:
        product = 1.0
        for t in range(written + 1, read + 1):  # A(t) = t^-exponent A(t-1) + ...
            product *= float(t) ** -exponent
        return product

    return weight


def _free(*values: float) -> WeightAt:
    known = [1.0, *values]
    return lambda written, read: known[read - written] if read - written < len(known) else 0.0


DECAYS: dict[str, Callable[..., WeightAt]] = {
    "exponential": _exponential,
    "exponentials": _exponentials,
    "power_law": _power_law,
    "factorial": _factorial,
    "step_indexed": _step_indexed,
    "free": _free,
}


def fast_weight_matrix(
    written: list[tuple[int, np.ndarray]], read_at: int, weight_at: WeightAt, write_rate: float
) -> np.ndarray:
    """A at step ``read_at`` from (step, vector) pairs of one sample."""
    width = len(written[0][1]) if written else 0
    total = np.zeros((width, width))
    for step, h in written:
        if step <= read_at:
            for i in range(width):
                for j in range(width):
                    total[i, j] += write_rate * weight_at(step, read_at) * h[i] * h[j]
    return total


def fast_weights_rnn(
    drive: np.ndarray,
    recurrent: np.ndarray,
    weight_at: WeightAt,
    write_rate: float,
    *,
    inner_steps: int = 1,
    gain: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
    layer_norm: bool = True,
    norm_preliminary: bool = False,
    nonlinearity: str = "relu",
    write: str = "before_read",
    query: str = "preliminary",
    memory: str = "hebbian",
    static: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
    history: np.ndarray | None = None,
    steps: int = 0,
) -> np.ndarray:
    """h(t + 1) for every step and sample, shape (T, B, H), in double precision.

    ``drive`` is C x(t) + b. ``history`` (M, B, H) was written at the M steps before ``steps``.
    """
    length, batch, width = drive.shape
    gain = np.ones(width) if gain is None else gain
    bias = np.zeros(width) if bias is None else bias

    def f(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, 0.0) if nonlinearity == "relu" else np.tanh(x)

    def normalised(x: np.ndarray) -> np.ndarray:
        if not layer_norm:
            return x
        mean = sum(x) / width
        variance = sum((x - mean) ** 2) / width
        return gain * (x - mean) / np.sqrt(variance + eps) + bias

    output = np.zeros((length, batch, width))
    for sample in range(batch):
        h = np.zeros(width) if hidden is None else np.array(hidden[sample], dtype=float)
        past = [] if history is None else list(history[:, sample])
        written = [(steps - len(past) + m, vector) for m, vector in enumerate(past)]
        for t in range(steps, steps + length):
            written.append((t, h))
            if memory == "hebbian":
                read_at = t if write == "before_read" else t - 1
                seen = [(step, v) for step, v in written if step <= read_at]
                a = np.zeros((width, width))
                if seen:
                    a = fast_weight_matrix(seen, read_at, weight_at, write_rate)
            elif memory == "static":
                a = np.asarray(static)
            else:
                a = np.zeros((width, width))
            z = np.zeros(width)
            for i in range(width):
                z[i] = sum(recurrent[i, j] * h[j] for j in range(width))
            z = z + drive[t - steps, sample]
            preliminary = f(normalised(z)) if norm_preliminary else f(z)
            v = h if query == "previous" else preliminary
            for _ in range(inner_steps):
                v = f(normalised(z + a @ v))
            h = v
            output[t - steps, sample] = h
    return output

"""The options of the recurrence and what it carries from step to step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from fastweights.arguments import check_flag, check_integer, check_number

__all__ = [
    "AFTER_READ",
    "DETACH",
    "FORMS",
    "INPUT",
    "LEARNED",
    "NORM",
    "NORM_PRELIMINARY",
    "PREVIOUS",
    "TANH",
    "InputProjection",
    "LayerState",
    "Options",
    "SlowWeights",
    "project",
]

Nonlinearity = Literal["relu", "tanh"]
Write = Literal["before_read", "after_read"]
Query = Literal["preliminary", "previous"]
Memory = Literal["hebbian", "static", "none"]
Form = Literal["auto", "attention", "matrix", "chunked"]
FORMS: tuple[str, ...] = get_args(Form)

# What the kernels take as one integer, because a schema of ten booleans costs more than the call:
# the options that are yes or no, and whether somebody asks for the gradient of the decay's table
# (LEARNED) and of the drive or of x (INPUT).
NORM, NORM_PRELIMINARY, PREVIOUS, AFTER_READ, DETACH, TANH = 1, 2, 4, 8, 16, 32
LEARNED, INPUT = 64, 128


@dataclasses.dataclass(frozen=True)
class Options:
    """What the recurrence computes, apart from its tensors.

    Attributes:
        inner_steps: S, how often the memory is read while h(t+1) is computed, ≥ 0.
        nonlinearity: f, "relu" or "tanh".
        layer_norm: normalise inside the inner loop.
        norm_preliminary: normalise the preliminary vector h_0(t+1) too.
        norm_eps: ε under the root, > 0.
        write: "before_read" (A(t) contains h(t), the paper) or "after_read" (reads use A(t−1)).
        query: what the inner loop starts from: the "preliminary" vector (the paper) or the
            "previous" hidden vector, which adds no depth.
        memory: "hebbian" fast weights, a "static" matrix in their place, or "none".
        detach_writes: no gradient through what is written.

    Example:
        >>> Options(inner_steps=2, nonlinearity="tanh").write
        'before_read'
        >>> Options(query="current")
        Traceback (most recent call last):
        ...
        ValueError: query must be one of 'preliminary', 'previous', got 'current'
    """

    inner_steps: int = 1
    nonlinearity: Nonlinearity = "relu"
    layer_norm: bool = True
    norm_preliminary: bool = False
    norm_eps: float = 1e-5
    write: Write = "before_read"
    query: Query = "preliminary"
    memory: Memory = "hebbian"
    detach_writes: bool = False

    flags: ClassVar[int]  # of each object: made from the others, and so no field

    def __post_init__(self) -> None:
        inner_steps = check_integer("inner_steps", self.inner_steps, 0)
        norm_eps = check_number("norm_eps", self.norm_eps, 0, ends="()")
        object.__setattr__(self, "inner_steps", inner_steps)
        object.__setattr__(self, "norm_eps", norm_eps)
        for name in ("layer_norm", "norm_preliminary", "detach_writes"):
            check_flag(name, getattr(self, name))
        if self.norm_preliminary and not self.layer_norm:
            raise ValueError("norm_preliminary=True needs layer_norm=True")
        choices = {"nonlinearity": Nonlinearity, "write": Write, "query": Query, "memory": Memory}
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, "
                    f"got {getattr(self, name)!r}"
                )
        flags = (
            NORM * self.layer_norm
            | NORM_PRELIMINARY * self.norm_preliminary
            | PREVIOUS * (self.query == "previous")
            | AFTER_READ * (self.write == "after_read")
            | DETACH * self.detach_writes
            | TANH * (self.nonlinearity == "tanh")
        )
        object.__setattr__(self, "flags", flags)


class InputProjection(NamedTuple):
    """The input's contribution C x(t) + b for every step, before it is computed.

    Some kernels do that on the way. ``shape``, ``dtype`` and ``device`` are those of the product.

    Attributes:
        input: x, shape (T, B, I).
        weight: C, shape (H, I).
        bias: b, shape (H,), or None.

    Example:
        >>> drive = InputProjection(torch.randn(5, 2, 3), torch.randn(4, 3))
        >>> drive.shape == drive.product().shape
        True
    """

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.input.shape[:-1], self.weight.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.input.device

    def product(self) -> Tensor:
        """C x(t) + b, shape (T, B, H)."""
        return functional.linear(self.input, self.weight, self.bias)


def project(drive: Tensor | InputProjection) -> Tensor:
    """C x(t) + b, shape (T, B, H), of a drive that may still be a projection."""
    return drive.product() if isinstance(drive, InputProjection) else drive


class SlowWeights(NamedTuple):
    """The slow weights of one layer, apart from the input's.

    Attributes:
        recurrent: W, shape (H, H).
        norm_weight: gain of the layer norm, shape (H,), or None without layer norm.
        norm_bias: bias of the layer norm, shape (H,), or None without layer norm.
        memory: the matrix that stands in for A when memory is "static", shape (H, H).
    """

    recurrent: Tensor
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    memory: Tensor | None = None


class LayerState(NamedTuple):
    """What one layer knows before step t: h(t) and A(t − 1), in one of two shapes.

    Attributes:
        hidden: h(t), shape (B, H).
        steps: t for each sample, int64, shape (B,).
        history: the vectors written so far, oldest first, shape (M, B, H). The newest, h(t − 1),
            comes last for every sample; shorter ones are padded with zeros at the front, which
            are memories of nothing.
        matrix: A(t − 1), the write rate included, shape (B, H, H); (B, M, H, H) for a decay that
            is carried as M > 1 matrices. Sums of h hᵀ are symmetric, and kernels count on it; so
            is the gradient that they give.
        constant_before: the step before which all vectors of the history were written outside of
            the graph, int64, shape (B,); None if none were, or nothing that is learned asks.
            ``constant_before`` says what for.
    """

    hidden: Tensor
    steps: Tensor
    history: Tensor | None = None
    matrix: Tensor | None = None
    constant_before: Tensor | None = None

    @classmethod
    def zeros(
        cls, batch: int, hidden_size: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> LayerState:
        """h(0) = 0 with an empty memory.

        Example:
            >>> state = LayerState.zeros(2, 4, dtype=torch.float32, device="cpu")
            >>> state.hidden.shape, state.history is None
            (torch.Size([2, 4]), True)
        """
        return cls(
            hidden=torch.zeros(batch, hidden_size, dtype=dtype, device=device),
            steps=torch.zeros(batch, dtype=torch.int64, device=device),
        )

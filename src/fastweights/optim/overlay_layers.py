"""What each kind of layer computes with an overlay: ``W + ΔW``, and never ΔW itself.

ΔW is the product of two factors of rank r. For a layer ``y = x Wᵀ`` they are A (r × inputs) and
B (outputs × r), and the overlay adds ``(x Aᵀ) Bᵀ``. One factor starts at zero and is the one that
fades, the other starts random: B fades, except in an embedding, where A holds a code of r numbers
for every token, so that learning about one token says nothing about another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Kind", "kind_called", "kind_of", "layer_types", "unsupported_reason"]

Factors = tuple[Tensor, Tensor]


class Kind:
    """A kind of layer: the shapes of its factors, and what they add to its output."""

    name = ""
    fading = 1  # which of the factors starts at zero and fades: 0 is A, 1 is B
    rank_axis = 0  # of A; that of B is 1
    spatial = False  # whether it convolves

    def sizes(self, layer: Any) -> tuple[tuple[int, ...], int]:
        """The shape of one row of A, and the rows of B."""
        raise NotImplementedError

    def shapes(self, layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        row, outputs = self.sizes(layer)
        return (rank, *row), (outputs, rank)

    def largest_rank(self, layer: nn.Module) -> int:
        """Beyond this rank the factors are larger than the weights, and no richer."""
        row, outputs = self.sizes(layer)
        return min(math.prod(row), outputs)

    def add(
        self, layer: Any, x: Tensor, out: Tensor, a: Tensor, b: Tensor, *, fresh: bool = False
    ) -> Tensor:
        """The output with one overlay for the whole batch.

        ``fresh`` says that the output is nobody else's and may be changed, and that no autocast
        decides what a product is computed in.
        """
        raise NotImplementedError

    def stack(self, factors: Sequence[Factors]) -> tuple[Any, Tensor]:
        """The factors of each sample, for `add_each`."""
        return torch.stack([a for a, _ in factors]), torch.stack([b for _, b in factors])

    def add_each(self, layer: Any, x: Tensor, out: Tensor, a: Any, b: Tensor) -> Tensor:
        """The output with an overlay for each sample of the batch."""
        raise NotImplementedError

    def dense(self, layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        """ΔW in the shape of the layer's weight."""
        return b @ a

    def __reduce__(self) -> Any:  # copied and pickled by name
        return kind_called, (self.name,)


class _Linear(Kind):
    name = "linear"

    def sizes(self, layer: Any) -> tuple[tuple[int, ...], int]:
        return (layer.in_features,), layer.out_features

    def add(
        self, layer: Any, x: Tensor, out: Tensor, a: Tensor, b: Tensor, *, fresh: bool = False
    ) -> Tensor:
        return _project(out, F.linear(x, a), b, fresh=fresh)

    def add_each(self, layer: Any, x: Tensor, out: Tensor, a: Any, b: Tensor) -> Tensor:
        hidden = torch.bmm(x.reshape(len(a), -1, x.shape[-1]), a.mT)
        return _project_each(out, hidden, b)


class _Transposed(_Linear):
    """The Conv1D of transformers, a linear layer that keeps its weight transposed."""

    name = "linear-transposed"

    def sizes(self, layer: Any) -> tuple[tuple[int, ...], int]:
        return (layer.weight.shape[0],), layer.nf

    def dense(self, layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        return (b @ a).mT


class _Embedding(Kind):
    name = "embedding"
    fading = 0
    rank_axis = 1

    def sizes(self, layer: Any) -> tuple[tuple[int, ...], int]:
        return (layer.num_embeddings,), layer.embedding_dim

    def shapes(self, layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        (tokens,), outputs = self.sizes(layer)
        return (tokens, rank), (outputs, rank)  # a token's code in one piece of memory

    def add(
        self, layer: Any, x: Tensor, out: Tensor, a: Tensor, b: Tensor, *, fresh: bool = False
    ) -> Tensor:
        return _project(out, F.embedding(x, a, layer.padding_idx), b, fresh=fresh)

    def stack(self, factors: Sequence[Factors]) -> tuple[Any, Tensor]:
        return [a for a, _ in factors], torch.stack([b for _, b in factors])  # A has all tokens

    def add_each(self, layer: Any, x: Tensor, out: Tensor, a: Any, b: Tensor) -> Tensor:
        rows = zip(x, a, strict=True)
        codes = torch.stack([F.embedding(row, own, layer.padding_idx) for row, own in rows])
        return _project_each(out, codes.reshape(len(a), -1, codes.shape[-1]), b)

    def dense(self, layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.mT


class _Conv(Kind):
    """A convolution by A into r channels, of every group, and then by B at every place."""

    spatial = True

    def __init__(self, dimensions: int) -> None:
        self.name = f"conv{dimensions}d"
        self._dimensions = dimensions
        self._convolve: Any = {1: F.conv1d, 2: F.conv2d}[dimensions]

    def sizes(self, layer: Any) -> tuple[tuple[int, ...], int]:
        return (layer.in_channels // layer.groups, *layer.kernel_size), layer.out_channels

    def add(
        self, layer: Any, x: Tensor, out: Tensor, a: Tensor, b: Tensor, *, fresh: bool = False
    ) -> Tensor:
        a = a.repeat(layer.groups, *[1] * (self._dimensions + 1))
        x, padding = _padded(layer, x)
        hidden = self._convolve(x, a, None, layer.stride, padding, layer.dilation, layer.groups)
        b = b[(..., *[None] * self._dimensions)]
        return out + self._convolve(hidden, b, groups=layer.groups).to(out.dtype)

    def add_each(self, layer: Any, x: Tensor, out: Tensor, a: Any, b: Tensor) -> Tensor:
        n, groups, rank = len(a), layer.groups, b.shape[-1]
        a = a[:, None].expand(n, groups, *a.shape[1:]).flatten(0, 2)
        x, padding = _padded(layer, x)
        together = x.reshape(1, n * x.shape[1], *x.shape[2:])  # samples as groups of channels
        hidden = self._convolve(
            together, a, None, layer.stride, padding, layer.dilation, n * groups
        )
        hidden = hidden.reshape(n, groups, rank, -1)
        added = b.reshape(n, groups, -1, rank) @ hidden
        return out + added.reshape(out.shape).to(out.dtype)

    def dense(self, layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
        return (b @ a.flatten(1)).unflatten(1, a.shape[1:])


def _project(out: Tensor, hidden: Tensor, b: Tensor, *, fresh: bool) -> Tensor:
    """``out + hidden Bᵀ``: in one pass over the output, where that loses none of its digits."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    if fresh and hidden.dtype == out.dtype and out.is_contiguous():
        out.view(-1, out.shape[-1]).addmm_(rows, b.mT)
        return out
    if not _one_dtype(out, hidden):
        return out + F.linear(hidden, b).to(out.dtype)
    return torch.addmm(out.reshape(-1, out.shape[-1]), rows, b.mT).view(out.shape)


def _project_each(out: Tensor, hidden: Tensor, b: Tensor) -> Tensor:
    if not _one_dtype(out, hidden):
        return out + torch.bmm(hidden, b.mT).view(out.shape).to(out.dtype)
    rows = out.reshape(len(hidden), -1, out.shape[-1])
    return torch.baddbmm(rows, hidden, b.mT).view(out.shape)


def _one_dtype(out: Tensor, hidden: Tensor) -> bool:
    """Whether a product with ``hidden`` comes out in the dtype of the output."""
    if hidden.dtype != out.dtype:  # a layer that is not computed in its inputs' dtype
        return False
    device = out.device.type
    return not torch.is_autocast_enabled(device) or out.dtype == torch.get_autocast_dtype(device)


def _padded(layer: Any, x: Tensor) -> tuple[Tensor, Any]:
    """The input, padded already where convolutions themselves can only pad with zeros."""
    if layer.padding_mode == "zeros":
        return x, layer.padding
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0


_LINEAR, _TRANSPOSED, _EMBEDDING = _Linear(), _Transposed(), _Embedding()
_CONV_1D, _CONV_2D = _Conv(1), _Conv(2)
_KINDS = {k.name: k for k in (_LINEAR, _TRANSPOSED, _EMBEDDING, _CONV_1D, _CONV_2D)}
layer_types = "linear layers, embeddings, Conv1d and Conv2d, and the Conv1D of transformers"


def kind_called(name: str) -> Kind | None:
    """The kind with that name in a file."""
    return _KINDS.get(name)


def kind_of(layer: nn.Module) -> Kind | None:
    """The kind of a layer, or None where no overlay can be laid over it."""
    if unsupported_reason(layer) is not None:
        return None
    for types, kind in (
        (nn.Linear, _LINEAR),
        (nn.Embedding, _EMBEDDING),
        (nn.Conv1d, _CONV_1D),
        (nn.Conv2d, _CONV_2D),
    ):
        if isinstance(layer, types):
            return kind
    name = type(layer).__name__
    if name == "Conv1D" and isinstance(getattr(layer, "nf", None), int):
        return _TRANSPOSED
    sizes = (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
    # Quantised linear layers of several libraries, which are no nn.Linear.
    if "linear" in name.lower() and all(isinstance(size, int) for size in sizes):
        return _LINEAR
    return None


def unsupported_reason(layer: nn.Module) -> str | None:
    """Why a layer that looks like one of a kind cannot have an overlay; None for others."""
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "its MultiheadAttention uses its weight without calling it"
    if any(isinstance(p, nn.UninitializedParameter) for p in layer._parameters.values()):
        return "its weights do not exist yet: call the model once before"
    where = type(layer).__module__
    if "quantized" in where and "dynamic" not in where and "linear" in where:
        return "it computes with quantised activations"
    return None

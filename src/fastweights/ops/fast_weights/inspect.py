"""What the memory did, worked out again from the inputs and outputs of a run."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastweights.decay import Decay
from fastweights.ops.fast_weights.options import LayerState, Options, SlowWeights
from fastweights.ops.fast_weights.reference import inner_loop

__all__ = ["Inspection", "inspect_recurrence"]


class Inspection(NamedTuple):
    """The reads of one layer.

    Attributes:
        weights: η r(k) h(τ)·h_{s−1}(t+1), shape (B, S, T, M), without B if unbatched.
        decayed: η r(k), zero for what is not yet written, shape (B, T, M).
        written: the vectors in the columns, shape (M, B, H).
        unbatched: whether to drop B.
    """

    weights: Tensor
    decayed: Tensor
    written: Tensor
    unbatched: bool

    def matrices(self) -> Tensor:
        """A(t) as each step reads it, shape (B, T, H, H)."""
        matrices = torch.einsum("btm,mbi,mbj->btij", self.decayed, self.written, self.written)
        return matrices[0] if self.unbatched else matrices


def inspect_recurrence(
    drive: Tensor,
    output: Tensor,
    weights: SlowWeights,
    decay: Decay,
    write_rate: Tensor | float,
    state: LayerState | None,
    options: Options,
    *,
    unbatched: bool = False,
) -> Inspection:
    """The attention of a run, all steps at once, since every h(t) is known by now.

    Args:
        drive: C x + b, shape (T, B, H).
        output: what the recurrence gave for it, shape (T, B, H).
        weights, decay, write_rate, state, options: as the recurrence got them.
        unbatched: drop the batch dimension of the results.

    Raises:
        ValueError: the state holds a matrix, whose vectors are gone.

    Example:
        >>> from fastweights.decay import Exponential
        >>> from fastweights.ops.fast_weights import fast_weights
        >>> drive, weights = torch.randn(5, 2, 4), SlowWeights(0.05 * torch.eye(4))
        >>> given = (weights, Exponential(0.95), 0.5, None, Options(layer_norm=False))
        >>> output, _ = fast_weights(drive, *given)
        >>> inspection = inspect_recurrence(drive, output, *given)
        >>> inspection.weights.shape, inspection.matrices().shape
        (torch.Size([2, 1, 5, 5]), torch.Size([2, 5, 4, 4]))
    """
    if state is None:
        state = LayerState.zeros(*drive.shape[1:], dtype=drive.dtype, device=drive.device)
    if state.matrix is not None:
        raise ValueError(
            "state holds a matrix, and the vectors that made it are gone: to look at attention, "
            "run the whole sequence, or keep the history with form='attention'"
        )
    length = drive.shape[0]
    hidden = torch.cat([state.hidden[None], output[:-1]])
    past = hidden[:0] if state.history is None else state.history
    written = torch.cat([past, hidden])
    carried = past.shape[0]
    column = torch.arange(carried + length, device=drive.device)
    newest = torch.arange(length, device=drive.device) + carried
    if options.write == "after_read":
        newest = newest - 1
    seen = column <= newest[:, None]
    offset = state.steps[:, None, None] - carried  # columns are counted from the oldest vector
    read_at = offset + newest[:, None]
    decayed = decay.between(torch.minimum(offset + column, read_at), read_at).to(drive.dtype)
    decayed = (write_rate * decayed).masked_fill(~seen, 0.0)  # (B, T, M)

    reads: list[Tensor] = []

    def read(v: Tensor) -> Tensor:  # v (T, B, H)
        attention = decayed * torch.einsum("mbh,tbh->btm", written, v)
        reads.append(attention)
        return torch.einsum("btm,mbh->tbh", attention, written)

    z = F.linear(hidden, weights.recurrent) + drive
    inner_loop(z, hidden, read, weights, options)
    stacked = torch.stack(reads, dim=1) if reads else decayed[:, None][:, :0]
    return Inspection(stacked[0] if unbatched else stacked, decayed, written, unbatched)

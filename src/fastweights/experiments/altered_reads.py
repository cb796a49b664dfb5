"""Fast weights whose reads are altered, as a control while training or in a trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.experiments.associative_retrieval import Retriever
from fastweights.nn import FastWeightsRNN
from fastweights.tasks import Split

# What step t reads of the memories (M, N, H) written so far with a query (N, H): the vectors, and
# how well each matches, (M, N).
Read = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


def as_written(t: int, memories: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """As the equations say: a memory counts for as much as it matches the query."""
    return memories, torch.einsum("mnh,nh->mn", memories, query)


def of_another(t: int, memories: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """The memories of the next sample in the batch, which have the wrong content."""
    if query.shape[0] < 2:
        raise ValueError(f"input must hold at least 2 samples, got {query.shape[0]}")
    return as_written(t, memories.roll(1, dims=1), query)


def by_all(t: int, memories: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """All memories alike, as much as they match on average: a sum, and no content is asked for."""
    _, scores = as_written(t, memories, query)
    return memories, scores.mean(0, keepdim=True).expand_as(scores)


def never(t: int, memories: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing is read."""
    return memories, memories.new_zeros(memories.shape[:2])


def within(steps: range, read: Read, otherwise: Read = as_written) -> Read:
    """``read`` in these steps, and another way in all others."""
    return lambda t, memories, query: (read if t in steps else otherwise)(t, memories, query)


class AlteredReads(nn.Module):
    """A fast-weights layer whose reads are replaced, written out as a loop.

    Everything else is as in the layer: one inner step, layer norm, and gradients through the
    memory. With `as_written` it is the layer.

    Args:
        layer: whose parameters and settings it has; ``read`` may be changed at any time.
        read: how to read.

    Raises:
        ValueError: the layer is not of the kind this loop computes.
    """

    def __init__(self, layer: FastWeightsRNN, read: Read) -> None:
        super().__init__()
        default = FastWeightsRNN(layer.input_size, layer.hidden_size)
        options = dataclasses.replace(layer._options, query=default._options.query)
        if options != default._options or layer.num_layers != 1:
            raise ValueError(
                "layer must be one of the default options but for query, one layer of it"
            )
        self.layer, self.read = layer, read
        self.hidden_size = layer.hidden_size

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs (L, N, H) for inputs (L, N, in), and h with the vectors that were written."""
        layer, own = self.layer, dict(self.layer.named_parameters())
        drive = F.linear(x, own["weight_ih_l0"], own["bias_l0"])
        norm = (own["norm_weight_l0"], own["norm_bias_l0"], layer.norm_eps)
        r = layer.decay.table(len(x), dtype=x.dtype, device=x.device)
        hidden, written, outputs = drive.new_zeros(drive.shape[1:]), [], []
        for t in range(len(x)):
            z = F.linear(hidden, own["weight_hh_l0"]) + drive[t]
            written.append(hidden)
            query = hidden if layer._options.query == "previous" else torch.relu(z)
            memories, scores = self.read(t, torch.stack(written), query)
            decayed = layer.write_rate * r[: t + 1].flip(0)
            read = torch.einsum("t,tn,tnh->nh", decayed, scores, memories)
            hidden = torch.relu(F.layer_norm(z + read, z.shape[-1:], *norm))
            outputs.append(hidden)
        return torch.stack(outputs), (hidden, torch.stack(written))


def changed_reads(num_pairs: int) -> Mapping[str, Read]:
    """Ways to read a sequence of K pairs, two question marks and a letter.

    Example:
        >>> list(changed_reads(4))[:2]
        ['as trained', 'nothing while the pairs come']
    """
    pairs, marks = range(2 * num_pairs), range(2 * num_pairs, 2 * num_pairs + 2)
    letter = range(marks.stop, marks.stop + 1)
    return {
        "as trained": as_written,
        "nothing while the pairs come": within(pairs, never),
        "nothing at the question marks": within(marks, never),
        "nothing at the letter": within(letter, never),
        "all memories alike at the question marks": within(marks, by_all),
        "all memories alike at the letter": within(letter, by_all),
        "another's memory at the question marks": within(marks, of_another),
        "another's memory at the letter": within(letter, of_another),
    }


def _answers(model: Retriever, inputs: Tensor, read: Read) -> Tensor:
    """What a network answers (N,) when it reads so; it is left as it was."""
    layer = model.layer
    assert isinstance(layer, FastWeightsRNN)
    model.layer = AlteredReads(layer, read)
    try:
        with torch.no_grad():
            return torch.cat([model(part).argmax(-1) for part in inputs.split(2000)])
    finally:
        model.layer = layer


def accuracy_by_read(model: Retriever, split: Split, num_pairs: int) -> dict[str, float]:
    """The share of right answers with every one of `changed_reads`."""
    return {
        name: float((_answers(model, split.inputs, read) == split.targets).double().mean())
        for name, read in changed_reads(num_pairs).items()
    }


def accuracy_by_match(model: Retriever, split: Split, num_pairs: int) -> list[float | None]:
    """The share of right answers by how well the asked pair matches the query of the last read.

    Pairs are ranked by the score of what was written after their digit, in the read at the letter.

    Returns:
        Accuracy where the asked pair matches best, second, … K-th best, (K,); None where it never
        does.
    """
    ranks: list[Tensor] = []
    last = 2 * num_pairs + 2

    def watched(t: int, memories: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        memories, scores = as_written(t, memories, query)
        if t == last:  # h after the digit of pair p, counted from 1, was written at step 2p
            of_pairs = scores[2 : 2 * num_pairs + 1 : 2]
            ranks.append(of_pairs.argsort(0, descending=True).argsort(0).T)
        return memories, scores

    right = _answers(model, split.inputs, watched) == split.targets
    asked = split.inputs[:, : 2 * num_pairs : 2] == split.inputs[:, -1:]
    rank = (torch.cat(ranks) * asked).sum(1)
    at = [right[rank == place].double() for place in range(num_pairs)]
    return [float(of.mean()) if len(of) else None for of in at]

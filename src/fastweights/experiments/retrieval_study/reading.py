"""What a trained network reads: accuracy with its reads changed, and by what it matched."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fastweights.experiments.retrieval_study.altered import (
    AlteredReads,
    Read,
    as_written,
    by_all,
    never,
    of_another,
    within,
)
from fastweights.experiments.retrieval_study.networks import Retriever
from fastweights.nn import FastWeightsRNN
from fastweights.tasks import Split

__all__ = ["accuracy_by_match", "accuracy_by_read", "changed_reads"]


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

"""What a trained network knows before it hears the question."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastweights.experiments.associative_retrieval import Retriever
from fastweights.tasks import Split, Splits

_UNITS, _UPDATES, _BATCH, _RATE, _DECAY = 100, 1500, 128, 3e-3, 0.1
_READ = 40_000  # training sequences that the probe is fitted on


def known_before_the_letter(model: Retriever, splits: Splits, num_pairs: int) -> float:
    """How often the digit of any pair can be told from h before the letter is asked.

    For every letter a network of its own, as large as the head that reads the last h, learns to
    tell from the h before which digit came with that letter. All pairs of a sequence are asked
    for. It is fitted on training data and tested on test data.

    Args:
        model: the network; one layer.
        splits: the data it was trained on.
        num_pairs: K.
    """
    generator = torch.Generator().manual_seed(0)
    vectors, digits, at = _by_letter(model, splits.train, num_pairs, limit=_READ)
    mean, scale = vectors.mean(0), vectors.std(0) + 1e-6
    vectors = (vectors - mean) / scale
    letters, width, classes = len(at), vectors.shape[1], int(digits.max()) + 1

    def drawn(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / shape[1] ** 0.5).requires_grad_()

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, requires_grad=True)

    inner, inner_bias = drawn(letters, width, _UNITS), zeros(letters, 1, _UNITS)
    outer, outer_bias = drawn(letters, _UNITS, classes), zeros(letters, 1, classes)

    def answer(letter: slice, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.baddbmm(inner_bias[letter], x, inner[letter]))
        return torch.baddbmm(outer_bias[letter], hidden, outer[letter])

    weights = (inner, inner_bias, outer, outer_bias)
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=_DECAY)
    for _ in range(_UPDATES):
        index = torch.stack(
            [own[torch.randint(len(own), (_BATCH,), generator=generator)] for own in at]
        )
        logits = answer(slice(None), vectors[index])
        loss = F.cross_entropy(logits.transpose(1, 2), digits[index])
        optimizer.zero_grad()
        (loss * letters).backward()  # each letter as if it were alone
        optimizer.step()

    vectors, digits, at = _by_letter(model, splits.test, num_pairs)
    vectors, right = (vectors - mean) / scale, 0
    with torch.no_grad():
        for k, own in enumerate(at):
            guess = answer(slice(k, k + 1), vectors[own][None])[0].argmax(-1)
            right += int((guess == digits[own]).sum())
    return right / len(digits)


def _by_letter(
    model: Retriever, split: Split, num_pairs: int, limit: int | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """h before the letter for every pair (N·K, H), its digit, and where each letter's are."""
    inputs = split.inputs[:limit]
    with torch.no_grad():
        vectors = torch.cat([model.hidden(part[:, :-1])[-1] for part in inputs.split(2000)])
    letters, digits = inputs[:, : 2 * num_pairs : 2], inputs[:, 1 : 2 * num_pairs : 2]
    at = [(letters.flatten() == letter).nonzero()[:, 0] for letter in letters.unique()]
    return vectors.repeat_interleave(num_pairs, 0), digits.flatten() - digits.min(), at

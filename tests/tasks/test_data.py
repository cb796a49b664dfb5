"""Splits and the order of their mini-batches."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastweights.tasks import AssociativeRetrieval, Split, batch_indices, batches


@given(
    size=st.integers(1, 300),
    batch_size=st.integers(1, 400),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 1000),
)
def test_an_epoch_visits_every_sample_once(size, batch_size, seed, epoch):
    indices = batch_indices(size, batch_size, seed=seed, epoch=epoch)
    assert sorted(torch.cat(indices).tolist()) == list(range(size))
    assert all(len(index) == batch_size for index in indices[:-1])
    assert 1 <= len(indices[-1]) <= batch_size
    full = batch_indices(size, batch_size, seed=seed, epoch=epoch, drop_last=True)
    assert len(full) == size // batch_size
    assert all(torch.equal(a, b) for a, b in zip(full, indices, strict=False))
    assert all(len(index) == batch_size for index in full)


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch, batch_size=7):
        return torch.cat(batch_indices(100, batch_size, seed=seed, epoch=epoch)).tolist()

    assert order(1, 2) == order(1, 2) == order(1, 2, batch_size=30)
    assert len({tuple(order(s, e)) for s in range(5) for e in range(5)}) == 25
    assert order(1, 2) != order(2, 1)


def test_the_order_is_pinned():
    order = torch.cat(batch_indices(100_000, 128, seed=7, epoch=3))
    assert order.dtype == torch.int64
    digest = hashlib.sha256(order.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == "4644f95c443ec3f6aefd24cd6f8173f87e9bcd0d6be6d8b54a72065712b0d426"


def test_first_place_is_uniform():
    firsts = [batch_indices(8, 1, seed=0, epoch=e)[0].item() for e in range(4000)]
    counts = torch.bincount(torch.tensor(firsts), minlength=8)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_the_same_sample_moves_between_epochs():
    orders = [torch.cat(batch_indices(1000, 1000, seed=0, epoch=e)).argsort() for e in (0, 1)]
    correlation = torch.corrcoef(torch.stack(orders).double())[0, 1]
    assert abs(correlation) < 4 / 1000**0.5


def test_batches_pair_inputs_with_their_targets_and_resume():
    split = AssociativeRetrieval(num_pairs=2, train_size=50).split(0, "train")
    indices = batch_indices(50, 8, seed=5, epoch=1)
    given_out = list(batches(split, 8, seed=5, epoch=1))
    assert len(given_out) == len(indices) == 7
    for index, (inputs, targets) in zip(indices, given_out, strict=True):
        assert torch.equal(inputs, split.inputs[index])
        assert torch.equal(targets, split.targets[index])
    assert len(list(batches(split, 8, seed=5, epoch=1, drop_last=True))) == 6


@pytest.mark.parametrize("name", ["size", "batch_size", "seed", "epoch"])
def test_bad_arguments_are_named(name):
    arguments = {"size": 4, "batch_size": 2, "seed": 0, "epoch": 0}
    low = {"size": 1, "batch_size": 1, "seed": 0, "epoch": 0}[name]
    with pytest.raises(ValueError, match=f"{name} must be"):
        batch_indices(**{**arguments, name: low - 1})
    for bad in (1.0, "1", None, True):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            batch_indices(**{**arguments, name: bad})


def test_bad_arguments_of_batches_are_refused_before_the_first_batch():
    split = Split(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        batches(split, 0, seed=0, epoch=0)


def test_digest_is_that_of_the_little_endian_bytes():
    split = Split(torch.tensor([[1, 2], [3, 2**40]]), torch.tensor([5, 6]))
    expected = hashlib.sha256(struct.pack("<6q", 1, 2, 3, 2**40, 5, 6)).hexdigest()
    assert split.digest() == expected
    assert len(split) == 2


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), TypeError, "inputs must be torch.i"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3), TypeError, "targets must be torch"),
        ([[1]], torch.zeros(1, dtype=torch.int64), TypeError, "inputs must be a tensor, got list"),
        (
            torch.zeros(3, dtype=torch.int64),
            torch.zeros(3, dtype=torch.int64),
            ValueError,
            "inputs must have 2",
        ),
        (
            torch.zeros(3, 2, dtype=torch.int64),
            torch.zeros(4, dtype=torch.int64),
            ValueError,
            "equally many, got 3 and 4",
        ),
    ],
)
def test_a_split_that_does_not_fit_is_refused(inputs, targets, error, message):
    with pytest.raises(error, match=message):
        Split(inputs, targets)

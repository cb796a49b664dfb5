"""Sorting and repeated copying: right answers, splits apart, the same bytes everywhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from fastweights.tasks.copying import RepeatCopy
from fastweights.tasks.sorting import PrioritySort
from fastweights.tasks.symbols import IGNORED, SymbolBatch, split_of

TASKS = {"sorting": PrioritySort(8, 16), "copying": RepeatCopy(8, 3)}
DIGESTS = {
    "sorting": "8d7717b836c7119f4da127d199c4e7b4a7e678035446a38d1f643d6322754e10",
    "copying": "07afee55b91ae65faf4582cb6ef579ad12e4bc2d9607167a9b67a2acf2eebf10",
}


@pytest.fixture(params=TASKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def keys(batch: SymbolBatch) -> set[bytes]:
    return {row.numpy().tobytes() for row in batch.inputs}


def test_the_bytes_are_pinned(name: str) -> None:
    digest = TASKS[name].batch(7, "train", 3, length=4, size=50).digest()
    assert digest == DIGESTS[name]


def test_every_argument_changes_the_batch(name: str) -> None:
    given = {"seed": 0, "split": "test", "number": 0, "length": 6, "size": 20}
    changes = [{}, {"seed": 1}, {"split": "validation"}, {"number": 1}, {"length": 7}]
    batches = [TASKS[name].batch(**{**given, **change}) for change in changes]
    assert len({batch.digest() for batch in batches}) == 5
    larger = TASKS[name].batch(0, "train", 0, length=6, size=40)
    assert torch.equal(larger.inputs[:20], TASKS[name].batch(0, "train", 0, 6, 20).inputs)


def test_no_sequence_is_in_two_splits(name: str) -> None:
    """There are so few that every split has met nearly all of its own."""
    task = {"sorting": PrioritySort(8, 4), "copying": RepeatCopy(16, 3)}[name]
    splits = [
        set.union(*(keys(task.batch(seed, split, 0, 2, 2000)) for seed in range(3)))
        for split in ("train", "validation", "test")
    ]
    assert all(len(a & b) == 0 for i, a in enumerate(splits) for b in splits[:i])
    whole = sum(map(len, splits))
    assert [len(found) / whole for found in splits] == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


def test_sorting_answers_in_the_order_of_priorities() -> None:
    batch = TASKS["sorting"].batch(5, "train", 0, length=5, size=200)
    for row, answer in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        shown, asked = row[:5], row[5:]
        assert asked == [[8, 16]] * 5
        assert len({level for _, level in shown}) == 5
        assert answer == [s for s, _ in sorted(shown, key=lambda pair: -pair[1])]


def test_copying_answers_as_often_as_asked() -> None:
    batch = TASKS["copying"].batch(5, "train", 0, length=4, size=200)
    for row, answer in zip(batch.inputs[..., 0].tolist(), batch.targets.tolist(), strict=True):
        symbols, count, asked = row[:4], row[4] - 7, row[5:]
        assert asked == [11] * 13
        whole = symbols * count + [8]
        assert answer == whole + [IGNORED] * (13 - len(whole))


def test_statistics(name: str) -> None:
    """Every symbol at every place, and every priority and number, equally often."""
    batch = TASKS[name].batch(1, "train", 0, length=4, size=8000)
    for place in range(4):
        counts = Counter(batch.inputs[:, place, 0].tolist())
        assert sorted(counts) == list(range(8))
        assert max(abs(n - 1000) for n in counts.values()) < 150
    what = batch.inputs[:, 0, 1] if name == "sorting" else batch.inputs[:, 4, 0]
    counts = Counter(what.tolist())
    kinds = 16 if name == "sorting" else 3
    assert len(counts) == kinds
    assert max(abs(n * kinds / 8000 - 1) for n in counts.values()) < 0.2


def test_the_hash_mixes() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(12)] * 4), -1).reshape(-1, 4)
    splits = split_of(grid)
    for place in range(4):  # no number says which split its sequence is in
        for number in range(12):
            share = (splits[grid[:, place] == number] == 0).mean()
            assert share == pytest.approx(0.8, abs=0.05)
    assert (split_of(grid[:, ::-1]) != splits).mean() > 0.2  # the order matters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must be in 0"),
        ({"split": "training"}, "split must be one of train, validation, test, got 'training'"),
        ({"length": 1}, "length must be in 2"),
        ({"length": 65}, "length must be in 2"),
        ({"size": 0}, "size must be at least 1, got 0"),
    ],
)
def test_impossible_arguments(name: str, change: dict[str, Any], message: str) -> None:
    given = {"seed": 0, "split": "train", "number": 0, "length": 3, "size": 2}
    with pytest.raises(ValueError, match=message):
        TASKS[name].batch(**{**given, **change})


def test_impossible_tasks() -> None:
    for task, argument in (
        (lambda: PrioritySort(num_levels=33), "num_levels"),
        (lambda: PrioritySort(num_symbols=1), "num_symbols"),
        (lambda: RepeatCopy(max_repeats=0), "max_repeats"),
        (lambda: RepeatCopy(num_symbols=33), "num_symbols"),
    ):
        with pytest.raises(ValueError, match=f"{argument} must be in"):
            task()


def test_a_split_without_sequences() -> None:
    """Four sequences there are, three to train and one to test."""
    task = RepeatCopy(num_symbols=2, max_repeats=1)
    assert len(keys(task.batch(0, "test", 0, length=2, size=50))) == 1
    with pytest.raises(ValueError, match=r"length 2 has so few .* none is of the validation split"):
        task.batch(0, "validation", 0, length=2, size=5)

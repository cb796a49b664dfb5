"""Words in noise: what streams hold, that conditions are paired, and that the ideal is ideal."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from fastweights.tasks.priming import Priming, Trials, unpack

TASK = Priming(train_size=6_000, validation_size=100, test_size=4_000)


def words_of(task: Priming, seed: int, patterns: torch.Tensor) -> torch.Tensor:
    """The word of each pattern that has no noise, −1 for other patterns."""
    match = patterns[..., None] == task.vocabulary(seed)
    return torch.where(match.any(-1), match.long().argmax(-1), -1)


def trials(task: Priming = TASK, **changes: object) -> Trials:
    given: dict = {"between": 3, "exposure": "same", "exposure_noise": 0.0, "probe_noise": 0.3}
    return task.trials(0, 500, **{**given, **changes})


def test_every_split_has_its_bytes_on_every_machine() -> None:
    assert TASK.split(0, "test").digest() == (
        "54d94baa280d40dce95c9d77ab798e0e5e2b29d75a3cd2ef1e99457336619851"
    )


def test_splits_and_seeds_differ() -> None:
    small = dataclasses.replace(TASK, train_size=50, validation_size=50, test_size=50)
    digests = {small.split(s, n).digest() for s in (0, 1) for n in ("train", "validation", "test")}
    assert len(digests) == 6


def test_a_presented_pattern_is_the_word_but_for_the_flipped_bits() -> None:
    task = dataclasses.replace(TASK, noises=(0.25,))
    split = task.split(1, "train")
    wrong = unpack(split.inputs[:, -1] ^ task.vocabulary(1)[split.targets], task.bits).double()
    count = wrong.numel()
    assert wrong.mean().item() == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / count))
    assert wrong.mean(0).min() > 0.2  # of every bit
    assert wrong.sum(1).var().item() == pytest.approx(task.bits * 0.25 * 0.75, rel=0.1)


def test_without_noise_words_and_repeats_are_as_likely_as_they_should_be() -> None:
    task = dataclasses.replace(TASK, noises=(0.0,))
    split = task.split(2, "train")
    words = words_of(task, 2, split.inputs)
    assert (words >= 0).all()
    assert torch.equal(words[:, -1], split.targets)
    n, chance = len(split), 1 / task.words
    assert words.flatten().bincount(minlength=task.words).min() > 0.8 * words.numel() * chance
    again = (words[:, :-1] == words[:, -1:]).double()
    # Repeated on purpose at one of the positions, or by chance.
    expected = task.repeat * (1 / 16 + 15 / 16 * chance) + (1 - task.repeat) * chance
    error = np.sqrt(expected / n)
    np.testing.assert_allclose(again.mean(0).numpy(), expected, atol=4 * error)


@pytest.mark.parametrize(("repeat", "low", "high"), [(0.0, 0.1, 0.35), (1.0, 1.0, 1.0)])
def test_never_and_always_repeated(repeat: float, low: float, high: float) -> None:
    task = dataclasses.replace(TASK, noises=(0.0,), repeat=repeat)
    words = words_of(task, 0, task.split(0, "test").inputs)
    share = (words[:, :-1] == words[:, -1:]).any(1).double().mean().item()
    assert low <= share <= high


@pytest.mark.parametrize("between", [0, 3, 15])
def test_conditions_differ_in_nothing_but_the_position_under_study(between: int) -> None:
    position = TASK.length - 2 - between
    rest = [i for i in range(TASK.length) if i != position]
    shown = {e: trials(between=between, exposure=e) for e in ("same", "another", "third")}
    for one, other in itertools.combinations(shown.values(), 2):
        assert torch.equal(one.inputs[:, rest], other.inputs[:, rest])
        assert torch.equal(one.targets, other.targets)
        assert (one.inputs[:, position] != other.inputs[:, position]).double().mean() > 0.95
    for trial in shown.values():
        assert torch.equal(words_of(TASK, 0, trial.inputs[:, position]), trial.shown)
    assert torch.equal(shown["same"].shown, shown["same"].targets)
    assert (shown["another"].shown != shown["another"].targets).all()


def test_only_the_exposure_shows_the_probes_word() -> None:
    task = dataclasses.replace(TASK, noises=(0.0,))
    trial = trials(task, probe_noise=0.0)
    same = words_of(task, 0, trial.inputs) == trial.targets[:, None]
    assert same.sum(0).nonzero().flatten().tolist() == [12, 16]
    assert same[:, [12, 16]].all()


def test_bits_flipped_at_one_noise_are_flipped_at_a_higher_one() -> None:
    known = TASK.vocabulary(0)
    low, high = (
        unpack(t.inputs[:, -1] ^ known[t.targets], TASK.bits)
        for t in (trials(probe_noise=0.2), trials(probe_noise=0.3))
    )
    assert (high >= low).all()
    assert high.sum() > low.sum()


def test_trials_are_not_the_streams_of_a_split() -> None:
    task = dataclasses.replace(TASK, noises=(0.0,))
    for name in ("train", "validation", "test"):
        split = task.split(0, name)
        assert not torch.equal(split.inputs[:100, :5], trials(task).inputs[:100, :5])


def test_the_ideal_observer_weighs_every_possibility() -> None:
    task = Priming(words=3, bits=5, length=3, repeat=0.4, noises=(0.1, 0.3), test_size=50)
    known = unpack(task.vocabulary(4), 5).numpy()
    inputs = task.split(4, "test").inputs

    def probability(word: int, pattern: np.ndarray) -> float:
        wrong = int((known[word] != pattern).sum())
        return float(np.mean([p**wrong * (1 - p) ** (5 - wrong) for p in task.noises]))

    for guess, stream in zip(task.ideal(4, inputs), unpack(inputs, 5).numpy(), strict=True):
        scores = np.zeros(3)
        for words in itertools.product(range(3), repeat=3):  # the two before, and the probe
            prior = 0.6 / 3 + sum(0.4 / 2 * (words[i] == words[2]) for i in (0, 1))
            scores[words[2]] += prior * np.prod(
                [probability(w, p) for w, p in zip(words, stream, strict=True)]
            )
        assert scores[guess] == pytest.approx(scores.max())  # there may be ties


def test_the_ideal_observer_gains_from_what_it_saw() -> None:
    primed, unprimed = (trials(exposure=e) for e in ("same", "another"))
    right = [(TASK.ideal(0, t.inputs) == t.targets).double().mean() for t in (primed, unprimed)]
    assert right[0] > right[1] + 0.15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": 1}, "words must be in 2"),
        ({"bits": 63}, r"bits must be in 1 … 62, got 63"),
        ({"length": 1}, "length must be at least 2"),
        ({"repeat": 1.5}, r"repeat must lie in \[0, 1\], got 1.5"),
        ({"noises": ()}, "noises must hold at least one"),
        ({"noises": (0.1, 0.7)}, r"noises must lie in \[0, 0.5\], got 0.7"),
        ({"test_size": 0}, "test_size must be at least 1"),
    ],
)
def test_impossible_tasks_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Priming(**changes)


def test_impossible_trials_are_refused() -> None:
    with pytest.raises(ValueError, match=r"between must be in 0 … 15, got 16"):
        trials(between=16)
    with pytest.raises(ValueError, match='exposure must be "same"'):
        trials(exposure="other")
    with pytest.raises(ValueError, match="probe_noise must lie"):
        trials(probe_noise=0.6)
    with pytest.raises(ValueError, match="name must be one of"):
        TASK.split(0, "tset")

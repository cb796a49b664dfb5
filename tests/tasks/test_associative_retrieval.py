"""The task: its bytes, its statistics, its text form and its ceiling."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fastweights.tasks import AssociativeRetrieval, binding_free_ceiling, decode, encode
from fastweights.tasks.associative_retrieval import _CHUNK, SPLITS, VOCABULARY
from fastweights.tasks.streams import stream

# About a hundred p-values are looked at, each at a fixed seed: a right generator had one chance
# in a thousand of failing anywhere. What the samples show of a wrong one lies far below.
SIGNIFICANCE = 1e-5

DIGESTS = {
    (4, "train"): "b5f054bd9dbd9210417a5e84a1f126c8736048aeb96306916ace480b5ca566e8",
    (4, "validation"): "ca0afd1249987dca1ab0da9f1a7489459abf2743332520bf3097c9b26d272db7",
    (4, "test"): "efdb6a2bd07d2a3d0a872af57bd4a58781e3dd20b6cd86d9407ccfc3ca41a4f6",
    (3, "test"): "dea626ce7e8cdf376363c0f53a7e1dffe8de2a17195a27f94bde061a68c76f3a",
    (26, "test"): "3dd94e4291235420464e964ca1005456956c46b0115817796c9480a974828be5",
}


@pytest.mark.parametrize(("num_pairs", "name"), DIGESTS)
def test_the_bytes_are_pinned(num_pairs, name):
    split = AssociativeRetrieval(num_pairs=num_pairs).split(0, name)
    assert split.digest() == DIGESTS[num_pairs, name]


def generate_slowly(num_pairs, size, seed, name):
    """The generator's documentation as plain Python: one sequence after the other."""
    source = stream(seed, "retrieve", first=SPLITS.index(name), second=num_pairs)
    for _ in range(size):
        words = [int(word) >> 5 for word in source.random_raw(2 * num_pairs + 1)]
        pool, letters = list(range(26)), []
        for i in range(num_pairs):
            j = i + words[i] * (26 - i) // 2**59
            pool[i], pool[j] = pool[j], pool[i]
            letters.append(pool[i])
        digits = [word * 10 // 2**59 for word in words[num_pairs : 2 * num_pairs]]
        asked = words[-1] * num_pairs // 2**59
        pairs = itertools.chain(*((a, 26 + d) for a, d in zip(letters, digits, strict=True)))
        yield [*pairs, 36, 36, letters[asked]], digits[asked]


@pytest.mark.parametrize("num_pairs", [1, 3, 4, 26])
@pytest.mark.parametrize("name", SPLITS)
def test_equals_one_sequence_after_the_other(num_pairs, name):
    task = AssociativeRetrieval(num_pairs, train_size=50, validation_size=50, test_size=50)
    split = task.split(11, name)
    inputs, targets = zip(*generate_slowly(num_pairs, 50, 11, name), strict=True)
    assert split.inputs.tolist() == list(map(list, inputs))
    assert split.targets.tolist() == list(targets)


@settings(deadline=None, max_examples=30)
@given(num_pairs=st.integers(1, 26), size=st.integers(1, 40), seed=st.integers(0, 2**64 - 1))
def test_every_sequence_is_well_formed(num_pairs, size, seed):
    task = AssociativeRetrieval(num_pairs, test_size=size)
    split = task.split(seed, "test")
    assert split.inputs.shape == (size, task.length) == (size, 2 * num_pairs + 3)
    assert split.inputs.dtype == split.targets.dtype == torch.int64
    for tokens, target in zip(split.inputs.tolist(), split.targets.tolist(), strict=True):
        letters, digits = tokens[: 2 * num_pairs : 2], tokens[1 : 2 * num_pairs : 2]
        assert tokens[-3:-1] == [36, 36]
        assert all(0 <= letter < 26 for letter in letters)
        assert len(set(letters)) == num_pairs
        assert all(26 <= digit < 36 for digit in digits)
        assert dict(zip(letters, digits, strict=True))[tokens[-1]] == 26 + target


def test_a_smaller_split_is_the_beginning_of_a_larger_one():
    small, large = (
        AssociativeRetrieval(4, train_size=size).split(2, "train") for size in (10, _CHUNK + 10)
    )
    assert torch.equal(small.inputs, large.inputs[:10])
    assert torch.equal(small.targets, large.targets[:10])
    following = list(itertools.islice(generate_slowly(4, _CHUNK + 10, 2, "train"), _CHUNK, None))
    assert large.inputs[_CHUNK:].tolist() == [tokens for tokens, _ in following]


def test_splits_seeds_and_numbers_of_pairs_have_streams_of_their_own():
    sizes = {f"{name}_size": 500 for name in SPLITS}
    digits = {}
    for num_pairs, seed, name in itertools.product((3, 4), (0, 1), SPLITS):
        split = AssociativeRetrieval(num_pairs, **sizes).split(seed, name)
        digits[num_pairs, seed, name] = split.inputs[:, 1].tolist()
    for one, other in itertools.combinations(digits.values(), 2):
        equal = sum(a == b for a, b in zip(one, other, strict=True))
        assert stats.binomtest(equal, 500, 0.1).pvalue > SIGNIFICANCE


def test_build_gives_the_three_splits_and_the_seed_decides():
    task = AssociativeRetrieval(4, train_size=30, validation_size=20, test_size=10)
    splits = task.build(5)
    for name, size in zip(SPLITS, (30, 20, 10), strict=True):
        split = getattr(splits, name)
        assert len(split) == size
        assert split.digest() == task.split(5, name).digest()
        assert split.digest() != task.split(6, name).digest()


@pytest.fixture(scope="module")
def sample():
    return AssociativeRetrieval(4, train_size=200_000).split(2024, "train")


@pytest.mark.parametrize("pair", range(4))
def test_letters_and_digits_are_uniform_at_every_place(sample, pair):
    letters = torch.bincount(sample.inputs[:, 2 * pair], minlength=26)
    digits = torch.bincount(sample.inputs[:, 2 * pair + 1] - 26, minlength=10)
    assert len(letters) == 26
    assert stats.chisquare(letters.numpy()).pvalue > SIGNIFICANCE
    assert len(digits) == 10
    assert stats.chisquare(digits.numpy()).pvalue > SIGNIFICANCE


def test_ordered_pairs_of_letters_are_uniform(sample):
    both = torch.bincount(26 * sample.inputs[:, 0] + sample.inputs[:, 6], minlength=26 * 26)
    different = both.view(26, 26)[~torch.eye(26, dtype=torch.bool)]
    assert both.view(26, 26).diagonal().sum() == 0
    assert stats.chisquare(different.numpy()).pvalue > SIGNIFICANCE


def test_digits_are_independent_draws_with_replacement(sample):
    digits = sample.inputs[:, 1:8:2] - 26
    every = torch.bincount(digits @ torch.tensor([1000, 100, 10, 1]), minlength=10_000)
    assert stats.chisquare(every.numpy()).pvalue > SIGNIFICANCE
    # without replacement, four digits would always differ
    distinct = sum(len(set(row)) == 4 for row in digits[:20_000].tolist())
    assert stats.binomtest(distinct, 20_000, 10 * 9 * 8 * 7 / 10**4).pvalue > SIGNIFICANCE


def test_every_place_is_asked_for_equally_often_whatever_stands_there(sample):
    asked = (sample.inputs[:, :8:2] == sample.inputs[:, -1:]).int()
    assert torch.equal(asked.sum(1), torch.ones_like(asked[:, 0]))
    place = asked.argmax(1)
    assert stats.chisquare(torch.bincount(place, minlength=4).numpy()).pvalue > SIGNIFICANCE
    for other in (sample.inputs[:, 0], sample.inputs[:, 1] - 26):
        table = np.zeros((4, int(other.max()) + 1))
        np.add.at(table, (place.numpy(), other.numpy()), 1)
        assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE


def test_overlap_between_splits_is_what_chance_gives():
    task = AssociativeRetrieval(2, train_size=20_000, test_size=20_000)
    assert task.num_sequences == 26 * 25 * 100 * 2
    splits = task.build(0)
    train = set(map(tuple, splits.train.inputs.tolist()))
    seen = sum(tuple(row) in train for row in splits.test.inputs.tolist())
    expected = task.expected_overlap("test")
    assert abs(seen - expected) < 5 * math.sqrt(expected)
    assert AssociativeRetrieval(4).expected_overlap("test") == pytest.approx(0.139, abs=1e-3)
    assert AssociativeRetrieval(4).expected_overlap("validation") == pytest.approx(0.07, abs=1e-3)
    assert AssociativeRetrieval(1).expected_overlap("test") == pytest.approx(20_000)


# --- text


def test_decode_and_encode_of_the_published_example():
    tokens, target = encode("c9k8j3f1??c → 9")
    assert tokens.tolist() == [2, 35, 10, 34, 9, 29, 5, 27, 36, 36, 2]
    assert target.item() == 9
    assert decode(tokens, target) == "c9k8j3f1??c → 9"
    assert decode(tokens.tolist(), 9) == "c9k8j3f1??c → 9"
    assert decode(tokens) == "c9k8j3f1??c"


@given(text=st.text(VOCABULARY, max_size=60), digit=st.none() | st.integers(0, 9))
def test_encode_inverts_decode(text, digit):
    tokens, target = encode(text if digit is None else f"{text} -> {digit}")
    assert tokens.dtype == torch.int64
    assert tokens.shape == (len(text),)
    assert (target is None) == (digit is None)
    assert decode(tokens, target) == (text if digit is None else f"{text} → {digit}")


@pytest.mark.parametrize("text", ["C9??C", "a1,b2", "a1→x", "a1→", "a1→12", "a1→²", "a1→1→2"])
def test_encode_refuses_what_has_no_token(text):
    with pytest.raises(ValueError, match="text must"):
        encode(text)


@pytest.mark.parametrize(
    ("tokens", "target", "message"),
    [
        ([37], None, "every token must be in 0 … 36, got 37"),
        ([-1], None, "every token must be in"),
        ([1], 10, "target must be in 0 … 9, got 10"),
        ([[1, 2]], None, "tokens must be one sequence"),
    ],
)
def test_decode_refuses_what_is_no_sequence(tokens, target, message):
    with pytest.raises(ValueError, match=message):
        decode(tokens, target)


def test_decode_refuses_numbers_that_are_not_whole():
    with pytest.raises(TypeError, match="every token must be an integer"):
        decode(torch.tensor([1.0]))


# --- configuration


def test_properties_and_defaults():
    task = AssociativeRetrieval()
    assert (task.num_pairs, task.train_size) == (4, 100_000)
    assert (task.validation_size, task.test_size) == (10_000, 20_000)
    assert (task.length, task.vocabulary_size, task.num_classes) == (11, 37, 10)
    assert task == AssociativeRetrieval(num_pairs=4)
    with pytest.raises(FrozenInstanceError):
        task.num_pairs = 3


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("num_pairs", 0, 27),
        ("train_size", 0, None),
        ("validation_size", -5, None),
        ("test_size", 0, None),
    ],
)
def test_impossible_configurations_are_refused(name, low, high):
    for bad in [low, high] if high else [low]:
        with pytest.raises(ValueError, match=f"{name} must be"):
            AssociativeRetrieval(**{name: bad})
    for bad in (4.0, math.nan, "4", None, True):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            AssociativeRetrieval(**{name: bad})


def test_unknown_split_and_bad_seed_are_refused():
    task = AssociativeRetrieval(2, test_size=3)
    with pytest.raises(ValueError, match="name must be one of 'train', 'validation', 'test'"):
        task.split(0, "valid")
    for bad in (-1, 2**64):
        with pytest.raises(ValueError, match="seed must be in"):
            task.split(bad, "test")
    with pytest.raises(TypeError, match="seed must be an integer"):
        task.build(1.5)


# --- ceiling


@pytest.mark.parametrize(
    ("num_pairs", "percent"), [(1, 100), (3, 43.00), (4, 38.35), (8, 29.99), (26, 20.46)]
)
def test_ceiling_has_its_known_values(num_pairs, percent):
    assert round(100 * float(binding_free_ceiling(num_pairs)), 2) == percent


@pytest.mark.parametrize("num_pairs", [1, 2, 3, 4, 5])
def test_ceiling_equals_counting_every_word(num_pairs):
    words = itertools.product(range(10), repeat=num_pairs)
    total = sum(max(Counter(word).values()) for word in words)
    assert binding_free_ceiling(num_pairs) == Fraction(total, num_pairs * 10**num_pairs)


@pytest.mark.parametrize("num_pairs", [3, 4, 8, 26, 100])
def test_ceiling_agrees_with_simulation(num_pairs):
    generator = np.random.default_rng(num_pairs)
    counts = generator.multinomial(num_pairs, [0.1] * 10, size=100_000)
    accuracy = counts.max(axis=1) / num_pairs
    error = accuracy.std() / math.sqrt(len(accuracy))
    assert abs(accuracy.mean() - float(binding_free_ceiling(num_pairs))) < 4 * error


@pytest.mark.parametrize("num_pairs", [3, 4, 8, 26])
def test_answering_the_commonest_digit_reaches_the_ceiling_on_the_task(num_pairs):
    split = AssociativeRetrieval(num_pairs, test_size=200_000).split(9, "test")
    digits = torch.nn.functional.one_hot(split.inputs[:, 1 : 2 * num_pairs : 2] - 26, 10)
    right = int((digits.sum(1).argmax(1) == split.targets).sum())
    ceiling = float(binding_free_ceiling(num_pairs))
    assert stats.binomtest(right, 200_000, ceiling).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)])
def test_ceiling_refuses_what_is_no_number_of_pairs(bad, error):
    with pytest.raises(error, match="num_pairs must be"):
        binding_free_ceiling(bad)

"""The random words: equal to the published generator, written out here once more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastweights.tasks.streams import MAX_SEED, below, check_integer, stream

MASK = 2**64 - 1


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 in whole numbers, after Salmon et al. (2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left = c[0] * 0xD2E7470EE14C6C93
        right = c[2] * 0xCA5A826395121157
        c = [(right >> 64) ^ c[1] ^ k[0], right & MASK, (left >> 64) ^ c[3] ^ k[1], left & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def test_the_oracle_gives_the_published_test_vectors():
    assert philox4x64([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert philox4x64([MASK] * 4, [MASK] * 2) == [
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    ]


@given(
    seed=st.integers(0, MAX_SEED),
    purpose=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8),
    first=st.integers(0, MAX_SEED),
    second=st.integers(0, MAX_SEED),
)
def test_words_are_those_of_the_published_generator(seed, purpose, first, second):
    key = [seed, int.from_bytes(purpose.encode(), "little")]
    expected = [word for n in (1, 2, 3) for word in philox4x64([n, 0, first, second], key)]
    assert stream(seed, purpose, first, second).random_raw(12).tolist() == expected


def test_reading_in_pieces_continues_the_stream():
    whole, pieces = stream(3, "test"), stream(3, "test")
    expected = whole.random_raw(20)
    assert np.array_equal(np.concatenate([pieces.random_raw(n) for n in (7, 1, 12)]), expected)


def test_streams_that_differ_in_one_argument_differ():
    variants = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    words = {word for v in variants for word in stream(*v).random_raw(1000).tolist()}
    assert len(words) == 1000 * len(variants)


@given(word=st.integers(0, MASK), bound=st.integers(1, 32))
def test_below_is_the_rounded_down_product(word, bound):
    value = below(np.array([word], dtype=np.uint64), bound)
    assert value.dtype == np.int64
    assert value.item() == (word >> 5) * bound // 2**59


@given(word=st.integers(0, MASK), bound=st.integers(33, 2**20))
def test_below_a_larger_bound_too(word, bound):
    room = (bound - 1).bit_length()
    value = below(np.array([word], dtype=np.uint64), bound).item()
    assert value == (word >> room) * bound // 2 ** (64 - room)
    assert value < bound


@pytest.mark.parametrize("bound", [1, 3, 10, 26, 32])
def test_below_covers_its_range_and_stays_in_it(bound):
    edges = np.array([0, MASK], dtype=np.uint64)
    assert below(edges, bound).tolist() == [0, bound - 1]


@pytest.mark.parametrize("bound", [0, 2**20 + 1, -1])
def test_below_refuses_bounds_that_overflow(bound):
    with pytest.raises(ValueError, match="bound must be in 1"):
        below(np.zeros(1, dtype=np.uint64), bound)


@pytest.mark.parametrize("name", ["seed", "first", "second"])
def test_stream_names_the_argument_out_of_range(name):
    arguments = {"seed": 0, "purpose": "test", "first": 0, "second": 0}
    for bad in (-1, MAX_SEED + 1):
        with pytest.raises(ValueError, match=f"{name} must be in 0"):
            stream(**{**arguments, name: bad})
    for bad in (0.5, True, "0", None):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            stream(**{**arguments, name: bad})


@pytest.mark.parametrize("purpose", ["", "ninechars"])
def test_stream_refuses_a_purpose_that_is_no_key(purpose):
    with pytest.raises(ValueError, match="purpose must have 1 to 8"):
        stream(0, purpose)


def test_check_integer_takes_numpy_integers_and_an_open_end():
    value = check_integer("n", np.int32(7), 1)
    assert value == 7
    assert type(value) is int
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        check_integer("n", 0, 1)

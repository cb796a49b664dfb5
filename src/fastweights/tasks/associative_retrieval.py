"""Associative retrieval: which digit came with this letter? ``c9k8j3f1??c → 9``."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastweights.tasks.data import Split, Splits
from fastweights.tasks.streams import MAX_SEED, below, check_integer, stream

__all__ = [
    "SPLITS",
    "VOCABULARY",
    "AssociativeRetrieval",
    "binding_free_ceiling",
    "decode",
    "encode",
]

LETTERS, DIGITS = len(string.ascii_lowercase), len(string.digits)
VOCABULARY = string.ascii_lowercase + string.digits + "?"
SPLITS = ("train", "validation", "test")

_QUESTION = VOCABULARY.index("?")
_ARROW = "→"
_CHUNK = 2**15  # sequences made at once: enough to amortise numpy's overhead, small enough to cache


@dataclass(frozen=True)
class AssociativeRetrieval:
    """K letter–digit pairs, two question marks, a letter seen before: which digit came with it?

    Tokens are 0 … 25 for the letters, 26 … 35 for the digits and 36 for "?"; a sequence has
    T = 2K + 3 of them. The target is the digit itself, 0 … 9. Letters are drawn without
    replacement, digits with replacement, and each of the K letters is equally likely to be
    asked for.

    Every split is a function of the configuration and a seed, and has the same bytes on every
    platform and in every version of every library (:mod:`fastweights.tasks.streams`). Sequence n
    of a split depends on ``num_pairs``, the seed and the split alone, so a smaller split is the
    beginning of a larger one. The splits are independent draws from disjoint random streams; by
    chance a sequence can occur in two of them, how often says :meth:`expected_overlap`: 0.14
    test sequences at K = 4 with the default sizes, but 43 at K = 3, and most of them at K ≤ 2.

    Args:
        num_pairs: K, 1 … 26.
        train_size: sequences for training.
        validation_size: sequences for choosing settings.
        test_size: sequences for the final figure.

    Raises:
        TypeError, ValueError: an argument is not an integer or out of range.

    Source: Ba, Hinton, Mnih, Leibo & Ionescu (2016), section 4.1, with its sizes for K = 4; Xu,
    Ba & Zemel (2017) for K = 3, 4 and 26.

    Example:
        >>> task = AssociativeRetrieval(num_pairs=4, train_size=2, validation_size=1, test_size=1)
        >>> train = task.split(seed=0, name="train")
        >>> train.inputs.shape, train.targets
        (torch.Size([2, 11]), tensor([0, 5]))
        >>> decode(train.inputs[0], train.targets[0])
        'u0w7o4p8??u → 0'
    """

    num_pairs: int = 4
    train_size: int = 100_000
    validation_size: int = 10_000
    test_size: int = 20_000

    def __post_init__(self) -> None:
        check_integer("num_pairs", self.num_pairs, 1, LETTERS)
        for name in SPLITS:
            check_integer(f"{name}_size", getattr(self, f"{name}_size"), 1)

    @property
    def length(self) -> int:
        """T = 2K + 3, tokens in a sequence."""
        return 2 * self.num_pairs + 3

    @property
    def vocabulary_size(self) -> int:
        """Number of different tokens, 37."""
        return len(VOCABULARY)

    @property
    def num_classes(self) -> int:
        """Number of different targets, 10."""
        return DIGITS

    @property
    def num_sequences(self) -> int:
        """How many different sequences there are, all equally likely."""
        return math.perm(LETTERS, self.num_pairs) * DIGITS**self.num_pairs * self.num_pairs

    def expected_overlap(self, name: str = "test") -> float:
        """How many sequences of a split are expected to occur in the training split by chance.

        Example:
            >>> round(AssociativeRetrieval(num_pairs=4).expected_overlap("test"), 2)
            0.14
        """
        seen = -math.expm1(self.train_size * math.log1p(-1 / self.num_sequences))
        return self._size(name) * seen

    def build(self, seed: int) -> Splits:
        """All three splits.

        Raises:
            TypeError, ValueError: the seed is not an integer in 0 … 2^64 − 1.
        """
        return Splits(*(self.split(seed, name) for name in SPLITS))

    def split(self, seed: int, name: str) -> Split:
        """One split: ``inputs`` of shape (N, 2K + 3) and ``targets`` of shape (N,), int64.

        Args:
            seed: 0 … 2^64 − 1.
            name: "train", "validation" or "test".

        Raises:
            TypeError, ValueError: the seed is not an integer in its range, or the name unknown.
        """
        size = self._size(name)
        check_integer("seed", seed, 0, MAX_SEED)
        source = stream(seed, "retrieve", first=SPLITS.index(name), second=self.num_pairs)
        inputs = np.empty((size, self.length), dtype=np.int64)
        targets = np.empty(size, dtype=np.int64)
        per_sequence = 2 * self.num_pairs + 1
        for start in range(0, size, _CHUNK):
            rows = slice(start, min(start + _CHUNK, size))
            words = source.random_raw((rows.stop - start) * per_sequence)
            _fill(inputs[rows], targets[rows], words.reshape(-1, per_sequence).T)
        return Split(torch.from_numpy(inputs), torch.from_numpy(targets))

    def _size(self, name: str) -> int:
        if name not in SPLITS:
            known = ", ".join(map(repr, SPLITS))
            raise ValueError(f"name must be one of {known}, got {name!r}")
        return int(getattr(self, f"{name}_size"))


def _fill(inputs: NDArray[np.int64], targets: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
    """Sequences from 2K + 1 random words each: K for the letters, K for the digits, the query."""
    count = len(targets)
    pairs = (len(words) - 1) // 2
    columns = np.arange(count)
    letters = np.repeat(np.arange(LETTERS)[:, None], count, axis=1)
    for i in range(pairs):  # Fisher–Yates, in all sequences at once
        chosen = below(words[i], LETTERS - i) + i
        letter = letters[chosen, columns]
        letters[chosen, columns] = letters[i]
        inputs[:, 2 * i] = letters[i] = letter
    digits = below(words[pairs : 2 * pairs], DIGITS)
    inputs[:, 1 : 2 * pairs : 2] = LETTERS + digits.T
    inputs[:, 2 * pairs : 2 * pairs + 2] = _QUESTION
    asked = below(words[2 * pairs], pairs)
    inputs[:, 2 * pairs + 2] = letters[asked, columns]
    targets[:] = digits[asked, columns]


def decode(tokens: Tensor | Sequence[int], target: Tensor | int | None = None) -> str:
    """A sequence as text, with its answer if a target is given.

    Args:
        tokens: T tokens.
        target: the digit, 0 … 9.

    Raises:
        TypeError, ValueError: ``tokens`` is not one-dimensional, or a token or the target is not an
            integer in its range.

    Example:
        >>> decode([2, 35, 36, 36, 2], 9)
        'c9??c → 9'
    """
    values = torch.as_tensor(tokens)
    if values.dim() != 1:
        raise ValueError(f"tokens must be one sequence, got shape {tuple(values.shape)}")
    for value in values.tolist():
        check_integer("every token", value, 0, len(VOCABULARY) - 1)
    text = "".join(VOCABULARY[value] for value in values.tolist())
    if target is None:
        return text
    digit = target.item() if isinstance(target, Tensor) else target
    return f"{text} {_ARROW} {check_integer('target', digit, 0, DIGITS - 1)}"


def encode(text: str) -> tuple[Tensor, Tensor | None]:
    """Tokens of shape (T,) and the target (a scalar, or None where there is no arrow), int64.

    The inverse of :func:`decode`; "->" may stand for the arrow, and spaces are skipped.

    Raises:
        ValueError: a character has no token, or what follows the arrow is not one digit.

    Example:
        >>> encode("c9??c → 9")
        (tensor([ 2, 35, 36, 36,  2]), tensor(9))
        >>> encode("c9??c")
        (tensor([ 2, 35, 36, 36,  2]), None)
    """
    question, arrow, answer = "".join(text.split()).replace("->", _ARROW).partition(_ARROW)
    for character in question:
        if character not in VOCABULARY:
            raise ValueError(
                f"text must hold letters a–z, digits and question marks, got {character!r} in "
                f"{text!r}"
            )
    tokens = torch.tensor(
        [VOCABULARY.index(character) for character in question], dtype=torch.int64
    )
    if not arrow:
        return tokens, None
    if len(answer) != 1 or answer not in string.digits:
        raise ValueError(f"text must have one digit after its arrow, got {text!r}")
    return tokens, torch.tensor(int(answer))


@lru_cache(maxsize=256)
def binding_free_ceiling(num_pairs: int) -> Fraction:
    """The best expected accuracy without any use of the keys, as an exact fraction.

    Whoever knows the digits of the sequence but not which letter each came with can do no better
    than answer with the most frequent of them: right with probability max count / K. A model that
    stops at this accuracy has learned the values and not the binding.

    With w_d(n) the number of words of length n over d digits in which no digit occurs more than m
    times, P(max ≤ m) = w_10(K) / 10^K. A word longer by one is any such word and any digit, less
    the cases in which the new digit now occurs m + 1 times: its m earlier places among n, and the
    other places a word over the other digits:

    .. math:: w_d(n + 1) = d\\, w_d(n) - d \\binom{n}{m} w_{d-1}(n - m)

    Args:
        num_pairs: K ≥ 1.

    Raises:
        TypeError, ValueError: ``num_pairs`` is not a positive integer.

    Example:
        >>> [f"{float(binding_free_ceiling(k)):.2%}" for k in (1, 3, 4, 8, 26)]
        ['100.00%', '43.00%', '38.35%', '29.99%', '20.46%']
    """
    pairs = check_integer("num_pairs", num_pairs, 1)
    words = DIGITS**pairs
    # E[max] = Σ P(max > m) over m = 0 … K − 1
    above = sum(words - _words_with_at_most(m, pairs) for m in range(pairs))
    return Fraction(above, words * pairs)


def _words_with_at_most(most: int, length: int) -> int:
    """How many words over the ten digits have no digit more than ``most`` times."""
    fewer = [1] + [0] * length  # over no digits there is only the empty word
    for d in range(1, DIGITS + 1):
        counts = [1]
        for n in range(length):
            excess = math.comb(n, most) * fewer[n - most] if n >= most else 0
            counts.append(d * (counts[n] - excess))
        fewer = counts
    return fewer[length]

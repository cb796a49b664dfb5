"""Priming: a word in noise, recognised more readily if it was heard a moment ago."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastweights.tasks.data import Split, Splits
from fastweights.tasks.streams import MAX_SEED, below, check_integer, stream

__all__ = ["Priming", "Trials", "unpack"]

SPLITS = ("train", "validation", "test")
_CHUNK = 2**12  # streams made at once: their bits, unpacked, should fit a cache
_TRIALS = len(SPLITS)  # which random stream trials have
_FLIP = 2**16  # bits are flipped with probabilities that are multiples of 1 / this


@dataclass(frozen=True, eq=False)
class Trials:
    """Streams made to order: the same probes after different pasts.

    Attributes:
        inputs: presented patterns, int64, shape (N, length); the last is the probe.
        targets: the word of each probe, int64, shape (N,).
        shown: the word at the position under study, int64, shape (N,).
    """

    inputs: Tensor
    targets: Tensor
    shown: Tensor


@dataclass(frozen=True)
class Priming:
    """A stream of words in noise; which word is the last one?

    A vocabulary of ``words`` random patterns of ``bits`` bits is known for good. A stream presents
    ``length`` of them, each with every bit flipped with a probability of its own, drawn from
    ``noises``. The last one is the probe, and the target is its word. With probability ``repeat``
    the probe is the word of an earlier position, all positions being equally likely, otherwise any
    word; the words before it are drawn independently.

    A presented pattern is one integer that holds its bits; :func:`unpack` gives the bits. Every
    split is a function of the configuration and a seed, the same bytes on every platform.

    Args:
        words: size of the vocabulary, 2 … 2^20.
        bits: of a pattern, 1 … 62.
        length: patterns in a stream, at least 2.
        repeat: probability that the probe occurred before, in [0, 1].
        noises: probabilities of a flipped bit, each in [0, 0.5].
        train_size: streams for training.
        validation_size: streams for choosing settings.
        test_size: streams for the final figure.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range.

    Source: the word in noise of G. Hinton's lecture of October 2016, as an article of Synced tells
    it; the task is ours.

    Example:
        >>> task = Priming(train_size=4, validation_size=1, test_size=1)
        >>> train = task.split(seed=0, name="train")
        >>> train.inputs.shape, train.targets.shape
        (torch.Size([4, 17]), torch.Size([4]))
    """

    words: int = 64
    bits: int = 40
    length: int = 17
    repeat: float = 0.5
    noises: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    train_size: int = 100_000
    validation_size: int = 10_000
    test_size: int = 20_000

    def __post_init__(self) -> None:
        check_integer("words", self.words, 2, 2**20)
        check_integer("bits", self.bits, 1, 62)
        check_integer("length", self.length, 2)
        if not 0 <= self.repeat <= 1:
            raise ValueError(f"repeat must lie in [0, 1], got {self.repeat}")
        if not self.noises:
            raise ValueError("noises must hold at least one probability, got none")
        for noise in self.noises:
            _check_noise("noises", noise)
        for name in SPLITS:
            check_integer(f"{name}_size", getattr(self, f"{name}_size"), 1)

    def vocabulary(self, seed: int) -> Tensor:
        """The words' patterns without noise, int64, shape (words,)."""
        check_integer("seed", seed, 0, MAX_SEED)
        drawn = stream(seed, "words").random_raw(self.words) >> np.uint64(64 - self.bits)
        return torch.from_numpy(drawn.astype(np.int64))

    def build(self, seed: int) -> Splits:
        """All three splits.

        Raises:
            TypeError, ValueError: the seed is not an integer in 0 … 2^64 − 1.
        """
        return Splits(*(self.split(seed, name) for name in SPLITS))

    def split(self, seed: int, name: str) -> Split:
        """One split: ``inputs`` of shape (N, length) and ``targets`` of shape (N,), int64.

        Raises:
            TypeError, ValueError: the seed is not an integer in its range, or the name unknown.
        """
        if name not in SPLITS:
            known = ", ".join(map(repr, SPLITS))
            raise ValueError(f"name must be one of {known}, got {name!r}")
        vocabulary = self.vocabulary(seed).numpy()
        size, past = int(getattr(self, f"{name}_size")), self.length - 1
        source = stream(seed, "priming", first=SPLITS.index(name))
        inputs = np.empty((size, self.length), dtype=np.int64)
        targets = np.empty(size, dtype=np.int64)
        levels = np.array([_threshold(noise) for noise in self.noises])
        for start in range(0, size, _CHUNK):
            rows = slice(start, min(start + _CHUNK, size))
            raw = source.random_raw((rows.stop - start) * 2 * (self.length + 1))
            raw = raw.reshape(-1, 2 * (self.length + 1))
            chosen = below(raw[:, : self.length], self.words)
            position = below(raw[:, self.length], past)
            again = raw[:, self.length + 1] >> np.uint64(48) < _threshold(self.repeat)
            earlier = np.take_along_axis(chosen, position[:, None], axis=1)[:, 0]
            chosen[:, -1] = np.where(again, earlier, chosen[:, -1])
            noise = levels[below(raw[:, self.length + 2 :], len(levels))]
            targets[rows] = chosen[:, -1]
            inputs[rows] = vocabulary[chosen] ^ _flips(source, noise, self.bits)
        return Split(torch.from_numpy(inputs), torch.from_numpy(targets))

    def trials(
        self,
        seed: int,
        count: int,
        *,
        between: int,
        exposure: str,
        exposure_noise: float,
        probe_noise: float,
    ) -> Trials:
        """Streams for one condition; those of all conditions differ in nothing else.

        With the same seed and count, every condition has the same probes, and the same words and
        flipped bits before them, but for the position under study. Bits flipped at one noise are
        flipped at every higher one. No position but the one under study shows the probe's word.

        Args:
            seed: 0 … 2^64 − 1.
            count: how many.
            between: patterns between the position under study and the probe, 0 … length − 2.
            exposure: what that position shows: the "same" word as the probe, "another", or a
                "third" one, drawn apart from the other.
            exposure_noise: probability of a flipped bit there, in [0, 0.5].
            probe_noise: probability of a flipped bit in the probe, in [0, 0.5].

        Raises:
            TypeError, ValueError: an argument is of the wrong type or out of range.
        """
        check_integer("count", count, 1)
        check_integer("between", between, 0, self.length - 2)
        if exposure not in ("same", "another", "third"):
            raise ValueError(f'exposure must be "same", "another" or "third", got {exposure!r}')
        _check_noise("exposure_noise", exposure_noise)
        _check_noise("probe_noise", probe_noise)
        vocabulary = self.vocabulary(seed).numpy()
        source = stream(seed, "priming", first=_TRIALS)
        raw = source.random_raw(count * 2 * (self.length + 1)).reshape(count, -1)
        probe = below(raw[:, 0], self.words)
        # Any word but the probe's: its distance from it, around the circle.
        away = 1 + below(raw[:, 1 : self.length + 1], self.words - 1)
        others = (probe[:, None] + away) % self.words
        words = np.concatenate([others[:, :-1], probe[:, None]], axis=1)
        levels = np.array([_threshold(noise) for noise in self.noises])
        noise = levels[below(raw[:, self.length + 2 :], len(levels))]
        position = self.length - 2 - between
        if exposure == "same":
            words[:, position] = probe
        elif exposure == "third":
            words[:, position] = others[:, -1]
        noise[:, position], noise[:, -1] = _threshold(exposure_noise), _threshold(probe_noise)
        inputs = vocabulary[words] ^ _flips(source, noise, self.bits)
        return Trials(*(torch.from_numpy(a.copy()) for a in (inputs, probe, words[:, position])))

    def ideal(self, seed: int, inputs: Tensor) -> Tensor:
        """What an observer answers who knows the words and how streams are made.

        It knows the vocabulary, how noisy patterns may be (but not how noisy each is) and how often
        a probe repeats an earlier word, and answers with the most probable word. On streams as
        :meth:`split` makes them nobody can be right more often.

        Args:
            seed: of the vocabulary.
            inputs: presented patterns, int64, shape (N, length).

        Returns:
            Words, int64, shape (N,).
        """
        known = 2.0 * unpack(self.vocabulary(seed), self.bits).double() - 1
        shown = 2.0 * unpack(inputs, self.bits).double() - 1
        wrong = ((self.bits - shown @ known.T) / 2).round().long()  # flipped bits, if it is w
        counts = torch.arange(self.bits + 1, dtype=torch.float64)
        noises = torch.tensor(self.noises, dtype=torch.float64)[:, None]
        likelihood = (noises**counts * (1 - noises) ** (self.bits - counts)).mean(0)
        given = likelihood[wrong]  # (N, length, words)
        earlier = given[:, :-1] / given[:, :-1].sum(-1, keepdim=True)
        prior = self.repeat * earlier.mean(1) + (1 - self.repeat) / self.words
        return (given[:, -1] * prior).argmax(-1)


def unpack(patterns: Tensor, bits: int) -> Tensor:
    """The bits of patterns, lowest first.

    Args:
        patterns: int64, any shape.
        bits: how many to take.

    Returns:
        0 or 1, int64, with the bits in a last dimension.

    Example:
        >>> unpack(torch.tensor([6]), 4)
        tensor([[0, 1, 1, 0]])
    """
    return patterns[..., None] >> torch.arange(bits, device=patterns.device) & 1


def _check_noise(name: str, value: float) -> None:
    if not 0 <= value <= 0.5:
        raise ValueError(f"{name} must lie in [0, 0.5], got {value}")


def _threshold(probability: float) -> int:
    return round(probability * _FLIP)


def _flips(source: np.random.Philox, thresholds: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Masks of flipped bits, shaped as the thresholds: one quarter of a random word for each bit.

    A bit is flipped where the quarter is below the threshold, so a higher one flips it too.
    """
    needed = thresholds.size * bits
    raw = source.random_raw(-(-needed // 4)).astype("<u8").view("<u2")[:needed]
    flipped = raw.reshape(*thresholds.shape, bits) < thresholds[..., None]
    masks: NDArray[np.int64] = flipped.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))
    return masks

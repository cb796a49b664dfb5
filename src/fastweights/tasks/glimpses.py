"""An image as a sequence of glimpses at two levels, coarse and fine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastweights.tasks.mnist import Mnist, MnistSplit
from fastweights.tasks.streams import MAX_SEED, check_integer, stream

__all__ = ["FIXED_ORDERS", "FULL", "ORDERS", "GlimpseSplit", "GlimpseSplits", "Glimpses", "views"]

SIDE, QUADRANTS = 7, 4
PIXELS = SIDE * SIDE
PLACES = QUADRANTS + QUADRANTS**2  # the coarse views, then the patches, quadrant by quadrant
FULL = 4 * 255  # what stands for a pixel full of ink: the sum of four grey values
SPLITS = ("train", "validation", "test")


def _published() -> tuple[int, ...]:
    rounds = [(q, *range(4 * (q + 1), 4 * (q + 2)), q) for q in range(QUADRANTS)]
    return tuple(place for visits in rounds for place in visits)


def _shuffled(words: np.ndarray) -> np.ndarray:
    """The published visits in an order for each row of random words."""
    return np.array(_published())[np.argsort(words, axis=-1, kind="stable")]


FIXED_ORDERS = {
    "published": _published(),
    "random": tuple(_shuffled(stream(0, "glimpses").random_raw(len(_published()))).tolist()),
    "fine-first": (*range(QUADRANTS, PLACES), *range(QUADRANTS), *range(QUADRANTS)),
}
ORDERS = (*FIXED_ORDERS, "scrambled")


@dataclass(frozen=True, eq=False)
class GlimpseSplit:
    """Sequences of glimpses and which digit each image shows.

    Attributes:
        inputs: in units of 1 / ``FULL``, int16, shape (N, 24, features).
        targets: 0 … 9, int64, shape (N,).
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def digest(self) -> str:
        """SHA-256 of inputs as little-endian 16-bit integers, in hexadecimal."""
        return hashlib.sha256(self.inputs.numpy().astype("<i2").tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class GlimpseSplits:
    """The three splits of MNIST as glimpses."""

    train: GlimpseSplit
    validation: GlimpseSplit
    test: GlimpseSplit


@dataclass(frozen=True)
class Glimpses:
    """MNIST as 24 glimpses of 7 × 7.

    An image has four quadrants of 14 × 14. A *coarse* view is a quadrant with every 2 × 2 pixels
    averaged; a quadrant's four 7 × 7 patches are *fine* views, at full resolution. In the published
    order each quadrant in turn is seen coarse, then its patches from left to right and top to
    bottom, then coarse once more, to integrate: 4 · (1 + 4 + 1) = 24.

    The other orders have the same 24 glimpses: "random", one permutation for all images;
    "fine-first", the sixteen patches, then the four coarse views, twice; "scrambled", a permutation
    of its own for each image, by the seed.

    Args:
        order: one of ``ORDERS``.
        places: append to every glimpse which of the 20 places it shows, one-hot: coarse views are
            0 … 3, the patches of quadrant q are 4 + 4q … 7 + 4q.

    Raises:
        ValueError: the order is unknown.

    Source: Ba, Hinton, Mnih, Leibo & Ionescu (2016), section 4.2, which does not spell the sequence
    out; this one is ours.

    Example:
        >>> images = torch.zeros(2, 28, 28, dtype=torch.uint8)
        >>> split = MnistSplit(images, torch.tensor([3, 7]))
        >>> Glimpses().split(split, seed=0, name="test").inputs.shape
        torch.Size([2, 24, 49])
    """

    order: str = "published"
    places: bool = False

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            known = ", ".join(map(repr, ORDERS))
            raise ValueError(f"order must be one of {known}, got {self.order!r}")

    @property
    def length(self) -> int:
        """Glimpses of an image, 24."""
        return len(FIXED_ORDERS["published"])

    @property
    def features(self) -> int:
        """Numbers of a glimpse, 49 pixels and with ``places`` 20 more."""
        return PIXELS + PLACES * self.places

    def build(self, data: Mnist, seed: int) -> GlimpseSplits:
        """All three splits; the seed matters for the "scrambled" order alone."""
        return GlimpseSplits(*(self.split(getattr(data, name), seed, name) for name in SPLITS))

    def split(self, images: MnistSplit, seed: int, name: str) -> GlimpseSplit:
        """One split.

        Args:
            images: of the split, in its order.
            seed: 0 … 2^64 − 1.
            name: "train", "validation" or "test".

        Raises:
            TypeError, ValueError: the seed is not an integer in its range, the name unknown, or the
                images are not 28 × 28.
        """
        order = self.visits(len(images), seed, name)
        seen = views(images.images)
        inputs = seen.gather(1, order[:, :, None].expand(-1, -1, PIXELS))
        if self.places:
            where = torch.nn.functional.one_hot(order, PLACES).to(torch.int16) * FULL
            inputs = torch.cat([inputs, where], dim=-1)
        return GlimpseSplit(inputs, images.labels)

    def visits(self, count: int, seed: int, name: str) -> Tensor:
        """Which place each glimpse shows, int64, shape (count, 24); for :meth:`split`."""
        if name not in SPLITS:
            known = ", ".join(map(repr, SPLITS))
            raise ValueError(f"name must be one of {known}, got {name!r}")
        check_integer("seed", seed, 0, MAX_SEED)
        if self.order != "scrambled":
            return torch.tensor(FIXED_ORDERS[self.order]).expand(count, -1)
        words = stream(seed, "scramble", first=SPLITS.index(name)).random_raw(count * self.length)
        return torch.from_numpy(_shuffled(words.reshape(count, self.length)))


def views(images: Tensor) -> Tensor:
    """All twenty 7 × 7 views of each image, exactly.

    Args:
        images: grey values 0 … 255, uint8, shape (N, 28, 28).

    Returns:
        int16 in units of 1 / ``FULL``, shape (N, 20, 49), rows of a view one after another: the
        four coarse views, then the sixteen patches.

    Raises:
        ValueError, TypeError: the images are not of this shape or dtype.

    Example:
        >>> white = torch.full((1, 28, 28), 255, dtype=torch.uint8)
        >>> views(white).shape, views(white).unique()
        (torch.Size([1, 20, 49]), tensor([1020], dtype=torch.int16))
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be torch.uint8, got {images.dtype}")
    if images.dim() != 3 or images.shape[1:] != (4 * SIDE, 4 * SIDE):
        raise ValueError(f"images must have shape (N, 28, 28), got {tuple(images.shape)}")
    whole = images.to(torch.int16)
    sums = whole.view(-1, 2 * SIDE, 2, 2 * SIDE, 2).sum((2, 4), dtype=torch.int16)
    coarse = _blocks(sums, SIDE)
    patches = _blocks(whole, 2 * SIDE).unflatten(-1, (2 * SIDE, 2 * SIDE)).flatten(0, 1)
    fine = 4 * _blocks(patches, SIDE)
    return torch.cat([coarse, fine.view(len(images), QUADRANTS**2, PIXELS)], dim=1)


def _blocks(images: Tensor, side: int) -> Tensor:
    """Square blocks from left to right and top to bottom: (N, blocks, side²)."""
    across = images.shape[-1] // side
    blocks = images.view(-1, across, side, across, side).transpose(2, 3)
    return blocks.reshape(-1, across**2, side**2)

"""MNIST: images of handwritten digits, in three splits."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastweights.tasks.mnist_files import default_folder, download_missing, read
from fastweights.tasks.streams import MAX_SEED, check_integer, stream

__all__ = ["Mnist", "MnistSplit", "load_mnist"]


@dataclass(frozen=True, eq=False)
class MnistSplit:
    """Images of digits and which digit each shows.

    Attributes:
        images: grey values 0 (paper) … 255 (ink), uint8, shape (N, 28, 28).
        labels: 0 … 9, int64, shape (N,).

    Raises:
        TypeError, ValueError: the dtypes or shapes are not these.

    Example:
        >>> images = torch.zeros(2, 28, 28, dtype=torch.uint8)
        >>> split = MnistSplit(images, torch.tensor([3, 7]))
        >>> len(split), split.pixels().shape, split[split.labels == 7].labels
        (2, torch.Size([2, 28, 28]), tensor([7]))
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        for name, dims, dtype in (("images", 3, torch.uint8), ("labels", 1, torch.int64)):
            tensor = getattr(self, name)
            if tensor.dtype != dtype:
                raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
            if tensor.dim() != dims:
                raise ValueError(f"{name} must have {dims} dimension(s), got {tensor.dim()}")
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"images and labels must be equally many, got {len(self.images)} and "
                f"{len(self.labels)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> MnistSplit:
        """The samples that an index tensor, a mask or a slice picks."""
        return MnistSplit(self.images[index], self.labels[index])

    def pixels(self) -> Tensor:
        """Grey values in [0, 1], float32, shape (N, 28, 28)."""
        return self.images.to(torch.float32) / 255

    def digest(self) -> str:
        """SHA-256 of the images' bytes, then of the labels as bytes, in hexadecimal."""
        total = hashlib.sha256(self.images.numpy().tobytes())
        total.update(self.labels.numpy().astype(np.uint8).tobytes())
        return total.hexdigest()


@dataclass(frozen=True, eq=False)
class Mnist:
    """The three splits: train and validation share the 60,000 training images, disjointly."""

    train: MnistSplit
    validation: MnistSplit
    test: MnistSplit


def load_mnist(
    folder: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    validation_size: int = 10_000,
    download: bool = False,
) -> Mnist:
    """All of MNIST: 60,000 training images, some of them set aside for validation, 10,000 for test.

    The validation images are drawn without replacement from the training images, by the seed
    alone; the same on every platform. Both splits keep the order of the file.

    Args:
        folder: holds the four IDX files, unpacked or as ".gz". None: ``mnist`` in the folder that
            the environment variable FASTWEIGHTS_DATA names.
        seed: which training images are for validation, 0 … 2^64 − 1.
        validation_size: how many, from 0 to all but one.
        download: fetch the files that are missing into the folder, which is made if need be. A
            file that is there is never replaced, not even a damaged one.

    Raises:
        FileNotFoundError: a file is not there (and ``download`` is off).
        ValueError: the SHA-256 of a file is not that of the original one: the message names it,
            what was found and what was expected. Or an argument is out of range.
        TypeError: an argument is of the wrong type.
        ConnectionError: no mirror had the file.

    Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits" (1998).

    Example:
        >>> load_mnist("no such folder")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no such folder holds neither train-images-idx3-ubyte nor ...
    """
    check_integer("seed", seed, 0, MAX_SEED)
    check_integer("validation_size", validation_size, 0)
    place = Path(folder) if folder is not None else default_folder()
    if download:
        download_missing(place)
    # Copies: what was read from a file cannot be written to.
    images, labels, test_images, test_labels = (torch.tensor(array) for array in read(place))
    train, test = MnistSplit(images, labels.long()), MnistSplit(test_images, test_labels.long())
    check_integer("validation_size", validation_size, 0, len(train) - 1)
    order = np.argsort(stream(seed, "mnist").random_raw(len(train)), kind="stable")
    chosen = torch.zeros(len(train), dtype=torch.bool)
    chosen[torch.from_numpy(order[:validation_size])] = True
    return Mnist(train=train[~chosen], validation=train[chosen], test=test)

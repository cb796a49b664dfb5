"""The four files of MNIST, from a folder or downloaded: every byte checked, nothing substituted."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastweights.files import read_bytes, write_atomically

__all__ = ["FILES", "MIRRORS", "MnistFile", "default_folder", "download_missing", "read"]

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
_LIMIT = 50 * 2**20  # bytes of a file, packed or not; MNIST's largest has 45 MiB
_TIMEOUT = 60.0  # seconds without an answer from a mirror


@dataclass(frozen=True)
class MnistFile:
    """A file in the IDX format: its name without ".gz", and the shape and SHA-256 of its content.

    The checksum is that of the file *unpacked*, since copies of MNIST are packed in different ways.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def header(self) -> int:
        """Bytes before the entries: a magic number and the dimensions, four bytes each."""
        return 4 + 4 * len(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the unpacked file."""
        return self.header + math.prod(self.shape)


FILES = (
    MnistFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    MnistFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    MnistFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    MnistFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


def default_folder() -> Path:
    """``mnist`` in the folder that the environment variable FASTWEIGHTS_DATA names.

    Raises:
        ValueError: the variable is not set.
    """
    value = os.environ.get("FASTWEIGHTS_DATA")
    if not value:
        raise ValueError(
            "folder must be given, or the environment variable FASTWEIGHTS_DATA name a folder "
            "that holds the files of MNIST in mnist/"
        )
    return Path(value) / "mnist"


def read(folder: Path) -> list[NDArray[np.uint8]]:
    """The arrays of the four files, in the order of ``FILES``; read-only.

    Where a file is there both unpacked and as ".gz", the unpacked one is read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is truncated, too long or altered; the message names it.
    """
    arrays = []
    for file in FILES:
        path = _path(folder, file)
        if path is None:
            raise FileNotFoundError(
                f"{folder} holds neither {file.name} nor {file.name}.gz; give another folder, or "
                "download=True"
            )
        content = _checked(read_bytes(path, limit=_LIMIT, follow_links=True), path, file)
        arrays.append(np.frombuffer(content, np.uint8, offset=file.header).reshape(file.shape))
    return arrays


def download_missing(folder: Path) -> None:
    """Fetch the files that are not in the folder, which is made if need be.

    A file that is there is never replaced, not even a damaged one; a fetched one appears under
    its name only when it is whole and right.

    Raises:
        ConnectionError: no mirror had the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if _path(folder, file) is None:
            path = folder / f"{file.name}.gz"
            write_atomically(path, _fetch(path, file))


def _path(folder: Path, file: MnistFile) -> Path | None:
    candidates = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _fetch(path: Path, file: MnistFile) -> bytes:
    failures = []
    for mirror in MIRRORS:
        address = f"{mirror}/{path.name}"
        try:
            with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
                packed: bytes = answer.read(_LIMIT)
            _checked(packed, path, file)
        except (OSError, ValueError) as error:  # unreachable, or answered with something else
            failures.append(f"{address}: {error}")
        else:
            return packed
    raise ConnectionError(f"no mirror had {path.name} of MNIST: {'; '.join(failures)}")


def _checked(content: bytes, path: Path, file: MnistFile) -> bytes:
    """The unpacked content, if it is that of MNIST."""
    if path.suffix == ".gz":
        try:
            # A little file may unpack to a very large one: no more than one byte too many.
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(file.size + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} is damaged: expected a complete gzip file, found {len(content)} bytes "
                f"that do not unpack ({error})"
            ) from error
    if len(content) != file.size:
        what = "truncated" if len(content) < file.size else "too long"
        found = f"{len(content)}" + " or more" * (what == "too long" and path.suffix == ".gz")
        raise ValueError(
            f"{path} is {what}: MNIST has {file.size} bytes here (unpacked), found {found}"
        )
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ValueError(
            f"{path} is not the file of MNIST: expected SHA-256 {file.sha256} (unpacked), found "
            f"{found}"
        )
    return content

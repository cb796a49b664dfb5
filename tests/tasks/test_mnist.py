"""Reading MNIST: small files in its format, every way a file can be wrong, downloads, the real."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastweights.tasks import Mnist, MnistSplit, load_mnist, mnist_files
from fastweights.tasks.mnist_files import FILES, MnistFile

TRAIN, TEST = 30, 12


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 28, 28))


CONTENTS = [
    idx(array) for n in (TRAIN, TEST) for array in (images(n), np.arange(n) % 10)
]  # in the order of FILES


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """MNIST is what the small files hold, except for tests of the real ones."""
    if "real" not in request.fixturenames:
        small = [
            MnistFile(file.name, (count, *file.shape[1:]), hashlib.sha256(content).hexdigest())
            for file, count, content in zip(
                FILES, (TRAIN, TRAIN, TEST, TEST), CONTENTS, strict=True
            )
        ]
        monkeypatch.setattr(mnist_files, "FILES", small)


def fill(folder: Path, packed: bool = True) -> Path:
    folder.mkdir()
    for file, content in zip(FILES, CONTENTS, strict=True):
        if packed:
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / file.name).write_bytes(content)
    return folder


def change(folder: Path, number: int, edit: Callable[[bytes], bytes]) -> Path:
    """Rewrite one file with its unpacked content changed."""
    path = next(folder.glob(f"{FILES[number].name}*"))
    content = edit(CONTENTS[number])
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(params=[False, True], ids=["unpacked", "gzip"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return fill(tmp_path / "data", request.param)


# -- what is read ------------------------------------------------------------------------------


def test_the_splits_hold_every_image_once_in_the_order_of_the_file(folder: Path) -> None:
    data = load_mnist(folder, validation_size=10, seed=3)
    whole = [image.tobytes() for image in images(TRAIN).astype(np.uint8)]
    rows = [
        [whole.index(image.numpy().tobytes()) for image in split.images]
        for split in (data.train, data.validation)
    ]
    assert [len(r) for r in rows] == [20, 10]
    assert sorted(rows[0] + rows[1]) == list(range(TRAIN))
    assert all(r == sorted(r) for r in rows)
    assert data.train.labels.tolist() == [row % 10 for row in rows[0]]
    assert data.validation.labels.tolist() == [row % 10 for row in rows[1]]
    assert data.test.labels.tolist() == [row % 10 for row in range(TEST)]
    assert np.array_equal(data.test.images.numpy(), images(TEST))
    assert torch.equal(data.test.pixels(), data.test.images / 255)


def test_the_seed_alone_decides_the_validation_images(folder: Path) -> None:
    digests = [
        load_mnist(folder, validation_size=10, seed=seed).validation.digest()
        for seed in (0, 0, 1, 2**64 - 1)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTWEIGHTS_DATA", raising=False)
    with pytest.raises(ValueError, match=r"folder must be given, or .*FASTWEIGHTS_DATA"):
        load_mnist()
    monkeypatch.setenv("FASTWEIGHTS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="mnist holds neither train-images"):
        load_mnist()
    fill(tmp_path / "mnist")
    assert len(load_mnist(validation_size=0).test) == TEST


# -- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(4), ids=lambda n: FILES[n].name)
def test_files_too_short_too_long_or_altered(folder: Path, number: int) -> None:
    size = len(CONTENTS[number])
    path = change(folder, number, lambda c: c[:-3])
    with pytest.raises(ValueError, match=f"{path.name} is truncated.* {size} .* {size - 3}"):
        load_mnist(folder, validation_size=10)
    change(folder, number, lambda c: c + b"12")
    with pytest.raises(
        ValueError, match=f"{path.name} is too long.* {size} .* {size + 1} or more|found {size + 2}"
    ):
        load_mnist(folder, validation_size=10)
    change(folder, number, lambda c: c[:8] + c[8:][::-1])
    expected = mnist_files.FILES[number].sha256
    with pytest.raises(ValueError, match=f"{path.name} is not the file of MNIST.* {expected} "):
        load_mnist(folder, validation_size=10)


def test_a_damaged_packed_file(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data")
    path = folder / f"{FILES[0].name}.gz"
    packed = path.read_bytes()
    flipped = packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:]  # gzip's own checksum
    for damaged in (packed[:5000], packed + b"xyz", b"<html>not found</html>", flipped):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path.name} is damaged: .*{len(damaged)} bytes"):
            load_mnist(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    next(folder.glob("t10k-labels*")).unlink()
    with pytest.raises(FileNotFoundError, match="neither t10k-labels-idx1-ubyte nor"):
        load_mnist(folder)


def test_bad_arguments(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"validation_size must be in 0 … 29, got 30"):
        load_mnist(folder, validation_size=30)
    with pytest.raises(TypeError, match="seed must be an integer"):
        load_mnist(folder, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equally many, got 2 and 3"):
        MnistSplit(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="images must have 3"):
        MnistSplit(torch.zeros(2, 784, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"images must be torch.uint8, got torch.float32"):
        MnistSplit(torch.zeros(2, 28, 28), torch.zeros(2, dtype=torch.int64))


# -- downloading, from mirrors that are folders ------------------------------------------------


def test_the_second_mirror_serves_where_the_first_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = fill(tmp_path / "good"), fill(tmp_path / "bad")
    change(bad, 2, lambda c: c[:-1] + b"!")
    mirrors = [folder.as_uri() for folder in (tmp_path / "none", bad, good)]
    monkeypatch.setattr(mnist_files, "MIRRORS", mirrors)
    there = tmp_path / "new" / "folder"
    assert len(load_mnist(there, validation_size=10, download=True).train) == 20
    assert {p.name: p.read_bytes() for p in there.iterdir()} == {
        p.name: p.read_bytes() for p in good.iterdir()
    }


def test_nothing_is_kept_that_is_not_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, there = fill(tmp_path / "bad"), tmp_path / "there"
    change(bad, 0, lambda c: c[:-1] + b"!")
    monkeypatch.setattr(mnist_files, "MIRRORS", [bad.as_uri()])
    with pytest.raises(ConnectionError, match=r"no mirror had train-images.*expected SHA-256"):
        load_mnist(there, download=True)
    assert list(there.iterdir()) == []


def test_what_is_there_is_neither_fetched_nor_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist_files, "MIRRORS", [])
    assert len(load_mnist(folder, validation_size=0, download=True).test) == TEST
    path = change(folder, 3, lambda c: c[:-1] + b"\x09")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"t10k-labels.*is not the file of MNIST"):
        load_mnist(folder, validation_size=0, download=True)
    assert path.read_bytes() == before


def test_without_being_asked_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist_files, "MIRRORS", [fill(tmp_path / "good").as_uri()])
    with pytest.raises(FileNotFoundError):
        load_mnist(tmp_path)


# -- the real files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Mnist:
    if not os.environ.get("FASTWEIGHTS_DATA"):
        pytest.skip("FASTWEIGHTS_DATA names no folder with the files of MNIST")
    return load_mnist()


def test_mnist_has_the_counts_everyone_knows(real: Mnist) -> None:
    labels = torch.cat([real.train.labels, real.validation.labels])
    known = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert labels.bincount().tolist() == known
    known = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert real.test.labels.bincount().tolist() == known
    assert [len(s) for s in (real.train, real.validation, real.test)] == [50_000, 10_000, 10_000]
    assert real.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    # The mean and standard deviation that everyone normalises with.
    pixels = torch.cat([real.train.images, real.validation.images]).double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_the_real_splits_are_the_same_everywhere(real: Mnist) -> None:
    assert [s.digest() for s in (real.train, real.validation, real.test)] == [
        "5ffb0812a40f2aa4c8cf1d0d16f9ef6425a24f4b70868cdc8cbd21f238a1262f",
        "0e5a0aecbae1364dd5458487fc368f6d0039ccca04e72585b74c0d69f189c3a2",
        "c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
    ]

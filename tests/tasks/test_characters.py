"""Text: every character once, in order, and clear words about files that will not do."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from fastweights.tasks import Alphabet, TextStreams, load_text


def written(folder: Path, content: bytes) -> Path:
    path = folder / "text.txt"
    path.write_bytes(content)
    return path


def test_the_parts_follow_one_another(tmp_path: Path) -> None:
    content = "To be, or not to be:\r\nêtre ou ne pas être 🎭"
    text = load_text(written(tmp_path, content.encode()))
    parts = (text.train, text.validation, text.test)
    assert "".join(text.alphabet.decode(part) for part in parts) == content
    assert [len(part) for part in parts] == [34, 4, 5]
    assert list(text.alphabet.characters) == sorted(set(content))


def test_the_digest_is_that_of_the_text(tmp_path: Path) -> None:
    text = load_text(written(tmp_path, b"abcdefghij" * 3))
    assert text.digest() == "76196ea5b2a892941976fe65058687eef20a7f04c0054f62762c1737811c33db"
    assert load_text(written(tmp_path, b"abcdefghij" * 2 + b"abcdefghji")).digest() != text.digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have at least 20 characters, got 0"),
        ("é".encode() * 19, "must have at least 20 characters, got 19"),
        (b"x" * 30 + "é".encode("latin-1") + b"y" * 30, "must be UTF-8, but byte 30 is 0xe9"),
        ("naïve text in another encoding".encode("utf-16"), "must be UTF-8, but byte 0 is 0xff"),
    ],
)
def test_a_file_that_will_not_do_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        load_text(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no text file .*nothing"):
        load_text(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="there is no text file"):
        load_text(tmp_path)


def test_nothing_takes_the_place_of_tiny_shakespeare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTWEIGHTS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="tinyshakespeare"):
        load_text()
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(b"Marlowe, all of it.\n" * 9)
    with pytest.raises(ValueError, match=r"is not tiny Shakespeare: expected .*86c4.*, found"):
        load_text()
    monkeypatch.delenv("FASTWEIGHTS_DATA")
    with pytest.raises(ValueError, match="FASTWEIGHTS_DATA"):
        load_text()


@pytest.mark.skipif("FASTWEIGHTS_DATA" not in os.environ, reason="needs FASTWEIGHTS_DATA")
def test_tiny_shakespeare() -> None:
    text = load_text()
    assert len(text.alphabet) == 65
    assert [len(t) for t in (text.train, text.validation, text.test)] == [892315, 111539, 111540]
    assert text.alphabet.decode(text.train[:14]) == "First Citizen:"
    assert text.digest() == "4e7b97b6d96dcc00018607aa0540da00c7f06f6ccea16ce8c4cbc70c28f826bc"


def test_characters_must_be_known_and_distinct() -> None:
    with pytest.raises(ValueError, match=r"has 'x', 'y', not among the 2 .*'ab'"):
        Alphabet("ab").encode("ayxb")
    for characters in ("", "aba"):
        with pytest.raises(ValueError, match="each once"):
            Alphabet(characters)


def test_every_epoch_reads_nearly_everything_once() -> None:
    streams = TextStreams(torch.arange(103), streams=4, length=5)
    assert streams.per_epoch == 5  # 25 characters of each stream, 3 left over
    for epoch in range(3):
        pairs = [streams.segment(7, epoch, number) for number in range(5)]
        seen = torch.cat([inputs.flatten() for inputs, _ in pairs])
        assert len(set(seen.tolist())) == len(seen) == 100
        for inputs, targets in pairs:
            assert inputs.shape == (5, 4)
            assert torch.equal(targets, (inputs + 1) % 103)
        for (_, before), (after, _) in pairwise(pairs):
            assert torch.equal(before[-1], after[0])  # goes on where it stopped


def test_seed_and_epoch_decide_where_the_text_is_cut() -> None:
    streams = TextStreams(torch.arange(1000), streams=2, length=3)
    starts = {
        (seed, epoch): int(streams.segment(seed, epoch, 0)[0][0, 0])
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(set(starts.values())) > 20
    assert starts[0, 0] == int(streams.segment(0, 0, 0)[0][0, 0]) == 259


def test_a_text_too_short_for_its_streams() -> None:
    with pytest.raises(ValueError, match=r"at least 2,048 characters, got 2,047"):
        TextStreams(torch.zeros(2047, dtype=torch.int64), streams=32, length=64)
    with pytest.raises(ValueError, match=r"number must be in 0 … 4, got 5"):
        TextStreams(torch.arange(103), streams=4, length=5).segment(0, 0, 5)

"""Files are whole or absent."""

from __future__ import annotations

import math
import os
import stat
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastweights import files
from fastweights.files import (
    append,
    is_temporary,
    is_there,
    lock,
    make_folder,
    parse_json,
    printable,
    read_bytes,
    read_json,
    remove,
    write_atomically,
    write_json,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value.json"
    write_json(path, 1)

    def fail(descriptor: int) -> None:
        assert sum(is_temporary(p) for p in tmp_path.iterdir()) == 1
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, 2)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, math.nan)
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]
    assert read_json(path) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"value\.json is not valid JSON"):
        read_json(path)


@pytest.mark.parametrize("content", [{"a": [1, 0.1]}, [1, 2], {"content": 1}, {}, "text", None])
def test_a_checksum_is_looked_at_and_left_out(tmp_path: Path, content: object) -> None:
    path = tmp_path / "value.json"
    write_json(path, content, checksum=True)
    assert read_json(path) == content
    whole = path.read_text()
    path.write_text(whole.replace("1", "2", 1))
    with pytest.raises(ValueError, match=r"value\.json is damaged or was altered"):
        read_json(path)
    path.write_text(whole.replace("checksum", "chechsum"))
    with pytest.raises(ValueError, match=r"value\.json is damaged or was altered"):
        read_json(path)


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "[1e999]", "[" * 65 + "]" * 65, "[" * 100_000, '{"a":' * 9999]
)
def test_json_that_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_json_as_deep_as_may_be(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 64 + "]" * 64)
    read_json(tmp_path / "a.json")


def test_a_long_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(ValueError, match=r"file is too long: at most 4 bytes are read, found 5"):
        read_bytes(path, limit=4)


USES: dict[str, Callable[[Path, Path], object]] = {
    "read": lambda path, root: read_bytes(path, limit=9, root=root),
    "append": lambda path, root: append(path, b"x", root),
    "lock": lambda path, root: lock(path, root, wait=False).__enter__(),
    "make": make_folder,
}
BELOW: dict[str, Callable[[Path, Path], object]] = {
    **USES,
    "write": lambda path, root: write_atomically(path, b"x", root),
    "remove": remove,
    "is_there": is_there,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("target", ["file", "folder", "not there"])
def test_a_link_is_named_and_not_followed(tmp_path: Path, use: str, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"run/link is a link"):
        USES[use](tmp_path / "run" / "link", tmp_path / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "run"]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("use", BELOW)
@pytest.mark.parametrize("below", ["link/file", "link/folder/file", "a/link/file"])
def test_what_is_below_a_link_is_not_reached(tmp_path: Path, use: str, below: str) -> None:
    for place in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "folder"):
        place.mkdir()
        (place / "file").write_text("precious")
    root = tmp_path / "run"
    link = root / below[: below.index("link")] / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"link is a link"):
        BELOW[use](root / below, root)
    for path in (tmp_path / "elsewhere").rglob("file"):
        assert path.read_text() == "precious"
    assert len(list((tmp_path / "elsewhere").rglob("*"))) == 3


@pytest.mark.parametrize("use", BELOW)
def test_without_descriptors_it_is_the_same(
    tmp_path: Path, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_DESCRIPTORS", False)
    test_what_is_below_a_link_is_not_reached(tmp_path, use, "a/link/file")
    if use != "is_there":
        BELOW[use](tmp_path / "run" / "a" / "new", tmp_path / "run") if use != "read" else None


def test_links_in_the_path_that_the_user_named_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    root = tmp_path / "runs"
    write_atomically(root / "a" / "b", b"1", root)
    append(root / "a" / "b", b"2", root)
    assert read_bytes(tmp_path / "disk" / "a" / "b", limit=9) == b"12"


def test_nothing_leads_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "run" / ".." / "file", tmp_path / "file"):
        with pytest.raises(ValueError, match="file"):
            read_bytes(path, limit=9, root=tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("use", ["read", "append", "lock"])
def test_only_regular_files_are_opened(tmp_path: Path, use: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # so that it can be written
    with pytest.raises(ValueError, match=r"pipe is not a regular file"):
        USES[use](tmp_path / "pipe", tmp_path)
    os.close(reader)
    (tmp_path / "folder").mkdir()
    with pytest.raises((ValueError, IsADirectoryError)) as error:
        USES[use](tmp_path / "folder", tmp_path)
    assert str(tmp_path / "folder") in str(error.value)


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "null"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except (AttributeError, PermissionError):
        pytest.skip("needs the right to make devices")
    with pytest.raises(ValueError, match="null is a device"):
        write_atomically(path, b"x")
    assert stat.S_ISCHR(path.stat().st_mode)


def test_a_lock_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("notes")
    with lock(tmp_path / ".lock", wait=False), pytest.raises(BlockingIOError):
        lock(tmp_path / ".lock", wait=False).__enter__()
    with lock(tmp_path / ".lock", wait=False):
        assert (tmp_path / ".lock").read_text() == "notes"


def test_a_temporary_file_cannot_be_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is new each time; and a link of that name would not be written to."""
    names = set()
    rename = os.replace

    def watch(source: str, *args: Any, **folders: Any) -> None:
        names.add(source)
        rename(source, *args, **folders)

    monkeypatch.setattr(os, "replace", watch)
    for _ in range(5):
        write_atomically(tmp_path / "file", b"x")
    assert len(names) == 5
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "ab")
    (tmp_path / ".file.ab.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"\.tmp is a link"):
        write_atomically(tmp_path / "file", b"y")
    assert not (tmp_path / "elsewhere").exists()


def test_old_temporary_files_are_removed(tmp_path: Path) -> None:
    for name, age in ((".a.0ab.tmp", 4000), (".a.12.tmp", 5), (".b.34.tmp", 4000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_atomically(tmp_path / "a", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.12.tmp", ".b.34.tmp", "a"]


@pytest.mark.parametrize("use", ["append", "lock", "make", "write"])
def test_a_root_that_was_taken_away_does_not_come_back(tmp_path: Path, use: str) -> None:
    for root in (tmp_path / "gone", tmp_path / "gone" / "below"):
        with pytest.raises(FileNotFoundError, match="gone"):
            BELOW[use](root / "a" / "file", root)
    with pytest.raises(FileNotFoundError, match="gone"):
        write_atomically(tmp_path / "gone" / "file", b"x")
    assert not list(tmp_path.iterdir())


def test_every_character_is_shown_or_spelled_out() -> None:
    text = "".join(map(chr, range(0x110000)))
    commands = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line ends
    turning = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    expected = (
        c.encode("unicode_escape").decode()
        if c not in "\n\t" and (unicodedata.category(c) in commands or c in turning)
        else c
        for c in text
    )
    assert printable(text) == "".join(expected)


@pytest.mark.parametrize("text", ["1" + "0" * 40, "-" + "9" * 5000, '{"a": [1' + "0" * 400 + "]}"])
def test_integers_of_any_number_of_digits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is an integer of"):
        parse_json(text)
    assert parse_json("1" + "0" * 39) == 10**39


def test_text_without_controls_is_the_same() -> None:
    text = "η = 0.1, 日本語\n\t“quoted”"
    assert printable(text) == text
    assert printable("\x1b[31m\r\x00\x9b\u202e\u2028\ud800") == (
        r"\x1b[31m\r\x00\x9b\u202e\u2028\ud800"
    )

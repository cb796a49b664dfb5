"""Files and folders that may have come from anyone: nothing in them leads elsewhere.

Below a folder that the user named no link is followed, only regular files are opened, and no more
is read than a file of its kind may hold. A file is whole or absent, whatever happens while it is
written, and a checksum tells when it was altered afterwards. See ``docs/threat-model.md``.

Every function takes ``root``, the folder that the user named; links in its own path are the user's
and are followed. Without it, only the last part of ``path`` is below the root.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "JSON_LIMIT",
    "append",
    "checksum_of",
    "has_checksum",
    "is_temporary",
    "is_there",
    "lock",
    "make_folder",
    "parse_json",
    "printable",
    "read_bytes",
    "read_json",
    "remove",
    "remove_temporaries",
    "write_atomically",
    "write_json",
]

JSON_LIMIT = 16 * 2**20  # bytes; the largest result so far has 0.4 MiB
_WRAPPED = "content"
_SHA256 = re.compile("[0-9a-f]{64}")
MAX_DEPTH = 64  # of lists and objects inside one another
MAX_DIGITS = 40  # of an integer: anything of ours fits, and no float overflows
# Control characters but line ends and tabs, other line ends, halves of characters, and what
# changes the direction of the text around it.
_COMMANDS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
STALE = 3600.0  # seconds after which a temporary file is a dead process's

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_FILE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_DESCRIPTORS = bool(getattr(os, "O_NOFOLLOW", 0)) and os.open in os.supports_dir_fd
_TEMPORARY = re.compile(r"\.(?:.+\.[0-9a-f]+|shared-\w+)\.tmp", re.DOTALL)


def read_bytes(
    path: Path, *, limit: int, root: Path | None = None, follow_links: bool = False
) -> bytes:
    """All of a regular file.

    Args:
        path: the file.
        limit: the most bytes it may have; a longer one is not read.
        root: see the module.
        follow_links: for a file that the user named.

    Raises:
        ValueError: it is a link or below one, no regular file, or longer; the message names it.
        OSError: it is not there, or may not be read.
    """
    flags = os.O_RDONLY | _FILE
    if follow_links:
        descriptor = os.open(path, flags)
    else:
        with _inside(path, root) as (folder, name):
            descriptor = _open(path, name, flags, folder)
    try:
        size = _check_regular(path, descriptor)  # a folder, too, can be opened so far
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = b"" if size > limit else file.read(limit + 1)
    finally:
        os.close(descriptor)
    if max(size, len(content)) > limit:
        found = max(size, len(content))
        raise ValueError(f"{path} is too long: at most {limit} bytes are read, found {found}")
    return content


def is_there(path: Path, root: Path | None = None) -> bool:
    """Whether something has this name, be it a link that leads nowhere.

    Raises:
        ValueError: it is below a link.
    """
    try:
        with _inside(path, root) as (folder, name):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_folder(path: Path, root: Path | None = None) -> None:
    """Make a folder, and those between it and the root, where they are not there.

    Raises:
        FileNotFoundError: the root is not there.
        ValueError: it is a link or below one.
    """
    with _inside(path / "any", root or path.parent, make=True):
        pass


def remove(path: Path, root: Path | None = None) -> None:
    """Take away a file, a link (not what it leads to) or a folder, if it is there.

    Raises:
        ValueError: it is below a link.
    """
    try:
        with _inside(path, root) as (folder, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(path)  # follows no link
            else:
                os.unlink(name, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        pass


def append(path: Path, content: bytes, root: Path | None = None) -> None:
    """Write at the end of a regular file, and see that it is on the disk.

    Raises:
        ValueError: it is a link or below one, or no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FILE
    with _inside(path, root) as (folder, name):
        descriptor = _open(path, name, flags, folder)
    with _naming(path), os.fdopen(descriptor, "ab") as file:
        _check_regular(path, descriptor)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def write_atomically(path: Path, content: bytes, root: Path | None = None) -> None:
    """Write a temporary file beside ``path``, then put it in its place.

    A crash, a full disk or a kill leaves the old file, or none; never half of one. A link in the
    place of ``path`` is replaced. What a killed process left there is taken away once it is old.
    Folders below the root are made. The root itself is not: somebody may have taken it away.

    Raises:
        FileNotFoundError: the root is not there.
        ValueError: it is below a link, or a device.
    """
    with _inside(path, root or path.parent, make=True) as (folder, name):
        _refuse_device(path, name, folder)
        _remove_stale(path, folder)
        # Nobody can have put a file or a link there: the name cannot be guessed.
        temporary = f".{path.name}.{secrets.token_hex(8)}.tmp"
        place = temporary if folder is not None else path.with_name(temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
        descriptor = _open(path.with_name(temporary), place, flags, folder)
        try:
            with _naming(path):
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(place, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(place, dir_fd=folder)


def is_temporary(path: Path) -> bool:
    """Whether :func:`write_atomically` made this file, and was killed before it took it away.

    Example:
        >>> is_temporary(Path("run/.result.json.4711.tmp")), is_temporary(Path("run/result.json"))
        (True, False)
    """
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporaries(folder: Path, root: Path | None = None) -> None:
    """Take away what killed processes left in a folder, which no other process may write to."""
    with suppress(FileNotFoundError), _inside(folder / "any", root or folder):
        for path in list(folder.iterdir()):
            if is_temporary(path):
                remove(path, root)


@contextmanager
def lock(path: Path, root: Path | None = None, *, wait: bool) -> Iterator[int]:
    """Hold a file; the system lets go of it when this process ends, however it ends.

    The file is made if need be, and never written to.

    Yields:
        Its descriptor.

    Raises:
        BlockingIOError: another process holds it, and we do not wait.
        ValueError: it is a link or below one, or no regular file.
    """
    with _inside(path, root) as (folder, name):
        descriptor = _open(path, name, os.O_RDWR | os.O_CREAT | _FILE, folder)
    try:
        _check_regular(path, descriptor)
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def checksum_of(content: Any) -> str:
    """SHA-256 of JSON values, however they are laid out."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def write_json(
    path: Path, content: Any, root: Path | None = None, *, checksum: bool = False
) -> None:
    """Write JSON atomically; a NaN in it is an error, since JSON has none.

    A list of numbers stands on one line.

    Args:
        path: the file.
        content: JSON values.
        root: see the module.
        checksum: add the entry ``checksum`` to the object, which :func:`read_json` looks at; what
            is no object becomes the entry ``content`` of one.
    """
    if checksum:
        plain = isinstance(content, dict) and list(content) != [_WRAPPED]
        whole = content if plain else {_WRAPPED: content}
        content = {**whole, "checksum": checksum_of(whole)}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Text in JSON holds no line ends as such, so this finds lists only.
    text = re.sub(r"\[\n[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), text)
    write_atomically(path, text.encode("utf-8"), root)


def read_json(
    path: Path, root: Path | None = None, *, limit: int = JSON_LIMIT, checksum: bool = False
) -> Any:
    """Read JSON; a checksum in it is compared with the rest, and left out.

    Files of earlier versions have no checksum: they are believed as they are.

    Args:
        path: the file.
        root: see the module.
        limit: the most bytes it may have.
        checksum: refuse a file that has none.

    Raises:
        ValueError: the file is no JSON, was altered, is a link or below one, is no regular file or
            too long; the message names it.
    """
    value, has_one = _read_json(path, root, limit)
    if checksum and not has_one:
        raise ValueError(
            f"{path} is damaged or was altered: it has lost its checksum. If you took it out, take "
            "out that of the run's description too"
        )
    return value


def has_checksum(path: Path, root: Path | None = None, *, limit: int = JSON_LIMIT) -> bool:
    """Whether :func:`write_json` gave this file a checksum.

    Raises:
        ValueError: as :func:`read_json`.
    """
    return _read_json(path, root, limit)[1]


def _read_json(path: Path, root: Path | None, limit: int) -> tuple[Any, bool]:
    """What it holds, and whether it has a checksum."""
    content = read_bytes(path, limit=limit, root=root)
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    last = next(reversed(value), "") if isinstance(value, dict) else ""
    # A checksum under another name is one whose name was damaged.
    if last and (last == "checksum" or _SHA256.fullmatch(str(value[last]))):
        stored = value.pop(last)
        if last != "checksum" or stored != checksum_of(value):
            raise ValueError(
                f"{path} is damaged or was altered: it does not match its checksum. If you altered "
                'it, take out its "checksum"'
            )
        return (value[_WRAPPED] if list(value) == [_WRAPPED] else value), True
    return value, False


def parse_json(text: bytes | str) -> Any:
    """JSON values, all of whose numbers are finite and of a size that can be computed with.

    Raises:
        ValueError: it is something else, or lists and objects lie too deep in one another.
    """
    try:
        value = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} lists or objects in one another") from None
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        inside = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inside for v in values if isinstance(v, dict | list)]
        if not level:
            return value
    raise ValueError(f"more than {MAX_DEPTH} lists or objects in one another")


def printable(text: str) -> str:
    r"""Text that a terminal shows and does not obey; line ends and tabs stay.

    Control characters, marks that change the direction of text, and halves of characters are shown
    as Python writes them.

    Example:
        >>> printable("done\x1b]0;title\x07"), printable("Ω\t½\n")
        ('done\\x1b]0;title\\x07', 'Ω\t½\n')
    """
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:20]}… is an integer of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text.replace("Infinity", "inf"))
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _remove_stale(path: Path, folder: int | None) -> None:
    """Old temporary files of ``path``."""
    start, oldest = f".{path.name}.", time.time() - STALE
    for name in os.listdir(path.parent if folder is None else folder):
        if name.startswith(start) and _TEMPORARY.fullmatch(name):
            place = name if folder is not None else str(path.with_name(name))
            with suppress(OSError):
                if os.stat(place, dir_fd=folder, follow_symlinks=False).st_mtime < oldest:
                    os.unlink(place, dir_fd=folder)


@contextmanager
def _inside(
    path: Path, root: Path | None, *, make: bool = False
) -> Iterator[tuple[int | None, str | Path]]:
    """The folder of ``path`` as a descriptor, reached from ``root`` without following a link.

    Yields:
        The descriptor and the name in it; or None and the path, where the system has none.
    """
    root = path.parent if root is None else root
    *folders, name = path.relative_to(root).parts
    if ".." in folders or name == "..":
        raise ValueError(f"{path} leads out of {root}")
    if not _DESCRIPTORS:
        place = root
        for part in folders:
            place /= part
            if make:
                place.mkdir(exist_ok=True)
            _refuse_link(place, place, None)
        yield None, path
        return
    place, descriptor = root, os.open(root, _FOLDER | getattr(os, "O_CLOEXEC", 0))
    try:
        for part in folders:
            place /= part
            if make:
                with _naming(place), suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            above, descriptor = descriptor, _open(place, part, _FOLDER, descriptor)
            os.close(above)
        yield descriptor, name
    finally:
        os.close(descriptor)


def _open(path: Path, name: str | Path, flags: int, folder: int | None) -> int:
    """A descriptor of a file or folder that is no link."""
    if folder is None:
        _refuse_link(path, name, None)
    try:
        with _naming(path):
            return os.open(name, flags | _NO_FOLLOW, 0o666, dir_fd=folder)
    except OSError:
        _refuse_link(path, name, folder)
        raise


def _refuse_link(path: Path, name: str | Path, folder: int | None) -> None:
    with suppress(OSError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        # Windows has other things than links that lead elsewhere; all are reparse points.
        if stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", None):
            raise ValueError(f"{path} is a link, and links in a run's folder are not followed")


def _refuse_device(path: Path, name: str | Path, folder: int | None) -> None:
    """Who may replace ``/dev/null`` is all the more not to."""
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise ValueError(f"{path} is a device, not a file")


def _check_regular(path: Path, descriptor: int) -> int:
    """The size of an open file, if it is one."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a regular file")
    return found.st_size


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let the system's errors name the whole path, not the last part of it."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise

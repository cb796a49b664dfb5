"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["is_temporary", "read_json", "write_atomically", "write_json"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in its place.

    A crash, a full disk or a kill leaves the old file, or none; never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether :func:`write_atomically` made this file, and was killed before it took it away.

    Example:
        >>> is_temporary(Path("run/.result.json.4711.tmp")), is_temporary(Path("run/result.json"))
        (True, False)
    """
    return path.name.startswith(".") and path.suffix == ".tmp"


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; a NaN in it is an error, since JSON has none.

    A list of numbers stands on one line.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Text in JSON holds no line ends as such, so this finds lists only.
    text = re.sub(r"\[\n[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), text)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is not valid JSON: {error}") from error

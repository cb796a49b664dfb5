"""Validations in ``metrics.jsonl``, a line each, whose damage is noticed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastweights.files import is_there, parse_json, read_bytes
from fastweights.training.checkpoint import read_progress

METRICS_LIMIT = 64 * 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Line:
    """A validation in ``metrics.jsonl``, with a checksum of this line and all before it.

    Files of earlier versions have no checksums; theirs are empty here.
    """

    point: dict[str, Any]
    checksum: str
    text: str

    @classmethod
    def after(cls, before: Sequence[Line], point: dict[str, Any]) -> Line:
        """The next line."""
        if before and not before[-1].checksum:  # an old file stays one
            return cls(point, "", json.dumps(point) + "\n")
        checksum = cls.checksum_after(before, point)
        return cls(point, checksum, json.dumps({**point, "checksum": checksum}) + "\n")

    @staticmethod
    def checksum_after(before: Sequence[Line], point: dict[str, Any]) -> str:
        text = (before[-1].checksum if before else "") + json.dumps(point)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_lines(path: Path) -> list[Line]:
    """The whole lines; a last one that has no end was being written when the process was killed.

    Raises:
        ValueError: a line is damaged, or see :func:`fastweights.files.read_bytes`.
    """
    lines: list[Line] = []
    *whole, _ = read_bytes(path, limit=METRICS_LIMIT).split(b"\n")
    for number, text in enumerate(whole, 1):
        try:
            point = parse_json(text)
            if not isinstance(point, dict):
                raise ValueError(f"expected an object, found {type(point).__name__}")
            checksum = point.pop("checksum", "")
            if (checksum or (lines and lines[-1].checksum)) and (
                checksum != Line.checksum_after(lines[-1:], point)
            ):
                raise ValueError("it does not match its checksum")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is damaged: {error}") from error
        lines.append(Line(point, checksum, text.decode() + "\n"))
    return lines


def lines_of(path: Path, checkpoint: Path, progress: dict[str, Any]) -> list[Line]:
    """The lines that a checkpoint counts, each of them whole.

    Raises:
        ValueError: they are not those; the message names the file.
    """
    update, count, seconds = (progress.get(key) for key in ("update", "lines", "seconds"))
    if not (
        type(update) is int
        and type(count) is int
        and isinstance(seconds, int | float)
        and update >= count >= 1
        and seconds >= 0
    ):
        raise ValueError(
            f"{checkpoint} is not a readable checkpoint: it stands at update {update!r}, "
            f"line {count!r}, second {seconds!r}"
        )
    lines = read_lines(path)[:count] if is_there(path) else []
    if len(lines) < count:
        raise ValueError(f"{path} has {len(lines)} whole lines, but its checkpoint counts {count}")
    last = (lines[-1].checksum, lines[-1].point.get("update"))
    if last != (progress.get("metrics", ""), update):
        raise ValueError(f"{path} is damaged, or of another run than its checkpoint")
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The points of a ``metrics.jsonl``; a last line that is not whole is left out.

    Raises:
        ValueError: a line is damaged, or the file is a link, no regular file or too long.
    """
    return [line.point for line in read_lines(path)]


def read_validations(folder: Path, *, checksum: bool = False) -> list[dict[str, Any]]:
    """The validations of a run as far as it came, finished or not; none if it has none.

    Args:
        folder: of the run.
        checksum: refuse files without checksums, as earlier versions made them.

    Raises:
        ValueError: its metrics are damaged, or fewer than its checkpoint counts.
    """
    metrics, checkpoint = folder / "metrics.jsonl", folder / "checkpoint.safetensors"
    if is_there(checkpoint):
        lines_of(metrics, checkpoint, read_progress(checkpoint, checksum=checksum))
    lines = read_lines(metrics) if is_there(metrics) else []
    if checksum and not all(line.checksum for line in lines):
        raise ValueError(f"{metrics} is damaged or was altered: it has lost its checksums")
    return [line.point for line in lines]


def updates_to(curve: list[dict[str, Any]], level: float) -> int | None:
    """The first validated update with at least this accuracy; None if there is none.

    Example:
        >>> updates_to([{"update": 250, "validation_accuracy": 0.4},
        ...             {"update": 500, "validation_accuracy": 0.93}], 0.9)
        500
    """
    for point in curve:
        if point["validation_accuracy"] >= level:
            return int(point["update"])
    return None

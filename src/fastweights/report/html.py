"""One self-contained HTML page from sections."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from fastweights.files import printable, write_atomically
from fastweights.report.figures import own_style
from fastweights.report.section import Picture, Section
from fastweights.training.config import ConfigError

__all__ = ["Chapter", "write_figures", "write_report"]


@dataclasses.dataclass(frozen=True)
class Chapter:
    """A section with what it takes to redo it.

    Attributes:
        name: of its folder, which tells two runs of one experiment apart.
        section: what to show.
        command: that redoes it.
        settings: its configuration.
        environments: the machines it ran on.
        failures: why runs failed, by name.
        damaged: what else could not be read, and why.
    """

    name: str
    section: Section
    command: str
    settings: dict[str, Any]
    environments: Sequence[dict[str, Any]]
    failures: dict[str, str]
    damaged: Sequence[str] = ()


def write_report(path: Path, chapters: Sequence[Chapter]) -> None:
    """Write the page: it needs no network, and no script to be read.

    Raises:
        ConfigError: a figure cannot be drawn from the numbers in the results.
    """
    template = resources.files("fastweights.report").joinpath("templates/report.html")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["picture"] = _as_data
    page = environment.from_string(template.read_text(encoding="utf-8")).render(chapters=chapters)
    write_atomically(path, printable(page).encode("utf-8"))


def write_figures(folder: Path, section: Section) -> None:
    """Write every figure of a section as ``NAME.png``.

    Raises:
        ConfigError: as :func:`write_report`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for picture in section.pictures:
        write_atomically(folder / f"{picture.name}.png", _drawn(picture, format="png", dpi=144))


def _as_data(picture: Picture) -> str:
    content = _drawn(picture, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(content).decode()


def _drawn(picture: Picture, **options: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        with own_style():
            picture.figure.savefig(buffer, **options)
    except Exception as error:  # whatever numbers, or text in their place, lead to
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"the figure {picture.name!r} cannot be drawn from what a result.json or "
            f"metrics.jsonl of its run holds: {reason}"
        ) from error
    return buffer.getvalue()

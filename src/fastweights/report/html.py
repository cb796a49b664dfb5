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
import matplotlib
from matplotlib.figure import Figure

from fastweights.files import printable, write_atomically
from fastweights.report.section import Section

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
    """Write the page: it needs no network, and no script to be read."""
    template = resources.files("fastweights.report").joinpath("templates/report.html")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["picture"] = _as_data
    page = environment.from_string(template.read_text(encoding="utf-8")).render(chapters=chapters)
    write_atomically(path, printable(page).encode("utf-8"))


def write_figures(folder: Path, section: Section) -> None:
    """Write every figure of a section as ``NAME.png``."""
    for picture in section.pictures:
        buffer = io.BytesIO()
        picture.figure.savefig(buffer, format="png", dpi=144)
        write_atomically(folder / f"{picture.name}.png", buffer.getvalue())


def _as_data(figure: Figure) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "fastweights"}):  # the same bytes every time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()

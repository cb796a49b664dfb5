"""Sections and tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from fastweights.files import printable
from fastweights.report.section import Section, Table


class PlainConsole(Console):
    """Shows text as it is, wherever it came from.

    "[x]" is no style, ":x:" no picture, and an escape sequence is shown and not obeyed.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, stderr=stderr)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


out, err = PlainConsole(), PlainConsole(stderr=True)


def show_section(section: Section) -> None:
    """Its first table, if the terminal is wide enough, and its rows of the ledger."""
    out.print()
    for table in section.tables[:1]:
        shown = _compact(section.title)
        for i, column in enumerate(table.columns):
            shown.add_column(column, no_wrap=i > 0)
        for row in table.rows:
            shown.add_row(*row)
        if Measurement.get(out, out.options.update(width=1000), shown).minimum > out.width:
            continue  # too wide for this terminal; the report has it
        out.print(shown)
        out.print(table.caption, style="dim")
    if section.claims:
        out.print()
        shown = _compact("Beside what was published")
        for column in ("claim", "published", "ours", "n", "verdict"):
            shown.add_column(column)
        for c in section.claims:
            shown.add_row(c.claim, c.published, c.ours, str(c.n), c.verdict)
        out.print(shown)


def show_table(table: Table) -> None:
    """A table as it is, however wide."""
    shown = RichTable(box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(table.columns):
        shown.add_column(column, no_wrap=i == 0)
    for row in table.rows:
        shown.add_row(*row)
    out.print(shown)


def _compact(title: str) -> RichTable:
    return RichTable(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))

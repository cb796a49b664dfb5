"""Fill the tables of the documents from the results. Run as `python docs/tables.py`.

A table stands below a marker: `<!-- results/NAME -->` for the first table of that run's section,
`<!-- results/NAME table 2 -->` for another (counted from 0), `<!-- results/NAME claims -->` for
its rows of the ledger; NAME is a folder of runs, a file that an example wrote, or one of
`fastweights bench`, whose figures are drawn anew too. Below `<!-- ledger -->` stands the rest of a
page, every claim of every run. A test fails where a document says something else than the results.
"""

from __future__ import annotations

import functools
import re
import runpy
from collections.abc import Sequence
from pathlib import Path

from fastweights.bench.registry import find as find_benchmark
from fastweights.files import read_json
from fastweights.lab.plan import load_plan, results_of
from fastweights.lab.sweep import load_sweep, runs_in
from fastweights.report.html import write_figures
from fastweights.report.section import Section

ROOT = Path(__file__).parent.parent
MARKER = re.compile(r"<!-- results/(\S+)(?: (claims|table (\d+)))? -->\n+(?:\|.*\n)*\n*")
LEDGER = re.compile(r"<!-- ledger -->\n[\s\S]*")


def documents() -> list[Path]:
    """Every page that may hold a table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(text: str) -> str:
    """The text with every marked table as the results have it."""
    return LEDGER.sub(_ledger, MARKER.sub(_table, text))


def _table(marker: re.Match[str]) -> str:
    name, what, number = marker.groups()
    section = _section(name)
    if what == "claims":
        lines = _claims(section)
    else:
        table = section.tables[int(number or 0)]
        lines = _lines(table.columns, table.rows)
    head = marker[0].split("\n", 1)[0]
    end = "\n" if marker.end() < len(marker.string) else ""
    return f"{head}\n\n{lines}{end}"


def _claims(section: Section) -> str:
    rows = [[c.claim, c.published, c.ours, str(c.n), c.verdict] for c in section.claims]
    return _lines(("claim", "published", "ours", "n", "verdict"), rows)


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _ledger(marker: re.Match[str]) -> str:
    parts = ["<!-- ledger -->\n"]
    for folder in runs_in(ROOT / "results"):
        section, command = _section(folder.name), load_sweep(folder).base.command()
        if section.claims:
            about = f"Settings chosen on: {section.chosen}. Redo it: `{command}`"
            parts.append(f"## {section.title} ({folder.name})\n\n{about}\n\n{_claims(section)}")
    return "\n".join(parts)


@functools.cache
def _section(name: str) -> Section:
    path = ROOT / "results" / name
    if path.suffix == ".json":
        report = read_json(path)
        if "benchmark" not in report:
            return _example(path)
        return find_benchmark(report["benchmark"]).section(report)
    plan = load_plan(path)
    return plan.experiment.section(plan.config, results_of(plan), plan.folder)


def _example(path: Path) -> Section:
    """The results of an example, with the table that its report makes of them."""
    report = ROOT / "examples" / f"{path.stem.replace('-', '_')}_report.py"
    table = runpy.run_path(str(report))["table"](read_json(path))
    return Section(path.stem, "", (), [table], ())


if __name__ == "__main__":
    for path in documents():
        text = path.read_text(encoding="utf-8")
        path.write_text(fill(text), encoding="utf-8")
    for path in sorted((ROOT / "results").glob("bench-*.json")):
        write_figures(ROOT / "docs" / "images", _section(path.name))

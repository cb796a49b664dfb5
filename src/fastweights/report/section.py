"""What an experiment hands to the report: tables, figures and rows of the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.figure import Figure

__all__ = ["Claim", "Picture", "Section", "Table"]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; cells are text, the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with the text that stands in for it and the one below it."""

    name: str
    figure: Figure
    alt: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A row of the ledger: what was published, what we found.

    Attributes:
        claim: in words, with its source.
        published: the published figure, as printed.
        ours: our figure with its 95 % interval.
        n: how many seeds, or independent draws of a simulation.
        verdict: by the rule the section states.
    """

    claim: str
    published: str
    ours: str
    n: int
    verdict: str


@dataclasses.dataclass(frozen=True)
class Section:
    """One experiment in the report.

    ``chosen`` says on what its settings were chosen, e.g. "validation data, seeds below 300"; it
    stands beside every claim of the ledger.
    """

    title: str
    intro: str
    claims: Sequence[Claim]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    notes: Sequence[str] = ()
    chosen: str = "–"

"""What the results of a study say: its tables, and comparisons of arms seed by seed."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fastweights.lab.experiment import Result
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import Interval, mean_interval
from fastweights.report.verdicts import OURS, Bound, Rule, beside_published, claim_of, claim_on

Values = Mapping[str, Any]  # of a finished run
Pick = str | Callable[[Values], Any]  # a number of a run: its key, or how to get it


class Arms(Protocol):
    """The part of a study that tables need."""

    @property
    def arms(self) -> Mapping[str, Any]: ...
    @property
    def axes(self) -> Sequence[Any]: ...
    def settings(self, config: Any) -> list[dict[str, Any]]: ...


def pick(of: Pick, values: Values) -> Any:
    """A number of a run."""
    return of(values) if callable(of) else values[of]


def at(measure: str, where: Any, places: str = "lengths") -> Callable[[Values], float]:
    """The number that a run measured at a place.

    Args:
        measure: the key of a list of numbers.
        where: at which of the places.
        places: the key of the list of places, in the same order.

    Example:
        >>> at("test_accuracy", 6)({"lengths": [2, 4, 6], "test_accuracy": [1.0, 0.9, 0.7]})
        0.7
    """
    return lambda values: values[measure][values[places].index(where)]


def by_seed(results: Sequence[Result], arm: str, **options: Any) -> dict[int, dict[str, Any]]:
    """The values of an arm's finished runs with these options, by seed."""
    return {
        result.unit.seed: result.values
        for result in _of(results, arm, options)
        if result.values is not None and result.unit.seed is not None
    }


def _of(results: Sequence[Result], arm: str, options: Values) -> list[Result]:
    """The runs of an arm with these options; others it may have."""
    return [
        result
        for result in results
        if result.unit.arm == arm
        and all(result.unit.options.get(key) == value for key, value in options.items())
    ]


def why_missing(results: Sequence[Result], arm: str) -> str:
    """What to say of an arm without a finished run: "failed", or "withdrawn".

    Results that turned out to be wrong are withdrawn by putting a ``failure.json``, with a reason
    that begins so, in the place of each ``result.json``; ``--resume`` then runs them again.
    """
    failures = [result.failure or "" for result in results if result.unit.arm == arm]
    withdrawn = bool(failures) and all(text.startswith("withdrawn") for text in failures)
    return "withdrawn" if withdrawn else "failed"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table of networks or of runs.

    Attributes:
        head: its head.
        of: the number of a run.
        scale: what numbers are multiplied by.
        digits: after the point, of a mean with its interval.
        form: of a mean without an interval, as ``str.format`` takes it, e.g. "{:,.0f}".

    Example:
        >>> runs = [{"accuracy": 0.5, "parameters": 1200}, {"accuracy": 0.5, "parameters": 1200}]
        >>> Column("right %", "accuracy", scale=100, digits=1).cell(runs)
        '50.0 [50.0, 50.0]'
        >>> Column("parameters", "parameters", form="{:,.0f}").cell(runs)
        '1,200'
    """

    head: str
    of: Pick
    scale: float = 1.0
    digits: int = 2
    form: str | None = None

    def cell(self, values: Sequence[Values]) -> str:
        """What stands in it for runs, of which there is at least one."""
        numbers = [pick(self.of, one) for one in values]
        if self.form is None:
            return mean_interval(numbers).text(self.digits, self.scale)
        return self.form.format(self.scale * sum(numbers) / len(numbers))


@dataclasses.dataclass(frozen=True)
class TextColumn(Column):
    """A column that is more than a mean: ``of`` makes the cell's text from all runs' values."""

    of: Callable[[Sequence[Values]], str]  # type: ignore[assignment]

    def cell(self, values: Sequence[Values]) -> str:
        return self.of(values)


PARAMETERS = Column("parameters", "parameters", form="{:,.0f}")
SECONDS = Column("seconds", "seconds", form="{:.0f}")


def summary_table(
    study: Arms,
    config: Any,
    results: Sequence[Result],
    caption: str,
    columns: Sequence[Column],
    heads: Sequence[str] = (),
    *,
    missing: bool = True,
) -> Table:
    """A row for each network: its label, its settings, how many of its runs finished, the columns.

    Args:
        study: its arms and axes.
        config: which of them.
        results: of every run.
        caption: of the table.
        columns: after those.
        heads: of the settings' columns, one for each axis.
        missing: whether a network without a finished run has a row.
    """
    rows = []
    runs: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        runs.setdefault((result.unit.arm, *result.unit.options.values()), []).append(result)
    for options in study.settings(config):
        for arm in config.arms:
            started = runs.get((arm, *options.values()), [])
            values = [result.values for result in started if result.values is not None]
            if values:
                cells = [column.cell(values) for column in columns]
            elif missing:
                cells = [why_missing(results, arm), *["–"] * (len(columns) - 1)]
            else:
                continue
            finished = f"{len(values)}/{len(started)}"
            settings = [str(value) for value in options.values()]
            rows.append([study.arms[arm].label, *settings, finished, *cells])
    shown = ("network", *heads, "seeds", *(column.head for column in columns))
    return Table(caption=caption, columns=shown, rows=rows)


def run_table(results: Sequence[Result], caption: str, columns: Sequence[Column]) -> Table:
    """A row for every run; one that did not finish says why."""
    rows = []
    for result in results:
        if result.values is None:
            why = ["failed", result.failure or "did not finish"]
            cells = [*why, *["–"] * (len(columns) - 2)]
        else:
            cells = [column.cell([result.values]) for column in columns]
        rows.append([result.unit.label, str(result.unit.seed), *cells])
    heads = ("run", "seed", *(column.head for column in columns))
    return Table(caption=caption, columns=heads, rows=rows)


def differences(
    ours: Mapping[int, Values],
    theirs: Mapping[int, Values],
    of: Pick,
    compare: Callable[[Any, Any], float] = operator.sub,
) -> list[float]:
    """How much more of a number ours have, over the seeds that both finished."""
    return [compare(pick(of, ours[s]), pick(of, theirs[s])) for s in ours if s in theirs]


POSITIVE = Bound(at_least=0)


class Finding(Protocol):
    """A row of the ledger as data."""

    def row(self, results: Sequence[Result], **options: Any) -> Claim | None:
        """The row from the runs with these options, if they have an answer."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A row of the ledger: a number of one arm.

    Attributes:
        claim: in words, with the bound that it is judged by.
        arm: which.
        of: the number of a run; None where it has none.
        rule: which verdict on the number.
        published: what was published.
        scale: what printed numbers are multiplied by.
        digits: of these after the point.

    Example:
        >>> from fastweights.lab.experiment import Unit
        >>> run = Result(Unit("lstm-seed0", "LSTM", "lstm", 0), {"accuracy": 0.75})
        >>> above_chance = Measured("", "lstm", lambda v: v["accuracy"] - 0.5, scale=100)
        >>> above_chance.row([run]).ours
        '25.0 (n = 1)'
    """

    claim: str
    arm: str
    of: Pick
    rule: Rule = POSITIVE
    published: str = OURS
    scale: float = 1.0
    digits: int = 1

    def row(self, results: Sequence[Result], **options: Any) -> Claim | None:
        """The row, if a run has the number."""
        values = by_seed(results, self.arm, **options).values()
        found = [number for v in values if (number := pick(self.of, v)) is not None]
        if not found:
            return None
        scale, digits = self.scale, self.digits
        return claim_of(self.claim, self.published, found, self.rule, scale=scale, digits=digits)


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the ledger: a published percentage and that of an arm.

    Attributes:
        claim: in words.
        arm: which.
        published: the published figure.
        of: the number of a run, in per cent.
        what: "error" or "accuracy", for the verdict.
        where: the options that it was published for.
    """

    claim: str
    arm: str
    published: float
    of: Pick
    what: str
    where: Values = dataclasses.field(default_factory=dict)

    def row(self, results: Sequence[Result], **options: Any) -> Claim | None:
        """The row, if these are the options and a run finished."""
        values = by_seed(results, self.arm, **options).values()
        if not values or any(options.get(key) != value for key, value in self.where.items()):
            return None
        ours = [pick(self.of, v) for v in values]
        return beside_published(self.claim, self.published, ours, self.what)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A row of the ledger: by how much one arm differs from another, seed by seed.

    Attributes:
        claim: in words, with the bound that it is judged by.
        ours: the arm.
        theirs: the arm that it is compared with.
        of: the number of a run.
        rule: which verdict on the difference.
        published: what was published.
        scale: what printed differences are multiplied by.
        digits: of these after the point.
        compare: ``operator.truediv`` for by how many times it differs.
    """

    claim: str
    ours: str
    theirs: str
    of: Pick
    rule: Rule = POSITIVE
    published: str = OURS
    scale: float = 1.0
    digits: int = 1
    compare: Callable[[Any, Any], float] = operator.sub

    def interval(self, results: Sequence[Result], **options: Any) -> Interval | None:
        """The difference over the seeds that both finished, if there are any."""
        ours, theirs = (by_seed(results, arm, **options) for arm in (self.ours, self.theirs))
        found = differences(ours, theirs, self.of, self.compare)
        return mean_interval(found) if found else None

    def row(self, results: Sequence[Result], **options: Any) -> Claim | None:
        """The row, if there is an answer."""
        interval = self.interval(results, **options)
        if interval is None:
            return None
        scale, digits = self.scale, self.digits
        return claim_on(self.claim, self.published, interval, self.rule, scale=scale, digits=digits)

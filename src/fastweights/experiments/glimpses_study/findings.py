"""What the glimpses experiment says: rows of the ledger and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastweights.experiments.by_arm import mean_seconds, seed_table
from fastweights.experiments.glimpses_study.config import GlimpsesConfig
from fastweights.experiments.glimpses_study.networks import ARMS
from fastweights.experiments.other_uses.shared import QUALITATIVE, ledger_row
from fastweights.lab.experiment import Result
from fastweights.report.section import Claim, Table
from fastweights.report.statistics import mean_interval
from fastweights.report.verdicts import beside_published

__all__ = ["PUBLISHED_ERRORS", "TOLERANCE", "claims", "errors", "published_error", "tables"]

# Test error in per cent by arm and hidden size. Second-hand, as the table of retrieval.
PUBLISHED_ERRORS: Mapping[tuple[str, int], float] = {
    ("irnn", 50): 12.95,
    ("irnn", 100): 1.95,
    ("irnn", 200): 1.42,
    ("lstm", 50): 12.0,
    ("lstm", 100): 1.55,
    ("lstm", 200): 1.10,
    ("convnet", 50): 1.81,
    ("convnet", 100): 1.00,
    ("convnet", 200): 0.9,
    ("fast-weights", 50): 7.21,
    ("fast-weights", 100): 1.30,
    ("fast-weights", 200): 0.85,
}
TOLERANCE = 0.1  # percentage points
SAME = 0.2  # an order that changes the error by less makes no difference, in percentage points


def errors(results: Sequence[Result], split: str = "test") -> dict[tuple[str, int, str], list[Any]]:
    """The finished runs' errors in per cent by (arm, hidden size, order), with their seeds."""
    found: dict[tuple[str, int, str], list[Any]] = {}
    for result in results:
        options = result.unit.options
        cell = found.setdefault((result.unit.arm, options["hidden_size"], options["order"]), [])
        if result.values is not None:
            cell.append((result.unit.seed, 100 * (1 - result.values[f"{split}_accuracy"])))
    return found


def published_error(cell: tuple[str, int, str], config: GlimpsesConfig) -> float | None:
    """What the paper has for a network in the published order that is not told the places."""
    arm, size, order = cell
    if order != "published" or config.places:
        return None
    return PUBLISHED_ERRORS.get(("fast-weights" if arm == "multi-level" else arm, size))


def _differences(one: Sequence[Any], other: Sequence[Any]) -> list[float]:
    """Of the errors, over the seeds that both have."""
    known = dict(other)
    return [error - known[seed] for seed, error in one if seed in known]


def claims(config: GlimpsesConfig, results: Sequence[Result]) -> list[Claim]:
    """Rows of the ledger: the published table, then what its authors say of it."""
    found, rows = errors(results), []
    for key, cell in found.items():
        published = published_error(key, config)
        if published is not None and cell:
            words = f"{ARMS[key[0]].label}, R = {key[1]}: test error in per cent"
            ours = [error for _, error in cell]
            rows.append(beside_published(words, published, ours, "error", TOLERANCE))
    for (arm, size, order), cell in found.items():
        if arm not in ("fast-weights", "multi-level") or order != "published":
            continue
        for other, said in (("irnn", "fewer"), ("lstm", "fewer"), ("layer-norm-rnn", "—")):
            gained = _differences(cell, found.get((other, size, order), []))
            if gained:
                rows.append(
                    ledger_row(
                        f"R = {size}: {ARMS[arm].label}, fewer errors than the "
                        f"{ARMS[other].label}; difference of the errors in points (≤ 0)",
                        said,
                        gained,
                        at_most=0,
                        scale=1,
                    )
                )
    for (arm, size, order), cell in found.items():
        gained = _differences(cell, found.get((arm, size, "published"), []))
        if order != "published" and gained:
            rows.append(
                ledger_row(
                    f"R = {size}: {ARMS[arm].label}, order “{order}”; error in points above that "
                    f"of the published order (within ± {SAME:g})",
                    QUALITATIVE,
                    gained,
                    at_least=-SAME,
                    at_most=SAME,
                    scale=1,
                )
            )
    return rows


def tables(config: GlimpsesConfig, results: Sequence[Result]) -> list[Table]:
    """Errors by network and order, and every run."""
    rows = []
    validated = errors(results, "validation")
    for cell, found in errors(results).items():
        arm, size, order = cell
        started = [r for r in results if r.unit.arm == arm and r.unit.options == _options(cell)]
        row = [ARMS[arm].label, str(size), order, f"{len(found)}/{len(started)}"]
        values = [r.values for r in started if r.values is not None]
        if values:
            row += [
                mean_interval([error for _, error in found]).text(),
                mean_interval([error for _, error in validated[cell]]).text(),
                f"{values[0]['parameters']:,}",
                f"{values[0]['learning_rate']:g}",
                mean_seconds(values),
            ]
        else:
            row += ["failed", *["–"] * 4]
        rows.append(row)
    return [
        Table(
            caption="Test and validation error in per cent, mean over seeds with its 95 % "
            "bootstrap interval; seconds of training on one thread beside other work.",
            columns=(
                "network",
                "R",
                "order",
                "seeds",
                "test error %",
                "validation error %",
                "parameters",
                "learning rate",
                "seconds",
            ),
            rows=rows,
        ),
        seed_table(results, "Every run.", _scores, unit=" error %"),
    ]


def _options(cell: tuple[str, int, str]) -> dict[str, Any]:
    return {"hidden_size": cell[1], "order": cell[2]}


def _scores(values: dict[str, Any]) -> tuple[str, str]:
    validated, tested = (100 * (1 - values[f"{s}_accuracy"]) for s in ("validation", "test"))
    return f"{validated:.2f}", f"{tested:.2f}"

"""How far we want to go, and whether a measurement got there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastweights.bench.base import label_of
from fastweights.bench.cases import MODES, Case, parse_case
from fastweights.bench.peers import OURS, PEERS
from fastweights.report.section import Table

__all__ = [
    "Goal",
    "gflops",
    "goals_table",
    "kept_per_step",
    "lstm_goal",
    "ratio",
    "recurrence_goals",
]

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A goal beside what was measured: both as text, and whether it is met."""

    case: str
    goal: str
    wanted: str
    measured: str
    met: bool


def goals_table(goals: Iterable[Goal]) -> Table:
    """A row for each goal that could be measured."""
    return Table(
        caption="The goals, as far as these cases tell. Ratios are of medians.",
        columns=("case", "goal", "wanted", "measured", "met"),
        rows=[[g.case, g.goal, g.wanted, g.measured, "yes" if g.met else "no"] for g in goals],
    )


def ratio(row: Row, mode: str, peer: str) -> float | None:
    """How many times as long as ours a peer takes; None where it was not timed."""
    peers = row[mode]["peers"]
    if "milliseconds" not in peers.get(peer, {}):
        return None
    median: float = peers[peer]["milliseconds"]["median"]
    return median / _median(row, mode)


def gflops(row: Row, mode: str) -> tuple[float, float]:
    """GFLOP/s of our layer, and of ``torch.mm`` with as much arithmetic."""
    measured = row[mode]
    ours = measured["flops"] / _median(row, mode) / 1e6
    mm = measured["mm"]
    return ours, 2 * mm["size"] ** 3 / mm["milliseconds"]["median"] / 1e6


def lstm_goal(case: Case, device: str) -> float | None:
    """How many times as fast as ``nn.LSTM`` we want to train, if we said so."""
    if device != "cpu":
        return 1.0
    if case.state:  # its goal is beside a cell
        return None
    if case.length == 1:  # a call and next to no work
        return 2.0
    return 3.0 if case.length <= 55 else 2.0


def recurrence_goals(timed: Sequence[Row], fresh: Sequence[Row], device: str) -> Iterator[Goal]:
    """Every goal of the recurrence that these rows can tell about."""
    for row in timed:
        case = parse_case(row["case"])
        for peer, factor in (
            ("lstm", lstm_goal(case, device)),
            ("eager-matrix", None if device == "cpu" else 50.0),
        ):
            times = ratio(row, "training", peer)
            if factor is not None and times is not None:
                goal = f"training, beside {PEERS[peer].label}"
                yield Goal(label_of(row), goal, f"≥ {factor:g}×", f"{times:.2f}×", times >= factor)
    if device == "cpu":
        yield from _rates(timed)
        yield from _calls(timed)
        yield from _threads(timed)
    yield from _long_sequences(timed)
    for row in timed:
        case = parse_case(row["case"])
        if row["threads"] == timed[0]["threads"] and case.length > 1:
            kept = kept_per_step(row, OURS, without_matrices=True)
            goal = "numbers kept per step and sample, matrices of chunks apart, beside H"
            yield Goal(row["case"], goal, "≤ 2.2×", f"{kept:.2f}×", kept <= 2.2)
    if device != "cpu":
        return
    for row in fresh:
        seconds = row["cold"]["first_call"] - row["cold"]["next_call"]
        goal = "first training step of a process, beyond the second"
        yield Goal(row["case"], goal, "< 0.2 s", f"{seconds:.3f} s", seconds < 0.2)
    if fresh:
        seconds = max(row["cold"]["import_fastweights"] for row in fresh)
        goal = "importing fastweights, on top of torch"
        yield Goal("all", goal, "< 0.1 s", f"{seconds:.2f} s", seconds < 0.1)


def _rates(timed: Sequence[Row]) -> Iterator[Goal]:
    """The arithmetic that the equations need, where there is enough of it in a call."""
    for row in timed:
        case = parse_case(row["case"])
        if case.length > 1 and case.width >= 50:
            share, (ours, mm) = 0.6 if case.width >= 100 else 0.4, gflops(row, "training")
            goal = f"GFLOP/s in training, {share:g} of torch.mm's"
            yield Goal(
                label_of(row), goal, f"≥ {share * mm:.0f}", f"{ours:.0f}", ours >= share * mm
            )


def _calls(timed: Sequence[Row]) -> Iterator[Goal]:
    """Calls of a single step, where next to nothing but the call itself takes time."""
    for row in timed:
        case = parse_case(row["case"])
        if case.state and case.batch <= 16:
            wanted = [("training", "gru-cell", 1 / 1.5), ("forward", "gru-cell", 1 / 1.5)]
        elif case.length == 1 and not case.state:
            wanted = [("forward", "lstm", 2.5)]
        else:
            continue
        for mode, peer, factor in wanted:
            times = ratio(row, mode, peer)
            if times is not None:
                goal = f"{mode}, a step beside {PEERS[peer].label}"
                yield Goal(
                    label_of(row), goal, f"≥ {factor:.2g}×", f"{times:.2f}×", times >= factor
                )


def _threads(timed: Sequence[Row]) -> Iterator[Goal]:
    """What two threads give, where a call on one takes a millisecond."""
    for mode in MODES:
        alone = {row["case"]: _median(row, mode) for row in timed if row["threads"] == 1}
        for row in timed:
            if row["threads"] == 2 and alone.get(row["case"], 0.0) > 1:
                times = alone[row["case"]] / _median(row, mode)
                goal = f"{mode}, two threads beside one"
                yield Goal(row["case"], goal, "≥ 1.7×", f"{times:.2f}×", times >= 1.7)


def _median(row: Row, mode: str) -> float:
    median: float = row[mode]["peers"][OURS]["milliseconds"]["median"]
    return median


def kept_per_step(row: Row, peer: str, *, without_matrices: bool = False) -> float:
    """Numbers a forward pass keeps for the backward one, per step and sample, over H.

    ``without_matrices`` leaves those out that a chunked form keeps at the starts of its chunks.
    """
    case = parse_case(row["case"])
    found = row["training"]["peers"][peer]
    kept = found["kept_bytes"] - without_matrices * found.get("matrix_bytes", 0)
    return kept / (4 * case.batch * case.length * case.width)


def _long_sequences(timed: Sequence[Row]) -> Iterator[Goal]:
    """The time of a step must not depend on the length, once that is beyond the width."""

    def per_step(row: Row) -> float:
        return _median(row, "training") / parse_case(row["case"]).length

    for row in timed:
        case = parse_case(row["case"])
        for other in timed:
            shorter = dataclasses.replace(case, length=512)
            same = other["threads"] == row["threads"] and other["case"] == shorter.name
            if case.length > 512 and same:
                times = per_step(row) / per_step(other)
                goal = f"time of a step, beside {shorter.name}"
                yield Goal(label_of(row), goal, "≤ 1.1×", f"{times:.2f}×", times <= 1.1)

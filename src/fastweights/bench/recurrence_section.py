"""The recurrence's measurements as tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fastweights.bench.base import load_text, threads_text
from fastweights.bench.cases import MODES, parse_case
from fastweights.bench.goals import (
    gflops,
    goals_table,
    kept_per_step,
    lstm_goal,
    ratio,
    recurrence_goals,
)
from fastweights.bench.parts import bytes_moved
from fastweights.bench.peers import OURS, PEERS
from fastweights.report.figures import ARM_STYLES, new_figure
from fastweights.report.section import Picture, Section, Table

__all__ = ["recurrence_section"]

Row = dict[str, Any]
BLUE, ORANGE, GREEN = (colour for colour, _ in ARM_STYLES[:3])
_DASH = "–"


def recurrence_section(report: dict[str, Any]) -> Section:
    """Tables and figures.

    The tables, as documents count them from 0: goals, training, forward, memory, first calls, what
    was skipped, parts, single steps with a state, and an installation.
    """
    device = report["settings"]["device"]
    timed = [row for row in report["rows"] if "threads" in row and "disagrees" not in row]
    fresh = [row for row in report["rows"] if "fresh" in row]
    threads = sorted({row["threads"] for row in timed})
    steps = [row for row in timed if parse_case(row["case"]).state]
    sequences = [row for row in timed if not parse_case(row["case"]).state]
    tables = [
        goals_table(recurrence_goals(timed, fresh, device)),
        *(_times_table(sequences, mode) for mode in MODES),
        _memory_table(sequences, fresh),
        _fresh_table(fresh),
        _skipped_table(timed),
        _parts_table(timed),
        _steps_table(steps),
        _install_table([row for row in report["rows"] if "install" in row]),
    ]
    return Section(
        title="The fast-weights recurrence beside its peers",
        intro="",
        claims=[],
        tables=tables,
        pictures=[_ratio_picture(sequences, threads, device), _roofline(sequences, threads)]
        if sequences
        else [],
    )


def _times_table(rows: Sequence[Row], mode: str) -> Table:
    peers = [name for name in PEERS if any(name in row[mode]["peers"] for row in rows)]
    lines = []
    for row in rows:
        times = row[mode]["peers"][OURS]["milliseconds"]
        ours, mm = gflops(row, mode)
        lines.append(
            [
                row["case"],
                str(row["threads"]),
                _spread(times),
                *(_ratio_text(row, mode, peer) for peer in peers),
                f"{ours:.3g}",
                f"{mm:.3g}",
                load_text(row),
            ]
        )
    what = "a forward and a backward pass" if mode == "training" else "a forward pass alone"
    return Table(
        caption=(
            f"{mode.capitalize()}: milliseconds of {what} of our layer, "
            "median and quartiles; how many times as long each peer takes; GFLOP/s of our layer, "
            "and of torch.mm with as much arithmetic; how many processes wanted to run."
        ),
        columns=(
            "case",
            "threads",
            "ms",
            *(PEERS[peer].label for peer in peers),
            "GFLOP/s",
            "torch.mm",
            "load",
        ),
        rows=lines,
    )


def _steps_table(rows: Sequence[Row]) -> Table:
    peers = [
        name for name in PEERS if any(name in row[mode]["peers"] for row in rows for mode in MODES)
    ]
    return Table(
        caption=(
            "A single step that goes on from a state with a matrix: milliseconds of our layer, "
            "median and quartiles, and how many times as long each peer takes from a state of its "
            "own; how many processes wanted to run."
        ),
        columns=("case", "threads", "what", "ms", *(PEERS[peer].label for peer in peers), "load"),
        rows=[
            [
                row["case"],
                str(row["threads"]),
                mode,
                _spread(row[mode]["peers"][OURS]["milliseconds"]),
                *(_ratio_text(row, mode, peer) for peer in peers),
                load_text(row),
            ]
            for row in rows
            for mode in MODES
        ],
    )


def _spread(times: dict[str, float]) -> str:
    low, median, high = (_milliseconds(times[name]) for name in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def _milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ratio_text(row: Row, mode: str, peer: str) -> str:
    times = ratio(row, mode, peer)
    if times is not None:
        return f"{times:.2f}×" if times < 10 else f"{times:.0f}×"
    return "skipped" if "skipped" in row[mode]["peers"].get(peer, {}) else _DASH


def _memory_table(timed: Sequence[Row], fresh: Sequence[Row]) -> Table:
    first = [row for row in timed if row["threads"] == timed[0]["threads"]]
    peaks = {row["case"]: row["cached"]["peak_bytes"] for row in fresh}
    names = [OURS, *PEERS]
    peers = [
        n for n in names if any("kept_bytes" in r["training"]["peers"].get(n, {}) for r in first)
    ]
    lines = []
    for row in first:
        found = row["training"]["peers"]
        kept = [
            f"{kept_per_step(row, peer):.1f}" if "kept_bytes" in found.get(peer, {}) else _DASH
            for peer in peers
        ]
        peak = peaks.get(row["case"])
        lines.append(
            [
                row["case"],
                *kept,
                f"{found[OURS]['kept_bytes'] / 1e6:.3g}",
                _DASH if peak is None else f"{peak / 1e6:.3g}",
            ]
        )
    return Table(
        caption=(
            "Memory for training: numbers that a forward pass keeps for the backward one, per "
            "step and sample, as a multiple of the width; for our layer also in megabytes, and by "
            "how many the process grows at most during a call."
        ),
        columns=(
            "case",
            *("fast weights" if peer == OURS else PEERS[peer].label for peer in peers),
            "MB kept",
            "MB at the peak",
        ),
        rows=lines,
    )


def _fresh_table(fresh: Sequence[Row]) -> Table:
    return Table(
        caption=(
            "A fresh process, in seconds: importing fastweights, on top of torch; its first and "
            "its second training step with empty caches; and the first step of a process after it."
        ),
        columns=("case", "import", "first", "second", "first, later process"),
        rows=[
            [
                row["case"],
                f"{row['cold']['import_fastweights']:.2f}",
                f"{row['cold']['first_call']:.3g}",
                f"{row['cold']['next_call']:.3g}",
                f"{row['cached']['first_call']:.3g}",
            ]
            for row in fresh
        ],
    )


def _install_table(rows: Sequence[Row]) -> Table:
    lines = []
    for row in rows:
        if "skipped" in row:
            lines.append([row["skipped"], _DASH, _DASH, _DASH])
            continue
        seconds = (
            row["pip_install"],
            row["first_gradient"],
            row["pip_install"] + row["first_gradient"],
        )
        what = "with kernels" if row["native"] else "without kernels: no compiler"
        lines.append([what, *(f"{value:.1f}" for value in seconds)])
    return Table(
        caption=(
            "From source to the first gradient, in seconds, where torch is there already: `pip "
            "install`, the build of the kernels included; then a process that imports torch and "
            "the package and trains for a step; and both."
        ),
        columns=("installed", "pip install", "first gradient", "in all"),
        rows=lines,
    )


def _skipped_table(timed: Sequence[Row]) -> Table:
    return Table(
        caption="Peers that were not timed, and why.",
        columns=("case", "threads", "what", "peer", "reason"),
        rows=[
            [row["case"], str(row["threads"]), mode, PEERS[name].label, found["skipped"]]
            for row in timed
            for mode in MODES
            for name, found in row[mode]["peers"].items()
            if "skipped" in found
        ],
    )


def _parts_table(timed: Sequence[Row]) -> Table:
    lines = []
    for row in timed:
        if "parts" not in row:
            continue
        parts = row["parts"]
        whole = parts["whole"]
        rest = whole - parts["forward"] - parts["backward"]
        arithmetic = row["training"]["flops"] / gflops(row, "training")[1] / 1e6
        moved = bytes_moved(parse_case(row["case"])) / parts["gigabytes_per_second"] / 1e6
        lines.append(
            [
                row["case"],
                _milliseconds(whole),
                *(f"{part / whole:.0%}" for part in (parts["forward"], parts["backward"])),
                f"{rest / whole:.0%}",
                _milliseconds(arithmetic),
                _milliseconds(moved),
            ]
        )
    return Table(
        caption=(
            "Where the time of a training step goes on one thread: milliseconds; the shares of the "
            "two kernels, and of all the rest (PyTorch and Python); and the milliseconds that the "
            "arithmetic would take at torch.mm's rate, and the traffic of its arrays at the rate "
            "of copying large ones."
        ),
        columns=("case", "ms", "forward", "backward", "rest", "arithmetic", "traffic"),
        rows=lines,
    )


def _ratio_picture(timed: Sequence[Row], threads: Sequence[int], device: str) -> Picture:
    figure: Figure = new_figure(7.6, 4.4)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(row["case"] for row in timed))
    looks = zip(threads, (BLUE, ORANGE, GREEN), "os^", strict=False)
    for i, (count, colour, marker) in enumerate(looks):
        shift = 0.16 * (i - (len(threads) - 1) / 2)
        points = []
        for row in timed:
            middle = ratio(row, "training", "lstm")
            if row["threads"] != count or middle is None:
                continue
            ours = row["training"]["peers"][OURS]["milliseconds"]
            lstm = row["training"]["peers"]["lstm"]["milliseconds"]
            low, high = lstm["low"] / ours["high"], lstm["high"] / ours["low"]
            points.append((names.index(row["case"]) + shift, middle, middle - low, high - middle))
        if points:
            x, y, below, above = zip(*points, strict=True)
            axes.errorbar(
                x, y, (below, above), fmt=marker, color=colour, markersize=5, capsize=2,
                label=threads_text(count),
            )  # fmt: skip
    label: str | None = "goal"
    for i, name in enumerate(names):
        goal = lstm_goal(parse_case(name), device)
        if goal is not None:
            axes.plot([i - 0.34, i + 0.34], [goal, goal], color="0.25", linewidth=1.4, label=label)
            label = None
    axes.axhline(1, color="0.6", linewidth=1, linestyle=(0, (1, 1.5)))
    axes.set(
        yscale="log",
        ylabel="time of nn.LSTM / time of fast weights",
        xlabel="case",
        title="Training beside nn.LSTM of the same width: higher is faster",
    )
    _plain_numbers(axes.yaxis, "{x:g}×")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    figure.legend(loc="outside right upper", frameon=False)
    return Picture(
        name="bench-ratio",
        figure=figure,
        alt="For every case, how many times as long nn.LSTM takes to train, and the goal.",
        caption="Medians; the bars put one's lower quartile against the other's upper one.",
    )


def _plain_numbers(axis: Axis, text: str) -> None:
    """No powers of ten on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(text)
    axis.set_minor_formatter(NullFormatter())


def _roofline(timed: Sequence[Row], threads: Sequence[int]) -> Picture:
    figure: Figure = new_figure(4.2 * len(threads) + 1.4, 4.4)
    grid = figure.subplots(1, len(threads), sharey=True, squeeze=False)[0]
    for axes, count in zip(grid, threads, strict=True):
        rows = [r for r in timed if r["threads"] == count and parse_case(r["case"]).length > 1]
        rows.sort(key=lambda row: row["training"]["flops"])
        rates = [gflops(row, "training") for row in rows]
        places = range(len(rows))
        axes.plot(
            places, [mm for _, mm in rates], "_", color="0.25", markersize=16, label="torch.mm"
        )
        axes.plot(places, [ours for ours, _ in rates], "o", color=BLUE, label="fast weights")
        axes.set(yscale="log", xlabel="case, by arithmetic", title=threads_text(count))
        axes.set_xticks(places, [row["case"] for row in rows], rotation=35, ha="right")
        axes.grid(axis="y", color="0.9")
        _plain_numbers(axes.yaxis, "{x:g}")
    grid[0].set_ylabel("GFLOP/s")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return Picture(
        name="bench-roofline",
        figure=figure,
        alt="GFLOP/s of training in every case, beside torch.mm with as much arithmetic.",
        caption="Only the arithmetic that the equations need is counted.",
    )

"""From measurements to tables, goals and figures: with numbers made up so that one can check."""

from __future__ import annotations

from typing import Any

import pytest

from fastweights.bench.cases import Case
from fastweights.bench.goals import gflops, lstm_goal, ratio, recurrence_goals
from fastweights.bench.optimizer import OptimizerStep
from fastweights.bench.recurrence_section import recurrence_section
from fastweights.bench.tasks import Generators


def times(median: float) -> dict[str, Any]:
    return {"median": median, "low": 0.9 * median, "high": 1.2 * median, "rounds": 9}


def row(case: str, ours: float, threads: int = 1, **peers: float | str) -> dict[str, Any]:
    found: dict[str, Any] = {"fast-weights": {"milliseconds": times(ours), "kept_bytes": 1_000_000}}
    for name, what in peers.items():
        key = name.replace("_", "-")
        found[key] = {"skipped": what} if isinstance(what, str) else {"milliseconds": times(what)}
    parts = {"whole": ours, "forward": 0.2 * ours, "backward": 0.3 * ours}
    mode = {
        "flops": 10_000_000,
        "mm": {"size": 100, "milliseconds": times(0.02)},
        "peers": found,
    }
    timed = {"case": case, "threads": threads, "training": mode, "forward": mode, "load": 0.5}
    return timed if threads > 1 else {**timed, "parts": {**parts, "gigabytes_per_second": 10.0}}


def fresh_row(case: str) -> dict[str, Any]:
    call = {"import_torch": 1.0, "import_fastweights": 0.05, "next_call": 0.01, "peak_bytes": 5e6}
    cold, cached = {**call, "first_call": 0.25}, {**call, "first_call": 0.02}
    return {"case": case, "fresh": True, "cold": cold, "cached": cached, "load": 0.5}


def report(*rows: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    return {"settings": {"device": device}, "rows": list(rows)}


def test_ratios_and_rates() -> None:
    one = row("128x11x50", 2.0, lstm=5.0, eager_matrix="takes at least 9 s")
    assert ratio(one, "training", "lstm") == 2.5
    assert ratio(one, "training", "eager-matrix") is None
    assert ratio(one, "training", "gru") is None
    assert gflops(one, "training") == pytest.approx((5.0, 100.0))


@pytest.mark.parametrize(
    ("case", "goal"),
    [
        (Case(128, 11, 20), 3.0),
        (Case(128, 55, 100), 3.0),
        (Case(128, 200, 100), 2.0),
        (Case(32, 512, 128), 2.0),
        (Case(8, 4096, 128), 2.0),
        (Case(1, 1, 8), 2.0),
        (Case(1, 1, 64, state=True), None),
    ],
)
def test_goals_beside_the_lstm(case: Case, goal: float | None) -> None:
    assert lstm_goal(case, "cpu") == goal
    assert lstm_goal(case, "cuda") == 1.0


def test_goals_are_met_or_not() -> None:
    rows = [
        row("128x11x50", 2.0, lstm=6.0, eager_matrix=49.0, compiled=4.0),
        row("128x11x50", 1.2, threads=2),
        row("128x11x20", 0.9),
        row("128x11x20", 0.9, threads=2),  # too short to share
        row("8x512x128", 10.0),
        row("8x4096x128", 89.0, lstm=170.0),
        row("1x1x8", 0.2, lstm=0.45),
        row("16x1x64+state", 0.3, lstm=0.3, gru_cell=0.21),
        row("256x1x64+state", 0.3, gru_cell=0.21),
    ]
    goals = {
        f"{g.case}: {g.goal}": g for g in recurrence_goals(rows, [fresh_row("128x11x50")], "cpu")
    }
    found = {name: (g.wanted, g.measured, g.met) for name, g in goals.items()}
    one = "128x11x50, 1 thread: "
    assert found[one + "training, beside nn.LSTM"] == ("≥ 3×", "3.00×", True)
    assert found[one + "GFLOP/s in training, 0.4 of torch.mm's"] == ("≥ 40", "5", False)
    for mode in ("training", "forward"):
        assert found[f"128x11x50: {mode}, two threads beside one"] == ("≥ 1.7×", "1.67×", False)
    assert not any("128x11x20" in name and "two threads" in name for name in found)
    call = "1x1x8, 1 thread: "
    assert found[call + "training, beside nn.LSTM"] == ("≥ 2×", "2.25×", True)
    assert found[call + "forward, a step beside nn.LSTM"] == ("≥ 2.5×", "2.25×", False)
    step = "16x1x64+state, 1 thread: "
    assert {name for name in found if "+state" in name} == {
        step + f"{mode}, a step beside nn.GRUCell" for mode in ("training", "forward")
    }
    assert found[step + "training, a step beside nn.GRUCell"] == ("≥ 0.67×", "0.70×", True)
    long = "8x4096x128, 1 thread: "
    assert found[long + "GFLOP/s in training, 0.6 of torch.mm's"] == ("≥ 60", "0", False)
    assert found[long + "training, beside nn.LSTM"] == ("≥ 2×", "1.91×", False)
    # 89 ms for eight times as many steps as take 10 ms
    assert found[long + "time of a step, beside 8x512x128"] == ("≤ 1.1×", "1.11×", False)
    kept = "numbers kept per step and sample, matrices of chunks apart, beside H"
    # a quarter of a million floats over 128·11·50
    assert found[f"128x11x50: {kept}"] == ("≤ 2.2×", "3.55×", False)
    first = "first training step of a process, beyond the second"
    assert found[f"128x11x50: {first}"] == ("< 0.2 s", "0.240 s", False)
    assert found["all: importing fastweights, on top of torch"] == ("< 0.1 s", "0.05 s", True)


def test_goals_on_a_gpu() -> None:
    rows = [row("128x11x50", 2.0, lstm=2.5, eager_matrix=98.0)]
    kept = "numbers kept per step and sample, matrices of chunks apart, beside H"
    found = {g.goal: g.met for g in recurrence_goals(rows, [fresh_row("128x11x50")], "cuda")}
    assert found == {
        "training, beside nn.LSTM": True,
        "training, beside matrix loop": False,
        kept: False,
    }


def test_tables_and_figures_of_the_recurrence() -> None:
    rows = [
        row("128x11x50", 2.0, lstm=5.0, gru=30.0, eager_matrix="takes at least 9 s"),
        row("128x11x50", 1.0, threads=2, lstm=5.0),
        row("128x55x50", 2.0, lstm=5.0),
        row("1x1x64+state", 2.0, lstm=4.0, gru_cell=1.0),
        {"case": "128x24x200", "threads": 1, "disagrees": "output is off by 1", "load": 0.5},
    ]
    installs = [
        {"pip_install": 40.0, "first_gradient": 2.5, "native": True},
        {"pip_install": 4.0, "first_gradient": 2.0, "native": False},
        {"skipped": "no source tree"},
    ]
    rows += [{"case": "pip install", "load": 0.5, "install": True, **row} for row in installs]
    section = recurrence_section(report(*rows, fresh_row("128x11x50")))
    goals, training, forward, memory, first, skipped, parts, steps, installed = section.tables
    # LSTM, torch.mm, GRU's cell, two threads, memory, first call, import
    assert len(goals.rows) == 3 + 3 + 2 + 2 + 2 + 1 + 1
    assert training.caption.startswith("Training: ")
    assert forward.caption.startswith("Forward: ")
    columns = (
        "case",
        "threads",
        "ms",
        "nn.LSTM",
        "nn.GRU",
        "matrix loop",
        "GFLOP/s",
        "torch.mm",
        "load",
    )
    assert training.columns == columns
    assert training.rows == [
        ["128x11x50", "1", "2 (1.8 to 2.4)", "2.50×", "15×", "skipped", "5", "100", "0.5"],
        ["128x11x50", "2", "1 (0.9 to 1.2)", "5.00×", "–", "–", "10", "100", "0.5"],
        ["128x55x50", "1", "2 (1.8 to 2.4)", "2.50×", "–", "–", "5", "100", "0.5"],
    ]
    assert memory.rows[0] == ["128x11x50", "3.6", "1", "5"]
    assert first.rows == [["128x11x50", "0.05", "0.25", "0.01", "0.02"]]
    assert steps.columns == ("case", "threads", "what", "ms", "nn.LSTM", "nn.GRUCell", "load")
    assert steps.rows == [
        ["1x1x64+state", "1", what, "2 (1.8 to 2.4)", "2.00×", "0.50×", "0.5"]
        for what in ("training", "forward")
    ]
    assert installed.rows == [
        ["with kernels", "40.0", "2.5", "42.5"],
        ["without kernels: no compiler", "4.0", "2.0", "6.0"],
        ["no source tree", "–", "–", "–"],
    ]
    assert skipped.rows[0] == ["128x11x50", "1", "training", "matrix loop", "takes at least 9 s"]
    # 10 MFLOP at 100 GFLOP/s; 4·128·11·(2·37 + 7·50) bytes at 10 GB/s
    assert parts.rows[0] == ["128x11x50", "2", "20%", "30%", "50%", "0.1", "0.239"]
    assert len(parts.rows) == 3  # one thread
    assert [picture.name for picture in section.pictures] == ["bench-ratio", "bench-roofline"]
    for table in section.tables:
        assert {len(line) for line in table.rows} <= {len(table.columns)}


def test_matrices_of_chunks_are_not_counted_as_vectors() -> None:
    long = row("8x512x128", 10.0)
    found = long["training"]["peers"]["fast-weights"]
    found["kept_bytes"], found["matrix_bytes"] = 4 * 8 * 512 * 128 * 5, 4 * 8 * 512 * 128 * 3
    (goal,) = [g for g in recurrence_goals([long], [], "cpu") if "numbers kept" in g.goal]
    assert (goal.measured, goal.met) == ("2.00×", True)


def test_nothing_is_shown_of_a_case_that_disagrees() -> None:
    wrong = {"case": "128x24x200", "threads": 1, "disagrees": "output is off by 1", "load": 0.5}
    section = recurrence_section(report(wrong))
    assert not any(table.rows for table in section.tables)
    assert section.pictures == []
    assert OptimizerStep().section(report(wrong)).tables[1].rows == []


def test_optimizer_tables() -> None:
    both = {"alone": times(1.0), "foreach": times(2.5), "native": times(1.8)}
    rows = [
        {"case": "sgd-1e4", "threads": 1, "slow": "sgd", "milliseconds": both, "load": 3.0},
        {
            "case": "adamw-1e4",
            "threads": 1,
            "slow": "adamw",
            "load": None,
            "milliseconds": {"alone": times(2.0), "foreach": times(3.0)},
        },
    ]
    goals, table = OptimizerStep().section(report(*rows)).tables
    goal = "a step, beside {} alone"
    assert goals.rows == [
        ["sgd-1e4, 1 thread", goal.format("SGD with momentum"), "≤ 1.8×", "1.80×", "yes"],
        ["adamw-1e4, 1 thread", goal.format("AdamW"), "≤ 1.75×", "1.50×", "yes"],
    ]
    assert table.rows == [
        ["sgd-1e4", "1", "1 (0.9 to 1.2)", "2.50×", "1.80×", "3.0"],
        ["adamw-1e4", "1", "2 (1.8 to 2.4)", "1.50×", "–", "–"],
    ]


def test_tasks_tables() -> None:
    one = {
        "case": "retrieval-k4",
        "threads": 1,
        "made": 20_000,
        "batch": 100,
        "load": 1.3,
        "milliseconds": {"make": times(10.0), "fast-weights": times(2.0), "irnn": times(0.5)},
    }
    goals, table = Generators().section(report(one)).tables
    goal = "sequences made, beside the fastest network"
    assert goals.rows == [["retrieval-k4, 1 thread", goal, "≥ 10×", "10.0×", "yes"]]
    assert table.rows == [["retrieval-k4", "1", "2000", "50.0", "IRNN", "200.0", "10.0×", "1.3"]]

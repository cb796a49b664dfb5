"""Progress on a terminal and in a log: how far, how well, against what, how long still."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from fastweights.lab import display as module
from fastweights.lab.display import Display
from fastweights.lab.experiment import Unit


def unit(name: str, seed: int = 0, note: str = "ceiling 38.4 %", total: int = 1000) -> Unit:
    return Unit(name, f"{name}, R = 50", name, seed, total=total, note=note)


def folders(root: Path, units: Sequence[Unit]) -> dict[str, Path]:
    for one in units:
        (root / one.name).mkdir()
    return {one.name: root / one.name for one in units}


def at(folder: Path, update: int, accuracy: float) -> None:
    point = {"update": update, "loss": 1.0, "validation_accuracy": accuracy}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(point) + "\n")


def terminal(width: int = 80) -> Console:
    return Console(force_terminal=True, width=width, file=io.StringIO(), color_system=None)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def last_frame(display: Display, width: int = 80) -> list[str]:
    """What stands on the terminal now."""
    plain = Console(width=width, file=io.StringIO())
    plain.print(display._progress.get_renderable())
    return [line.rstrip() for line in shown(plain).splitlines() if line.strip()]


def test_a_terminal_shows_accuracy_ceiling_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [unit("layer-norm RNN"), unit("LSTM", seed=10)]
    where = folders(tmp_path, units)
    console = terminal()
    display = Display(units, where, console=console)
    now = 0.0
    monkeypatch.setattr(display._progress, "get_time", lambda: now)
    with display:
        for second in range(1, 5):
            now = 10.0 * second
            at(where["layer-norm RNN"], 100 * second, 0.2 * second)
            display.tick(["layer-norm RNN", "LSTM"])
        everything, first, second_line = last_frame(display)
    assert everything.startswith("everything")
    assert "20 %" in everything
    assert "ceiling 38.4 %" in everything
    assert everything.endswith("0:02:40")  # 1600 of 2000 to go, 10 a second
    assert first.startswith("layer-norm RNN, R = 50, seed 0")
    assert "40 %" in first
    assert "80.0 %" in first
    assert first.endswith("0:01:00")
    assert second_line.startswith("LSTM, R = 50, seed 10")
    assert second_line.endswith("-:--:--")
    assert "everything" in shown(console)


def test_notes_that_differ_stand_beside_their_runs(tmp_path: Path) -> None:
    units = [unit("a", note="ceiling 38.4 %"), unit("b", note="ceiling 55.0 %")]
    where = folders(tmp_path, units)
    for name in where:
        at(where[name], 10, 0.5)
    console = terminal(120)
    display = Display(units, where, console=console)
    with display:
        display.tick(["a", "b"])
        everything, first, second = last_frame(display, 120)
    assert "ceiling" not in everything
    assert "50.0 %, ceiling 38.4 %" in first
    assert "50.0 %, ceiling 55.0 %" in second


def test_a_run_that_ends_leaves_the_display_and_counts_as_done(tmp_path: Path) -> None:
    units = [unit("a"), unit("b")]
    where = folders(tmp_path, units)
    console = terminal()
    display = Display(units, where, console=console)
    with display:
        display.tick(["a"])
        assert len(last_frame(display)) == 2
        (where["a"] / "result.json").write_text("{}")
        display.tick([])
        (line,) = last_frame(display)
    assert "50 %" in line


def test_of_many_runs_it_reads_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [unit(name) for name in "abcd"]
    where = folders(tmp_path, units)
    at(where["d"], 500, 0.5)  # of an earlier process
    read: list[str] = []
    state_of = Display._state_of

    def noted(self: Display, one: Unit) -> tuple[int, str]:
        read.append(one.name)
        return state_of(self, one)

    monkeypatch.setattr(Display, "_state_of", noted)
    display = Display(units, where, console=terminal())
    with display:
        assert read == ["a", "b", "c", "d"]
        read.clear()
        display.tick(["a", "b"])
        display.tick(["b"])
        assert set(read) == {"a", "b"}
        (where["a"] / "result.json").write_text("{}")
        display.tick(["b", "a"])
        display.tick(["b"])
        everything, _ = last_frame(display)
    assert "38 %" in everything  # one of four, and half of another


def test_labels_are_no_markup(tmp_path: Path) -> None:
    units = [dataclasses.replace(unit("x", note="[bold]"), label="sizes [red] [/]")]
    console = terminal()
    with Display(units, folders(tmp_path, units), console=console) as display:
        display.tick(["x"])
        everything, line = last_frame(display)
    assert "[bold]" in everything
    assert "sizes [red] [/]" in line


def test_a_log_gets_a_line_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [unit("lstm"), unit("[x]", seed=3)]
    where = folders(tmp_path, units)
    console = Console(force_terminal=False, width=20, file=io.StringIO())
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    display = Display(units, where, console=console)
    monkeypatch.setattr(display._progress, "get_time", lambda: now)
    with display:
        for _ in range(4):
            now += 10
            at(where["lstm"], int(now - 1000) * 10, 0.25)
            display.tick(["lstm", "[x]"])
    assert shown(console).splitlines() == [
        "  0 % done; ceiling 38.4 %",
        " 10 % done; about 3:00 left; ceiling 38.4 %; lstm, R = 50, seed 0: 25.0 %; "
        "[x], R = 50, seed 3: starting",
        " 20 % done; about 2:40 left; ceiling 38.4 %; lstm, R = 50, seed 0: 25.0 %; "
        "[x], R = 50, seed 3: starting",
    ]
    assert "\x1b" not in shown(console)


@pytest.mark.parametrize("text", ["", '{"upd', '{"other": 1}\n', "\xff"])
def test_metrics_it_cannot_read_do_not_stop_a_run(tmp_path: Path, text: str) -> None:
    units = [unit("a")]
    where = folders(tmp_path, units)
    (where["a"] / "metrics.jsonl").write_bytes(text.encode("latin-1"))
    console = terminal()
    with Display(units, where, console=console) as display:
        display.tick(["a"])
        assert "  0 %" in last_frame(display)[1]

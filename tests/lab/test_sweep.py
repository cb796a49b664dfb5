"""Grids of settings: what they are made of, what they leave in folders, how failures end."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastweights.__main__ import main
from fastweights.experiments.associative_retrieval import RetrievalConfig
from fastweights.experiments.retrieval import Retrieval
from fastweights.files import read_json, write_json
from fastweights.lab import pool, runner
from fastweights.lab.plan import Plan
from fastweights.lab.pool import Tick, Tries, Work
from fastweights.lab.ray_pool import _serve
from fastweights.lab.registry import find
from fastweights.lab.sweep import (
    Sweep,
    load_sweep,
    prepare_sweep,
    read_grid,
    seeds_in,
)
from fastweights.report.section import Section, Table
from fastweights.training.config import ConfigError


def sweep_in(folder: Path, *grid: str, seeds: int = 1) -> Sweep:
    config = RetrievalConfig(arms=("lstm", "gru"))
    return Sweep(Plan(find("retrieval"), "quick", config, seeds, folder), read_grid(grid))


def test_every_combination_is_a_run_in_a_folder_of_its_own(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, "decay=0.9,0.99", "hidden_sizes=[20, 50],7")
    assert [cell.name for cell in sweep.cells] == [
        "decay=0.9,hidden_sizes=20-50",
        "decay=0.9,hidden_sizes=7",
        "decay=0.99,hidden_sizes=20-50",
        "decay=0.99,hidden_sizes=7",
    ]
    plans = [cell.plan for cell in sweep.cells]
    assert [(p.config.decay, p.config.hidden_sizes) for p in plans] == [
        (0.9, (20, 50)),
        (0.9, (7,)),
        (0.99, (20, 50)),
        (0.99, (7,)),
    ]
    assert all(p.folder == tmp_path / c.name for p, c in zip(plans, sweep.cells, strict=True))
    assert all(p.config.arms == ("lstm", "gru") for p in plans)
    assert len(sweep.runs) == 2 * (4 + 2)
    home = str(tmp_path / "decay=0.9,hidden_sizes=7" / "units" / "gru-r7-seed0")
    assert sweep.runs[home].label == "decay=0.9,hidden_sizes=7: GRU, R = 7"
    assert sweep.runs[home].name == home


def test_without_a_grid_it_is_the_run_itself(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    (cell,) = sweep.cells
    assert cell.plan == sweep.base
    assert [unit.label for unit in sweep.runs.values()] == [u.label for u in sweep.base.units]
    prepare_sweep(sweep, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "experiment.json"]
    assert load_sweep(tmp_path) == sweep


def test_the_folder_says_what_it_is_and_goes_on_with_that_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep = sweep_in(folder, "decay=0.99,0.9", "schedule=linear,cosine")
    prepare_sweep(sweep, resume=False)
    assert load_sweep(folder) == sweep
    for cell in sweep.cells:
        assert read_json(cell.plan.folder / "experiment.json")["config"]["decay"] in (0.9, 0.99)
        assert load_sweep(cell.plan.folder).base == cell.plan
    with pytest.raises(ConfigError, match="already holds a run of retrieval"):
        prepare_sweep(sweep, resume=False)
    with pytest.raises(ConfigError, match=r"grid: stored .*0\.99.* now .*0\.5"):
        prepare_sweep(sweep_in(folder, "decay=0.5"), resume=True)
    more = sweep_in(folder, "decay=0.99,0.9", "schedule=linear,cosine", seeds=2)
    prepare_sweep(more, resume=True)
    assert seeds_in(folder) == 2
    assert [cell.plan.seeds for cell in load_sweep(folder).cells] == [2] * 4
    with pytest.raises(ConfigError, match="holds 2 seeds"):
        prepare_sweep(sweep, resume=True)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["decay"], "key=value,value"),
        (["decay="], "key=value,value"),
        (["=1,2"], "key=value,value"),
        (["decay=0.9", "decay=0.8"], "'decay' twice"),
        (["decay=0.9,0.90"], "asks twice for the same run: decay=0.9"),
        (["deca=0.9"], "unknown key 'deca'.*'decay'"),
        (["decay=0.9,1.5"], "decay: got 1.5"),
        (["batch_size=8,200000"], "batch_size"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, grid: list[str], message: str
) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(ConfigError, match=message):
        prepare_sweep(sweep_in(folder, *grid), resume=False)
    assert not folder.exists()


@pytest.mark.parametrize("grid", [1, [], {"decay": 0.9}, None])
def test_a_damaged_grid_is_one_clear_error(tmp_path: Path, grid: Any) -> None:
    prepare_sweep(sweep_in(tmp_path, "decay=0.9"), resume=False)
    path = tmp_path / "sweep.json"
    write_json(path, {**read_json(path), "grid": grid})
    with pytest.raises(ConfigError, match=r"sweep\.json does not describe a sweep"):
        load_sweep(tmp_path)


def test_the_command_is_read_back_by_a_shell(tmp_path: Path) -> None:
    texts = ["schedule=linear,cosine", "hidden_sizes=[20,50],[7]", "learning_rate=null,1e-3"]
    sweep = sweep_in(tmp_path, *texts)
    words = shlex.split(sweep.command())
    assert words[:3] == ["fastweights", "sweep", "retrieval"]
    given = [words[i + 1] for i, word in enumerate(words) if word == "--grid"]
    assert read_grid(given) == sweep.grid


def test_tables_are_joined_where_they_have_the_same_columns(tmp_path: Path) -> None:
    def section(columns: Sequence[str], *rows: Sequence[str]) -> Section:
        return Section("", "", [], [Table("caption", columns, rows)] if columns else [], [])

    sweep = sweep_in(tmp_path, "decay=0.1,0.2,0.3,0.4")
    joined = sweep.section(
        [
            section(("a", "b"), ("1", "2"), ("3", "4")),
            section(["a", "b"], ("5", "6")),
            section(("c",), ("7",)),
            section(()),
        ]
    )
    assert [(list(t.columns), t.rows) for t in joined.tables] == [
        (["decay", "a", "b"], [["0.1", "1", "2"], ["0.1", "3", "4"], ["0.2", "5", "6"]]),
        (["decay", "c"], [["0.3", "7"]]),
    ]


def test_a_second_copy_of_a_run_waits_and_finds_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, may_end = threading.Event(), threading.Event()
    started = []

    def run(self: object, config: Any, unit: Any, folder: Path, *_: Any) -> dict[str, int]:
        started.append(unit.name)
        inside.set()
        assert may_end.wait(60)
        return {"value": 1}

    monkeypatch.setattr(Retrieval, "run", run)
    sweep = sweep_in(tmp_path)
    prepare_sweep(sweep, resume=False)
    home = next(iter(sweep.runs))
    copies = [
        threading.Thread(
            target=runner._run_unit,
            args=(home,),
            kwargs={"root": str(tmp_path), "tensorboard": False},
        )
        for _ in range(2)
    ]
    copies[0].start()
    assert inside.wait(60)
    copies[1].start()
    copies[1].join(0.2)
    assert copies[1].is_alive()
    assert len(started) == 1
    may_end.set()
    for copy in copies:
        copy.join(60)
    assert started == ["lstm-r50-seed0"]
    assert read_json(Path(home) / "result.json") == {"value": 1}


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=rf"node \S+ does not see {tmp_path}: all nodes must"):
        _serve(print, "a", str(tmp_path / ".shared-1.tmp"))


@dataclasses.dataclass
class Called:
    code: int
    told: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The command in this process, runs too; those with weight decay 0.5 diverge twice."""
    tried: dict[str, int] = {}

    def run(self: object, config: Any, unit: Any, folder: Path, *_: Any) -> dict[str, Any]:
        tried[str(folder)] = tried.get(str(folder), 0) + 1
        if config.weight_decay == 0.5 and unit.arm == "gru" and tried[str(folder)] < 3:
            raise FloatingPointError("the loss is nan")
        curve = [{"update": 1, "validation_accuracy": 0.5}]
        return {
            "test_accuracy": 0.25 + unit.seed / 4,
            "validation_accuracy": 0.5,
            "updates": 1,
            "seconds": 1.0,
            "curve": curve,
            "learning_rate": 0.1,
            "weight_decay": 0.1,
            "layer_parameters": 1,
            "parameters": 2,
        }

    def run_all(
        work: Work, names: Sequence[str], *, workers: int | None, tick: Tick, attempts: int = 3
    ) -> dict[str, str]:
        tries = Tries(names, attempts)
        while tries.todo:
            name = tries.todo.pop()  # in another order than they were given
            tick([name])
            try:
                work(name)
            except FloatingPointError as error:
                tries.failed(name, str(error))
        return tries.failures

    def call(*words: str) -> Called:
        monkeypatch.setattr(sys, "argv", ["fastweights", *words])
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return Called(code, printed.out + printed.err)

    monkeypatch.setattr(Retrieval, "run", run)
    monkeypatch.setattr(pool, "run_all", run_all)
    return call


WORDS = ["--set", "arms=lstm,gru", "--seeds", "2", "--grid", "weight_decay=0.5,0"]


def test_a_failed_run_is_tried_again(call: Callable[..., Called], tmp_path: Path) -> None:
    done = call("sweep", "retrieval", *WORDS, "--out", str(tmp_path / "s"))
    assert done.code == 0, done.told
    rows = [line.split() for line in done.told.splitlines() if "2/2" in line]
    assert [row[:2] for row in rows] == [
        ["0.5", "LSTM"],
        ["0.5", "GRU"],
        ["0", "LSTM"],
        ["0", "GRU"],
    ]
    page = (tmp_path / "s" / "report.html").read_text()
    assert "Associative retrieval: sweep" in page
    assert page.count("<section") == 3


def test_one_that_fails_for_good_is_listed_and_left_to_resume(
    call: Callable[..., Called], tmp_path: Path
) -> None:
    out = tmp_path / "s"
    done = call("sweep", "retrieval", *WORDS, "--out", str(out), "--retries", "1")
    assert done.code == 1
    assert "2 run(s) did not finish:" in done.told
    for seed in (0, 1):
        reason = "FloatingPointError: the loss is nan"
        assert f"  weight_decay=0.5/gru-r50-seed{seed}: {reason}" in done.told
    page = (out / "report.html").read_text()
    assert page.count("FloatingPointError: the loss is nan") >= 2
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(finished) == 6
    assert call("report", str(out), "-o", str(tmp_path / "page.html")).code == 1

    assert call("sweep", "retrieval", *WORDS, "--out", str(out), "--resume").code == 0
    assert len(list(out.rglob("result.json"))) == 8
    assert finished.items() <= {p: p.stat().st_mtime_ns for p in out.rglob("result.json")}.items()
    assert not list(out.rglob("failure.json"))
    figures = tmp_path / "figures"
    done = call("report", str(out), "-o", str(tmp_path / "page.html"), "--figures", str(figures))
    assert done.code == 0
    assert (figures / "weight_decay=0" / "retrieval-k4-r50.png").exists()


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--ray", "local", "--device", "cuda"], ["--device must be cpu", "'cuda'"]),
        (["--retries", "-1"], ["--retries"]),
        (["--grid", "deca=1"], ["'deca'", "'decay'"]),
    ],
)
def test_the_command_refuses(
    call: Callable[..., Called], tmp_path: Path, more: list[str], parts: list[str]
) -> None:
    if "--ray" in more:
        pytest.importorskip("ray")
    done = call("sweep", "retrieval", "--out", str(tmp_path / "s"), *more)
    assert done.code == 2
    assert all(part in done.told for part in parts)
    assert not (tmp_path / "s").exists()


def test_without_ray_it_says_what_to_install(
    call: Callable[..., Called], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = call("sweep", "retrieval", "--out", str(tmp_path / "s"), "--ray", "local")
    assert done.code == 2
    assert 'pip install "fastweights[ray]"' in done.told
    assert not (tmp_path / "s").exists()

"""The command: what it refuses before any work, and what it leaves behind.

Runs that are killed and resumed are in experiments/test_runner.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fastweights.__main__ import LAB, main
from fastweights.bench import recurrence
from fastweights.bench.base import Disagreement
from fastweights.files import write_json
from fastweights.lab import runner

TINY = [
    "num_pairs=2",
    "hidden_sizes=6",
    "head_size=8",
    "train_size=400",
    "validation_size=50",
    "test_size=50",
    "batch_size=20",
    "updates=40",
    "warmup=10",
    "evaluate_every=4",
    "arms=fast-weights,gru",
]


def arguments(out: Path, *more: str) -> list[str]:
    settings = [word for setting in TINY for word in ("--set", setting)]
    return ["run", "retrieval", "--seeds", "1", "--out", str(out), *settings, *more]


def call(words: list[str]) -> int:
    """The command, in this process; its exit code."""
    before = sys.argv
    sys.argv = ["fastweights", *words]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    """Runs take place in this process, one after another, on one thread as in a worker."""

    def run_all(
        work: Callable[[str], None],
        names: list[str],
        *,
        workers: int,
        tick: Callable[[list[str]], None],
    ) -> dict[str, str]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for name in names:
                work(name)
                tick([name])
        finally:
            torch.set_num_threads(threads)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_all", run_all)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert call(arguments(out)) == 0
    return out


def units(out: Path) -> list[Path]:
    return sorted((out / "units").iterdir())


def test_a_finished_run_is_not_run_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [p for p in whole.rglob("*") if p.parent.parent.name == "units"]
    before = {p: p.stat().st_mtime_ns for p in files}
    assert call(arguments(whole, "--resume")) == 0
    assert {p: p.stat().st_mtime_ns for p in files} == before
    assert "Report:" in capsys.readouterr().out


def test_a_run_ends_with_a_table_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call(arguments(out, "--set", "updates=8", "--seeds", "2")) == 0
    told = capsys.readouterr().out
    assert "fast weights" in told
    assert "2/2" in told
    assert f"Report: {out / 'report.html'}" in told
    page = (out / "report.html").read_text()
    for result in out.glob("units/*/result.json"):
        accuracy = json.loads(result.read_text())["test_accuracy"]
        assert f'<td class="whole">{100 * accuracy:.3f}</td>' in page


def test_report_of_finished_and_unfinished_runs(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    lost, failed = units(broken)
    (lost / "result.json").unlink()
    (failed / "result.json").unlink()
    reason = "FloatingPointError: the loss is <nan>"
    write_json(failed / "failure.json", {"reason": reason}, checksum=True)
    page = tmp_path / "page.html"
    assert call(["report", str(whole), str(broken), "-o", str(page)]) == 1
    told = capsys.readouterr().err
    text = page.read_text()
    for reason in ("not finished", "FloatingPointError"):
        assert reason in told
        assert reason in text
    assert "the loss is &lt;nan&gt;" in text
    assert call(["report", str(whole), "-o", str(page)]) == 0
    (tmp_path / "notes").mkdir()
    shutil.copytree(whole, tmp_path / "another")
    assert call(["report", str(tmp_path), "-o", str(page)]) == 1, "every run below a folder"
    assert all(
        f'<p class="folder">{name}</p>' in page.read_text() for name in ("another", "broken")
    )


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--set", "udpates=3"], ["'udpates'", "'updates'"]),
        (["--set", "updates=many"], ["updates", "'many'", "integer"]),
        (["--set", "learning_rate=NaN"], ["learning_rate", "nan", "finite"]),
        (["--set", "decay=1.5"], ["decay", "1.5", "1"]),
        (["--set", "arms=lstmm"], ["'lstmm'", "'lstm'"]),
        (["--set", "arms=lstm,lstm"], ["arms", "repeat", "lstm"]),
        (["--set", "arms=[]"], ["arms"]),
        (["--set", "num_pairs=27"], ["num_pairs", "27", "26"]),
        (["--set", "batch_size=500"], ["batch_size", "500", "400"]),
        (["--preset", "qiuck"], ["'qiuck'", "'quick'"]),
        (["--device", "gpu"], ["device", "'gpu'", "cuda"]),
        (["--seeds", "0"], ["--seeds", "greater than or equal to 1"]),
        (["--workers", "0"], ["--workers", "greater than or equal to 1"]),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], parts: list[str]
) -> None:
    out = tmp_path / "run"
    assert call(arguments(out, *more)) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told
    assert "Traceback" not in told
    assert not out.exists()


def test_unknown_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", "retreival"]) == 2
    assert "did you mean 'retrieval'?" in capsys.readouterr().err


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_is_never_overwritten(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(whole)
    assert call(arguments(whole)) == 2
    told = capsys.readouterr().err
    assert "already holds a run of retrieval" in told
    assert "--resume" in told
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--set", "updates=500"], ["updates", "40", "500"]),
        (["--preset", "paper"], ["preset", "'quick'", "'paper'"]),
    ],
)
def test_a_run_goes_on_with_its_own_settings_only(
    whole: Path, capsys: pytest.CaptureFixture[str], more: list[str], parts: list[str]
) -> None:
    before = contents(whole)
    assert call(arguments(whole, "--resume", *more)) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told
    assert contents(whole) == before


def test_other_peoples_folders_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in ([], ["--resume"]):
        assert call(arguments(tmp_path, *resume)) == 2
        assert "is not empty and holds no run" in capsys.readouterr().err
    assert call(arguments(tmp_path / "thesis.tex")) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", [None, "{", "[]", '{"experiment": "retrieval"}', "\xff"])
def test_report_of_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    if text is not None:
        (tmp_path / "experiment.json").write_bytes(text.encode("latin-1"))
    page = tmp_path / "page.html"
    assert call(["report", str(tmp_path), "-o", str(page)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert not page.exists()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["list"]) == 0
    told = capsys.readouterr().out
    assert "retrieval" in told
    assert "quick" in told


TINY_BENCH = ["bench", "recurrence", "--cases", "3x5x4", "--rounds", "3", "--budget", "0.1"]


def test_a_benchmark_ends_with_goals_a_file_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    more = ["--threads", "1", "--no-fresh", "--json", str(file), "--figures", str(tmp_path)]
    assert call([*TINY_BENCH, *more]) == 0
    told = capsys.readouterr()
    assert "100 % done: 3x5x4, 1 thread" in told.err
    assert "nn.LSTM" in told.out
    assert "goal" in told.out
    assert f"Measurements: {file}" in told.out
    (row,) = json.loads(file.read_text())["rows"]
    assert row["training"]["peers"]["fast-weights"]["milliseconds"]["rounds"] == 3
    assert {p.name for p in tmp_path.glob("*.png")} == {"bench-ratio.png", "bench-roofline.png"}


def test_a_benchmark_of_a_wrong_layer_prints_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*_: object) -> float:
        raise Disagreement("fast-weights: output is off by 0.5")

    monkeypatch.setattr(recurrence, "_checked", wrong)
    assert call([*TINY_BENCH, "--threads", "1", "--no-fresh"]) == 1
    told = capsys.readouterr()
    assert "3x5x4 is not timed: fast-weights: output is off by 0.5" in told.err
    assert "3x5x4" not in told.out


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["recurence"], ["'recurence'", "did you mean 'recurrence'"]),
        (["--cases", "128x11x50,128x11"], ["'128x11'", "did you mean '128x11x50'"]),
        (["--peers", "lstn"], ["'lstn'", "did you mean 'lstm'"]),
        (["--threads", "1,0"], ["threads", "'0'"]),
        (["--threads", "two"], ["threads", "'two'"]),
        (["--rounds", "2"], ["--rounds", "greater than or equal to 3"]),
        (["--device", "gpu"], ["device", "'gpu'", "cuda"]),
        (["optimizer", "--cases", "sdg-1e4"], ["'sdg-1e4'", "did you mean 'sgd-1e4'"]),
        (["tasks", "--cases", "retrieval"], ["'retrieval'", "did you mean 'retrieval-k"]),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], parts: list[str]
) -> None:
    file = tmp_path / "bench.json"
    assert call(["bench", *more, "--json", str(file)]) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told
    assert "Traceback" not in told
    assert not file.exists()


@pytest.mark.parametrize("command", [[], ["run"], ["report"], ["list"], ["bench"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*command, "--help"]) == 0
    assert "Usage: fastweights" in capsys.readouterr().out


def test_without_the_laboratory_it_says_what_to_install() -> None:
    hidden = LAB[:2]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r}))\n"
        "from fastweights.__main__ import main\nmain()"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 2
    assert 'pip install "fastweights[lab]"' in process.stderr
    assert ", ".join(hidden) in process.stderr
    assert "Traceback" not in process.stderr


def test_without_tensorboard_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert call(arguments(tmp_path / "run", "--tensorboard")) == 2
    assert 'pip install "fastweights[tensorboard]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

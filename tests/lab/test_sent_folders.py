"""A folder that somebody sent reaches nothing outside itself, and hangs and fills nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastweights.__main__ import main
from fastweights.files import read_json, write_json
from fastweights.lab import runner
from fastweights.lab.sweep import load_sweep, runs_in
from fastweights.report import html
from fastweights.training.config import ConfigError
from tests.commands import run_all_here

SETTINGS = [
    "arms=lstm",
    "hidden_sizes=2",
    "head_size=2",
    "num_pairs=1",
    "train_size=16",
    "validation_size=4",
    "test_size=4",
    "batch_size=4",
    "updates=2",
    "evaluate_every=1",
]
WORDS = ["retrieval", "--seeds", "1", *(word for s in SETTINGS for word in ("--set", s))]
UNIT = "units/lstm-r2-seed0"
FILES = [
    ".lock",
    "experiment.json",
    "report.html",
    "units",
    UNIT,
    *(
        f"{UNIT}/{name}"
        for name in (
            ".lock",
            "checkpoint.safetensors",
            "config.json",
            "environment.json",
            "failure.json",
            "metrics.jsonl",
            "result.json",
            "tensorboard",
        )
    ),
]
pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")


def call(*words: str | Path) -> int:
    """The command, in this process; its exit code."""
    before = sys.argv
    sys.argv = ["fastweights", *map(str, words)]
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

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_all", run_all_here)
        patch.setattr(html, "_as_data", lambda _: "data:,")  # figures take long
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert call("run", *WORDS, "--out", folder) == 0
    return folder


@pytest.fixture
def sent(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "sent"))


def outside(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files of a folder, their contents and when they were written."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def replace(path: Path) -> None:
    """Take a file or folder away, to put something else there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", FILES)
def test_links_are_not_followed(
    sent: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither to files that hold a secret, nor to folders, nor to what is not there yet."""
    victim = tmp_path / "victim"
    shutil.copytree(sent / UNIT, victim / "units" / "lstm-r2-seed0")
    shutil.copytree(sent / UNIT, victim / "lstm-r2-seed0")
    for path in [victim / "secret.json", *victim.rglob("*.json*")]:
        path.write_text(json.dumps({"password": "hunter2", "reason": "hunter2"}))
    (victim / "folder").mkdir()
    before = outside(victim)
    (sent / UNIT / "result.json").unlink()
    for target in ("units" if name == "units" else "lstm-r2-seed0", "secret.json", "not there"):
        replace(sent / name) if not (sent / name).is_symlink() else (sent / name).unlink()
        (sent / name).symlink_to(victim / target)
        if target == "secret.json":
            call("report", sent, "-o", tmp_path / "page.html")
            call("generate", sent, "--prompt", "a")
        call("run", *WORDS, "--out", sent, "--resume")
        told = capsys.readouterr()
        pages = [
            p.read_text() for p in (tmp_path / "page.html", sent / "report.html") if p.exists()
        ]
        assert "hunter2" not in told.out + told.err + "".join(pages), target
        assert outside(victim) == before, target
        if not (sent / name).is_symlink() and not (sent / name).exists():
            (sent / name).touch()


def test_tensorboard_writes_nothing_outside(sent: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (sent / UNIT / "result.json").unlink()
    (tmp_path / "victim").mkdir()
    (sent / UNIT / "tensorboard").symlink_to(tmp_path / "victim")
    assert call("run", *WORDS, "--out", sent, "--resume", "--tensorboard") == 0
    assert not list((tmp_path / "victim").iterdir())
    assert list((sent / UNIT / "tensorboard").iterdir())


def test_a_file_with_a_second_name_elsewhere_is_not_written_to(sent: Path, tmp_path: Path) -> None:
    (sent / UNIT / "result.json").unlink()
    (sent / UNIT / "checkpoint.safetensors").unlink()
    metrics = sent / UNIT / "metrics.jsonl"
    metrics.write_text("precious")
    os.link(metrics, tmp_path / "precious")
    assert call("run", *WORDS, "--out", sent, "--resume") == 0
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", [name for name in FILES if "units" not in name or "/" in name[6:]])
@pytest.mark.parametrize("kind", ["pipe", "large", "folder"])
def test_no_file_hangs_or_fills_the_memory(
    sent: Path, tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(sent / name)
    if kind == "pipe":
        os.mkfifo(sent / name)
    elif kind == "large":
        with (sent / name).open("wb") as file:
            file.truncate(2**40)  # it takes no room
    else:
        (sent / name).mkdir()
    if kind == "pipe":
        call("report", sent, "-o", tmp_path / "page.html")
        call("generate", sent / UNIT, "--prompt", "a")
    call("run", *WORDS, "--out", sent, "--resume")
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_folder_says_is_shown_and_not_obeyed(
    sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;title\x07\x9b31m[bold red]\u202e<script>alert(1)</script>\ud800"
    (sent / UNIT / "result.json").unlink()
    (sent / UNIT / "failure.json").write_text(json.dumps({"reason": evil}))
    (sent / UNIT / "environment.json").write_text(json.dumps({evil: evil}))
    described(sent)  # without a checksum, which the others would need too
    assert call("report", sent, "-o", tmp_path / "page.html") == 1
    told = capsys.readouterr()
    page = (tmp_path / "page.html").read_text()
    for control in ("\x1b", "\x07", "\x9b", "\u202e"):
        assert control not in told.out + told.err + page
    assert r"\x1b]0;title\x07\x9b31m[bold red]\u202e<script>" in told.err
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def described(folder: Path, **changes: Any) -> None:
    path = folder / "experiment.json"
    write_json(path, {**read_json(path), **changes})


@pytest.mark.parametrize("seeds", [10**9, 10_001, 0, -1, 1.5, True, "1"])
def test_seeds_beyond_reason_are_refused(sent: Path, seeds: Any) -> None:
    described(sent, seeds=seeds)
    with pytest.raises(ConfigError, match=r"experiment\.json does not describe a run: .*seeds"):
        load_sweep(sent)


def test_settings_that_ask_for_too_many_runs_are_refused(sent: Path) -> None:
    config = read_json(sent / "experiment.json")["config"]
    described(sent, seeds=1000, config={**config, "hidden_sizes": list(range(1, 101))})
    with pytest.raises(ConfigError, match=r"100 runs with each of 1000 seeds"):
        load_sweep(sent)
    described(sent, config={**config, "hidden_sizes": list(range(1, 100_000))})
    with pytest.raises(ConfigError, match=r"experiment\.json is too long"):
        load_sweep(sent)


@pytest.mark.parametrize(
    "grid",
    [
        {"schedule=/../../../elsewhere": ["x"]},
        {"../decay": [0.5]},
        {"decay": [0.1, 0.2], "num_pairs": list(range(1, 27)), "updates": list(range(1, 5000))},
        {"updates": list(range(1, 1002))},
        {"hidden_sizes": [[0]]},
        {"decay": [[[]]]},
        {"": [1]},
        {"decay": 1},
    ],
)
def test_a_grid_makes_no_folder_elsewhere_and_no_end(sent: Path, grid: dict[str, Any]) -> None:
    write_json(sent / "sweep.json", {**read_json(sent / "experiment.json"), "grid": grid})
    with pytest.raises(ConfigError, match=r"sweep\.json does not describe a sweep"):
        load_sweep(sent)


def test_the_name_of_a_run_is_one_part_of_a_path(
    monkeypatch: pytest.MonkeyPatch, sent: Path
) -> None:
    plan = load_sweep(sent).base
    (unit,) = plan.units
    for name in ("../elsewhere", "/tmp/elsewhere", "..", "", "a/b", "a\0b"):
        made = type(unit)(name, unit.label, unit.arm, unit.seed, unit.options)
        monkeypatch.setattr(type(plan.experiment), "units", lambda *_, made=made: [made])
        with pytest.raises(ConfigError, match="cannot be the name of a folder"):
            load_sweep(sent)


def test_links_beside_the_runs_are_left_out(sent: Path, whole: Path) -> None:
    (sent.parent / "link").symlink_to(whole)
    assert runs_in(sent.parent) == [sent]
    assert runs_in(sent.parent / "link") == [sent.parent / "link"]  # this one the user named


def test_what_killed_processes_left_is_removed(sent: Path) -> None:
    left = [
        sent / ".experiment.json.0123456789abcdef.tmp",
        sent / ".shared-a1b2_c3d.tmp",
        sent / UNIT / ".checkpoint.safetensors.4711.tmp",
    ]
    mine = sent / ".notes.tmp"
    for path in (*left, mine):
        path.write_text("half")
    (sent / UNIT / "result.json").unlink()
    assert call("run", *WORDS, "--out", sent, "--resume") == 0
    assert [path for path in (*left, mine) if path.exists()] == [mine]


LIMITED = """
import resource

from fastweights import cli
from fastweights.__main__ import main

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
main()
"""


def report_in_a_process(folder: Path, page: Path, **options: Any) -> str:
    """What ``report`` says, where it may take 300 MB beside its libraries, and 30 seconds."""
    words = [str(word) for word in ("report", folder, "-o", page)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        **{"capture_output": True, "text": True, "timeout": 30, "check": False, **options},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "sizes", "only"),
    [(100, list(range(1, 101)), "lstm-r2-seed0"), (1, [4096], "lstm-r4096-seed0")],
)
def test_a_description_fills_no_memory_and_comes_to_an_end(
    sent: Path, tmp_path: Path, seeds: int, sizes: list[int], only: str
) -> None:
    config = read_json(sent / "experiment.json")["config"]
    described(sent, seeds=seeds, config={**config, "hidden_sizes": sizes})
    (sent / UNIT).rename(sent / "units" / only)
    found = report_in_a_process(sent, tmp_path / "page.html")
    assert ("9999 run(s) did not finish" in found) == (seeds > 1)
    assert "data:image/svg+xml" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("hidden_sizes", [50, 4097], "less than or equal to 4096"),
        ("hidden_sizes", list(range(1, 102)), "got 101 values, but a list has at most 100"),
        ("arms", ["lstm"] * 5000, "got 5000 values"),
        ("inner_steps", 2**31 - 1, "less than or equal to 1000"),
        ("updates", 2**32 + 1, "an integer may be at most"),
        ("updates", 10**39, "an integer may be at most"),
    ],
)
def test_settings_beyond_reason_are_named(sent: Path, key: str, value: Any, told: str) -> None:
    config = read_json(sent / "experiment.json")["config"]
    described(sent, config={**config, key: value})
    with pytest.raises(ConfigError, match=rf"experiment\.json .*{key}.*: .*{told}"):
        load_sweep(sent)


@pytest.mark.slow
def test_a_grid_of_as_many_runs_as_may_be(sent: Path, tmp_path: Path) -> None:
    grid = {"updates": list(range(1, 41)), "warmup": list(range(25))}
    stored = {**read_json(sent / "experiment.json"), "seeds": 10}
    write_json(sent / "sweep.json", {**stored, "grid": grid})
    found = report_in_a_process(sent, tmp_path / "page.html")
    assert "10000 run(s) did not finish" in found


@pytest.mark.slow
def test_a_style_in_the_folder_that_one_stands_in_is_not_obeyed(
    whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "matplotlibrc").write_text(
        "figure.facecolor: red\naxes.facecolor: red\nlines.linewidth: 99\nsavefig.dpi: 7\n"
        "font.size: 40\ntext.usetex: True\nsvg.fonttype: none\n"
    )
    pages = []
    for place in (tmp_path, tmp_path.parent):
        report_in_a_process(whole, tmp_path / "page.html", cwd=place)
        pages.append((tmp_path / "page.html").read_text())
    assert "data:image/svg+xml" in pages[0]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_report_replaces_only_files(
    whole: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``/dev/null`` and ``/dev/stdout`` are none."""
    page = tmp_path / "page"
    if kind == "pipe":
        os.mkfifo(page)
    elif kind == "link":
        (tmp_path / "file").write_text("precious")
        page.symlink_to(tmp_path / "file")
    else:
        page.mkdir()
    before = page.lstat()
    assert call("report", whole, "-o", page) == 2
    assert f"{page} is not a regular file" in capsys.readouterr().err
    assert page.lstat() == before
    if kind == "link":
        assert (tmp_path / "file").read_text() == "precious"

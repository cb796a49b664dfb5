"""What others do to a folder while a command works in it: refused or told, and nothing lost."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fastweights.experiments.retrieval import Retrieval
from fastweights.lab import runner
from fastweights.training import loop
from tests.commands import (
    SMALL,
    TINY,
    AtWrites,
    Started,
    call,
    command,
    lines_in,
    numbers_in,
    processes,
    temporaries_in,
)

SETTINGS = [part for setting in TINY for part in ("--set", setting)]
RUN = ["run", "retrieval", "--seeds", "1", *SETTINGS]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert call(*RUN, "--out", str(folder)).code == 0
    return numbers_in(folder)


def in_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    save = loop.save_checkpoint

    def save_and_act(*given: Any) -> None:
        save(*given)
        act()

    monkeypatch.setattr(loop, "save_checkpoint", save_and_act)


def after_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    run = Retrieval.run

    def run_and_act(*given: Any) -> Any:
        result = run(*given)
        act()
        return result

    monkeypatch.setattr(Retrieval, "run", run_and_act)


def after_the_run(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    run_unit = runner._run_unit

    def run_and_act(*given: Any, **more: Any) -> None:
        run_unit(*given, **more)
        act()

    monkeypatch.setattr(runner, "_run_unit", run_and_act)


def before_the_report(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    section = Retrieval.section

    def section_and_act(*given: Any, **more: Any) -> Any:
        act()
        return section(*given, **more)

    monkeypatch.setattr(Retrieval, "section", section_and_act)


MOMENTS = [in_training, after_training, after_the_run, before_the_report]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("way", ["removed", "moved", "replaced"])
def test_a_folder_that_is_taken_away_does_not_come_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Any],
    moment: Callable[[pytest.MonkeyPatch, Callable[[], object]], None],
    way: str,
) -> None:
    folder, aside = tmp_path / "run", tmp_path / "aside"

    def take() -> None:
        with suppress(FileNotFoundError):
            folder.rename(aside)
        if way == "replaced":
            folder.mkdir(exist_ok=True)

    with monkeypatch.context() as patch:
        moment(patch, take)
        done = call(*RUN, "--out", str(folder))
    assert done.code == 1, done.told
    assert f"removed, moved or replaced while it was in use: '{folder}'" in done.told
    assert "Traceback" not in done.told
    assert "goes on with:" in done.told
    assert not folder.exists() or not list(folder.rglob("*"))

    if way == "moved":
        aside.rename(folder)
    assert call(*RUN, "--out", str(folder), "--resume").code == 0
    assert numbers_in(folder) == undisturbed


def test_the_folder_of_one_run_that_is_removed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    folder, taken = tmp_path / "run", []

    def take() -> None:
        if not taken:
            taken.append(1)
            shutil.rmtree(folder / "units")

    with monkeypatch.context() as patch:
        in_training(patch, take)
        done = call(*RUN, "--out", str(folder))
    assert done.code == 0, done.told
    assert numbers_in(folder) == undisturbed


@contextmanager
def no_override() -> Iterator[None]:
    """Root, too, may only write where the permissions let it."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, before):
        pytest.skip("the capabilities of this process cannot be told")
    without = (ctypes.c_uint32 * 6)(*before)
    without[0] &= ~0b110  # to write and read whatever the permissions
    if libc.capset(header, without):
        pytest.skip("this process cannot put a capability aside")
    try:
        yield
    finally:
        libc.capset(header, before)


def set_writable(folder: Path, writable: bool) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o755 if path.is_dir() else 0o644) & (0o777 if writable else 0o555))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_folder_that_becomes_read_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Any],
    moment: Callable[[pytest.MonkeyPatch, Callable[[], object]], None],
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, no_override():
        moment(patch, lambda: set_writable(folder, False))
        done = call(*RUN, "--out", str(folder))
    set_writable(folder, True)
    assert done.code == 1, done.told
    assert f"Permission denied: '{folder}/" in done.told
    assert "Traceback" not in done.told
    assert "goes on with:" in done.told
    assert call(*RUN, "--out", str(folder), "--resume").code == 0
    assert numbers_in(folder) == undisturbed


def test_where_nothing_may_be_written_nothing_begins(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    set_writable(place, False)
    with no_override():
        done = call(*RUN, "--out", str(place / "run"))
    set_writable(place, True)
    assert done.code == 1
    assert f"Permission denied: '{place / 'run'}'" in done.told
    assert not list(place.iterdir())


def test_a_report_needs_to_write_nothing_into_the_folder(tmp_path: Path) -> None:
    folder, page = tmp_path / "run", tmp_path / "page.html"
    assert call(*RUN, "--out", str(folder)).code == 0
    set_writable(folder, False)
    with no_override():
        done = call("report", str(folder), "-o", str(page))
        refused = call("report", str(folder), "-o", str(folder / "page.html"))
        resumed = call(*RUN, "--out", str(folder), "--resume")
    set_writable(folder, True)
    assert done.code == 0, done.told
    assert page.exists()
    for failed in (refused, resumed):
        assert failed.code == 1
        assert f"Permission denied: '{folder}/" in failed.told


@pytest.mark.slow
def test_a_second_command_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """One real command, its folder used by others, and then taken away."""
    folder = tmp_path / "run"
    endless = [*SMALL, "updates=1000000"]
    words = command("run", "retrieval", folder, endless, "--workers", "2")
    started = Started.of(words, tmp_path / "log")
    try:
        assert started.until(lambda: lines_in(folder) > 4), started.told
        before = {path: path.read_bytes() for path in folder.glob("*.json")}

        def again(verb: str, *more: str, settings: list[str] = endless) -> str:
            done = call(*command(verb, "retrieval", folder, settings, *more)[3:])
            assert done.code == 2, done.told
            assert "Traceback" not in done.told
            assert before == {path: path.read_bytes() for path in folder.glob("*.json")}
            return done.told

        in_use = f"{folder} is in use: another process runs it"
        assert in_use in again("run", "--resume")
        assert in_use in again("run", "--resume", "--seeds", "2")
        assert in_use in again("run")
        assert in_use in again("run", settings=TINY)
        told = again("sweep", "--grid", "warmup=0,10")
        assert in_use in told or f"{folder} holds a run" in told

        for _ in range(10):  # while files are written
            done = call("report", str(folder), "-o", str(tmp_path / "page.html"))
            assert done.code == 1
            assert "2 run(s) did not finish" in done.told
            assert "gru-r6-seed0: not finished" in done.told
            assert "Traceback" not in done.told

        shutil.rmtree(folder)
        assert started.end(timeout=60) == 1
        assert f"removed, moved or replaced while it was in use: '{folder}'" in started.told
        assert "Traceback" not in started.told
        assert not folder.exists()
        assert not processes(started.log)
    finally:
        for pid in processes(started.log):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.end()


def test_a_run_in_the_folder_of_a_sweep_is_told_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    swept = ["sweep", *RUN[1:], "--grid", "warmup=0", "--out", str(folder)]
    assert call(*swept).code == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for more in ([], ["--resume"]):
        done = call(*RUN, "--out", str(folder), *more)
        assert done.code == 2
        assert f"{folder} holds a sweep: go on with it by fastweights sweep" in done.told
    cell = folder / "warmup=0"
    assert call(*RUN, "--set", "warmup=0", "--out", str(cell), "--resume").code == 0
    done = call("sweep", *RUN[1:], "--grid", "warmup=0", "--out", str(cell))
    assert done.code == 2
    assert f"{cell} holds a run: go on with it by fastweights run" in done.told
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    after.pop(cell / "report.html", None)
    assert after.keys() - before.keys() <= {cell / ".lock"}
    same = {path for path in before if path.name != "report.html"}
    assert {path: after[path] for path in same} == {path: before[path] for path in same}


def test_a_command_killed_at_its_first_step_leaves_a_folder_that_can_be_used(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    assert call(*RUN, "--out", str(folder)).code == 0
    assert numbers_in(folder) == undisturbed


def test_ctrl_c_at_any_step_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    """From the first file to the report."""
    for step in range(10**9):
        folder = tmp_path / str(step)
        pressed = AtWrites(KeyboardInterrupt, step, step)
        with pressed.strike(monkeypatch):
            done = call(*RUN, "--out", str(folder))
        if not pressed.struck:
            break
        assert done.code == 130, done.told
        assert "Stopped; nothing is lost. Go on with:" in done.told
        assert "Traceback" not in done.told
        assert call(*RUN, "--out", str(folder), "--resume").code == 0
        assert numbers_in(folder) == undisturbed
        assert not temporaries_in(folder)
    assert done.code == 0
    assert step > 30


INTERRUPTED_IMPORT = """
import os, signal, sys, time

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "fastweights.cli":
            print("begun", flush=True)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            except KeyboardInterrupt:  # as a module does that goes on without another
                pass

sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)
from fastweights.__main__ import main
sys.argv = ["fastweights", "--version"]
main()
"""


def test_ctrl_c_while_modules_are_imported_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "begun\n", "")

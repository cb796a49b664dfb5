"""No room left, at any moment: the file is named, nothing is lost, and with room it goes on."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastweights.files import write_json
from tests.commands import TINY, AtWrites, Ended, call, numbers_in, temporaries_in

SETTINGS = [part for setting in TINY for part in ("--set", setting)]
SWEEP = ["sweep", "retrieval", "--seeds", "1", *SETTINGS, "--grid", "warmup=0"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    done = sweep(folder)
    assert done.code == 0, done.told
    return numbers_in(folder)


def sweep(folder: Path, *more: str) -> Ended:
    return call(*SWEEP, "--out", str(folder), *more)


def no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_told(done: Ended, folder: Path) -> None:
    """The reason, the file and what to do, and no traceback."""
    assert done.code == 1, done.told
    assert os.strerror(errno.ENOSPC) in done.told or os.strerror(errno.EFBIG) in done.told
    assert any(str(folder) in line for line in done.told.splitlines() if "Errno" in line), done.told
    assert "Traceback" not in done.told
    command = done.told.splitlines()[-1].split()
    assert command[:3] == ["fastweights", "sweep", "retrieval"]
    assert command[-1] == "--resume"


def test_a_disk_that_is_full_from_any_moment_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    kinds, first = set(), 0
    while True:
        folder = tmp_path / str(first)
        disk = AtWrites(no_room, first)
        with disk.strike(monkeypatch):
            done = sweep(folder)
        if not disk.struck:
            break
        kinds.add(disk.struck[0])
        check_told(done, folder)
        again = sweep(folder, "--resume")
        assert again.code == 0, (first, done.told, again.told)
        assert numbers_in(folder) == undisturbed
        assert not temporaries_in(folder)
        first += 1
    assert done.code == 0
    assert kinds == {"open", "mkdir", "replace", "fsync"}
    assert first > 30


def test_a_disk_that_is_full_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    """A run that it meets is tried again by itself; all else by hand."""
    codes = []
    for moment in range(10**9):
        folder = tmp_path / str(moment)
        disk = AtWrites(no_room, moment, moment)
        with disk.strike(monkeypatch):
            done = sweep(folder)
        if not disk.struck:
            break
        codes.append(done.code)
        if done.code:
            check_told(done, folder)
            assert sweep(folder, "--resume").code == 0
        assert "Traceback" not in done.told
        assert numbers_in(folder) == undisturbed
        assert not temporaries_in(folder)
    assert {0, 1} == set(codes)
    assert len(codes) > 30


@pytest.mark.parametrize("limit", [0, 50, 300, 700, 3_000, 16_000, 20_000])
def test_files_that_may_not_grow(tmp_path: Path, undisturbed: dict[str, Any], limit: int) -> None:
    """The system stops a write in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        done = sweep(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_told(done, tmp_path / "run")
    assert not temporaries_in(tmp_path)
    again = sweep(tmp_path / "run", "--resume")
    assert again.code == 0, again.told
    assert numbers_in(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("limit", [3_000, 10_000])
def test_a_report_or_measurement_without_room_is_an_error(tmp_path: Path, limit: int) -> None:
    folder = tmp_path / "run"
    assert sweep(folder).code == 0
    page = tmp_path / "page.html"
    page.write_text("the page before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        done = call("report", str(folder), "-o", str(page))
        with pytest.raises(OSError, match="File too large") as error:
            write_json(tmp_path / "measured.json", ["x" * limit])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 1
    assert f"File too large: '{page}'" in done.told
    assert page.read_text() == "the page before"
    assert error.value.filename == str(tmp_path / "measured.json")


@pytest.mark.slow
def test_nobody_to_print_to(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Standard output is full, or closed by who read it: the numbers and the page are there."""
    for name, words in (("full", "> /dev/full"), ("closed", "| true"), ("none", ">&-")):
        folder = tmp_path / name
        command = [sys.executable, "-m", "fastweights", *SWEEP, "--out", str(folder)]
        shell = f'"$@" --workers 1 {words}'
        done = subprocess.run(
            ["sh", "-c", shell, "sh", *command], capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        assert numbers_in(folder) == undisturbed
        assert (folder / "report.html").stat().st_size > 1_000
        if name == "full":
            assert done.returncode == 1
            assert "No space left on device" in done.stderr

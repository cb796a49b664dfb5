"""Runs on worker processes: all of them end up done or listed, whatever happens to a worker."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastweights.lab.pool import run_all


def note(folder: str, name: str) -> int:
    """Count how often a run was started."""
    path = Path(folder) / name
    count = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(count))
    return count


def work(folder: str, name: str) -> None:
    count = note(folder, name)
    if name.startswith("wrong"):
        raise ValueError(f"{name} cannot be")
    if name.startswith("deadly") or (name.startswith("unlucky") and count == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / f"{name}.threads").write_text(str(torch.get_num_threads()))


def moody(folder: str, name: str) -> None:
    """Raises, dies, and does its work at the third attempt."""
    count = note(folder, name)
    if name == "moody" and count == 1:
        raise OSError("not now")
    if name == "moody" and count == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def starts(folder: Path) -> dict[str, int]:
    return {p.name: int(p.read_text()) for p in folder.iterdir() if not p.suffix}


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import this file by its name, which starts at the root of the repository."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def test_a_death_costs_only_the_run_that_died(tmp_path: Path) -> None:
    names = ["a", "unlucky", "deadly", "b", "wrong", "c", "d"]
    seen: list[str] = []
    failures = run_all(
        functools.partial(work, str(tmp_path)),
        names,
        workers=2,
        tick=seen.extend,
        attempts=2,
    )
    assert failures == {
        "deadly": "its worker died (killed, or out of memory)",
        "wrong": "ValueError: wrong cannot be",
    }
    expected = {"a": 1, "unlucky": 2, "deadly": 2, "b": 1, "wrong": 2, "c": 1, "d": 1}
    assert starts(tmp_path) == expected
    assert {p.read_text() for p in tmp_path.glob("*.threads")} == {"1"}
    assert set(seen) == set(names)


def test_a_run_that_succeeds_at_last_is_no_failure(tmp_path: Path) -> None:
    seen: list[str] = []
    failures = run_all(
        functools.partial(moody, str(tmp_path)), ["moody", "a"], workers=1, tick=seen.extend
    )
    assert failures == {}
    assert starts(tmp_path) == {"moody": 3, "a": 1}
    order = [name for i, name in enumerate(seen) if i == 0 or seen[i - 1] != name]
    assert order == ["moody", "a", "moody"]  # tried again after the others


def test_nothing_to_do() -> None:
    assert run_all(print, [], workers=2, tick=lambda _: None) == {}


def test_a_failing_tick_stops_the_workers(tmp_path: Path) -> None:
    def tick(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(functools.partial(work, str(tmp_path)), ["a"], workers=1, tick=tick)


def slow(folder: str, name: str) -> None:
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(60)


PARENT = """
import functools, sys
sys.path.insert(0, {here!r})
from tests.training.test_pool import slow
from fastweights.lab.pool import run_all

if __name__ == "__main__":
    run_all(functools.partial(slow, {folder!r}), ["a"], workers=1, tick=lambda _: None)
"""


def test_workers_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(here=str(Path(__file__).parents[2]), folder=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        pid = int(_wait_for(tmp_path / "a"))
        # From its first moment, so that Ctrl-C in the terminal meets the parent alone.
        assert _is_held_back(pid, signal.SIGINT)
    finally:
        parent.kill()
        parent.wait()
    for _ in range(200):
        if not _alive(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def _wait_for(path: Path) -> str:
    for _ in range(600):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise TimeoutError(path)


def _is_held_back(pid: int, kind: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (blocked,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")]
    return bool(int(blocked, 16) >> (kind - 1) & 1)


def _alive(pid: int) -> bool:
    """Whether a process still runs (a zombie that nobody waits for does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

"""Killed at random moments, in every way, and gone on with: it ends as if nobody had touched it.

The whole storm has the marker ``storm``, and 40 kills; a small one always runs.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fastweights.files import is_temporary
from fastweights.lab.sweep import load_sweep
from tests.commands import (
    INTERRUPTED,
    SMALL,
    Started,
    assert_same,
    command,
    lines_in,
    processes,
    temporaries_in,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc"),
]

LANGUAGE = [
    "text={text}",
    "arms=fast-weights,lstm-parameters",
    "hidden_size=8",
    "embedding_size=6",
    "streams=4",
    "segment=10",
    "warmup=0",
    "evaluate_every=5",
    "updates=400",
]


AT_WORK = ("training", "writing")


@dataclasses.dataclass(frozen=True)
class Scene:
    """A command, and how often it is killed."""

    words: Callable[[Path], list[str]]
    kills: int
    more: tuple[str, ...] = ()  # of the disturbed one
    seed: int = 0


def run_retrieval(folder: Path) -> list[str]:
    return command("run", "retrieval", folder, [*SMALL, "arms=fast-weights,gru", "updates=1500"])


def run_language(folder: Path) -> list[str]:
    text = folder.parents[1] / "text.txt"  # the same for both
    draw = random.Random(61)
    text.write_text("".join(draw.choices("abcde fgh\n", k=6_000)))
    settings = [setting.format(text=text) for setting in LANGUAGE]
    return command("run", "language", folder, settings)


def sweep_retrieval(folder: Path) -> list[str]:
    settings = [*SMALL, "updates=1200"]
    return command("sweep", "retrieval", folder, settings, "--grid", "warmup=0,10")


SCENES = {
    "run": Scene(run_retrieval, kills=12, seed=1),
    "run-language": Scene(run_language, kills=4, seed=2),
    "sweep": Scene(sweep_retrieval, kills=12, more=("--workers", "2"), seed=3),
    "ray": Scene(sweep_retrieval, kills=12, more=("--ray", "local", "--workers", "2"), seed=4),
}


class Storm:
    """Starts a command, kills it, and goes on with it until there have been enough kills.

    Attributes:
        kills: when each was and whom it met, in order.
        starts: how often the command was started.
    """

    def __init__(self, words: list[str], folder: Path, log: Path, seed: int) -> None:
        self.words, self.folder, self.log = words, folder, log
        self.kills: list[str] = []
        self.starts = 0
        self._workers_killed = 0  # since the last start
        self._draw = random.Random(seed)
        self._seconds_to_start = 5.0

    def rage(self, count: int) -> None:
        """Kill so often, and see after each kill that the command ended as it should."""
        while len(self.kills) < count:
            started = self._start()
            while self._strike(started, count) and len(self.kills) < count:
                pass  # it was a worker: the command is still there
            if started.is_running:
                return self._end(started)
        self._end(self._start())
        return None

    def _start(self) -> Started:
        self.starts += 1
        self._workers_killed = 0
        return Started.of([*self.words, "--resume"], self.log)

    def _end(self, started: Started) -> None:
        code = started.end()
        assert code == 0, started.told
        assert "Traceback" not in started.told, started.told

    def _strike(self, started: Started, count: int) -> bool:
        """One kill, if the command does not end before; whether it goes on."""
        if self._done():
            moments = {"start": 1, "end": 2}
        elif len(self.kills) < 0.8 * count:
            moments = {"start": 1, "training": 2, "writing": 2}
        else:
            moments = {"end": 1}
        (moment,) = self._draw.choices([*moments], [*moments.values()])
        if not self._wait(started, moment):
            self._end(started)  # it was done before the moment came
            return False
        (kind,) = self._draw.choices([*INTERRUPTED], [2, 1, 1])
        (whom,) = self._draw.choices(["all", "command", "worker"], [2, 2, 2])
        workers = started.workers() if whom == "worker" and moment in AT_WORK else []
        # A run is given up when its worker has died three times.
        if workers and self._workers_killed < 2:
            kind = signal.SIGKILL if kind == signal.SIGINT else kind  # to which they are deaf
            with suppress(ProcessLookupError):
                os.kill(self._draw.choice(workers), kind)
                self._workers_killed += 1
                self.kills.append(f"{kind.name} to a worker, {moment}")
            return True
        return self._kill_the_command(started, kind, moment, alone=whom == "command")

    def _kill_the_command(
        self, started: Started, kind: signal.Signals, moment: str, *, alone: bool
    ) -> bool:
        process = started.process
        if not started.is_running:
            self._end(started)
            return False
        (os.kill if alone else os.killpg)(process.pid, kind)
        code = started.end(timeout=120)
        told = started.told
        if code == 0:  # it was about to end
            return False
        assert code in INTERRUPTED[kind], (code, told)
        # Python's own, where our first line has not been reached.
        assert "Traceback" not in told or (moment == "start" and "in main" not in told), told
        if code == 130 and moment in AT_WORK:
            assert "Stopped; nothing is lost. Go on with:" in told
        self.kills.append(f"{kind.name} to {'the command' if alone else 'all'}, {moment}")
        return False

    def _wait(self, started: Started, moment: str) -> bool:
        """Until the moment has come; False if the command ended before."""
        before, began = lines_in(self.folder), time.monotonic()
        if moment == "start":
            time.sleep(self._draw.uniform(0, self._seconds_to_start))
            return started.is_running
        if moment == "end":
            came = started.until(self._done)
            time.sleep(self._draw.uniform(0, self._seconds_to_start / 3))
            return came
        came = started.until(lambda: lines_in(self.folder) > before or self._done())
        self._seconds_to_start = min(30.0, max(self._seconds_to_start, time.monotonic() - began))
        if not came:
            return False
        if moment == "training":
            time.sleep(self._draw.uniform(0, 0.3))
            return True
        with suppress(AssertionError):
            return started.until(self._is_writing, timeout=10, every=0.001)
        return started.is_running

    def _is_writing(self) -> bool:
        units = self.folder.rglob("units/*")
        with suppress(OSError):
            return any(is_temporary(Path(name)) for unit in units for name in os.listdir(unit))
        return False

    def _done(self) -> bool:
        try:
            cells = load_sweep(self.folder).cells
        except ValueError:  # it has not been described yet
            return False
        homes = [cell.plan.unit_folder(unit) for cell in cells for unit in cell.plan.units]
        return all((home / "result.json").exists() for home in homes)


@dataclasses.dataclass
class Places:
    """Where a command is left alone and where it is not, and what each of them prints."""

    quiet: Path
    struck: Path
    quiet_log: Path
    struck_log: Path

    def compare(self) -> None:
        """See that everything is as undisturbed, and that nobody is left who works at it."""
        limit = time.monotonic() + 60
        while left := processes(self.struck_log):
            assert time.monotonic() < limit, [
                Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left
            ]
            time.sleep(0.1)
        assert not temporaries_in(self.struck)
        assert_same(self.struck, self.quiet)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    folders = [tmp_path / name / "it's [x]" for name in ("quiet", "struck")]
    logs = [folder.parent / "log" for folder in folders]
    for folder in folders:
        folder.parent.mkdir()
    yield Places(*folders, *logs)
    for pid in [pid for log in logs for pid in processes(log)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def leave_alone(words: list[str], log: Path) -> None:
    started = Started.of([*words, "--workers", "1"], log)
    assert started.end() == 0, started.told


@pytest.mark.storm
@pytest.mark.parametrize("name", SCENES)
def test_a_storm_of_kills_changes_no_number(name: str, places: Places) -> None:
    if name == "ray":
        pytest.importorskip("ray", reason='needs pip install "fastweights[ray]"')
    scene, began = SCENES[name], time.monotonic()
    leave_alone(scene.words(places.quiet), places.quiet_log)
    undisturbed = time.monotonic() - began

    words = [*scene.words(places.struck), *scene.more]
    storm = Storm(words, places.struck, places.struck_log, scene.seed)
    storm.rage(scene.kills)
    seconds = time.monotonic() - began - undisturbed
    print(f"\n{len(storm.kills)} kills, {storm.starts} starts, {seconds:.0f} s")
    print(f"(undisturbed {undisturbed:.0f} s)")
    for kill, count in sorted(Counter(storm.kills).items()):
        print(f"  {count} × {kill}")
    places.compare()
    assert len(storm.kills) == scene.kills
    at_work = [kill for kill in storm.kills if kill.endswith(AT_WORK)]
    assert len(at_work) >= scene.kills / 3


def test_there_are_forty_kills() -> None:
    assert sum(scene.kills for scene in SCENES.values()) == 40


def test_three_kills_change_no_number(places: Places) -> None:
    """The command is killed, then stopped by Ctrl-C, and then, as it says, one worker killed."""

    def words(folder: Path, *more: str) -> list[str]:
        settings = [*SMALL, "updates=300"]
        return command("run", "retrieval", folder, settings, *more)

    def start(words: list[str]) -> Started:
        before, started = lines_in(folder), Started.of(words, places.struck_log)
        assert started.until(lambda: lines_in(folder) > before), started.told
        time.sleep(draw.uniform(0, 0.2))
        return started

    leave_alone(words(places.quiet), places.quiet_log)
    folder, draw = places.struck, random.Random(61)

    started = start(words(folder, "--workers", "1", "--resume"))
    os.killpg(started.process.pid, signal.SIGKILL)
    assert started.end() == -signal.SIGKILL
    lines = [lines_in(folder)]

    started = start(words(folder, "--workers", "2", "--resume"))
    os.killpg(started.process.pid, signal.SIGINT)
    assert started.end() == 130
    assert "Stopped; nothing is lost. Go on with:" in started.told
    assert "Traceback" not in started.told
    lines.append(lines_in(folder))
    pasted = started.told.splitlines()[-1].strip()
    given = shlex.split(pasted)
    assert given[:3] == ["fastweights", "run", "retrieval"]
    assert given[given.index("--out") + 1] == str(folder)
    assert given[given.index("--workers") + 1] == "2"

    scripts = f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    started = start(["sh", "-c", f"{scripts}; exec {pasted}"])
    os.kill(started.workers()[0], signal.SIGKILL)
    assert started.end() == 0, started.told
    assert "Traceback" not in started.told
    assert str(folder / "report.html") in started.told
    assert 0 < lines[0] < lines[1] < lines_in(folder)
    places.compare()

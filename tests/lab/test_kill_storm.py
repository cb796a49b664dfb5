"""Killed at random moments, in every way, and gone on with: it ends as if nobody had touched it.

The whole storm has the marker ``storm``, and 40 kills; a small one always runs.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
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


def small_sweep(folder: Path) -> list[str]:
    settings = [*SMALL, "arms=lstm", "updates=200"]
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
            return started.until(self._is_writing, timeout=10)
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


@pytest.fixture
def storm_over(tmp_path: Path) -> Iterator[Callable[[Scene], Storm]]:
    """Both runs of a scene, compared; and nobody is left who still works at it."""
    logs = [tmp_path / "undisturbed.log", tmp_path / "disturbed.log"]

    def storm_over(scene: Scene) -> Storm:
        began = time.monotonic()
        places = [tmp_path / name / "run" for name in ("undisturbed", "disturbed")]
        for place in places:
            place.parent.mkdir()
        started = Started.of([*scene.words(places[0]), "--workers", "1"], logs[0])
        assert started.end() == 0, started.told
        undisturbed = time.monotonic() - began

        storm = Storm([*scene.words(places[1]), *scene.more], places[1], logs[1], scene.seed)
        storm.rage(scene.kills)
        print(
            f"{len(storm.kills)} kills, {storm.starts} starts, "
            f"{time.monotonic() - began - undisturbed:.0f} s (undisturbed {undisturbed:.0f} s)"
        )
        for name, count in sorted(Counter(storm.kills).items()):
            print(f"  {count} × {name}")
        limit = time.monotonic() + 60
        while left := processes(logs[1]):
            assert time.monotonic() < limit, [
                Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left
            ]
            time.sleep(0.1)
        assert not temporaries_in(places[1])
        assert_same(places[1], places[0])
        return storm

    yield storm_over
    for pid in [*processes(logs[0]), *processes(logs[1])]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.storm
@pytest.mark.parametrize("name", SCENES)
def test_a_storm_of_kills_changes_no_number(
    name: str, storm_over: Callable[[Scene], Storm]
) -> None:
    if name == "ray":
        pytest.importorskip("ray", reason='needs pip install "fastweights[ray]"')
    scene = SCENES[name]
    storm = storm_over(scene)
    assert len(storm.kills) == scene.kills
    at_work = [kill for kill in storm.kills if kill.endswith(AT_WORK)]
    assert len(at_work) >= scene.kills / 3


def test_there_are_forty_kills() -> None:
    assert sum(scene.kills for scene in SCENES.values()) == 40


def test_three_kills_change_no_number(storm_over: Callable[[Scene], Storm]) -> None:
    assert len(storm_over(Scene(small_sweep, kills=3, seed=7)).kills) == 3

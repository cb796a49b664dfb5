"""A sweep on a Ray cluster of two nodes, interrupted in every way, ends with the same table."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fastweights.files import read_json
from fastweights.lab.plan import results_of
from fastweights.lab.sweep import load_sweep

pytest.importorskip("ray", reason='needs pip install "fastweights[ray]"')
pytestmark = pytest.mark.slow

SCRIPTS = Path(sys.executable).parent
SETTINGS = [
    "arms=gru,lstm",
    "num_pairs=2",
    "hidden_sizes=6",
    "head_size=8",
    "train_size=256",
    "validation_size=64",
    "test_size=64",
    "batch_size=16",
    "updates=1000",
    "evaluate_every=10",
]


def command(folder: Path, *more: str, grid: str = "warmup=0,10") -> list[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    start = [str(SCRIPTS / "fastweights"), "sweep", "retrieval", "--seeds", "1", *settings]
    return [*start, "--grid", grid, "--out", str(folder), *more]


def start(words: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process group of its own, as a terminal makes one."""
    with log.open("wb") as file:
        return subprocess.Popen(
            words, start_new_session=True, env=environment, stdout=file, stderr=file
        )


def wait_for(found: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(30_000):  # the machine may be busy
        if found():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    raise TimeoutError(log.read_text())


@dataclasses.dataclass
class Cluster:
    """Two nodes on this machine, each with one CPU, started as people start them."""

    address: str
    environment: dict[str, str]
    logs: Path
    nodes: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def add(self, *options: str) -> None:
        words = [str(SCRIPTS / "ray"), "start", *options, "--block", "--num-cpus=1"]
        words += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
        log = self.logs / f"node-{len(self.nodes)}"
        self.nodes.append(start(words, self.environment, log))
        wait_for(lambda: "Ray runtime started" in log.read_text(), self.nodes[-1], log)

    def kill_raylet(self) -> None:
        """Kill the second node's; whoever works there is told nothing."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                mine = os.getpgid(int(path.name)) == self.nodes[1].pid
                if mine and (path / "comm").read_text().strip() == "raylet":
                    os.kill(int(path.name), signal.SIGKILL)
                    return
            except OSError:
                continue  # it ended meanwhile
        raise AssertionError("the second node has no raylet")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",  # others on this machine stay out
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    cluster = Cluster(f"127.0.0.1:{port}", environment, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.add("--head", f"--port={port}", "--include-dashboard=false")
        cluster.add(f"--address={cluster.address}")
        yield cluster
    finally:
        for node in cluster.nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def updates_in(folder: Path) -> int:
    files = folder.glob("*/units/*/metrics.jsonl")
    return sum(len(path.read_bytes().splitlines()) for path in files)


@dataclasses.dataclass
class Life:
    """What became of a sweep that was interrupted in every way."""

    folder: Path
    ctrl_c: tuple[int, str]
    updates: list[int]
    last: tuple[int, str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nobody interrupted, on one worker of this machine, in another order."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    log = folder.with_name("log")
    process = start(command(folder, "--workers", "1", grid="warmup=10,0"), dict(os.environ), log)
    assert process.wait(timeout=600) == 0, log.read_text()
    return folder


@pytest.fixture(scope="module")
def life(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Ctrl-C, then the parent killed, then a node; each time it has come further."""
    folder = tmp_path_factory.mktemp("a life") / "sweep"
    log = folder.with_name("log")
    updates = []

    def go_on(*more: str) -> subprocess.Popen[bytes]:
        before = updates_in(folder)
        words = command(folder, "--ray", cluster.address, *more)
        process = start(words, cluster.environment, log)
        wait_for(lambda: updates_in(folder) > before, process, log)
        return process

    process = go_on()
    os.killpg(process.pid, signal.SIGINT)
    ctrl_c = process.wait(timeout=120), log.read_text()
    updates.append(updates_in(folder))

    process = go_on("--resume")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    updates.append(updates_in(folder))

    process = go_on("--resume")
    updates.append(updates_in(folder))
    cluster.kill_raylet()
    code = process.wait(timeout=600)
    return Life(folder, ctrl_c, updates, (code, log.read_text()))


def test_it_was_interrupted_while_it_ran(life: Life, whole: Path) -> None:
    assert 0 < life.updates[0] < life.updates[1] < life.updates[2] < updates_in(whole)


def test_ctrl_c_says_how_to_go_on_and_where(life: Life, cluster: Cluster) -> None:
    code, told = life.ctrl_c
    assert code == 130
    assert "Traceback" not in told
    words = shlex.split(told.strip().splitlines()[-1])
    assert words[:3] == ["fastweights", "sweep", "retrieval"]
    for option, value in (("--ray", cluster.address), ("--grid", "warmup=0,10")):
        assert words[words.index(option) + 1] == value
    assert "--resume" in words


def test_it_ends_well_though_a_node_was_killed(life: Life) -> None:
    code, told = life.last
    assert code == 0, told
    assert "Traceback" not in told
    assert not list(life.folder.rglob("failure.json"))


def test_the_numbers_and_the_table_are_those_of_an_undisturbed_sweep(
    life: Life, whole: Path
) -> None:
    tables = []
    for folder in (life.folder, whole):
        sweep = load_sweep(folder)
        results = [results_of(cell.plan) for cell in sweep.cells]
        sections = [
            cell.plan.experiment.section(cell.plan.config, found, cell.plan.folder)
            for cell, found in zip(sweep.cells, results, strict=True)
        ]
        (table,) = sweep.section(sections).tables
        tables.append(sorted(map(tuple, table.rows)))
    assert len(tables[0]) == 4
    assert tables[0] == tables[1]
    for path in whole.rglob("result.json"):
        other = life.folder / path.relative_to(whole)
        assert {**read_json(path), "seconds": 0} == {**read_json(other), "seconds": 0}
        metrics = path.with_name("metrics.jsonl"), other.with_name("metrics.jsonl")
        assert metrics[0].read_bytes() == metrics[1].read_bytes()

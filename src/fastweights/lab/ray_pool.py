"""Many runs on a Ray cluster; a run whose worker or node is lost is tried again elsewhere."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastweights.lab.pool import DIED, Tick, Tries, Work
from fastweights.training.config import ConfigError

__all__ = ["run_all"]


def run_all(
    work: Work,
    names: Sequence[str],
    *,
    workers: int | None,
    tick: Tick,
    address: str,
    folder: Path,
    attempts: int = 3,
    seconds_per_tick: float = 0.5,
) -> dict[str, str]:
    """Call ``work(name)`` for every name, each as a Ray task with one CPU and one thread.

    As :func:`fastweights.lab.pool.run_all`, but for what follows.

    Args:
        work: see there; every node must be able to import it.
        names: see there.
        workers: the most tasks at a time; as many as the cluster has CPUs if it is None. More
            than that makes an autoscaling cluster grow.
        tick: see there.
        address: of a running cluster, as ``ray.init`` takes it; "local" starts one on this
            machine for the time of the call.
        folder: what every node must see: they share a file system.
        attempts: see there; a node that is lost counts for every run on it.
        seconds_per_tick: see there.

    Returns:
        Why a run failed the last time it was tried, for those that did.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or one of its nodes does not
            see the folder or cannot import the work.
        KeyboardInterrupt: after the tasks have been cancelled.
    """
    ray = _ray()
    tries = Tries(names, attempts)
    running: dict[Any, str] = {}
    folder = folder.absolute()
    with _connected(ray, address, workers), _mark(folder) as mark:
        task = ray.remote(num_cpus=1, max_retries=0)(_serve)
        try:
            while True:
                limit = workers or max(1, int(ray.cluster_resources().get("CPU", 0)))
                while tries.todo and len(running) < limit:
                    name = tries.todo.popleft()
                    running[task.remote(work, name, mark)] = name
                tick(list(running.values()))
                if not running:
                    return tries.failures
                done, _ = ray.wait(list(running), num_returns=1, timeout=seconds_per_tick)
                for reference in done:
                    failure = _answer(ray, reference)
                    name = running.pop(reference)
                    if failure is not None:
                        tries.failed(name, failure)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _serve(work: Work, name: str, mark: str) -> str | None:
    """One run, in a process of some node: why it failed, if it did."""
    if not Path(mark).exists():
        import ray

        raise ConfigError(
            f"node {ray.util.get_node_ip_address()} does not see {Path(mark).parent}: all nodes "
            "must share the folder of the sweep; choose one that they share with --out"
        )
    torch.set_num_threads(1)
    try:
        work(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _answer(ray: Any, reference: Any) -> str | None:
    """Why a task failed, if it did.

    Raises:
        ConfigError: for a reason that would meet every task.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # what a run raises comes back as text
        cause = error.cause
        if isinstance(cause, ConfigError):
            raise cause from None
        raise ConfigError(f"a node of the Ray cluster cannot work: {cause}") from None
    except ray.exceptions.RayError:  # the worker, or its node
        return DIED


def _ray() -> Any:
    if importlib.util.find_spec("ray") is None:
        raise ConfigError('--ray needs: pip install "fastweights[ray]"')
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nobody is told that this runs
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns
    import ray

    return ray


@contextmanager
def _connected(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    settings: dict[str, Any] = {"address": address, "log_to_driver": False}
    if address == "local":
        settings |= {"num_cpus": workers, "include_dashboard": False}
        settings |= {"object_store_memory": 100 * 2**20}  # results are files
    try:
        ray.init(logging_level="ERROR", **settings)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address!r}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _mark(folder: Path) -> Iterator[str]:
    """A new file, by which another machine shows that it sees this folder and not its own."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".shared-", suffix=".tmp") as file:
        yield file.name

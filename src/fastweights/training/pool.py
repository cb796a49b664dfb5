"""Many runs on worker processes; one that dies is tried again, then listed, never dropped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

__all__ = ["run_all"]

Work = Callable[[str], None]


def run_all(
    work: Work,
    names: list[str],
    *,
    workers: int,
    tick: Callable[[Sequence[str]], None],
    attempts: int = 3,
    seconds_per_tick: float = 0.5,
) -> dict[str, str]:
    """Call ``work(name)`` for every name, on ``workers`` processes.

    Every run computes on one thread, so that its numbers do not depend on how many run beside it.

    Args:
        work: can be pickled; does one run. What it raises is that run's failure.
        names: the runs.
        workers: processes, at least 1.
        tick: called twice a second with the names that are running.
        attempts: how often a run may take its worker down (by a crash or a kill) before it counts
            as failed.
        seconds_per_tick: how often to tick.

    Returns:
        Why a run failed, for those that did.

    Raises:
        KeyboardInterrupt: after the workers have been stopped.
    """
    failures: dict[str, str] = {}
    deaths = dict.fromkeys(names, 0)
    todo = list(names)
    while todo:
        # After a death, one worker at a time would find the culprit surely; but a killed worker
        # is mostly bad luck, so all go on and each run that was under way counts one death.
        with _pool(min(workers, len(todo))) as pool:
            futures = {pool.submit(work, name): name for name in todo}
            died = _watch(futures, failures, min(workers, len(todo)), tick, seconds_per_tick)
        finished = {name for future, name in futures.items() if future.done()} - died
        for name in died:
            deaths[name] += 1
            if deaths[name] >= attempts:
                failures[name] = f"its worker died {attempts} times (killed, or out of memory)"
        todo = [name for name in todo if name not in finished and name not in failures]
    return failures


def _watch(
    futures: dict[Future[None], str],
    failures: dict[str, str],
    workers: int,
    tick: Callable[[Sequence[str]], None],
    seconds: float,
) -> set[str]:
    """Wait for all; the names that a broken pool left undone, if they had been started."""
    pending = set(futures)
    running: list[str] = []
    while pending:
        done, pending = wait(pending, timeout=seconds, return_when=FIRST_COMPLETED)
        died = set()
        for future in done:
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                died.add(futures[future])
            elif error is not None:
                failures[futures[future]] = f"{type(error).__name__}: {error}"
        if died:
            # A broken pool fails every future at once; only those that ran can be to blame.
            rest = {futures[f] for f in pending} | died
            return rest & set(running) or rest
        # The pool calls a run "running" once it is queued for a worker; they start in order.
        running = [name for future, name in futures.items() if future.running()][:workers]
        tick(running)
    return set()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        _die_with_parent()


def _die_with_parent() -> None:
    """Ask Linux to end this worker when the parent is killed, so that no two write one folder."""
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was already gone
        os._exit(1)

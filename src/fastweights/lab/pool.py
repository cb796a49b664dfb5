"""Many runs on worker processes; one that fails is tried again, then listed, never dropped."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Protocol

import torch

__all__ = ["DIED", "Execute", "Tick", "Tries", "Work", "run_all"]

Work = Callable[[str], None]
Tick = Callable[[Sequence[str]], None]
DIED = "its worker died (killed, or out of memory)"


class Execute(Protocol):
    """What :func:`run_all` does, here or on other machines."""

    def __call__(
        self, work: Work, names: Sequence[str], *, workers: int | None, tick: Tick
    ) -> dict[str, str]: ...


class Tries:
    """Which runs are still to do, and which have failed as often as they may.

    Attributes:
        todo: the runs, next first.
        failures: why a run failed, for those that will not be tried again.
    """

    def __init__(self, names: Sequence[str], attempts: int) -> None:
        self.todo = deque(names)
        self.failures: dict[str, str] = {}
        self._left = dict.fromkeys(names, attempts)

    def failed(self, name: str, reason: str) -> None:
        """Note a failure: the run comes again after the others, or is listed."""
        self._left[name] -= 1
        if self._left[name]:
            self.todo.append(name)
        else:
            self.failures[name] = reason


def run_all(
    work: Work,
    names: Sequence[str],
    *,
    workers: int | None,
    tick: Tick,
    attempts: int = 3,
    seconds_per_tick: float = 0.5,
) -> dict[str, str]:
    """Call ``work(name)`` for every name, on ``workers`` processes.

    Every run computes on one thread, so that its numbers do not depend on how many run beside it.
    A worker that dies takes only its own run with it, and another is started.

    Args:
        work: can be pickled; does one run. What it raises is that run's failure.
        names: the runs.
        workers: processes, at least 1; as many as torch has threads if it is None.
        tick: called about twice a second with the names that are running.
        attempts: how often a run is tried before it counts as failed: it may raise, or take its
            worker down by a crash or a kill. It is tried again after the others.
        seconds_per_tick: how often to tick.

    Returns:
        Why a run failed the last time it was tried, for those that did.

    Raises:
        KeyboardInterrupt: after the workers have been stopped.
    """
    tries = Tries(names, attempts)
    workers = workers or max(1, torch.get_num_threads())
    with _team(work, min(workers, len(names))) as team:
        while True:
            for worker in team:
                if worker.name is None and tries.todo:
                    worker.give(tries.todo.popleft())
            tick([worker.name for worker in team if worker.name is not None])
            busy = [worker for worker in team if worker.name is not None]
            if not busy:
                return tries.failures
            answered = wait([worker.pipe for worker in busy], timeout=seconds_per_tick)
            for worker in busy:
                if worker.pipe not in answered:
                    continue
                name, died, failure = worker.answer()
                if died:
                    team[team.index(worker)] = _Worker(work)
                if failure is not None:
                    tries.failed(name, failure)


class _Worker:
    """A process that does one run after another, and the pipe to it."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch may hang
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, theirs))
        with _ctrl_c_held_back():  # which the process inherits, before it could say so itself
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.name: str | None = None

    def give(self, name: str) -> None:
        """Start a run."""
        self.name = name
        with suppress(OSError):  # it died while it was idle: the answer will tell
            self.pipe.send(name)

    def answer(self) -> tuple[str, bool, str | None]:
        """Which run ended, whether its worker died over it, and why it failed, if it did."""
        name, self.name = self.name or "", None
        try:
            return name, False, self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return name, True, DIED


@contextmanager
def _team(work: Work, size: int) -> Iterator[list[_Worker]]:
    team: list[_Worker] = []
    try:
        team.extend(_Worker(work) for _ in range(size))
        yield team
    except BaseException:
        for worker in team:
            worker.process.kill()
        raise
    finally:
        for worker in team:
            worker.pipe.close()  # an idle worker ends when its pipe does
            worker.process.join()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Ctrl-C reaches every process of the terminal; the parent alone decides what it means.

    Started in here a process never sees it. This one sees it afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # It comes with the first process, and whoever starts it ends holding Ctrl-C back.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(work: Work, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it is not inherited
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        try:
            work(name)
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")
        else:
            pipe.send(None)


def _die_with_parent() -> None:
    """End this process when the parent is killed, so that no two ever write one folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

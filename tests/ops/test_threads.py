"""Blocks of work on PyTorch's threads, or on a pool where that cannot be."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastweights.ops import native
from fastweights.ops.native import Kernel, run_on_threads, threads_for

FORKED = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from test_threads import done_by
torch.set_num_threads(2)
assert done_by(2, 4) == [0, 1, 2, 3]
child = os.fork()
if child == 0:
    os._exit(0 if done_by(2, 4) == [0, 1, 2, 3] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run(count: int, work: Callable[[Any], None], *numbers: int) -> None:
    call = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_int64))(work)
    address = ctypes.cast(call, ctypes.c_void_p).value
    assert address is not None
    pointer = ctypes.POINTER(ctypes.c_int64)
    shared = (ctypes.c_int64 * (1 + len(numbers)))(0, *numbers)
    kernel = Kernel(lambda at: call(ctypes.cast(at, pointer)), address)
    run_on_threads(count, kernel, ctypes.addressof(shared))


def done_by(count: int, blocks: int) -> list[int]:
    """The blocks that so many threads did; each thread claims them as the kernels do."""
    done: list[int] = []
    lock = threading.Lock()

    def work(numbers: Any) -> None:
        while True:
            with lock:
                block, numbers[0] = numbers[0], numbers[0] + 1
            if block >= numbers[1]:
                return
            done.append(block)

    run(count, work, blocks)
    return sorted(done)


@pytest.fixture(params=["openmp", "pool"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "pool":
        monkeypatch.setattr(native, "_openmp", lambda: None)
    elif native._openmp() is None:
        pytest.skip("this PyTorch has no OpenMP with GNU's entry points")
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_every_block_is_done_once(count: int, blocks: int) -> None:
    torch.set_num_threads(count)
    assert threads_for(blocks) == min(count, blocks)
    assert done_by(threads_for(blocks), blocks) == list(range(blocks))


def test_nothing_to_do_takes_a_thread_too() -> None:
    assert threads_for(0) == 1


@pytest.mark.usefixtures("kind")
def test_threads_run_at_the_same_time_and_all_are_waited_for() -> None:
    torch.set_num_threads(3)
    together, left = threading.Barrier(3), []

    def work(_: Any) -> None:
        together.wait(timeout=60)
        left.append(threading.get_ident())

    run(3, work)
    assert len(set(left)) == 3


@pytest.mark.usefixtures("kind")
def test_all_get_the_same_numbers() -> None:
    torch.set_num_threads(2)
    seen = []
    run(2, lambda numbers: seen.append([numbers[k] for k in range(3)]), 5, -6)
    assert seen == [[0, 5, -6]] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_can_use_threads() -> None:
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", FORKED, here], check=True, timeout=120)

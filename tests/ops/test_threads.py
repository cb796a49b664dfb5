"""Shares of work on PyTorch's threads, or on a pool where that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from fastweights.ops import threads
from fastweights.ops.threads import share_out

FORKED = """
import os, torch
from fastweights.ops.threads import share_out
torch.set_num_threads(2)
done = []
share_out(4, lambda start, stride: done.append(start))
child = os.fork()
if child == 0:
    share_out(4, lambda start, stride: done.append(start))
    os._exit(0 if len(done) == 4 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.fixture(params=["openmp", "pool"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("this PyTorch has no OpenMP with GNU's entry points")
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_every_block_is_done_once(count: int, blocks: int) -> None:
    torch.set_num_threads(count)
    done: list[int] = []
    share_out(blocks, lambda start, stride: done.extend(range(start, blocks, stride)))
    assert sorted(done) == list(range(blocks))


@pytest.mark.usefixtures("kind")
def test_shares_run_at_the_same_time() -> None:
    torch.set_num_threads(3)
    together = threading.Barrier(3)
    share_out(3, lambda start, stride: together.wait(timeout=60) and None)
    assert not together.broken


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("share", [0, 1])
def test_what_fails_in_a_share_fails_here(share: int) -> None:
    torch.set_num_threads(2)

    def work(start: int, stride: int) -> None:
        if start == share:
            raise MemoryError(f"share {start} of {stride}")

    with pytest.raises(MemoryError, match=f"share {share} of 2"):
        share_out(2, work)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_can_share_out() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=120)

"""The fused CPU kernel against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastweights.ops import native
from fastweights.ops.slow_fast import cpu, reference
from fastweights.ops.slow_fast.cpu import _SPAN as SPAN

TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-5}


def tensors(sizes: list[int], seed: int, dtype: torch.dtype) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(n, generator=generator, dtype=dtype) for n in sizes] for _ in range(6)]


options = st.fixed_dictionaries(
    {
        "slow_lr": st.floats(0, 1),
        "slow_momentum": st.floats(0.01, 0.99),
        "dampening": st.floats(0, 1),
        "weight_decay": st.floats(0, 1),
        "nesterov": st.booleans(),
        "first": st.booleans(),
        "fast_lr": st.floats(0, 1),
        "fast_momentum": st.floats(0, 0.99),
        "keep": st.floats(0, 1),
        "maximize": st.booleans(),
    }
)
PLAIN = {
    "slow_lr": 0.1,
    "slow_momentum": 0.9,
    "dampening": 0.0,
    "weight_decay": 0.0,
    "nesterov": False,
    "first": False,
    "fast_lr": 0.2,
    "fast_momentum": 0.5,
    "keep": 0.99,
}


def compare(sizes: list[int], seed: int, dtype: torch.dtype, **chosen: object) -> None:
    ours, expected = tensors(sizes, seed, dtype), tensors(sizes, seed, dtype)
    for _ in range(2):
        cpu.sgd_step(*ours, **chosen)
        reference.sgd_step(*expected, **chosen)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 70), max_size=4),
    seed=st.integers(0, 2**31),
    chosen=options,
)
def test_equals_the_reference(
    dtype: torch.dtype, sizes: list[int], seed: int, chosen: dict[str, object]
) -> None:
    compare(sizes, seed, dtype, **chosen)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_on_several_threads(
    dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [SPAN - 1, SPAN, SPAN + 1, 3 * SPAN + 5, 0, 7]
    assert sum(sizes) >= cpu._SERIAL_BELOW
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    used = []

    run = native.run

    def watched(kernel: Any, arguments: Any, count: int) -> None:
        used.append(count)
        run(kernel, arguments, count)

    monkeypatch.setattr(native, "run", watched)
    compare(sizes, 3, dtype, **PLAIN)
    assert set(used) == {threads}


def test_writes_nothing_beside_its_tensors() -> None:
    whole = tensors([103], 0, torch.float32)
    before = [a[0].clone() for a in whole]
    cpu.sgd_step(*([a[0][3:100]] for a in whole), **PLAIN)  # type: ignore[arg-type]
    for (after,), old in zip(whole, before, strict=True):
        assert torch.equal(after[:3], old[:3])
        assert torch.equal(after[100:], old[100:])
    assert torch.equal(whole[1][0], before[1]), "the gradient was changed"
    for k in (0, 2, 3, 4, 5):
        assert not np.isclose(whole[k][0][3:100], before[k][3:100]).any()


def test_autograd_notices_the_writing() -> None:
    columns = tensors([3], 0, torch.float32)
    columns[0][0].requires_grad_()
    loss = columns[0][0].square().sum()
    with torch.no_grad():
        cpu.sgd_step(*columns, **PLAIN)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(3, dtype=torch.float16), "float16"),
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, device="meta"), "meta"),
        (torch.zeros(3, 2).t(), "not contiguous"),
        (torch.zeros(3).as_subclass(type("Odd", (Tensor,), {})), "Odd"),
    ],
)
def test_says_why_it_cannot_run(tensor: Tensor, reason: str) -> None:
    assert cpu.why_not([torch.zeros(2)]) is None
    assert cpu.why_not([torch.nn.Parameter(torch.zeros(2, 3))]) is None
    refusal = cpu.why_not([torch.zeros(2), tensor])
    assert refusal is not None
    assert reason in refusal


FORK = """
import os, torch
from fastweights.ops.slow_fast import cpu
torch.set_num_threads(2)
step = dict(slow_lr=.1, slow_momentum=.9, dampening=0., weight_decay=0., nesterov=False,
            first=False, fast_lr=.2, fast_momentum=.5, keep=.9)
columns = [[torch.ones(cpu._SERIAL_BELOW + 1)] for _ in range(6)]
cpu.sgd_step(*columns, **step)
child = os.fork()
if child == 0:
    cpu.sgd_step(*columns, **step)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child died"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_can_step() -> None:
    """OpenMP's threads are gone there."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=120)

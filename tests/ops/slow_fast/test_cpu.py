"""The fused CPU kernel against the reference."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from types import ModuleType
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

FAST = {
    "fast_lr": st.floats(0, 1),
    "fast_momentum": st.floats(0, 0.99),
    "keep": st.floats(0, 1),
    "weight_decay": st.floats(0, 1),
    "slow_lr": st.floats(0, 1),
    "maximize": st.booleans(),
}
OPTIONS = {
    "sgd": st.fixed_dictionaries(
        {
            **FAST,
            "slow_momentum": st.floats(0.01, 0.99),
            "dampening": st.floats(0, 1),
            "nesterov": st.booleans(),
            "first": st.booleans(),
        }
    ),
    "adam": st.fixed_dictionaries(
        {
            **FAST,
            "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
            "eps": st.floats(1e-8, 1),
            "decoupled": st.booleans(),
        }
    ),
}
COMMON = {"weight_decay": 0.1, "slow_lr": 0.1, "fast_lr": 0.2, "fast_momentum": 0.5, "keep": 0.99}
PLAIN: dict[str, dict[str, Any]] = {
    "sgd": {
        **COMMON, "slow_momentum": 0.9, "dampening": 0.0, "nesterov": False, "first": False
    },
    "adam": {**COMMON, "betas": (0.9, 0.99), "eps": 1e-6, "decoupled": True},
}  # fmt: skip
both_rules = pytest.mark.parametrize("rule", ["sgd", "adam"])
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def tensors(rule: str, sizes: list[int], seed: int, dtype: torch.dtype) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    columns = [
        [torch.randn(n, generator=generator, dtype=dtype) for n in sizes]
        for _ in range(6 if rule == "sgd" else 7)
    ]
    if rule == "adam":
        columns[3] = [square.abs() for square in columns[3]]
    return columns


def step(ops: ModuleType, rule: str, columns: list[list[Tensor]], options: dict[str, Any]) -> None:
    """A step of every tensor, the second of the first one, the third of the next and so on."""
    if rule == "sgd":
        ops.sgd_step(*columns, **options)
    else:
        ops.adam_step(*columns, steps=[2.0 + i for i in range(len(columns[0]))], **options)


def compare(
    rule: str, sizes: list[int], seed: int, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    ours, expected = (tensors(rule, sizes, seed, dtype) for _ in range(2))
    for _ in range(2):
        step(cpu, rule, ours, options)
        step(reference, rule, expected, options)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@both_rules
@both_dtypes
@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 70), max_size=4), seed=st.integers(0, 2**31), data=st.data())
def test_equals_the_reference(
    rule: str, dtype: torch.dtype, sizes: list[int], seed: int, data: st.DataObject
) -> None:
    compare(rule, sizes, seed, dtype, data.draw(OPTIONS[rule]))


LARGE = [SPAN - 1, SPAN, SPAN + 1, 3 * SPAN + 5, 0, 7]


@both_rules
@both_dtypes
@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_on_several_threads(
    rule: str, dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(LARGE) >= cpu._SERIAL_BELOW
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    used, run = [], native.run

    def watched(kernel: Any, arguments: Any, count: int) -> None:
        used.append(count)
        run(kernel, arguments, count)

    monkeypatch.setattr(native, "run", watched)
    compare(rule, LARGE, 3, dtype, PLAIN[rule])
    assert set(used) == {threads}


@both_rules
@both_dtypes
def test_no_bit_depends_on_threads_or_on_where_a_weight_is(
    rule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight is updated alike in a whole vector and in a tail, by whichever thread."""
    results = []
    for threads, pieces in ((1, [4 * SPAN + 5]), (3, [4 * SPAN + 5]), (1, [1, 2, 30, SPAN - 28])):
        columns = tensors(rule, [4 * SPAN + 5], 5, dtype)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for start, end in itertools.pairwise([0, *itertools.accumulate(pieces)]):
            step(cpu, rule, [[column[0][start:end]] for column in columns], PLAIN[rule])
        results.append([column[0][: SPAN + 5] for column in columns])
    for others in results[1:]:
        for first, other in zip(results[0], others, strict=True):
            assert torch.equal(first, other)


@both_rules
def test_writes_nothing_beside_its_tensors(rule: str) -> None:
    whole = tensors(rule, [103], 0, torch.float32)
    before = [a[0].clone() for a in whole]
    step(cpu, rule, [[a[0][3:100]] for a in whole], PLAIN[rule])
    for (after,), old in zip(whole, before, strict=True):
        assert torch.equal(after[:3], old[:3])
        assert torch.equal(after[100:], old[100:])
    assert torch.equal(whole[1][0], before[1]), "the gradient was changed"
    for k in {*range(len(whole))} - {1}:
        assert not np.isclose(whole[k][0][3:100], before[k][3:100], rtol=1e-6).any()


@both_rules
def test_autograd_notices_the_writing(rule: str) -> None:
    columns = tensors(rule, [3], 0, torch.float32)
    columns[0][0].requires_grad_()
    loss = columns[0][0].square().sum()
    with torch.no_grad():
        step(cpu, rule, columns, PLAIN[rule])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@both_rules
def test_numbers_that_are_none_spread_no_further(rule: str) -> None:
    """NaN and infinity in the gradient of one weight come out as the reference has them."""
    results = []
    for ops in (cpu, reference):
        columns = tensors(rule, [70], 1, torch.float32)
        for index, number in ((0, torch.nan), (17, torch.inf), (69, -torch.inf)):
            columns[1][0][index] = number
        step(ops, rule, columns, PLAIN[rule])
        results.append(columns)
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, equal_nan=True)
        assert ours[0].isfinite().sum() >= 67


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
    assert cpu.unsupported_reason([torch.zeros(2)]) is None
    assert cpu.unsupported_reason([torch.nn.Parameter(torch.zeros(2, 3))]) is None
    refusal = cpu.unsupported_reason([torch.zeros(2), tensor])
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

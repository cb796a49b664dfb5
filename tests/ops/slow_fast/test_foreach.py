"""The foreach path against the reference: any shapes, any dtype, no new tensor."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastweights.ops.slow_fast import foreach, reference

TOLERANCE = {
    torch.float64: 1e-14,
    torch.complex128: 1e-14,
    torch.float32: 1e-6,
    torch.float16: 4e-3,
    torch.bfloat16: 4e-2,
}
SHAPES = [(), (1,), (0,), (3, 5), (2, 1, 4)]


def tensors(seed: int, dtype: torch.dtype) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
        for _ in range(5)
    ]


def step(ops: ModuleType, lists: list[list[Tensor]], learns: bool, maximize: bool) -> None:
    weights, gradients, slow, fast, updates = lists
    ops.learn(updates, gradients, lr=0.3, momentum=0.6, maximize=maximize)
    ops.copy(weights, slow)
    ops.apply_overlay(weights, fast, updates if learns else None, keep=0.9)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), learns=st.booleans(), maximize=st.booleans())
def test_equals_the_reference(dtype: torch.dtype, seed: int, learns: bool, maximize: bool) -> None:
    ours, expected = tensors(seed, dtype), tensors(seed, dtype)
    step(foreach, ours, learns, maximize)
    step(reference, expected, learns, maximize)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_mixed_dtypes_in_one_list() -> None:
    def mixed() -> list[list[Tensor]]:
        return [a + b for a, b in zip(tensors(0, torch.float64), tensors(1, torch.float32))]  # noqa: B905

    ours, expected = mixed(), mixed()
    step(foreach, ours, True, False)
    step(reference, expected, True, False)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


class _NewTensors(TorchDispatchMode):
    """Counts the tensors that operations return and did not get."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: object,
        args: tuple = (),
        kwargs: object = None,
    ) -> object:
        result = function(*args, **(kwargs or {}))
        given = {id(t) for t in torch.utils._pytree.tree_leaves(args)}
        for leaf in torch.utils._pytree.tree_leaves(result):
            self.count += isinstance(leaf, Tensor) and id(leaf) not in given
        return result


@pytest.mark.parametrize(("ops", "makes_tensors"), [(foreach, False), (reference, True)])
def test_makes_no_tensor(ops: ModuleType, makes_tensors: bool) -> None:
    lists = tensors(0, torch.float32)
    with _NewTensors() as mode:
        step(ops, lists, True, False)
    # The reference shows that the count would notice.
    assert (mode.count > 0) is makes_tensors

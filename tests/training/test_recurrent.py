"""The state between segments: the same numbers as in one pass, and back from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from fastweights.nn import FastWeightsRNN
from fastweights.training.recurrent import CarriedState

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "matrix": lambda: FastWeightsRNN(3, 4, 2, decay=0.9, form="chunked", dtype=torch.float64),
    "history": lambda: FastWeightsRNN(3, 4, 2, form="attention", dtype=torch.float64),
    "lstm": lambda: nn.LSTM(3, 4, 2, dtype=torch.float64),
    "gru": lambda: nn.GRU(3, 4, 2, dtype=torch.float64),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a worker; more threads only wait for each other at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    return LAYERS[request.param]()


def test_segments_give_what_one_pass_gives(layer: nn.Module) -> None:
    x = torch.randn(12, 2, 3, dtype=torch.float64)
    carried, outputs = CarriedState(), []
    for segment in x.split(5):
        output, state = layer(segment, carried.value)
        carried.keep(state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs), layer(x)[0], rtol=1e-12, atol=1e-12)


def test_no_gradient_goes_back_beyond_a_segment(layer: nn.Module) -> None:
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    carried = CarriedState()
    for segment in x:
        output, state = layer(segment, carried.value)
        carried.keep(state)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().max() > 0


def test_what_was_saved_comes_back(layer: nn.Module) -> None:
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    carried, other = CarriedState(), CarriedState()
    carried.keep(layer(x)[1])
    other.restore({name: tensor.clone() for name, tensor in carried.tensors().items()})
    after: list[Any] = [layer(x, kind.value)[0] for kind in (carried, other)]
    assert torch.equal(*after)


def test_nothing_is_carried_at_first() -> None:
    carried = CarriedState()
    assert carried.tensors() == {}
    carried.value = torch.ones(2)
    carried.restore({})
    assert carried.value is None

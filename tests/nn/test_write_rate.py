"""Without layer norm: where h overflows, the rate that is chosen, and what is said if it does."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastweights import FastWeightsRNN, FastWeightsRNNCell, decay
from fastweights.nn.write_rate import stable_write_rate
from fastweights.theory import memory

IN = 20


def _one_hot(length: int, batch: int = 8) -> Tensor:
    return F.one_hot(torch.randint(IN, (length, batch)), IN).float()


def _unit_length(length: int, batch: int = 8) -> Tensor:
    return F.normalize(torch.randn(length, batch, IN), dim=-1)


@torch.no_grad()
def _grows(rate: float, x: Tensor, hidden_size: int, **options) -> float:
    """How many times as long as without a memory h becomes, infinite if it overflows."""
    torch.manual_seed(3)
    layer = FastWeightsRNN(IN, hidden_size, layer_norm=False, write_rate=rate, **options)
    torch.manual_seed(3)
    without = FastWeightsRNN(IN, hidden_size, layer_norm=False, write_rate=0.0, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = layer(x)[0][-1]
    if not output.isfinite().all():
        return math.inf
    return (output.norm() / without(x)[0][-1].norm()).item()


LARGEST_A = [  # the a of the module's docstring up to which h settles
    ({"inner_steps": 1}, 1 / 4),
    ({"inner_steps": 2}, 0.1648),
    ({"inner_steps": 10}, 4 / 27),
    ({"inner_steps": 1, "query": "previous"}, 4 / 27),
    ({"inner_steps": 4, "query": "previous"}, 4 / 27),
]


@pytest.mark.parametrize(("options", "largest"), LARGEST_A, ids=str)
@pytest.mark.parametrize("rate", [0.95, 0.5, 0.0])
@torch.no_grad()
def test_h_overflows_where_the_theory_says(options, largest, rate):
    """With the same input at every step: from two per cent less to two per cent more."""
    x = F.one_hot(torch.zeros(2000, 1, dtype=torch.int64), IN).double()
    how = {"layer_norm": False, "decay": rate, "dtype": torch.float64, **options}
    layer = FastWeightsRNN(IN, 30, **how)
    layer.reset_parameters(recurrent_scale=0.0)
    energy = layer.weight_ih_l0[:, 0].relu().square().sum().item()
    critical = largest * (1 - rate) / energy
    layer.write_rate = 0.98 * critical
    settled = layer(x)[0][-1].norm().item() / math.sqrt(energy)
    u = 0.98 * largest * settled**2  # after Σ r terms, as the last one shows
    if "query" not in options:
        assert settled == pytest.approx(sum(u**s for s in range(options["inner_steps"] + 1)), 1e-6)
    layer.write_rate = 1.02 * critical
    with pytest.warns(UserWarning, match="h overflowed"):
        assert not layer(x)[0][-1].isfinite().all()


def test_inputs_that_differ_stand_about_six_times_as_much():
    """The largest eigenvalue of what is written is (½ − 1/2π) + H/2π on average, and not H."""
    hidden_size, own = 200, decay.Exponential(0.95)
    eigenvalue = 0.5 - 0.5 / math.pi + hidden_size / (2 * math.pi)
    critical = 2 * stable_write_rate(own, hidden_size) * hidden_size / eigenvalue
    for inputs in (_one_hot, _unit_length):
        x = inputs(400)
        assert _grows(0.9 * critical, x, hidden_size, decay=own) < 2
        assert _grows(1.6 * critical, x, hidden_size, decay=own) == math.inf


@pytest.mark.parametrize("hidden_size", [10, 50])
@pytest.mark.parametrize(
    "own",
    [
        decay.Exponential(0.5),
        decay.Exponential(0.99),
        decay.Exponential(1.0),
        decay.Exponential(0.95, learnable=True),
        decay.PowerLaw(0.5),
        decay.Factorial(0.5),
        decay.StepIndexed(0.5),
        decay.Free(20, values=[1.0] * 19),
        decay.PowerLaw(0.5).as_exponentials(0.05, 1000),
    ],
    ids=repr,
)
def test_the_rate_that_is_chosen_stays_finite_for_a_thousand_steps(own, hidden_size):
    x = _one_hot(1000, 2)
    for options in ({}, {"inner_steps": 3}, {"query": "previous"}, {"write": "after_read"}):
        torch.manual_seed(3)
        layer = FastWeightsRNN(IN, hidden_size, layer_norm=False, decay=own, **options)
        assert layer.write_rate == stable_write_rate(own, hidden_size)
        assert _grows(layer.write_rate, x, hidden_size, decay=own, **options) < 1.5


def test_when_a_rate_is_chosen_and_when_it_is_that_of_the_paper():
    chosen = stable_write_rate(decay.Exponential(0.95), 7)
    for module in (FastWeightsRNN, FastWeightsRNNCell):
        assert module(IN, 7, layer_norm=False).write_rate == chosen
        assert module(IN, 7, layer_norm=False, write_rate=0.2).write_rate == 0.2
        learned = module(IN, 7, layer_norm=False, learn_write_rate=True)
        assert learned.write_rate == chosen
        named = dict(learned.named_parameters(recurse=False))
        (log_rate,) = (p for name, p in named.items() if name.startswith("log_write_rate"))
        assert log_rate.exp().item() == pytest.approx(chosen)
        for bounded in (
            {},
            {"layer_norm": False, "nonlinearity": "tanh"},
            {"layer_norm": False, "memory": "none"},
            {"layer_norm": False, "memory": "identity"},
            {"layer_norm": False, "inner_steps": 0},
        ):
            assert module(IN, 7, **bounded).write_rate == 0.5
    with torch.device("meta"):
        own = decay.Free(9, learnable=True)
        layer = FastWeightsRNN(IN, 7, layer_norm=False, decay=own)
    assert layer.write_rate == stable_write_rate(decay.Free(9), 7)


def test_the_rate_is_its_formula():
    assert memory.stable_write_rate is stable_write_rate
    for own, total in (
        (decay.Exponential(0.9), 10.0),
        (decay.Exponential(1.0), 1000.0),
        (decay.Free(3, values=[0.5, -0.25]), 1.75),
        (decay.Exponential(0.0), 1.0),
    ):
        assert stable_write_rate(own, 50) == pytest.approx(1 / (8 * total * 50), rel=1e-6)
    assert stable_write_rate(decay.Exponential(1.0), 50, length=10) == pytest.approx(
        100 * stable_write_rate(decay.Exponential(1.0), 50)
    )
    for bad, message in (((0, 10), "hidden_size must be at least 1"), ((5, 0), "length must be")):
        with pytest.raises(ValueError, match=message):
            stable_write_rate(decay.PowerLaw(), *bad)


@pytest.mark.parametrize("rate", ["auto", 0.5])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_overflow_is_said_once_with_the_rate_that_works(rate, backend):
    """The chosen one too is too much for inputs that are long."""
    how = {"layer_norm": False, "backend": backend}
    layer, x = FastWeightsRNN(IN, 50, write_rate=rate, **how), 3 * torch.randn(100, 4, IN)
    with pytest.warns(UserWarning, match="h overflowed: without layer norm") as caught:
        assert not layer(x)[0].isfinite().all()
    assert f"write_rate={layer.write_rate:.3g} is too much" in str(caught[0].message)
    works = float(re.findall(r"write_rate=(\S+) is not", str(caught[0].message))[0])
    layer(x)  # and says no more
    other = FastWeightsRNN(IN, 50, write_rate=works, **how)
    other.load_state_dict(layer.state_dict())
    assert other(x)[0].isfinite().all()


def test_the_cell_says_it_too():
    cell, state, said = FastWeightsRNNCell(IN, 50, layer_norm=False, write_rate=0.5), None, []
    for x in _one_hot(30):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            h, state = cell(x, state)
        said += [h.isfinite().all().item() or str(w.message) for w in caught]
    assert len(said) == 1
    assert said[0].startswith("h overflowed")


def test_an_overflow_of_another_cause_is_not_put_down_to_the_rate():
    layer = FastWeightsRNN(IN, 8, layer_norm=False, write_rate=1e-6)
    layer(torch.full((3, 2, IN), math.inf))  # it came so
    with torch.no_grad():
        layer.weight_hh_l0.fill_(1e9)
    assert not layer(_one_hot(50))[0].isfinite().all()
    normed = FastWeightsRNN(IN, 8, write_rate=0.5)
    normed(torch.full((3, 2, IN), math.nan))

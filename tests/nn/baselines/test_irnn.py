"""irnn: an nn.RNN of rectifiers, and how it starts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastweights.nn.baselines import irnn


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_starts_as_a_scaled_identity_without_biases(scale):
    torch.manual_seed(0)
    layer = irnn(40, 50, 2, identity_scale=scale, input_std=0.01)
    assert isinstance(layer, nn.RNN)
    assert layer.nonlinearity == "relu"
    for k in (0, 1):
        assert torch.equal(getattr(layer, f"weight_hh_l{k}"), scale * torch.eye(50))
        assert getattr(layer, f"bias_ih_l{k}").abs().max() == 0
        assert getattr(layer, f"bias_hh_l{k}").abs().max() == 0
        weight = getattr(layer, f"weight_ih_l{k}")
        assert weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert abs(weight.mean().item()) < 0.001


def test_the_default_input_scale_is_the_papers():
    torch.manual_seed(0)
    assert irnn(100, 100).weight_ih_l0.std().item() == pytest.approx(0.001, rel=0.05)


def test_keeps_a_state_where_there_is_no_input():
    state = torch.rand(1, 2, 5, dtype=torch.float64)
    output, after = irnn(3, 5, dtype=torch.float64)(torch.zeros(20, 2, 3).double(), state)
    assert torch.equal(after, state)
    assert torch.equal(output, state.expand(20, 2, 5))


def test_equals_the_loop_with_other_weights():
    layer = irnn(3, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5, generator=generator)
    x = torch.randn(6, 2, 3, dtype=torch.float64, generator=generator)
    output, _ = layer(x)
    for n in range(2):
        h = torch.zeros(4, dtype=torch.float64)
        for t in range(6):
            z = layer.weight_hh_l0 @ h + layer.weight_ih_l0 @ x[t, n]
            h = (z + layer.bias_ih_l0 + layer.bias_hh_l0).clamp(min=0)
            torch.testing.assert_close(output[t, n], h, rtol=1e-12, atol=1e-12)


def test_passes_its_options_on():
    layer = irnn(3, 4, 2, bias=False, batch_first=True, dropout=0.5)
    assert (layer.num_layers, layer.bias, layer.batch_first, layer.dropout) == (2, False, True, 0.5)
    output, state = layer(torch.zeros(7, 5, 3))
    assert output.shape == (7, 5, 4)
    assert state.shape == (2, 7, 4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be at least 1"),
        ({"hidden_size": "4"}, TypeError, "hidden_size must be an integer"),
        ({"num_layers": -1}, ValueError, "num_layers must be at least 1"),
        ({"identity_scale": math.nan}, ValueError, "identity_scale must be finite"),
        ({"identity_scale": True}, TypeError, "identity_scale must be a number"),
        ({"input_std": -0.1}, ValueError, "input_std must be finite and at least 0"),
    ],
)
def test_impossible_arguments(options, error, message):
    with pytest.raises(error, match=message):
        irnn(**{"input_size": 3, "hidden_size": 4, **options})

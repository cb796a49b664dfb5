"""LayerNormRNN against the equation as a loop over numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastweights.nn.baselines import LayerNormRNN


def make(input_size=3, hidden_size=4, num_layers=1, **options):
    """A layer in double precision with every parameter away from its special start."""
    layer = LayerNormRNN(input_size, hidden_size, num_layers, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def loop(layer, x, h, k):
    """One layer on one sample, number by number."""
    p = {n.removesuffix(f"_l{k}"): v.tolist() for n, v in layer.named_parameters() if f"_l{k}" in n}
    size, h, outputs = layer.hidden_size, h.tolist(), []
    bias = p.get("bias", [0.0] * size)
    for step in x.tolist():
        z = [
            sum(p["weight_hh"][i][j] * h[j] for j in range(size))
            + sum(c * v for c, v in zip(p["weight_ih"][i], step, strict=True))
            + bias[i]
            for i in range(size)
        ]
        mean = sum(z) / size
        variance = sum((v - mean) ** 2 for v in z) / size
        z = [
            p["norm_weight"][i] * (z[i] - mean) / math.sqrt(variance + layer.norm_eps)
            + p["norm_bias"][i]
            for i in range(size)
        ]
        h = [math.tanh(v) if layer.nonlinearity == "tanh" else max(v, 0.0) for v in z]
        outputs.append(h)
    return torch.tensor(outputs, dtype=torch.float64)


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm_eps", [1e-5, 0.5])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_the_loop(nonlinearity, bias, norm_eps, num_layers):
    layer = make(3, 4, num_layers, nonlinearity=nonlinearity, bias=bias, norm_eps=norm_eps)
    x, h_0 = normal(6, 5, 3), normal(num_layers, 5, 4, seed=2)
    output, last = layer(x, h_0)
    for n in range(5):
        expected = x[:, n]
        for k in range(num_layers):
            expected = loop(layer, expected, h_0[k, n], k)
            torch.testing.assert_close(last[k, n], expected[-1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(output[:, n], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
def test_gradients(nonlinearity):
    layer = make(2, 3, 2, nonlinearity=nonlinearity)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, h, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, h))

    arguments = [normal(3, 2, 2), normal(2, 2, 3, seed=3), *layer.parameters()]
    assert torch.autograd.gradcheck(run, [a.detach().requires_grad_() for a in arguments])


def test_start_and_scales():
    torch.manual_seed(0)
    layer = LayerNormRNN(40, 50, 2)
    assert torch.equal(layer.weight_hh_l1, torch.eye(50))
    assert layer.weight_ih_l0.std().item() == pytest.approx(0.6, rel=0.1)
    assert layer.weight_ih_l1.std().item() == pytest.approx(0.12, rel=0.1)
    assert layer.bias_l0.abs().max() == 0
    layer.reset_parameters(input_scale=2.0, recurrent_scale=0.05)
    assert torch.equal(layer.weight_hh_l0, 0.05 * torch.eye(50))
    assert layer.weight_ih_l0.std().item() == pytest.approx(2.0, rel=0.1)


def test_autocast_keeps_the_recurrence_in_the_parameters_precision():
    layer = LayerNormRNN(3, 4)
    x = normal(5, 2, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(x)
        layer(x.bfloat16())
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, layer(x)[0], rtol=0.1, atol=0.1)


def test_learns_by_any_optimizer():
    torch.manual_seed(0)
    layer, head = LayerNormRNN(2, 16), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=1e-2)
    x = torch.randn(6, 64, 2)
    target = x[0, :, :1]  # remember the first step

    def loss():
        return (head(layer(x)[0][-1]) - target).square().mean()

    start = loss().item()
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.2 * start


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (torch.zeros(1, 3, 4), ValueError, r"state must have shape \(1, 2, 4\), got \(1, 3, 4\)"),
        (torch.zeros(1, 4), ValueError, "state must have shape"),
        (torch.zeros(1, 2, 4, dtype=torch.float64), TypeError, "state must be torch.float32"),
        (torch.zeros(1, 2, 4, device="meta"), ValueError, "state is on meta"),
        ((torch.zeros(1, 2, 4),), TypeError, "state must be a tensor, got tuple"),
    ],
)
def test_state_that_does_not_fit(state, error, message):
    with pytest.raises(error, match=message):
        LayerNormRNN(3, 4)(torch.zeros(5, 2, 3), state)


def test_unbatched_input_wants_an_unbatched_state():
    layer = LayerNormRNN(3, 4)
    layer(torch.zeros(5, 3), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"state must have shape \(1, 4\), got \(1, 1, 4\)"):
        layer(torch.zeros(5, 3), torch.zeros(1, 1, 4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be at least 1"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size must be an integer"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1"),
        ({"nonlinearity": "gelu"}, ValueError, "nonlinearity must be 'relu' or 'tanh'"),
        ({"norm_eps": 0.0}, ValueError, "norm_eps must be finite and above 0"),
        ({"norm_eps": math.nan}, ValueError, "norm_eps must be finite"),
        ({"norm_eps": "1"}, TypeError, "norm_eps must be a number"),
    ],
)
def test_impossible_arguments(options, error, message):
    with pytest.raises(error, match=message):
        LayerNormRNN(**{"input_size": 3, "hidden_size": 4, **options})


@pytest.mark.parametrize("name", ["input_scale", "recurrent_scale"])
def test_impossible_scales(name):
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            LayerNormRNN(3, 4).reset_parameters(**{name: bad})

"""LayerNormLSTM against its equations in numpy, and against nn.LSTM where LN is off."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from fastweights.nn.baselines import LayerNormLSTM


def make(input_size=3, hidden_size=4, num_layers=1, **options):
    """A layer in double precision with every parameter away from its special start."""
    layer = LayerNormLSTM(input_size, hidden_size, num_layers, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.7, generator=generator)
    return layer


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, gain, shift, eps):
    centred = x - x.sum() / x.size
    return gain * centred / np.sqrt((centred**2).sum() / x.size + eps) + shift


def loop(layer, x, h, c, k):
    """One layer on one sample: the supplementary equations, gate by gate."""
    p = {
        n.removesuffix(f"_l{k}"): v.detach().numpy()
        for n, v in layer.named_parameters()
        if n.endswith(f"_l{k}")
    }
    hidden, outputs = layer.hidden_size, []
    for step in x:
        z = norm(p["weight_hh"] @ h, p["norm_hh_weight"], p["norm_hh_bias"], layer.norm_eps) + norm(
            p["weight_ih"] @ step, p["norm_ih_weight"], p["norm_ih_bias"], layer.norm_eps
        )
        z = z + p.get("bias", 0.0)
        gates = z.reshape(4, hidden)
        c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * np.tanh(gates[2])
        read = norm(c, p["norm_cell_weight"], p["norm_cell_bias"], layer.norm_eps)
        h = sigmoid(gates[3]) * np.tanh(read)
        outputs.append(h)
    return np.stack(outputs), c


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm_eps", [1e-5, 0.5])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_equals_the_loop(bias, norm_eps, num_layers):
    layer = make(3, 4, num_layers, bias=bias, norm_eps=norm_eps)
    x = normal(6, 5, 3)
    h_0, c_0 = normal(num_layers, 5, 4, seed=2), normal(num_layers, 5, 4, seed=3)
    output, (h_n, c_n) = layer(x, (h_0, c_0))
    for n in range(5):
        expected = x[:, n].numpy()
        for k in range(num_layers):
            expected, c = loop(layer, expected, h_0[k, n].numpy(), c_0[k, n].numpy(), k)
            np.testing.assert_allclose(h_n[k, n].detach(), expected[-1], rtol=1e-11, atol=1e-12)
            np.testing.assert_allclose(c_n[k, n].detach(), c, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(output[:, n].detach(), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_without_layer_norm_it_is_nn_lstm_in_value_and_gradient(bias):
    layer = make(3, 4, 2, layer_norm=False, bias=bias)
    oracle = nn.LSTM(3, 4, 2, bias=bias, dtype=torch.float64)
    values = layer.state_dict()
    for k in (0, 1):
        if bias:  # nn.LSTM has two biases that are only ever added
            values[f"bias_ih_l{k}"] = values.pop(f"bias_l{k}")
            values[f"bias_hh_l{k}"] = torch.zeros(16, dtype=torch.float64)
    oracle.load_state_dict(values)
    x, state = normal(7, 5, 3), (normal(2, 5, 4, seed=2), normal(2, 5, 4, seed=3))
    weights = [normal(7, 5, 4, seed=4), normal(2, 5, 4, seed=5), normal(2, 5, 4, seed=6)]
    gradients = []
    for model in (layer, oracle):
        inputs = [a.clone().requires_grad_() for a in (x, *state)]
        output, (h, c) = model(inputs[0], (inputs[1], inputs[2]))
        total = sum((a * w).sum() for a, w in zip((output, h, c), weights, strict=True))
        named = {n: p for n, p in model.named_parameters() if "bias_hh" not in n}
        found = torch.autograd.grad(total, [*inputs, *named.values()])
        keys = [n.replace("bias_ih", "bias") for n in named]
        gradients.append(dict(zip(["x", "h", "c", *keys], [*found], strict=True)))
        gradients[-1]["total"] = total.detach()
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(
            gradients[0][name], gradients[1][name], rtol=1e-10, atol=1e-12, msg=name
        )


def test_gradients():
    layer = make(2, 3, 2)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, h, c, *values):
        named = dict(zip(names, values, strict=True))
        output, state = torch.func.functional_call(layer, named, (x, (h, c)))
        return output, *state

    arguments = [normal(3, 2, 2), normal(2, 2, 3, seed=3), normal(2, 2, 3, seed=4)]
    arguments += list(layer.parameters())
    assert torch.autograd.gradcheck(run, [a.detach().requires_grad_() for a in arguments])


def test_start():
    layer = LayerNormLSTM(30, 25, 2, forget_bias=2.0)
    for k in (0, 1):
        bias = getattr(layer, f"bias_l{k}").view(4, 25)
        assert torch.equal(bias, torch.tensor([0.0, 2.0, 0.0, 0.0])[:, None].expand(4, 25))
        weight = getattr(layer, f"weight_ih_l{k}")
        assert 0.19 < weight.abs().max() <= 0.2
        for name in ("ih", "hh", "cell"):
            assert (getattr(layer, f"norm_{name}_weight_l{k}") == 1).all()
            assert (getattr(layer, f"norm_{name}_bias_l{k}") == 0).all()
    assert LayerNormLSTM(3, 4).bias_l0[4:8].tolist() == [1.0] * 4


def test_parameters_that_an_option_leaves_out():
    assert not any("norm" in name for name in make(layer_norm=False).state_dict())
    assert "bias_l0" not in make(bias=False).state_dict()


def test_autocast_keeps_the_recurrence_in_the_parameters_precision():
    layer = LayerNormLSTM(3, 4)
    x = normal(5, 2, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(x)
        layer(x.bfloat16())
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, layer(x)[0], rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (torch.zeros(2, 2, 4), TypeError, r"state must be the pair \(h, c\), got Tensor"),
        ((torch.zeros(1, 2, 4),), TypeError, "state must be the pair"),
        ((torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)), ValueError, "c of the state must have sh"),
        ((torch.zeros(2, 4), torch.zeros(1, 2, 4)), ValueError, "h of the state must have shape"),
        ((torch.zeros(1, 2, 4), None), TypeError, "c of the state must be a tensor"),
        (
            (torch.zeros(1, 2, 4).double(), torch.zeros(1, 2, 4)),
            TypeError,
            "h of the state must be torch.float32",
        ),
    ],
)
def test_state_that_does_not_fit(state, error, message):
    with pytest.raises(error, match=message):
        LayerNormLSTM(3, 4)(torch.zeros(5, 2, 3), state)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": -1}, ValueError, "input_size must be at least 1"),
        ({"hidden_size": None}, TypeError, "hidden_size must be an integer"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1"),
        ({"norm_eps": -1e-5}, ValueError, "norm_eps must be finite and above 0"),
        ({"forget_bias": math.inf}, ValueError, "forget_bias must be finite"),
    ],
)
def test_impossible_arguments(options, error, message):
    with pytest.raises(error, match=message):
        LayerNormLSTM(**{"input_size": 3, "hidden_size": 4, **options})

"""AttentionLSTM: nn.LSTM for its recurrence, a numpy loop for its attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastweights.nn.baselines import AttentionLSTM, AttentionLSTMState

SCORES = ["general", "dot"]


def make(input_size=3, hidden_size=4, num_layers=1, **options):
    """A layer in double precision with weights large enough to make the attention sharp."""
    layer = AttentionLSTM(input_size, hidden_size, num_layers, dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def attend_slowly(layer, h):
    """y of one sample from its hidden vectors, (L, H), one step and one memory at a time."""
    combine, outputs = layer.weight_combine.detach().numpy(), []
    square = np.eye(h.shape[1])
    if layer.score == "general":
        square = layer.weight_score.detach().numpy()
    for t, query in enumerate(h):
        read = np.zeros_like(query)
        if t:
            scores = [query @ square @ h[tau] for tau in range(t)]
            weights = [np.exp(score - max(scores)) for score in scores]
            for tau in range(t):
                read += weights[tau] / sum(weights) * h[tau]
        outputs.append(np.tanh(combine @ np.concatenate([read, query])))
    return np.stack(outputs)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_equals_nn_lstm_and_the_loop(score, bias, num_layers):
    layer = make(3, 4, num_layers, score=score, bias=bias)
    oracle = nn.LSTM(3, 4, num_layers, bias=bias, dtype=torch.float64)
    oracle.load_state_dict(layer.lstm.state_dict())
    x = normal(9, 5, 3)
    output, state = layer(x)
    hidden, (h_n, c_n) = oracle(x)
    torch.testing.assert_close(state.hidden, h_n)
    torch.testing.assert_close(state.cell, c_n)
    torch.testing.assert_close(state.history, hidden)
    for n in range(5):
        expected = attend_slowly(layer, hidden[:, n].detach().numpy())
        np.testing.assert_allclose(output[:, n].detach(), expected, rtol=1e-11, atol=1e-12)


def test_only_the_past_counts():
    layer, x = make(), normal(8, 2, 3)
    changed = x.clone()
    changed[5:] += 1
    before, after = layer(x)[0], layer(changed)[0]
    torch.testing.assert_close(before[:5], after[:5], rtol=0, atol=0)
    assert not torch.allclose(before[5:], after[5:])


@pytest.mark.parametrize("score", SCORES)
def test_gradients_through_every_parameter_and_the_state(score):
    layer = make(2, 3, score=score)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, hidden, cell, history, *values):
        named = dict(zip(names, values, strict=True))
        state = AttentionLSTMState(hidden, cell, history)
        output, after = torch.func.functional_call(layer, named, (x, state))
        return output, *after

    arguments = [normal(3, 2, 2), *(normal(n, 2, 3, seed=n) for n in (1, 1, 2))]
    arguments += list(layer.parameters())
    assert torch.autograd.gradcheck(run, [a.detach().requires_grad_() for a in arguments])
    # and from nothing, where the first step has no past
    x = normal(3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x)[0], [x])


def test_pieces_give_the_gradients_of_the_whole():
    layer, x = make(num_layers=2), normal(6, 2, 3)
    output, _ = layer(x)
    whole = torch.autograd.grad(output.square().sum(), layer.parameters())
    first, state = layer(x[:4])
    second, _ = layer(x[4:], state)
    total = first.square().sum() + second.square().sum()
    for a, b in zip(whole, torch.autograd.grad(total, layer.parameters()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_single_step_has_finite_gradients():
    layer = make()
    layer(normal(1, 2, 3))[0].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


def test_parameters_and_start():
    layer = AttentionLSTM(30, 50)
    assert layer.weight_score.shape == (50, 50)
    assert 0.13 < layer.weight_score.abs().max() <= 50**-0.5
    assert layer.weight_combine.shape == (50, 100)
    assert 0.09 < layer.weight_combine.abs().max() <= 0.1
    assert "weight_score" not in AttentionLSTM(3, 4, score="dot").state_dict()


def test_autocast_gives_back_the_parameters_dtype():
    layer = AttentionLSTM(3, 4)
    x = normal(5, 2, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(x)
        output, state = layer(x, state)
    assert {output.dtype, *(tensor.dtype for tensor in state)} == {torch.float32}
    expected = layer(x, layer(x)[1])[0]
    torch.testing.assert_close(output, expected, rtol=0.1, atol=0.1)


GOOD = AttentionLSTMState(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.zeros(3, 2, 4))


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (tuple(GOOD), TypeError, "state must be an AttentionLSTMState, got tuple"),
        (GOOD._replace(hidden=torch.zeros(1, 3, 4)), ValueError, r"state.hidden must have shape"),
        (GOOD._replace(cell=torch.zeros(2, 2, 4)), ValueError, r"state.cell must have shape"),
        (GOOD._replace(history=torch.zeros(3, 1, 4)), ValueError, r"state.history must .*3, 2, 4"),
        (GOOD._replace(history=torch.zeros(3, 4)), ValueError, r"state.history must have shape"),
        (GOOD._replace(history=None), TypeError, "state.history must be a tensor"),
        (GOOD._replace(cell=GOOD.cell.double()), TypeError, "state.cell must be torch.float32"),
    ],
)
def test_state_that_does_not_fit(state, error, message):
    with pytest.raises(error, match=message):
        AttentionLSTM(3, 4)(torch.zeros(5, 2, 3), state)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be at least 1"),
        ({"hidden_size": 1.5}, TypeError, "hidden_size must be an integer"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1"),
        ({"score": "additive"}, ValueError, "score must be 'general' or 'dot', got 'additive'"),
    ],
)
def test_impossible_arguments(options, error, message):
    with pytest.raises(error, match=message):
        AttentionLSTM(**{"input_size": 3, "hidden_size": 4, **options})

"""Every row of docs/migration.md, in its order; a test's docstring is the row's first column."""

from __future__ import annotations

import copy
import io
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_sequence

from fastweights import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState, decay
from fastweights.nn import AttentionLSTM, LayerNormLSTM, LayerNormRNN, irnn
from tests.tolerances import assert_close

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"


@pytest.fixture
def x():
    """Five steps of three samples."""
    return torch.randn(5, 3, 10)


@pytest.fixture
def rnn():
    return nn.RNN(10, 20, 2)


@pytest.fixture
def layer():
    return FastWeightsRNN(10, 20, 2)


def test_every_row_is_a_test():
    cells = re.findall(r"^\| (.*?) \| .* \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [cell for cell in cells if cell not in ("with `nn.RNN`, `nn.LSTM`", "---")]
    tests = [f for name, f in globals().items() if name.startswith("test_") and f.__doc__]
    assert rows == [" ".join(f.__doc__.split()) for f in tests]


# Making one


def test_sizes():
    """`nn.RNN(10, 20, 2)`"""
    rnn, layer = nn.RNN(10, 20, 2), FastWeightsRNN(10, 20, 2)
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (10, 20, 2)
    assert layer.weight_ih_l1.shape == rnn.weight_ih_l1.shape


def test_keywords():
    """`bias=`, `batch_first=`, `dropout=`, `bidirectional=`, `nonlinearity=`, `device=`,
    `dtype=`"""
    how = {
        "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True,
        "nonlinearity": "tanh", "device": "cpu", "dtype": torch.float64,
    }  # fmt: skip
    rnn, layer = nn.RNN(10, 20, 2, **how), FastWeightsRNN(10, 20, 2, **how)
    x = torch.randn(3, 5, 10, dtype=torch.float64)
    assert layer(x)[0].shape == rnn(x)[0].shape
    assert layer(x)[0].dtype == rnn(x)[0].dtype
    assert not any("bias" in n and "norm" not in n for n, _ in layer.named_parameters())


def test_positions():
    """`nn.RNN(10, 20, 2, "relu", True, True)`"""
    nn.RNN(10, 20, 2, "relu", True, True)
    nn.LSTM(10, 20, 2, True, True)
    with pytest.raises(TypeError, match="positional arguments"):
        FastWeightsRNN(10, 20, 2, "relu", True, True)
    FastWeightsRNN(10, 20, 2, nonlinearity="relu", bias=True, batch_first=True)


def test_nonlinearity():
    """`nn.RNN(10, 20)`, whose nonlinearity is tanh"""
    assert nn.RNN(10, 20).nonlinearity == "tanh"
    assert FastWeightsRNN(10, 20).nonlinearity == "relu"
    assert FastWeightsRNN(10, 20, nonlinearity="tanh").nonlinearity == "tanh"


def test_dropout_of_one_layer(x):
    """`nn.RNN(10, 20, dropout=0.5)`, which warns"""
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        nn.RNN(10, 20, dropout=0.5)
    layer = FastWeightsRNN(10, 20, dropout=0.5)
    assert torch.equal(layer(x)[0], layer.eval()(x)[0])


def test_proj_size():
    """`nn.LSTM(10, 20, proj_size=8)`"""
    nn.LSTM(10, 20, proj_size=8)
    with pytest.raises(
        ValueError, match=r"proj_size must be 0, got 8: .* put an nn\.Linear behind"
    ):
        FastWeightsRNN(10, 20, proj_size=8)
    assert FastWeightsRNN(10, 20, proj_size=0).proj_size == nn.LSTM(10, 20).proj_size == 0


def test_attributes(rnn, layer):
    """`rnn.hidden_size`, `rnn.num_layers`, `rnn.nonlinearity`, …"""
    names = "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size"
    for name in names.split():
        assert getattr(layer, name) == getattr(rnn, name)
    assert layer.nonlinearity == "relu"
    layer.dropout = 0.5
    layer.batch_first = True
    x = torch.randn(3, 5, 10)
    output, _ = layer(x)
    assert output.shape == (3, 5, 20)
    assert not torch.equal(output, layer(x)[0])


def test_mode(layer):
    """`rnn.mode == "LSTM"`"""
    assert nn.LSTM(10, 20).mode == "LSTM"
    assert not hasattr(layer, "mode")
    assert isinstance(layer, FastWeightsRNN)
    assert not isinstance(layer, nn.RNNBase)


# Calling it


def test_call(rnn, layer, x):
    """`output, h = rnn(x)`"""
    for given in (x, x[:, 0], pack_sequence([x[:, 0], x[:2, 1]])):
        output, h = rnn(given)
        ours, state = layer(given)
        packed = given.__class__ is not torch.Tensor
        assert (ours.data if packed else ours).shape == (output.data if packed else output).shape
        assert state.hidden.shape == h.shape


MODULES = [
    FastWeightsRNN, LayerNormRNN, LayerNormLSTM, AttentionLSTM, irnn, nn.RNN, nn.LSTM,
    FastWeightsRNNCell, nn.RNNCell,
]  # fmt: skip


@pytest.mark.parametrize("kind", MODULES)
def test_state_by_name(x, kind):
    """`rnn(x, h)`, `rnn(x, hx=h)`"""
    module = kind(10, 20)
    cell = "Cell" in type(module).__name__
    given = x[0] if cell else x
    first = module(given)
    state = first if type(module) is nn.RNNCell else first[1]

    def output(*args, **kwargs):
        after = module(given, *args, **kwargs)
        return after if type(module) is nn.RNNCell else after[0]

    expected = output(state)
    assert torch.equal(output(hx=state), expected)
    assert torch.equal(output(None), output(hx=None))
    assert not torch.equal(output(hx=None), expected)
    if not type(module).__module__.startswith("torch.") and kind is not irnn:
        assert torch.equal(output(state=state), expected)
        assert torch.equal(output(state=state, hx=None), expected)
        with pytest.raises(TypeError, match="state and hx are two names of one argument"):
            output(state, hx=state)


def test_zeros(rnn, layer, x):
    """`rnn(x, torch.zeros(2, 3, 20))`"""
    zeros = torch.zeros(2, 3, 20)
    assert torch.equal(rnn(x, zeros)[0], rnn(x)[0])
    assert torch.equal(layer(x, FastWeightsState.from_hidden(zeros))[0], layer(x)[0])


def test_learned_start(layer, x):
    """`rnn(x, h_0)`, a learned h_0 say"""
    h_0 = nn.Parameter(torch.ones(2, 3, 20))
    layer(x, FastWeightsState.from_hidden(h_0))[0].sum().backward()
    assert h_0.grad.any()
    with pytest.raises(TypeError, match=r"got Parameter; FastWeightsState\.from_hidden\(h_0\)"):
        layer(x, h_0)


def test_directions(x):
    """`output[..., :20]`, `output[..., 20:]` of both directions"""
    layer, rnn = FastWeightsRNN(10, 20, bidirectional=True), nn.RNN(10, 20, bidirectional=True)
    for module, last in ((rnn, rnn(x)[1]), (layer, layer(x)[1].hidden)):
        output = module(x)[0]
        assert torch.equal(output[-1, :, :20], last[0])
        assert torch.equal(output[0, :, 20:], last[1])


@pytest.mark.parametrize("kind", [k for k in MODULES if "Cell" not in k.__name__])
def test_flatten_parameters(x, kind):
    """`rnn.flatten_parameters()`"""
    module = kind(10, 20)
    expected = module(x)[0]
    assert module.flatten_parameters() is None
    assert torch.equal(module(x)[0], expected)


def test_cell(x):
    """`h = cell(x, h)` with an `nn.RNNCell`"""
    cell, h = nn.RNNCell(10, 20), None
    ours, state = FastWeightsRNNCell(10, 20), None
    for step in x:
        h = cell(step, h)
        output, state = ours(step, state)
        assert output.shape == h.shape
        assert torch.equal(output, state.hidden[0])


# The state


def test_last_layer(rnn, layer, x):
    """`h[-1]`, the last layer's"""
    output, h = rnn(x)
    assert torch.equal(h[-1], output[-1])
    output, state = layer(x)
    assert torch.equal(state.hidden[-1], output[-1])


def test_pair(layer, x):
    """`output, (h, c) = lstm(x)`"""
    _, state = layer(x)
    with pytest.raises(TypeError, match="a FastWeightsState is not a sequence"):
        _, _ = state


def test_detach(layer, x):
    """`h.detach()`"""
    _, state = layer(x)
    assert state.hidden.requires_grad
    assert not any(t.requires_grad for t in state.detach().tensors().values())
    assert torch.equal(layer(x, state.detach())[0], layer(x, state)[0])


def test_order(rnn, layer, x):
    """`h[:, order]`, some samples or all in another order"""
    order = torch.tensor([2, 0])
    _, h = rnn(x)
    assert_close(rnn(x[:, order], h[:, order])[0], rnn(x, h)[0][:, order])
    _, state = layer(x)
    assert_close(layer(x[:, order], state[order])[0], layer(x, state)[0][:, order])


def test_move_and_copy_a_state(layer, x):
    """`h.to(device)`, `h.clone()`"""
    _, state = layer(x)
    assert state.to("meta").hidden.device.type == "meta"
    clone = state.clone()
    assert torch.equal(clone.hidden, state.hidden)
    assert clone.hidden.data_ptr() != state.hidden.data_ptr()


def test_save_a_state(layer, x):
    """`torch.save(h, file)`"""
    _, state = layer(x)
    file = io.BytesIO()
    torch.save(state.detach(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(layer(x, loaded)[0], layer(x, state)[0])


# Parameters


def test_names():
    """`rnn.weight_ih_l0`, `rnn.weight_hh_l1_reverse`"""
    rnn = nn.RNN(10, 20, 2, bidirectional=True)
    layer = FastWeightsRNN(10, 20, 2, bidirectional=True)
    for name, weight in rnn.named_parameters():
        if name.startswith("weight"):
            assert layer.get_parameter(name).shape == weight.shape


def test_biases(rnn, layer):
    """`rnn.bias_ih_l0`, `rnn.bias_hh_l0`"""
    assert layer.bias_l0.shape == (rnn.bias_ih_l0 + rnn.bias_hh_l0).shape
    assert not hasattr(layer, "bias_ih_l0")


def test_projection(layer):
    """`lstm.weight_hr_l0`"""
    assert hasattr(nn.LSTM(10, 20, proj_size=8), "weight_hr_l0")
    assert not hasattr(layer, "weight_hr_l0")


def test_gates(layer):
    """`lstm.bias_ih_l0[20:40].fill_(1)`, the forget gate"""
    assert layer.bias_l0.shape == (20,)
    assert layer.decay.rate == 0.95


@pytest.mark.parametrize("kind", [k for k in MODULES if "Cell" not in k.__name__])
def test_all_weights(rnn, kind):
    """`for weights in rnn.all_weights`"""
    module = kind(10, 20, 2)
    assert {len(weights) for weights in rnn.all_weights} == {4}
    flat = [p for weights in module.all_weights for p in weights]
    assert {id(p) for p in flat} == {id(p) for p in module.parameters()}
    assert len(flat) == len([*module.parameters()])
    rich = FastWeightsRNN(
        10, 20, 2, bidirectional=True, learn_write_rate=True, decay=decay.PowerLaw(learnable=True)
    )
    one = [rich.all_weights[1][k] for k in (0, 1, -1)]
    assert one[0] is rich.weight_ih_l0_reverse
    assert one[1] is rich.weight_hh_l0_reverse
    assert one[2] is rich.decays["l0_reverse"].log_exponent
    assert [len(weights) for weights in rich.all_weights] == [7] * 4


def test_own_initialisation(layer):
    """`for name, p in rnn.named_parameters()`"""
    for name, p in layer.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(p)
        elif "bias" in name:
            nn.init.zeros_(p)
    assert_close(layer.weight_hh_l1 @ layer.weight_hh_l1.T, torch.eye(20))


def test_reset(rnn, layer):
    """`rnn.reset_parameters()`"""
    for module in (rnn, layer):
        before = module.weight_ih_l1.detach().clone()
        module.reset_parameters()
        assert not torch.equal(module.weight_ih_l1, before)
    layer.reset_parameters(input_scale=2.0, recurrent_scale=0.5)
    assert torch.equal(layer.weight_hh_l0, 0.5 * torch.eye(20))


def test_tied(x):
    """`rnn.weight_hh_l0_reverse = rnn.weight_hh_l0`"""
    layer = FastWeightsRNN(10, 20, bidirectional=True)
    layer.weight_hh_l0_reverse = layer.weight_hh_l0
    layer(x)[0].sum().backward()
    assert layer.weight_hh_l0_reverse.grad is layer.weight_hh_l0.grad
    assert len([*layer.parameters()]) == 9
    assert len(layer.all_weights[1]) == 5


def test_parametrizations(x):
    """`weight_norm(rnn, "weight_hh_l0")`, `spectral_norm`, pruning"""
    changes = (
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda module, name: prune.l1_unstructured(module, name, amount=0.5),
    )
    for change in changes:
        layer = change(FastWeightsRNN(10, 20), "weight_hh_l0")
        layer(x)[0].square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
        plain = FastWeightsRNN(10, 20)
        weight = layer.weight_hh_l0.detach()
        plain.load_state_dict({**layer.state_dict(), "weight_hh_l0": weight}, strict=False)
        assert_close(layer.eval()(x)[0], plain(x)[0])


def test_weights_of_an_rnn(x):
    """`layer.load_state_dict(rnn.state_dict())`"""
    rnn = nn.RNN(10, 20, 2, bidirectional=True)
    layer = FastWeightsRNN(
        10, 20, 2, bidirectional=True, inner_steps=0, layer_norm=False, nonlinearity="tanh"
    )
    given = rnn.state_dict()
    for name in [n for n in given if n.startswith("bias_ih")]:
        given[name.replace("bias_ih", "bias")] = given.pop(name) + given.pop(
            name.replace("ih", "hh")
        )
    layer.load_state_dict(given)
    output, h = rnn(x)
    ours, state = layer(x)
    assert_close(ours, output)
    assert_close(state.hidden, h)
    normed = FastWeightsRNN(10, 20, 2, bidirectional=True)
    left = normed.load_state_dict(given, strict=False)
    assert all(name.startswith("norm_") for name in left.missing_keys)
    assert not left.unexpected_keys


# Moving and saving


def test_move(layer, x):
    """`rnn.to(device)`, `rnn.double()`, `rnn.half()`, `rnn.share_memory()`"""
    assert layer.share_memory().weight_hh_l0.is_shared()
    expected = layer(x)[0]
    assert_close(expected, copy.deepcopy(layer).double()(x.double())[0])
    half = copy.deepcopy(layer).half()(x.half())[0]
    assert half.dtype == torch.float16
    assert (half - expected).norm() <= 0.01 * expected.norm()
    assert copy.deepcopy(layer).to("meta").weight_hh_l0.is_meta


def test_copies(layer, x):
    """`copy.deepcopy(rnn)`, `pickle`, `torch.save`, `rnn.state_dict()`"""
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    other = FastWeightsRNN(10, 20, 2)
    other.load_state_dict(layer.state_dict())
    copies = (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
        other,
    )
    for twin in copies:
        assert torch.equal(twin(x)[0], layer(x)[0])


def test_meta(x):
    """`with torch.device("meta")`, `rnn.to_empty()`, then loaded or reset"""
    how = {"memory": "identity", "decay": decay.PowerLaw().as_exponentials(0.05, 100)}
    layer = FastWeightsRNN(10, 20, **how)
    with torch.device("meta"):
        deferred = FastWeightsRNN(10, 20, **how)
    deferred.to_empty(device="cpu").load_state_dict(layer.state_dict())
    assert torch.equal(deferred(x)[0], layer(x)[0])
    deferred.to_empty(device="cpu").reset_parameters()
    assert deferred(x)[0].isfinite().all()


def test_skip_init():
    """`torch.nn.utils.skip_init(nn.RNN, 10, 20)`"""
    layer = torch.nn.utils.skip_init(FastWeightsRNN, 10, 20)
    assert layer.weight_hh_l0.shape == (20, 20)
    assert layer.weight_hh_l0.device.type == "cpu"


def test_shards():
    """`fully_shard(rnn)`"""
    layer = FastWeightsRNN(10, 20, learn_write_rate=True, decay=decay.PowerLaw(learnable=True))
    scalars = {p for p in layer.parameters() if p.dim() == 0}
    assert scalars == {layer.log_write_rate_l0, layer.decay.log_exponent}
    assert not {p for p in FastWeightsRNN(10, 20).parameters() if p.dim() == 0}
    # The sharding itself, over two processes: test_deferred_initialisation.py


# Not there


def test_private(rnn, layer):
    """`rnn._flat_weights`, `rnn._all_weights`"""
    for name in ("_flat_weights", "_all_weights"):
        assert hasattr(rnn, name)
        assert not hasattr(layer, name)


def test_undocumented(rnn, layer):
    """`rnn.check_forward_args(…)`, `rnn.check_input(…)`, `rnn.get_expected_hidden_size(…)`,
    `rnn.permute_hidden(…)`"""
    for name in (
        "check_forward_args", "check_input", "get_expected_hidden_size", "permute_hidden",
    ):  # fmt: skip
        assert hasattr(rnn, name)
        assert not hasattr(layer, name)

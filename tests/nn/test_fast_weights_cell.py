"""The cell: the layer, one step at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastweights import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState, decay
from tests.pairwise import all_pairs
from tests.tolerances import assert_close

L, N, IN, H = 7, 3, 4, 5
OPTIONS = {
    "decay": [
        0.8,
        decay.PowerLaw(),
        decay.StepIndexed(),
        decay.Free(3),
        decay.Exponential(0.7, learnable=True),
    ],
    "inner_steps": [0, 1, 2],
    "norm": [{}, {"norm_preliminary": True}, {"layer_norm": False}],
    "write": ["before_read", "after_read"],
    "query": ["preliminary", "previous"],
    "memory": ["hebbian", "hebbian", "random", "learned", "identity", "none"],
    "learn_write_rate": [False, True],
    "bias": [True, False],
}


def _pair(**options):
    """A layer and a cell with the same parameters."""
    layer = FastWeightsRNN(IN, H, dtype=torch.float64, **options)
    cell = FastWeightsRNNCell(IN, H, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    cell.load_state_dict(
        {
            name.removesuffix("_l0").replace("decays.l0", "decays.cell"): value
            for name, value in layer.state_dict().items()
        }
    )
    return layer, cell


@pytest.mark.parametrize(
    "case", all_pairs(OPTIONS), ids=lambda c: "-".join(str(v).replace(" ", "") for v in c.values())
)
@pytest.mark.parametrize("batched", [True, False])
def test_the_cell_is_the_layer_step_by_step(case, batched):
    case = dict(case)
    layer, cell = _pair(**case.pop("norm"), **case)
    x = torch.randn(*((L, N, IN) if batched else (L, IN)), dtype=torch.float64)
    expected, end = layer(x)
    state, outputs = None, []
    for step in x:
        h, state = cell(step, state)
        outputs.append(h)
    output = torch.stack(outputs)
    assert_close(output, expected)
    assert state.tensors().keys() == end.tensors().keys()
    for name, tensor in state.tensors().items():
        assert_close(tensor, end.tensors()[name], name)
    if not output.requires_grad:
        assert case["inner_steps"] == 0  # h(0) handed on from step to step
        return
    weights = torch.randn_like(output)
    (weights * output).sum().backward()
    (weights * expected).sum().backward()
    ours = {n.replace("cell", "l0").removesuffix("_l0"): p for n, p in cell.named_parameters()}
    for name, parameter in layer.named_parameters():
        other = ours[name.removesuffix("_l0")]
        if parameter.grad is not None or other.grad is not None:
            assert_close(other.grad, parameter.grad, name)


@pytest.mark.parametrize("shape", [(N, IN), (IN,), (1, IN), (0, IN)])
def test_shapes_are_those_of_nn_rnn_cell(shape):
    cell = FastWeightsRNNCell(IN, H)
    x = torch.randn(shape)
    h, state = cell(x)
    assert h.shape == nn.RNNCell(IN, H)(x).shape
    assert state.batched == (len(shape) == 2)
    h, state = cell(x, state)
    assert h.shape == nn.RNNCell(IN, H)(x).shape
    assert state.steps.shape == shape[:-1]


def test_parameters():
    cell = FastWeightsRNNCell(IN, H)
    names = ["weight_ih", "weight_hh", "bias", "norm_weight", "norm_bias"]
    assert list(cell.state_dict()) == names
    assert torch.equal(cell.weight_hh, 0.05 * torch.eye(H))
    cell.reset_parameters(input_scale=0.0, recurrent_scale=2.0)
    assert (cell.weight_ih == 0).all()
    assert torch.equal(cell.weight_hh, 2.0 * torch.eye(H))
    assert cell.norm_eps == 1e-5
    assert cell.extra_repr() == f"{IN}, {H}, inner_steps=1, write_rate=0.5"
    assert "bias=False" in FastWeightsRNNCell(IN, H, bias=False).extra_repr()
    torch.manual_seed(0)
    wide = FastWeightsRNNCell(300, 300)
    assert wide.weight_ih.std().item() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("shape", [(), (2, N, IN), (N, IN + 1), (IN - 1,)])
def test_input_of_another_shape(shape):
    with pytest.raises(ValueError, match="input must have"):
        FastWeightsRNNCell(IN, H)(torch.zeros(shape))


def test_other_bad_input():
    cell = FastWeightsRNNCell(IN, H)
    x = torch.randn(N, IN)
    _, state = cell(x)
    with pytest.raises(TypeError, match=r"input must be torch\.float32"):
        cell(x.double())
    with pytest.raises(TypeError, match="state must be a FastWeightsState"):
        cell(x, state.hidden)
    with pytest.raises(ValueError, match=r"state\.hidden must have shape \(1, 2, 5\)"):
        cell(x[:2], state)
    with pytest.raises(ValueError, match="the state has a batch dimension"):
        cell(x[0], state)
    with pytest.raises(ValueError, match="state has none"):
        cell(x, state[0])
    two = FastWeightsState.from_layers([state.layer(0)] * 2)
    with pytest.raises(ValueError, match=r"state\.hidden must have shape"):
        cell(x, two)
    with pytest.raises(TypeError, match="bias must be True or False"):
        FastWeightsRNNCell(IN, H, bias=1)
    with pytest.raises(ValueError, match="inner_steps must be at least 0, got -1"):
        FastWeightsRNNCell(IN, H, inner_steps=-1)
    with pytest.raises(ValueError, match="form='matrix' cannot carry"):
        FastWeightsRNNCell(IN, H, form="matrix", decay=decay.PowerLaw())

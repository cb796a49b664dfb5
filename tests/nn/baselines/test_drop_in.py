"""What code around ``nn.RNN`` counts on, asked of every layer that may stand in its place.

``nn.RNN`` and ``nn.LSTM`` themselves are among them, so that nothing is asked that they do not do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastweights import FastWeightsRNN
from fastweights.nn import FastWeightsState
from fastweights.nn.baselines.attention_lstm import AttentionLSTM
from fastweights.nn.baselines.irnn import irnn
from fastweights.nn.baselines.layer_norm_lstm import LayerNormLSTM
from fastweights.nn.baselines.layer_norm_rnn import LayerNormRNN

OURS: dict[str, Callable[..., nn.Module]] = {
    "LayerNormRNN": LayerNormRNN,
    "LayerNormLSTM": LayerNormLSTM,
    "LayerNormLSTM without layer norm": lambda *a, **k: LayerNormLSTM(*a, layer_norm=False, **k),
    "AttentionLSTM": AttentionLSTM,
    "AttentionLSTM by dot products": lambda *a, **k: AttentionLSTM(*a, score="dot", **k),
    "FastWeightsRNN": FastWeightsRNN,
}
TORCHS: dict[str, Callable[..., nn.Module]] = {"nn.RNN": nn.RNN, "nn.LSTM": nn.LSTM, "irnn": irnn}
ALL = {**OURS, **TORCHS}
every = pytest.mark.parametrize("kind", ALL)


def make(kind: str, inputs: int = 3, hidden: int = 4, layers: int = 1, **options: Any) -> nn.Module:
    """In double precision, with parameters that are all different from where they start."""
    torch.manual_seed(0)
    layer = ALL[kind](inputs, hidden, layers, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.rand_like(parameter))  # rectifiers that are not all off
    return layer


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensors(state: Any) -> dict[str, Tensor]:
    """Of whatever a layer carries."""
    if isinstance(state, FastWeightsState):
        return state.tensors()
    parts = [state] if isinstance(state, Tensor) else state
    return {str(i): tensor for i, tensor in enumerate(parts)}


def of_sample(state: Any, n: int) -> Any:
    """The state of one sample, as unbatched input has it."""
    if isinstance(state, FastWeightsState):
        return state[n]
    if isinstance(state, Tensor):
        return state[..., n, :]
    parts = [tensor[..., n, :] for tensor in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(tensors(found), tensors(expected))


@every
@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    length=st.integers(1, 6),
    batch=st.integers(1, 4),
    inputs=st.integers(1, 4),
    hidden=st.integers(2, 5),
    layers=st.integers(1, 3),
    data=st.data(),
)
def test_layouts_and_pieces_agree(kind, length, batch, inputs, hidden, layers, data):
    layer = make(kind, inputs, hidden, layers)
    x = normal(length, batch, inputs)
    output, last = layer(x)
    assert output.shape == (length, batch, hidden)
    first, *_ = tensors(last).values()
    assert first.shape == (layers, batch, hidden)
    if "Attention" not in kind:  # which puts out more than h
        torch.testing.assert_close(first[-1], output[-1])

    swapped = copy.deepcopy(layer)
    swapped.batch_first = True
    torch.testing.assert_close(swapped(x.transpose(0, 1))[0], output.transpose(0, 1))

    pieces, state, done = [], None, 0
    while done < length:
        step = data.draw(st.integers(1, length - done))
        piece, state = layer(x[done : done + step], state)
        pieces.append(piece)
        done += step
    torch.testing.assert_close(torch.cat(pieces), output)
    assert_same(state, last)

    for n in range(batch):
        alone, state = layer(x[:, n])
        torch.testing.assert_close(alone, output[:, n])
        torch.testing.assert_close(swapped(x[:, n])[0], output[:, n])
        assert_same(state, of_sample(last, n))
        again, _ = layer(x[:, n], state)
        torch.testing.assert_close(again, layer(x, last)[0][:, n])
        torch.testing.assert_close(layer(x[:, n : n + 1])[0], output[:, n : n + 1])


@pytest.mark.parametrize("kind", OURS)
def test_an_empty_batch(kind):
    output, state = make(kind)(normal(5, 0, 3))
    assert output.shape == (5, 0, 4)
    assert all(tensor.numel() == 0 for tensor in tensors(state).values())


@every
def test_a_sample_never_changes_another(kind):
    layer, x = make(kind, layers=2), normal(5, 4, 3)
    changed = x.clone()
    changed[:, 2] += 10
    before, after = layer(x)[0], layer(changed)[0]
    others = [0, 1, 3]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.allclose(before[:, 2], after[:, 2])


@every
def test_state_dict_goes_into_another_layer(kind):
    one, other = make(kind, layers=2), ALL[kind](3, 4, 2, dtype=torch.float64)
    other.load_state_dict(one.state_dict())
    x = normal(4, 2, 3)
    assert torch.equal(one(x)[0], other(x)[0])


@every
def test_without_a_bias_there_is_none(kind):
    options = {} if kind == "irnn" else {"bias": False}  # it starts without what they say
    names = [name for name, _ in make(kind, **options).named_parameters()]
    if options:
        assert not any(name.startswith("bias") or ".bias" in name for name in names)
    assert make(kind).state_dict().keys() >= set(names)


@every
def test_every_parameter_gets_a_gradient(kind):
    layer = make(kind, layers=2)
    output, state = layer(normal(6, 3, 3))
    second, _ = layer(normal(6, 3, 3, seed=2), state)
    (output.square().sum() + second.square().sum()).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every
def test_what_is_around_it_finds_what_it_looks_for(kind):
    layer = make(kind, layers=2)
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (3, 4, 2)
    assert layer.batch_first is False
    layer.flatten_parameters()
    parameters = {id(p) for row in layer.all_weights for p in row}
    assert parameters == {id(p) for p in layer.parameters()}


@every
def test_autocast_goes_through(kind):
    layer = ALL[kind](3, 4)
    x = normal(5, 2, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(x)
        output, _ = layer(x, state)
    expected = layer(x, layer(x)[1])[0]
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
    if kind in OURS:
        assert output.dtype == torch.float32


UNFIT = {
    "one dimension": (torch.zeros(3), r"input must have shape \(L, N, input_size\).* got \(3,\)"),
    "four dimensions": (torch.zeros(2, 2, 2, 3), "input must have shape"),
    "features": (torch.zeros(2, 2, 4), "input must have input_size=3 features"),
    "no step": (torch.zeros(0, 2, 3), "at least one step"),
    "integers": (torch.zeros(2, 2, 3, dtype=torch.int64), "input must be torch.float32"),
    "complex": (torch.zeros(2, 2, 3, dtype=torch.complex64), "got torch.complex64"),
    "double": (torch.zeros(2, 2, 3, dtype=torch.float64), "got torch.float64"),
    "device": (torch.zeros(2, 2, 3, device="meta"), "input is on meta"),
    "a list": ([[1.0]], "input must be a tensor"),
    "sparse": (torch.zeros(2, 2, 3).to_sparse(), "input must be a dense tensor"),
}


@pytest.mark.parametrize("unfit", UNFIT)
@every
def test_input_that_does_not_fit(kind, unfit):
    x, message = UNFIT[unfit]
    if kind in TORCHS and unfit == "device":
        pytest.skip("torch computes nothing from it, without a word")
    errors = (TypeError, ValueError) if kind in OURS else Exception
    with pytest.raises(errors, match=message if kind in OURS else None):
        ALL[kind](3, 4)(x)


@every
def test_both_names_of_the_state(kind):
    layer, x = make(kind), normal(4, 2, 3)
    _, state = layer(x)
    assert torch.equal(layer(x, hx=state)[0], layer(x, state)[0])
    with pytest.raises(TypeError):
        layer(x, state, hx=state)


@every
def test_a_state_of_another_batch(kind):
    layer = make(kind)
    _, state = layer(normal(4, 3, 3))
    with pytest.raises((ValueError, RuntimeError)):
        layer(normal(4, 2, 3), state)


@every
def test_a_state_and_input_of_which_one_is_batched(kind):
    layer, x = make(kind), normal(4, 1, 3)
    _, state = layer(x)
    with pytest.raises((ValueError, RuntimeError)):
        layer(x[:, 0], state)
    with pytest.raises((ValueError, RuntimeError)):
        layer(x, of_sample(state, 0))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size must be at least 1"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size must be an integer"),
        ({"hidden_size": None}, TypeError, "hidden_size must be an integer"),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1"),
    ],
)
@pytest.mark.parametrize("kind", OURS)
def test_impossible_sizes(kind, sizes, error, message):
    given_sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 1, **sizes}
    with pytest.raises(error, match=message):
        OURS[kind](*given_sizes.values())


@pytest.mark.parametrize("kind", OURS)
def test_the_error_names_the_layout_that_was_chosen(kind):
    layer = OURS[kind](3, 4, batch_first=True)
    with pytest.raises(
        ValueError, match=r"input must have shape \(N, L, input_size\).* got \(3,\)"
    ):
        layer(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one step"):
        layer(torch.zeros(2, 0, 3))

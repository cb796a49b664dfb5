"""The layer: where nn.RNN stood, with the numbers of the equations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    unpack_sequence,
)

from fastweights import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState, decay
from fastweights.ops.fast_weights import fast_weights
from tests.oracle import DECAYS, fast_weights_rnn
from tests.tolerances import assert_close

L, N, IN, H = 6, 3, 4, 5
FORMS = [
    {"form": "attention", "backend": "native"},
    {"form": "attention", "backend": "reference"},
    {"form": "matrix"},
    {"form": "chunked"},
]
KINDS = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True},
]


def _layer(*args, **kwargs):
    """In double precision, with a W that is not diagonal, a gain that is not 1 and a bias."""
    layer = FastWeightsRNN(IN, H, *args, dtype=torch.float64, **kwargs)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith(("weight_hh", "norm", "bias")):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def _x(*shape):
    return torch.randn(*(shape or (L, N, IN)), dtype=torch.float64)


def _gradients(layer, loss):
    layer.zero_grad()
    loss.backward()
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for n, p in layer.named_parameters()
    }


def _assert_same_state(actual, expected):
    assert actual.tensors().keys() == expected.tensors().keys()
    for name, tensor in actual.tensors().items():
        assert_close(tensor, expected.tensors()[name], name)


# Shapes and conventions of nn.RNN


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("length", "batch"), [(L, N), (1, N), (L, 1), (1, 1), (L, 0)])
def test_shapes_are_those_of_nn_rnn(kind, batch_first, length, batch):
    ours = FastWeightsRNN(IN, H, batch_first=batch_first, **kind)
    theirs = nn.RNN(IN, H, batch_first=batch_first, **kind)
    x = torch.randn((batch, length, IN) if batch_first else (length, batch, IN))
    output, state = ours(x)
    expected, h = theirs(x)
    assert output.shape == expected.shape
    assert state.hidden.shape == h.shape
    output.sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("length", [1, L])
def test_unbatched_is_a_batch_of_one(kind, length):
    layer = _layer(**kind)
    x, y = _x(length, IN), _x(length, IN)
    output, state = layer(x)
    expected, batched = layer(x[:, None])
    h = nn.RNN(IN, H, **kind)(x.float())[1]
    assert state.hidden.shape == h.shape
    assert_close(output, expected[:, 0])
    _assert_same_state(state.unsqueeze(), batched)
    assert_close(layer(y, state)[0], layer(y[:, None], batched)[0][:, 0])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_batch_first_is_the_transpose(kind):
    layer = _layer(batch_first=True, **kind)
    plain = _layer(**kind)
    plain.load_state_dict(layer.state_dict())
    x = _x()
    output, state = layer(x.transpose(0, 1))
    expected, other = plain(x)
    assert_close(output.transpose(0, 1), expected)
    _assert_same_state(state, other)  # the state is never batch first, as in nn.RNN


def test_a_sequence_without_steps_is_an_error_as_in_nn_rnn():
    for shape in ((0, N, IN), (0, IN)):
        with pytest.raises(RuntimeError, match="length to be larger than 0"):
            nn.RNN(IN, H)(torch.randn(shape))
        with pytest.raises(ValueError, match="input must have at least one step"):
            FastWeightsRNN(IN, H)(torch.randn(shape))


# The numbers


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_the_equations(how, bias):
    layer = _layer(decay=0.9, write_rate=0.3, inner_steps=2, norm_eps=1e-3, bias=bias, **how)
    x = _x()
    drive = torch.einsum("lni,hi->lnh", x, layer.weight_ih_l0)
    if bias:
        drive = drive + layer.bias_l0
    expected = fast_weights_rnn(
        drive.detach().numpy(),
        layer.weight_hh_l0.detach().numpy(),
        DECAYS["exponential"](0.9),
        0.3,
        inner_steps=2,
        eps=1e-3,
        gain=layer.norm_weight_l0.detach().numpy(),
        bias=layer.norm_bias_l0.detach().numpy(),
    )
    assert_close(layer(x)[0], torch.from_numpy(expected))


@pytest.mark.parametrize("memory", ["identity", "random", "learned", "none"])
@pytest.mark.parametrize("how", FORMS[:3], ids=str)
def test_the_controls_put_a_constant_matrix_in_the_place_of_a(memory, how):
    layer = _layer(memory=memory, memory_scale=0.7, query="previous", **how)
    static = {
        "identity": lambda: 0.7 * torch.eye(H, dtype=torch.float64),
        "none": lambda: torch.zeros(H, H, dtype=torch.float64),
    }.get(memory, lambda: layer.weight_memory_l0)()
    x = _x()
    drive = torch.nn.functional.linear(x, layer.weight_ih_l0, layer.bias_l0)
    expected = fast_weights_rnn(
        drive.detach().numpy(),
        layer.weight_hh_l0.detach().numpy(),
        DECAYS["exponential"](0.0),
        0.0,
        query="previous",
        gain=layer.norm_weight_l0.detach().numpy(),
        bias=layer.norm_bias_l0.detach().numpy(),
        memory="static",
        static=static.detach().numpy(),
    )
    output, state = layer(x)
    assert_close(output, torch.from_numpy(expected))
    assert state.history is None
    assert state.matrix is None
    whole = layer(torch.cat([x, x]))[0]
    assert_close(torch.cat([output, layer(x, state)[0]]), whole)


def test_which_controls_are_learned_and_saved():
    def names(memory):
        layer = FastWeightsRNN(IN, H, 2, memory=memory)
        learned = "weight_memory_l1" in dict(layer.named_parameters())
        assert learned == (memory == "learned")
        return "weight_memory_l1" in layer.state_dict()

    assert [names(m) for m in ("hebbian", "none", "identity", "random", "learned")] == [
        False, False, False, True, True,
    ]  # fmt: skip
    wide = FastWeightsRNN(IN, 200, memory="random", memory_scale=3.0)
    assert wide.weight_memory_l0.std().item() == pytest.approx(3 / 200**0.5, rel=0.05)


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_layers_and_directions_are_single_layers_put_together(kind, how):
    """Values, the final state, a state to start from, and gradients."""
    layer = _layer(**kind, **how, decay=decay.Exponential(0.8, learnable=True))
    x, y = _x(), _x()
    output, state = layer(x)
    again, end = layer(y, state)

    def by_hand(x, start):
        ends, index = [], 0
        for k in range(layer.num_layers):
            outputs = []
            for suffix in [f"_l{k}", f"_l{k}_reverse"][: 2 if layer.bidirectional else 1]:
                single = _layer(**how, decay=decay.Exponential(0.8, learnable=True))
                parameters = {
                    "weight_ih_l0": layer.get_parameter(f"weight_ih{suffix}"),
                    "weight_hh_l0": layer.get_parameter(f"weight_hh{suffix}"),
                    "bias_l0": layer.get_parameter(f"bias{suffix}"),
                    "norm_weight_l0": layer.get_parameter(f"norm_weight{suffix}"),
                    "norm_bias_l0": layer.get_parameter(f"norm_bias{suffix}"),
                    "decays.l0.logit_rate": layer.decays[suffix[1:]].logit_rate,
                }
                backward = suffix.endswith("_reverse")
                source = x.flip(0) if backward else x
                own = None
                if start is not None:
                    own = FastWeightsState.from_layers([start.layer(index)])
                if k > 0:
                    single.input_size = x.shape[-1]
                result, last = torch.func.functional_call(single, parameters, (source, own))
                outputs.append(result.flip(0) if backward else result)
                ends.append(last.layer(0))
                index += 1
            x = torch.cat(outputs, -1)
        return x, FastWeightsState.from_layers(ends)

    expected, middle = by_hand(x, None)
    other, last = by_hand(y, middle)
    assert_close(output, expected)
    assert_close(again, other)
    _assert_same_state(state, middle)
    _assert_same_state(end, last)
    weights = torch.randn_like(again)
    ours = _gradients(layer, (weights * again).sum())
    theirs = _gradients(layer, (weights * other).sum())
    for name, gradient in ours.items():
        assert gradient.abs().sum() > 0, name
        assert_close(gradient, theirs[name], name)


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_in_pieces_as_in_one_go(how, num_layers):
    layer = _layer(num_layers, **how, learn_write_rate=True)
    x = _x(9, N, IN)
    whole, end = layer(x)
    state, pieces = None, []
    for piece in x.split([1, 5, 3]):
        output, state = layer(piece, state)
        pieces.append(output)
    assert_close(torch.cat(pieces), whole)
    _assert_same_state(state, end)
    weights = torch.randn_like(whole)
    ours = _gradients(layer, (weights * torch.cat(pieces)).sum())
    for name, gradient in _gradients(layer, (weights * whole).sum()).items():
        assert_close(ours[name], gradient, name)


def test_a_detached_state_cuts_the_gradient():
    layer = _layer()
    x = _x().requires_grad_()
    _, state = layer(x)
    layer(_x(), state.detach())[0].sum().backward()
    assert x.grad is None


def test_dropout_lies_between_layers_and_in_training_only():
    layer = FastWeightsRNN(IN, 50, 2, dropout=0.5)
    x = torch.randn(L, N, IN)
    torch.manual_seed(1)
    first = layer(x)[0]
    assert not torch.equal(layer(x)[0], first)
    torch.manual_seed(1)
    assert torch.equal(layer(x)[0], first)  # from torch's generator, as in nn.RNN
    layer.eval()
    plain = FastWeightsRNN(IN, 50, 2)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], plain(x)[0])
    # Everything dropped: the second layer sees zeros. Nothing is dropped after the last layer.
    everything = FastWeightsRNN(IN, 50, 2, dropout=1.0)
    blind = FastWeightsRNN(50, 50)
    parameters = {
        k.replace("_l1", "_l0"): v for k, v in everything.named_parameters() if "_l1" in k
    }
    expected = torch.func.functional_call(blind, parameters, (torch.zeros(L, N, 50),))[0]
    assert_close(everything(x)[0], expected)
    single = FastWeightsRNN(IN, 50, dropout=1.0)
    assert torch.equal(single(x)[0], single.eval()(x)[0])


# Packed sequences


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_is_sample_by_sample(kind, how, enforce_sorted):
    """Values, states and gradients, with a state to start from, in the caller's order."""
    layer = _layer(**kind, **how)
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3]
    sequences = [_x(n, IN) for n in lengths]
    _, start = layer(_x(2, 4, IN))
    start = start.detach()
    output, state = layer(pack_sequence(sequences, enforce_sorted=enforce_sorted), start)
    assert isinstance(output, PackedSequence)
    assert state.steps.tolist() == [2 + n for n in lengths]
    samples = unpack_sequence(output)
    weights = [torch.randn_like(s) for s in samples]
    ours = _gradients(layer, sum((w * s).sum() for w, s in zip(weights, samples, strict=True)))
    total = 0.0
    for i, (sequence, sample, weight) in enumerate(zip(sequences, samples, weights, strict=True)):
        alone, end = layer(sequence, start[i])
        assert_close(sample, alone)
        assert_close(state[i].hidden, end.hidden)
        if end.matrix is not None:
            assert_close(state[i].matrix, end.matrix)
        else:
            kept = end.history.shape[1]
            assert_close(state[i].history[:, -kept:], end.history)
            assert (state[i].history[:, :-kept] == 0).all()
        # and the state can be gone on from
        more = _x(2, IN)
        assert_close(layer(more, state[i])[0], layer(more, end)[0])
        total = total + (weight * alone).sum()
    for name, gradient in _gradients(layer, total).items():
        assert_close(ours[name], gradient, name)


def test_packed_like_nn_rnn():
    x, lengths = torch.randn(N, L, IN), torch.tensor([2, 6, 4])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    ours, state = FastWeightsRNN(IN, H, 2, bidirectional=True)(packed)
    theirs, h = nn.RNN(IN, H, 2, bidirectional=True)(packed)
    assert ours.data.shape == theirs.data.shape
    assert torch.equal(ours.batch_sizes, theirs.batch_sizes)
    assert torch.equal(ours.sorted_indices, theirs.sorted_indices)
    assert torch.equal(ours.unsorted_indices, theirs.unsorted_indices)
    assert state.hidden.shape == h.shape
    padded, back = pad_packed_sequence(ours)
    assert padded.shape == (L, N, 2 * H)
    assert back.tolist() == lengths.tolist()


def test_packed_bad_input():
    layer = FastWeightsRNN(IN, H)
    with pytest.raises(ValueError, match=f"input must have input_size={IN} features"):
        layer(pack_sequence([torch.randn(3, IN + 1)]))
    with pytest.raises(ValueError, match="PackedSequence"):
        layer(pack_sequence([torch.randn(3)]))
    with pytest.raises(TypeError, match=r"input must be torch\.float32"):
        layer(pack_sequence([torch.ones(3, IN, dtype=torch.int64)]))
    _, state = layer(torch.randn(2, 3, IN))
    with pytest.raises(ValueError, match=r"state\.hidden must have shape \(1, 2, 5\)"):
        layer(pack_sequence([torch.randn(3, IN), torch.randn(2, IN)]), state)
    with pytest.raises(ValueError, match="the input has a batch dimension, but the state has none"):
        layer(pack_sequence([torch.randn(3, IN)]), state[0])


# Parameters


def test_parameter_names_and_shapes():
    layer = FastWeightsRNN(IN, H, 2, bidirectional=True)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    expected = {}
    for k in range(2):
        for suffix in (f"l{k}", f"l{k}_reverse"):
            expected[f"weight_ih_{suffix}"] = (H, IN if k == 0 else 2 * H)
            expected[f"weight_hh_{suffix}"] = (H, H)
            for vector in ("bias", "norm_weight", "norm_bias"):
                expected[f"{vector}_{suffix}"] = (H,)
    assert shapes == expected
    assert set(layer.state_dict()) == set(expected)
    theirs = {n for n, _ in nn.RNN(IN, H, 2, bidirectional=True).named_parameters()}
    assert {n for n in theirs if n.startswith("weight")} <= set(expected)
    bare = FastWeightsRNN(IN, H, bias=False, layer_norm=False)
    assert {n for n, _ in bare.named_parameters()} == {"weight_ih_l0", "weight_hh_l0"}
    assert bare.bias_l0 is None
    learning = FastWeightsRNN(IN, H, 2, learn_write_rate=True, decay=decay.PowerLaw(learnable=True))
    more = {n for n, _ in learning.named_parameters()}
    assert {"log_write_rate_l1", "decays.l0.log_exponent", "decays.l1.log_exponent"} <= more


def test_initialisation():
    layer = FastWeightsRNN(400, 300, 2)
    for k in range(2):
        assert torch.equal(layer.get_parameter(f"weight_hh_l{k}"), 0.05 * torch.eye(300))
        assert (layer.get_parameter(f"bias_l{k}") == 0).all()
        assert (layer.get_parameter(f"norm_weight_l{k}") == 1).all()
        assert (layer.get_parameter(f"norm_bias_l{k}") == 0).all()
    assert layer.weight_ih_l0.std().item() == pytest.approx(1.0, rel=0.02)
    assert layer.weight_ih_l0.mean().abs().item() < 0.01
    assert layer.weight_ih_l1.std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.02)
    layer.reset_parameters(input_scale=2.0, recurrent_scale=0.2)
    assert layer.weight_ih_l0.std().item() == pytest.approx(2.0, rel=0.02)
    assert torch.equal(layer.weight_hh_l1, 0.2 * torch.eye(300))


@pytest.mark.parametrize("sizes", [(37, 20), (20, 37), (1, 6), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_input_weights_start_as_a_tight_frame(sizes, dtype):
    for module in (FastWeightsRNN(*sizes, dtype=dtype), FastWeightsRNNCell(*sizes, dtype=dtype)):
        weight = dict(module.named_parameters(recurse=False))
        weight = weight.get("weight_ih", weight.get("weight_ih_l0")).detach().double()
        short = weight if weight.shape[0] < weight.shape[1] else weight.T
        expected = max(sizes) * torch.eye(min(sizes), dtype=torch.float64)
        atol = 1e-12 if dtype == torch.float64 else 0.02 * max(sizes)
        torch.testing.assert_close(short @ short.T, expected, atol=atol, rtol=0)


def test_initialisation_follows_the_seed():
    def drawn():
        torch.manual_seed(3)
        return FastWeightsRNN(IN, H, 2).state_dict()

    first, second = drawn(), drawn()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_reset_covers_everything_learned():
    layer = FastWeightsRNN(
        IN, H, memory="hebbian", learn_write_rate=True, write_rate=0.3,
        decay=decay.Exponential(0.9, learnable=True),
    )  # fmt: skip
    assert layer.log_write_rate_l0.exp().item() == pytest.approx(0.3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7.0)
    layer.reset_parameters()
    assert layer.log_write_rate_l0.exp().item() == pytest.approx(0.3)
    assert layer.decay.rate.item() == pytest.approx(0.9)
    assert (layer.bias_l0 == 0).all()


def test_every_layer_learns_a_decay_of_its_own():
    own = decay.Exponential(0.9, learnable=True)
    layer = FastWeightsRNN(IN, H, 2, decay=own)
    other = FastWeightsRNN(IN, H, decay=own)
    decays = [*layer.decays.values(), *other.decays.values(), own]
    assert len({id(d.logit_rate) for d in decays}) == 4
    layer(torch.randn(L, N, IN))[0].sum().backward()
    assert layer.decays["l0"].logit_rate.grad is not None
    assert layer.decays["l1"].logit_rate.grad is not None
    assert own.logit_rate.grad is None
    assert layer.decay is layer.decays["l0"]


def test_attributes_and_repr(recwarn):
    layer = FastWeightsRNN(IN, H, norm_eps=1e-3)
    assert layer.norm_eps == 1e-3
    assert FastWeightsRNN(IN, H).norm_eps == 1e-5
    for name, value in (
        ("input_size", IN),
        ("hidden_size", H),
        ("num_layers", 1),
        ("bias", True),
        ("batch_first", False),
        ("dropout", 0.0),
        ("bidirectional", False),
    ):
        assert getattr(layer, name) == value == getattr(nn.RNN(IN, H), name)
    assert layer.extra_repr() == f"{IN}, {H}, inner_steps=1, write_rate=0.5"
    strange = FastWeightsRNN(
        IN, H, 2, inner_steps=3, layer_norm=False, write="after_read", query="previous",
        memory="random", memory_scale=2.0, detach_writes=True, learn_write_rate=True,
        form="attention", backend="reference", nonlinearity="tanh", bias=False, batch_first=True,
        dropout=0.1, bidirectional=True, decay=decay.PowerLaw(learnable=True),
    )  # fmt: skip
    for part in (
        "num_layers=2", "inner_steps=3", "layer_norm=False", "write='after_read'",
        "query='previous'", "memory='random', memory_scale=2", "detach_writes=True",
        "learn_write_rate=True", "form='attention'", "backend='reference'", "nonlinearity='tanh'",
        "bias=False", "batch_first=True", "dropout=0.1", "bidirectional=True",
    ):  # fmt: skip
        assert part in strange.extra_repr()
    assert "PowerLaw(exponent=0.5, learnable=True)" in repr(strange)
    assert not recwarn.list


# Looking inside


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_attention_of_every_layer(kind, batch_first):
    """The attention of layer k is that of a recurrence fed with the outputs below it."""
    layer = _layer(**kind, batch_first=batch_first, inner_steps=2).eval()
    x = _x()
    given = x.transpose(0, 1) if batch_first else x
    _, start = layer(given)
    directions = 2 if layer.bidirectional else 1
    below = x
    for k in range(layer.num_layers):
        for j in range(directions):
            index = k * directions + j
            weights = layer.attention(given, start, layer=index)
            matrices = layer.fast_weight_matrix(given, start, layer=index)
            assert weights.shape == (N, 2, L, 2 * L)
            assert matrices.shape == (N, L, H, H)
            suffix = f"_l{k}" + ("_reverse" if j else "")
            names = layer._names[k * directions + j]
            source = below.flip(0) if j else below
            own = start.layer(index)
            z_drive = torch.nn.functional.linear(
                source, getattr(layer, f"weight_ih{suffix}"), getattr(layer, f"bias{suffix}")
            )
            output, _ = fast_weights(
                z_drive, layer._slow_weights(names), layer._layer_decay(names),
                torch.tensor(0.5, dtype=torch.float64), own, layer._options,
            )  # fmt: skip
            hidden = torch.cat([own.hidden[None], output[:-1]])
            written = torch.cat([own.history, hidden])
            # the first read, worked out from its definition
            z = torch.einsum("hj,lnj->lnh", getattr(layer, f"weight_hh{suffix}"), hidden) + z_drive
            query = z.relu()
            for t in (0, L - 1):
                ages = L + t - torch.arange(2 * L)
                scores = torch.einsum("mnh,nh->nm", written, query[t])
                expected = 0.5 * 0.95 ** ages.double() * scores * (ages >= 0)
                assert_close(weights[:, 0, t], expected)
                a = torch.einsum(
                    "m,mni,mnj->nij", 0.5 * 0.95 ** ages.double() * (ages >= 0), written, written
                )
                assert_close(matrices[:, t], a)
        below_outputs = []
        for j in range(directions):
            suffix = f"_l{k}" + ("_reverse" if j else "")
            names = layer._names[k * directions + j]
            source = below.flip(0) if j else below
            drive = torch.nn.functional.linear(
                source, getattr(layer, f"weight_ih{suffix}"), getattr(layer, f"bias{suffix}")
            )
            output, _ = fast_weights(
                drive, layer._slow_weights(names), layer._layer_decay(names),
                torch.tensor(0.5, dtype=torch.float64), start.layer(k * directions + j),
                layer._options,
            )  # fmt: skip
            below_outputs.append(output.flip(0) if j else output)
        below = torch.cat(below_outputs, -1)


def test_attention_unbatched_and_its_errors():
    layer = _layer()
    x = _x(L, IN)
    assert_close(layer.attention(x), layer.attention(x[:, None])[0])
    assert_close(layer.fast_weight_matrix(x), layer.fast_weight_matrix(x[:, None])[0])
    with pytest.raises(ValueError, match=r"layer must lie in 0 … 0, got 1"):
        layer.attention(x, layer=1)
    with pytest.raises(TypeError, match="layer must be an integer"):
        layer.attention(x, layer=0.0)
    with pytest.raises(ValueError, match="input must have input_size=4"):
        layer.attention(_x(L, IN + 1))
    with pytest.raises(TypeError, match="input must be a tensor"):
        layer.attention(pack_sequence([x]))
    with pytest.raises(ValueError, match="at least one step"):
        layer.attention(_x(0, IN))
    with pytest.raises(ValueError, match="memory='none' attends to nothing"):
        _layer(memory="none").attention(x)
    matrix = _layer(form="matrix")
    matrix.load_state_dict(layer.state_dict())
    assert_close(matrix.attention(x), layer.attention(x))
    _, state = matrix(x)
    with pytest.raises(ValueError, match="state holds a matrix"):
        matrix.attention(x, state)


# Bad input

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
)


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


VALID = {
    "input_size": lambda v: type(v) is int and v >= 1,
    "hidden_size": lambda v: type(v) is int and v >= 1,
    "num_layers": lambda v: type(v) is int and v >= 1,
    "inner_steps": lambda v: type(v) is int and v >= 0,
    "decay": lambda v: _number(v) and 0 <= v <= 1,
    "write_rate": lambda v: v == "auto" or (_number(v) and math.isfinite(v)),
    "memory_scale": lambda v: _number(v) and math.isfinite(v),
    "norm_eps": lambda v: _number(v) and 0 < v < math.inf,
    "dropout": lambda v: _number(v) and 0 <= v <= 1,
    "dtype": lambda v: v is None,
    "layer_norm": lambda v: type(v) is bool,
    "norm_preliminary": lambda v: type(v) is bool,
    "bias": lambda v: type(v) is bool,
    "batch_first": lambda v: type(v) is bool,
    "bidirectional": lambda v: type(v) is bool,
    "detach_writes": lambda v: type(v) is bool,
    "learn_write_rate": lambda v: type(v) is bool,
    "nonlinearity": lambda v: False,
    "write": lambda v: False,
    "query": lambda v: False,
    "memory": lambda v: False,
    "form": lambda v: False,
    "backend": lambda v: False,
}


@settings(max_examples=300)
@given(st.sampled_from(sorted(VALID)), anything)
def test_every_argument_is_checked_by_name(name, value):
    arguments = {"input_size": 2, "hidden_size": 2, name: value}
    if VALID[name](value):
        FastWeightsRNN(**arguments)
        return
    with pytest.raises((TypeError, ValueError), match=f"{name} must ") as caught:
        FastWeightsRNN(**arguments)
    text = str(caught.value)
    assert repr(value)[:4] in text or str(value)[:4] in text or type(value).__name__ in text


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool, "float32"])
def test_parameters_are_floating_point(dtype):
    with pytest.raises(TypeError, match=r"dtype must be a floating-point torch\.dtype"):
        FastWeightsRNN(IN, H, dtype=dtype)


@pytest.mark.parametrize("kind", [decay.PowerLaw(), decay.Factorial(), decay.Free(3)], ids=repr)
@pytest.mark.parametrize("form", ["matrix", "chunked"])
def test_a_form_that_cannot_carry_the_decay(form, kind):
    with pytest.raises(ValueError, match=rf"form='{form}' cannot carry .*form='attention'"):
        FastWeightsRNN(IN, H, form=form, decay=kind)


def test_a_learned_write_rate_is_positive():
    for rate in (0.0, -0.5):
        FastWeightsRNN(IN, H, write_rate=rate)
        with pytest.raises(ValueError, match="write_rate must be positive"):
            FastWeightsRNN(IN, H, write_rate=rate, learn_write_rate=True)


@given(st.lists(st.integers(0, 4), max_size=4))
def test_input_of_any_shape(shape):
    layer = FastWeightsRNN(2, 3)
    x = torch.zeros(shape)
    if len(shape) in (2, 3) and shape[-1] == 2 and shape[0] > 0:
        assert layer(x)[0].shape == (*shape[:-1], 3)
    else:
        with pytest.raises(ValueError, match="input must have"):
            layer(x)


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.bool, torch.complex64, torch.float64, torch.float16, torch.bfloat16],
)
def test_input_of_another_dtype(dtype):
    with pytest.raises(TypeError, match=rf"input must be torch\.float32 .*, got {dtype}"):
        FastWeightsRNN(IN, H)(torch.zeros(L, N, IN).to(dtype))


@pytest.mark.parametrize("value", [None, 3.0, [[1.0]], "x", (torch.zeros(2, 2),)], ids=str)
def test_input_that_is_no_tensor(value):
    with pytest.raises(TypeError, match="input must be a tensor"):
        FastWeightsRNN(IN, H)(value)


def test_input_and_state_on_another_device():
    layer = FastWeightsRNN(IN, H)
    x = torch.randn(L, N, IN)
    with pytest.raises(ValueError, match="input is on meta, but the parameters are on cpu"):
        layer(x.to("meta"))
    _, state = layer(x)
    with pytest.raises(ValueError, match=r"state\.hidden is on meta"):
        layer(x, state.to("meta"))


@pytest.mark.parametrize("how", [FORMS[0], FORMS[2]], ids=str)
def test_states_that_do_not_fit(how):
    layer = FastWeightsRNN(IN, H, 2, **how)
    x = torch.randn(L, N, IN)
    _, state = layer(x)
    memory = "history" if state.matrix is None else "matrix"

    def refused(error, message, state, x=x):
        with pytest.raises(error, match=message):
            layer(x, state)

    h = state.hidden
    for wrong in (h, (h, h), [h], "state", 0):
        refused(TypeError, "state must be a FastWeightsState, got", wrong)
    refused(ValueError, r"state\.hidden must have shape \(2, 3, 5\), got \(2, 2, 5\)", state[:2])
    refused(ValueError, "the input has a batch dimension, but the state has none", state[0])
    refused(ValueError, "the state has a batch dimension, but the input has none", state, x[:, 0])
    refused(TypeError, r"state\.hidden must be torch\.float32", state.to(torch.float64))
    other = FastWeightsRNN(IN, H, 1, **how)(x)[1]
    refused(ValueError, r"state\.hidden must have shape", other)
    other = FastWeightsRNN(IN, H + 1, 2, **how)(x)[1]
    refused(ValueError, r"state\.hidden must have shape", other)

    def changed(**changes):
        return FastWeightsState(**{**state.tensors(), **changes})

    refused(ValueError, r"state\.steps must have shape \(3,\)", changed(steps=state.steps[:1]))
    refused(TypeError, r"state\.steps must be torch\.int64", changed(steps=state.steps.float()))
    refused(TypeError, r"state\.hidden must be a tensor", changed(hidden=3))
    for shape in ((), (3,), (2, 1), (2, 1, 3, 4, 5), (2, 5, 1, 5), (1, 5, 3, 5)):
        bad = changed(**{memory: torch.zeros(shape)})
        refused(ValueError, rf"state\.{memory} must have shape", bad)
    refused(ValueError, r"state\.hidden must have shape", changed(hidden=torch.zeros(5)))
    both = changed(history=torch.zeros(2, 1, N, H), matrix=torch.zeros(2, N, H, H))
    refused(ValueError, "a history or a matrix, not both", both)


def test_a_matrix_in_the_state_of_a_decay_that_cannot_age_one():
    x = torch.randn(L, N, IN)
    _, state = FastWeightsRNN(IN, H, form="matrix")(x)
    with pytest.raises(ValueError, match="cannot age one"):
        FastWeightsRNN(IN, H, decay=decay.PowerLaw())(x, state)


def test_backends_that_cannot_run_say_why():
    x = torch.randn(L, N, IN)
    for arguments, why in (
        ({"form": "matrix"}, "matrix form"),
        ({"decay": decay.StepIndexed(), "form": "chunked"}, "StepIndexed"),
        ({"dtype": torch.bfloat16}, "bfloat16"),
    ):
        layer = FastWeightsRNN(IN, H, backend="native", **arguments)
        with pytest.raises(ValueError, match=f"backend='native' cannot run .*{why}"):
            layer(x.to(layer.weight_ih_l0.dtype))

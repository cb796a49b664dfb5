"""What PyTorch tests of nn.RNN, nn.LSTM, nn.GRU and their cells, asked of our layer and cell.

The configurations and inputs, bad ones included, are those of PyTorch's own database of modules,
the checks those of its test_modules.py and of the tests of recurrent modules in test_nn.py.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from fastweights import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState
from tests.tolerances import assert_close

pytest.importorskip("expecttest", reason="PyTorch's own test tools need it")
with pytest.MonkeyPatch.context() as patch:
    # Importing them would forbid every later test to set a flag of torch.backends.
    patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    database = pytest.importorskip("torch.testing._internal.common_modules")

OURS = {
    nn.RNN: FastWeightsRNN,
    nn.LSTM: FastWeightsRNN,
    nn.GRU: FastWeightsRNN,
    nn.RNNCell: FastWeightsRNNCell,
    nn.LSTMCell: FastWeightsRNNCell,
    nn.GRUCell: FastWeightsRNNCell,
}
INFOS = {info.module_cls: info for info in database.module_db if info.module_cls in OURS}


class Sample(NamedTuple):
    """One way to make a module and to call it."""

    make: Any
    given: dict[str, Any]
    args: tuple[Any, ...]


def _ours(value: Any) -> Any:
    """Hidden vectors, or pairs of hidden vectors and cells, as a state; inputs as they are."""
    hidden = value[0] if isinstance(value, tuple) else value
    if hidden.dim() == 1:  # a cell's has no dimension for layers
        hidden = hidden.detach()[None].requires_grad_(hidden.requires_grad)
    return FastWeightsState.from_hidden(hidden)


def samples(theirs: type[nn.Module], *, requires_grad: bool = False) -> list[Sample]:
    info = INFOS[theirs]
    how = {"device": "cpu", "dtype": torch.float64, "requires_grad": requires_grad}
    if not theirs.__name__.endswith("Cell"):
        how["with_packed_sequence"] = True
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for sample in info.module_inputs_func(info, training=True, **how):
            sizes = zip(("input_size", "hidden_size"), sample.constructor_input.args, strict=False)
            given = {**dict(sizes), **sample.constructor_input.kwargs}
            if given.pop("proj_size", 0):
                continue  # refused: see test_migration.py
            x, *hidden = sample.forward_input.args
            found.append(Sample(OURS[theirs], given, (x, *map(_ours, hidden))))
    return found


def made(sample: Sample, **how: Any) -> nn.Module:
    torch.manual_seed(0)
    module = sample.make(**sample.given, **{"dtype": torch.float64, **how})
    with torch.no_grad():  # neither W nor the gains as they start
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def flat(output: Any) -> list[Tensor]:
    """All tensors of what a module returns."""
    output, state = output
    data = output.data if isinstance(output, PackedSequence) else output
    return [data, *state.tensors().values()]


def assert_same(actual: Any, expected: Any) -> None:
    for ours, theirs in zip(flat(actual), flat(expected), strict=True):
        assert torch.equal(ours, theirs)


each = pytest.mark.parametrize("theirs", OURS)


@each
def test_there_are_samples(theirs: type[nn.Module]) -> None:
    assert len(samples(theirs)) >= 2
    assert any(len(sample.args) == 2 for sample in samples(theirs))
    if theirs is nn.RNN:
        assert any(isinstance(sample.args[0], PackedSequence) for sample in samples(theirs))


# test_modules.py


@each
def test_forward_without_a_batch_dimension_is_a_batch_of_one(theirs: type[nn.Module]) -> None:
    for sample in samples(theirs):
        x, *states = sample.args
        if isinstance(x, PackedSequence):
            continue
        module = made(sample)
        place = (
            0 if sample.given.get("batch_first") or isinstance(module, FastWeightsRNNCell) else 1
        )
        output, state = module(x, *states)
        batched, other = module(x.unsqueeze(place), *(s.unsqueeze() for s in states))
        assert_close(output, batched.squeeze(place))
        assert_close(state.hidden, other[0].hidden)


@each
def test_factory_kwargs(theirs: type[nn.Module]) -> None:
    for sample in samples(theirs):
        for device, dtype in (("cpu", torch.float64), ("meta", torch.float32)):
            module = sample.make(**sample.given, device=device, dtype=dtype)
            for tensor in (*module.parameters(), *module.buffers()):
                assert (tensor.device.type, tensor.dtype) == (device, dtype)


@each
def test_repr(theirs: type[nn.Module]) -> None:
    for sample in samples(theirs):
        module = made(sample)
        assert repr(module).startswith(f"{sample.make.__name__}(")
        assert str(module) == repr(module)


@each
def test_pickle_and_copies(theirs: type[nn.Module]) -> None:
    for sample in samples(theirs):
        module = made(sample)
        expected = module(*sample.args)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        loaded = sample.make(**sample.given, dtype=torch.float64)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), loaded):
            assert_same(twin(*sample.args), expected)
            assert [*twin.state_dict()] == [*module.state_dict()]


def _strided(x: Tensor) -> Tensor:
    """The same numbers, every other one of twice as many."""
    spread = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype)
    spread[..., ::2] = x.detach()
    return spread[..., ::2].requires_grad_(x.requires_grad)


@each
def test_non_contiguous_tensors(theirs: type[nn.Module]) -> None:
    """Inputs, states, parameters and what comes back, in values and gradients."""
    for sample in samples(theirs, requires_grad=True):
        x, *states = sample.args
        if isinstance(x, PackedSequence):
            continue
        strided = _strided(x)
        assert not strided.is_contiguous()
        others = [s._map(lambda _, t: _strided(t) if t.is_floating_point() else t) for s in states]
        module, other = made(sample), made(sample)
        for name, parameter in [*other.named_parameters()]:
            parent, _, leaf = name.rpartition(".")
            setattr(other.get_submodule(parent), leaf, nn.Parameter(_strided(parameter)))
        expected, actual = module(x, *states), other(strided, *others)
        assert_same(actual, expected)
        gradient = torch.randn_like(expected[0])
        expected[0].backward(gradient)
        actual[0].backward(_strided(gradient))
        assert_close(strided.grad, x.grad)
        for ours, twin in zip(module.parameters(), other.parameters(), strict=True):
            if ours.grad is not None:
                assert_close(twin.grad, ours.grad)
        for ours, twin in zip(states, others, strict=True):
            assert_close(twin.hidden.grad, ours.hidden.grad)
        x.grad = None


def _function(sample: Sample, **how: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """A module as a function of its input, hidden vectors and parameters."""
    module = made(sample, **how)
    x, *states = sample.args
    data = x.data if isinstance(x, PackedSequence) else x
    names = [name for name, _ in module.named_parameters()]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        data, hidden = tensors[0], tensors[1 : 1 + len(states)]
        given = x._replace(data=data) if isinstance(x, PackedSequence) else data
        parameters = dict(zip(names, tensors[1 + len(states) :], strict=True))
        state = map(FastWeightsState.from_hidden, hidden)
        output, after = torch.func.functional_call(module, parameters, (given, *state))
        return output.data if isinstance(output, PackedSequence) else output, after.hidden

    tensors = [data, *(s.hidden for s in states), *module.parameters()]
    return run, tuple(t.detach().clone().requires_grad_() for t in tensors)


@each
def test_gradients(theirs: type[nn.Module]) -> None:
    for sample in samples(theirs)[:: 3 if theirs is nn.RNN else 1]:  # those of nn.GRU among them
        assert gradcheck(*_function(sample), fast_mode=True)


@pytest.mark.parametrize("theirs", [nn.RNN, nn.RNNCell])
def test_second_derivatives(theirs: type[nn.Module]) -> None:
    """By the reference; the kernels have none, and say so."""
    for sample in samples(theirs)[:: 1 if theirs is nn.RNNCell else 21]:
        assert gradgradcheck(*_function(sample, backend="reference"), fast_mode=True)


@each
def test_training_and_evaluation_differ_by_dropout_alone(theirs: type[nn.Module]) -> None:
    for sample in samples(theirs):
        module = made(sample)
        expected = module.train()(*sample.args)
        assert_same(module.eval()(*sample.args), expected)


@each
@pytest.mark.parametrize("swap", [False, True])
def test_conversion(theirs: type[nn.Module], swap: bool) -> None:
    """To another type and back, to nowhere and filled again, with parameters swapped or set."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for sample in samples(theirs)[::5]:
            module = made(sample).requires_grad_(False)  # a graph would hold on to what is swapped
            expected = module(*sample.args)
            state = copy.deepcopy(module.state_dict())
            assert {p.dtype for p in module.float().parameters()} == {torch.float32}
            assert {p.dtype for p in module.bfloat16().parameters()} == {torch.bfloat16}
            module.to(torch.float64).load_state_dict(state)
            assert_same(module(*sample.args), expected)
            module.to("meta").to_empty(device="cpu").load_state_dict(state)
            assert_same(module(*sample.args), expected)
            module.load_state_dict(state, assign=True)
            assert_same(module(*sample.args), expected)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@each
def test_halves_and_shared_memory(theirs: type[nn.Module]) -> None:
    for sample in samples(theirs):
        module = made(sample).share_memory()
        assert all(p.is_shared() for p in module.parameters())
        expected = module(*sample.args)
        assert_same(made(sample)(*sample.args), expected)
        if len(sample.args) == 1:
            x = sample.args[0]
            half = x._replace(data=x.data.half()) if isinstance(x, PackedSequence) else x.half()
            output = flat(module.half()(half))
            assert output[0].dtype == torch.float16
            assert output[0].isfinite().all()


ERRORS = [
    pytest.param(theirs, error, id=f"{theirs.__name__}-{number}")
    for theirs in OURS
    for number, error in enumerate(
        INFOS[theirs].module_error_inputs_func(
            INFOS[theirs], device="cpu", dtype=torch.float32, requires_grad=False, training=True
        )
    )
]
# What theirs says of the argument that is wrong, and the name it has in ours.
NAMES = {
    "input has inconsistent input_size": "input must have input_size=10",
    "inconsistent hidden_size": r"state\.hidden must have shape",
    "doesn't match hidden0 batch size": r"state\.hidden must have shape",
    "Expected hidden to be 1D or 2D": "hidden must have shape",
    r"Expected hx\[0\] to be 1D or 2D": "hidden must have shape",
    "RNN input dtype": "input must be torch.float32 like the parameters",
    "hidden_size": "hidden_size must be",
    "input_size": "input_size must be",
    "num_layers": "num_layers must be",
    "bias should": "bias must be True or False",
    "batch_first should": "batch_first must be True or False",
}


@pytest.mark.parametrize(("theirs", "error"), ERRORS)
def test_errors(theirs: type[nn.Module], error: Any) -> None:
    """Whatever theirs refuses ours refuses, and says what is wrong."""
    sample = error.module_error_input
    args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
    message = next(ours for said, ours in NAMES.items() if said in error.error_regex)

    def attempt() -> None:
        if isinstance(args[-1], str) and args[-1] in ("relu", "tanh"):  # by position
            module = OURS[theirs](*args[:-1], **kwargs)
        else:
            module = OURS[theirs](*args, **kwargs)
        x, *states = sample.forward_input.args
        hidden = [s[0] if isinstance(s, tuple) else s for s in states]
        module(x, *(FastWeightsState.from_hidden(h[None] if h.dim() < 4 else h) for h in hidden))

    with pytest.raises((TypeError, ValueError), match=message):
        attempt()


# test_nn.py


def test_sizes_of_nothing_are_refused() -> None:
    for module in (FastWeightsRNN, FastWeightsRNNCell):
        for sizes, name in (((0, 4), "input_size"), ((4, 0), "hidden_size")):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
                module(*sizes)


def _wrong_calls() -> Iterator[tuple[FastWeightsRNN, Tensor, Tensor]]:
    """A layer, an input and hidden vectors, of which one has one size too many."""
    for bidirectional in (False, True):
        layer = FastWeightsRNN(3, 5, 2, bidirectional=bidirectional)
        layers = 2 * (1 + bidirectional)
        yield layer, torch.randn(7, 4, 3 + 1), torch.zeros(layers, 4, 5)
        for wrong in ((layers + 1, 4, 5), (layers, 4 + 1, 5), (layers, 4, 5 + 1)):
            yield layer, torch.randn(7, 4, 3), torch.zeros(wrong)


@pytest.mark.parametrize(("layer", "x", "hidden"), list(_wrong_calls()))
def test_arguments_are_checked(layer: FastWeightsRNN, x: Tensor, hidden: Tensor) -> None:
    with pytest.raises(ValueError, match=r"input must have|state\.hidden must have shape"):
        layer(x, FastWeightsState.from_hidden(hidden))


def test_an_initial_state_of_zeros_is_none() -> None:
    for layers, bidirectional in ((1, False), (2, True)):
        layer = FastWeightsRNN(3, 5, layers, bidirectional=bidirectional)
        x = torch.randn(7, 4, 3)
        zeros = FastWeightsState.from_hidden(torch.zeros(layers * (1 + bidirectional), 4, 5))
        expected = layer(x)
        assert_same(layer(x, zeros), expected)
        packed = pack_padded_sequence(x, [7, 5, 5, 2])
        assert torch.equal(layer(packed, zeros)[0].data, layer(packed)[0].data)


@pytest.mark.parametrize("p", [0.0, 0.276, 0.731, 1.0])
def test_dropout_keeps_as_many_as_it_should(p: float) -> None:
    """Inputs of one and W = 0, so that every unit of the upper layer counts what was kept."""
    layer = FastWeightsRNN(10, 1000, 2, bias=False, dropout=p, memory="none", layer_norm=False)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.fill_(0.0 if "weight_hh" in name else 1.0)
    output, _ = layer(torch.ones(1, 1, 10))
    assert len(output.unique()) == 1
    kept = output[0, 0, 0].item() / 10_000  # of 1000 units that hold 10, each scaled by 1/(1 − p)
    assert kept == pytest.approx(0.0 if p == 1 else 1.0, abs=0.15)
    assert layer.eval()(torch.ones(1, 1, 10))[0][0, 0, 0].item() == 10_000


@pytest.mark.parametrize("p", [0.0, 0.1234, 1.0])
def test_dropout_follows_the_seed_and_a_copy(p: float) -> None:
    layer = FastWeightsRNN(100, 100, 2, dropout=p)
    twin = pickle.loads(pickle.dumps(layer))
    x = torch.randn(3, 2, 100)
    outputs = []
    for module, training in itertools.product((layer, twin), (True, False, True)):
        torch.manual_seed(0)
        outputs.append(module.train(training)(x)[0])
    trained, evaluated = outputs[0], outputs[1]
    assert all(torch.equal(output, trained) for output in outputs[::3] + outputs[2::3])
    assert torch.equal(outputs[4], evaluated)
    assert torch.equal(trained, evaluated) == (p == 0)


def test_dropout_can_be_changed() -> None:
    layer, x = FastWeightsRNN(100, 100, 2, dropout=0.0), torch.randn(3, 2, 100)
    plain = layer(x)[0]
    layer.dropout = 0.5
    assert not torch.equal(layer(x)[0], plain)
    layer.dropout = 0.0
    assert torch.equal(layer(x)[0], plain)


def test_packed_sequences_of_one_length_are_the_batch() -> None:
    layer, x = FastWeightsRNN(3, 5, 2, bidirectional=True), torch.randn(6, 4, 3)
    output, state = layer(pack_padded_sequence(x, [6] * 4))
    expected, other = layer(x)
    assert torch.equal(output.data, expected.flatten(0, 1))
    assert torch.equal(state.hidden, other.hidden)
    alone = pack_sequence([x[:, 0]])
    assert layer(alone)[0].data.shape == (6, 10)
    moved = layer.double()(pack_padded_sequence(x, [6, 4, 4, 1]).double())[0]
    assert isinstance(moved, PackedSequence)
    assert moved.data.dtype == torch.float64


@pytest.mark.parametrize("kind", [FastWeightsRNN, FastWeightsRNNCell])
def test_hooks(kind: Any) -> None:
    module = kind(3, 5)
    x = torch.randn(*((4, 2) if kind is FastWeightsRNN else (2,)), 3, requires_grad=True)
    seen: dict[str, Any] = {}
    module.register_forward_pre_hook(lambda m, args: seen.update(args=args))
    module.register_forward_hook(lambda m, args, output: seen.update(output=output))
    module.register_full_backward_pre_hook(lambda m, grads: seen.update(before=grads))
    module.register_full_backward_hook(lambda m, into, out: seen.update(into=into, out=out))
    module.register_state_dict_pre_hook(lambda m, prefix, keep: seen.update(saved=prefix))
    output, state = module(x)
    output.sum().backward()
    assert seen["args"] == (x,)
    assert torch.equal(seen["output"][0], output)
    assert seen["output"][1] is state
    assert torch.equal(seen["out"][0], torch.ones_like(output))
    assert torch.equal(seen["before"][0], torch.ones_like(output))
    assert torch.equal(seen["into"][0], x.grad)
    module.state_dict(prefix="rnn.")
    assert seen["saved"] == "rnn."


@pytest.mark.parametrize("kind", [FastWeightsRNN, FastWeightsRNNCell])
def test_parameters_buffers_and_flags(kind: Any) -> None:
    module = kind(3, 5, memory="random")
    saved = {name: value.clone() for name, value in module.state_dict().items()}
    names = [name for name, _ in module.named_parameters()]
    buffers = [name for name, _ in module.named_buffers()]
    assert sorted(names + buffers) == sorted(saved)
    assert len(buffers) == 1
    assert not any(p.requires_grad for p in module.requires_grad_(False).parameters())
    x = torch.randn(*((4, 2) if kind is FastWeightsRNN else (2,)), 3)
    assert not module(x)[0].requires_grad
    module.requires_grad_(True)(x)[0].sum().backward()
    module.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in module.parameters())
    module.zero_grad()
    assert all(p.grad is None for p in module.parameters())
    module.apply(lambda m: [p.detach().zero_() for p in m.parameters(recurse=False)])
    assert not any(p.any() for p in module.parameters())
    wrong = {**saved, "more": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"more"'):
        module.load_state_dict(wrong)
    del saved[names[0]]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{names[0]}"'):
        module.load_state_dict(saved)
    vector = nn.utils.parameters_to_vector(module.parameters())
    nn.utils.vector_to_parameters(torch.ones_like(vector), module.parameters())
    assert all((p == 1).all() for p in module.parameters())


@pytest.mark.parametrize("kind", [FastWeightsRNN, FastWeightsRNNCell])
def test_no_grad_and_inference_mode(kind: Any) -> None:
    module = kind(3, 5)
    x = torch.randn(*((4, 2) if kind is FastWeightsRNN else (2,)), 3)
    expected, state = module(x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            output, after = module(x)
            assert not output.requires_grad
            assert torch.equal(output, expected)
            again = module(x, after)[0]
        assert_close(again, module(x, state)[0])
    module(x)[0].sum().backward()  # and training goes on

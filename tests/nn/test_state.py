"""What a layer carries from call to call."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load, save

from fastweights import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState, decay
from fastweights.nn import state as state_module
from tests.tolerances import assert_close

BATCH, WIDTH, LAYERS, LENGTH = 4, 5, 2, 6


@pytest.fixture(params=["attention", "matrix"])
def layer(request):
    return FastWeightsRNN(3, WIDTH, LAYERS, form=request.param)


@pytest.fixture
def state(layer):
    return layer(torch.randn(LENGTH, BATCH, 3))[1]


def _same(a, b):
    assert a.tensors().keys() == b.tensors().keys()
    for name, tensor in a.tensors().items():
        other = b.tensors()[name]
        assert tensor.dtype == other.dtype
        assert torch.equal(tensor, other), name


def test_shapes(layer, state):
    assert state.hidden.shape == (LAYERS, BATCH, WIDTH)
    assert state.steps.tolist() == [LENGTH] * BATCH
    assert state.steps.dtype == torch.int64
    if layer.form == "attention":
        assert state.history.shape == (LAYERS, LENGTH, BATCH, WIDTH)
        assert state.matrix is None
    else:
        assert state.matrix.shape == (LAYERS, BATCH, WIDTH, WIDTH)
        assert state.history is None
    assert state.batched
    assert len(state) == BATCH


def test_history_is_what_was_written():
    layer = FastWeightsRNN(3, WIDTH, LAYERS, form="attention")
    x = torch.randn(LENGTH, BATCH, 3)
    output, state = layer(x)
    assert torch.equal(state.hidden[-1], output[-1])
    assert torch.equal(state.history[-1, 1:], output[:-1])
    assert (state.history[:, 0] == 0).all()  # h(0)


@pytest.mark.parametrize("form", ["attention", "matrix"])
def test_one_sample_of_a_batch(form):
    layer = FastWeightsRNN(3, WIDTH, LAYERS, form=form)
    x, y = torch.randn(2, LENGTH, BATCH, 3)
    _, state = layer(x)
    output, _ = layer(y, state)
    for i in (0, 2, -1):
        own = state[i]
        assert not own.batched
        assert own.hidden.shape == (LAYERS, WIDTH)
        assert own.steps.shape == ()
        alone, after = layer(y[:, i], own)
        torch.testing.assert_close(alone, output[:, i])
        assert not after.batched
        _same(own.unsqueeze(), state[[i]])


def test_indexing_like_a_tensor(state):
    _same(state[1:3], state[torch.tensor([1, 2])])
    _same(state[torch.tensor([False, True, True, False])], state[1:3])
    _same(state[[3, 0]][1], state[0])
    assert len(state[:0]) == 0
    with pytest.raises(IndexError):
        state[BATCH]
    with pytest.raises(IndexError, match="no batch dimension"):
        state[0][0]
    with pytest.raises(TypeError, match="no batch dimension"):
        len(state[0])


def test_it_is_no_pair(state):
    """``h, c = state`` should say what is wrong, and not give two samples."""
    with pytest.raises(TypeError, match="not a sequence"):
        _h, _c = state


def test_detach_clone_to(layer, state):
    assert state.hidden.requires_grad
    assert not any(t.requires_grad for t in state.detach().tensors().values())
    copied = state.clone()
    _same(copied, state)
    pointers = {t.data_ptr() for t in state.tensors().values()}
    assert not pointers & {t.data_ptr() for t in copied.tensors().values()}
    wide = state.to(torch.float64)
    assert {t.dtype for n, t in wide.tensors().items() if n != "steps"} == {torch.float64}
    assert wide.steps.dtype == torch.int64
    _same(wide.to(torch.float32), state)
    away = state.to("meta")
    assert all(t.device.type == "meta" for t in away.tensors().values())
    assert state.to(device="meta", dtype=torch.float64).steps.dtype == torch.int64
    assert state.to(wide.hidden).hidden.dtype == torch.float64


def test_steps_survive_a_half(state):
    """bfloat16 counts to 256, and then by twos."""
    late = FastWeightsState(state.hidden, state.steps + 251, state.history, state.matrix)
    assert late.to(torch.bfloat16).steps.tolist() == [257] * BATCH
    assert late.to(torch.bfloat16).hidden.dtype == torch.bfloat16


def test_tensors_and_back(state):
    _same(FastWeightsState.from_tensors(state.tensors()), state)
    with pytest.raises(ValueError, match="may hold history or matrix"):
        FastWeightsState.from_tensors({"hidden": state.hidden})
    with pytest.raises(ValueError, match=r"got \['hidden', 'more', 'steps'\]"):
        FastWeightsState.from_tensors(
            {"hidden": state.hidden, "steps": state.steps, "more": state.steps}
        )


@pytest.mark.parametrize("part", [slice(None), slice(1, 3), 2, [3, 1]], ids=str)
def test_saved_and_loaded(layer, state, part):
    state = state.detach()[part]
    _same(FastWeightsState.from_tensors(load(save(state.tensors()))), state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded, FastWeightsState)
    _same(loaded, state)
    _same(pickle.loads(pickle.dumps(state)), state)
    _same(copy.deepcopy(state), state)
    x = torch.randn(3, 3) if not state.batched else torch.randn(3, len(state), 3)
    assert torch.equal(layer(x, loaded)[0], layer(x, state)[0])


def test_states_can_be_compared_and_kept_in_sets(state):
    """By identity, as tensors are: no error about the truth of many values."""
    other = state.clone()
    assert state == state
    assert state != other
    assert len({state, other, state}) == 2


def test_it_cannot_be_changed_in_passing(state):
    with pytest.raises(AttributeError):
        state.hidden = None


def test_one_layer(state):
    second = state.layer(1)
    assert torch.equal(second.hidden, state.hidden[1])
    assert torch.equal(second.steps, state.steps)
    _same(FastWeightsState.from_layers([state.layer(0), second]), state)


def test_a_tree_of_tensors(state):
    leaves, spec = torch.utils._pytree.tree_flatten(state)
    assert sum(isinstance(leaf, torch.Tensor) for leaf in leaves) == len(state.tensors())
    _same(torch.utils._pytree.tree_unflatten(leaves, spec), state)


# Growth


@pytest.fixture
def says_again():
    """As in a process that has not said anything yet."""
    state_module._warn_once.cache_clear()
    yield
    state_module._warn_once.cache_clear()


def _run_on(layer, steps):
    """One step after the other, without gradients."""
    state = None
    with torch.no_grad():
        for x in torch.randn(steps, 1, layer.input_size):
            _, state = layer(x[None] if isinstance(layer, FastWeightsRNN) else x, state)
    return state


GROWING = [
    ({"decay": decay.PowerLaw()}, r"decay=PowerLaw\(\.\.\.\)\.as_exponentials\(\) carries"),
    ({"decay": decay.Factorial(learnable=True)}, "a Free decay forgets"),
    ({"form": "attention"}, "form='auto' carries a matrix instead"),
]


@pytest.mark.usefixtures("says_again")
@pytest.mark.parametrize("kind", [FastWeightsRNN, FastWeightsRNNCell])
@pytest.mark.parametrize(("how", "instead"), GROWING)
def test_a_state_that_grows_without_end_says_so_once(kind, how, instead):
    layer, bound = kind(3, 2, **how), 10 * 2 + 100
    assert _run_on(layer, bound + 1).history.shape[1] == bound + 1
    with pytest.warns(UserWarning, match="holds every vector that was written.*" + instead):
        state = _run_on(layer, bound + 2)
    assert state.history.shape[1] == bound + 2
    assert _run_on(layer, bound + 3).history.shape[1] == bound + 3  # and says no more


@pytest.mark.usefixtures("says_again")
@pytest.mark.parametrize(
    ("own", "most"),
    [
        (decay.Exponential(0.9), 4 * 2),
        (decay.StepIndexed(), 4 * 2),
        (decay.PowerLaw().as_exponentials(0.05, 1000), 4 * 2 * 5),
        (decay.Free(9), 9),
        (decay.Factorial(0.5), 64),
    ],
    ids=repr,
)
def test_the_bounds_of_the_docstring(own, most):
    """With H = 2."""
    layer = FastWeightsRNNCell(3, 2, decay=own)
    state = _run_on(layer, 150)
    if state.matrix is not None:
        state = _run_on(layer, most)
    assert state.history.shape[1] <= most
    if own.recurrent:
        assert _run_on(layer, most + 2).matrix is not None


@pytest.mark.usefixtures("says_again")
def test_controls_carry_nothing_that_grows():
    layer = FastWeightsRNN(3, 2, memory="none", decay=decay.PowerLaw())
    assert _run_on(layer, 150).history is None


def test_what_a_factorial_forgets_is_nothing():
    """In pieces, with old vectors dropped, as in one go."""
    layer = FastWeightsRNN(3, 4, decay=decay.Factorial(0.5), form="attention")
    x = torch.randn(90, 2, 3)
    with torch.no_grad():
        whole, state = layer(x)
        assert state.history.shape[1] == 64
        first, state = layer(x[:80])
        assert_close(torch.cat([first, layer(x[80:], state)[0]]), whole)


# Hidden vectors alone


def test_a_state_of_hidden_vectors_alone_has_an_empty_memory():
    layer = FastWeightsRNN(3, 4, 2)
    x = torch.randn(5, 2, 3)
    for like, given in ((x, (2, 2, 4)), (x[:, 0], (2, 4))):
        zeros = FastWeightsState.from_hidden(torch.zeros(given))
        output, state = layer(like, zeros)
        expected, other = layer(like)
        assert torch.equal(output, expected)
        assert torch.equal(state.steps, other.steps)
        learned = torch.ones(given, requires_grad=True)
        layer(like, FastWeightsState.from_hidden(learned))[0].sum().backward()
        assert learned.grad.abs().sum() > 0
    with pytest.raises(TypeError, match="hidden must be a tensor, got list"):
        FastWeightsState.from_hidden([1.0])
    with pytest.raises(ValueError, match=r"hidden must have shape \(N, B, H\) or \(N, H\), got"):
        FastWeightsState.from_hidden(torch.zeros(4))
    with pytest.raises(TypeError, match=r"got Tensor; FastWeightsState\.from_hidden\(h_0\) makes"):
        layer(x, torch.zeros(2, 2, 4))

"""What a layer carries from call to call."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from fastweights import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState, decay
from fastweights.nn import state as state_module
from tests.tolerances import assert_close

BATCH, WIDTH, LAYERS, LENGTH = 4, 5, 2, 6


# torch's own, when it first differentiates in forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*:DeprecationWarning")


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


# A state from outside of the graph is a constant, however it is kept.

LEARNED = {
    "exponential": lambda: decay.Exponential(0.8, learnable=True),
    "exponentials": lambda: decay.SumOfExponentials([0.5, 0.5], [0.5, 0.9]),
    "step-indexed": lambda: decay.StepIndexed(0.4, learnable=True),
    "power law": lambda: decay.PowerLaw(0.7, learnable=True),
}


def _learned(own, form="attention", backend="auto", **options):
    torch.manual_seed(3)
    layer = FastWeightsRNN(
        3, WIDTH, LAYERS, decay=LEARNED[own](), learn_write_rate=True, write_rate=0.1, form=form,
        backend=backend, dtype=torch.float64, **options,
    )  # fmt: skip
    return layer.double()  # the decays too


def _gradients(layer, loss):
    layer.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in layer.named_parameters() if p.grad is not None}


def _truncated(layer, x):
    """Four calls; the state is cut before the second and the fourth, not before the third."""
    state, loss = None, 0.0
    for i, part in enumerate(x.split(3)):
        if i in (1, 3):
            state = state.detach()
        output, state = layer(part, state)
        loss = loss + output.square().sum()
    return loss


@pytest.mark.parametrize("options", [{}, {"detach_writes": True}, {"inner_steps": 2}], ids=str)
@pytest.mark.parametrize("own", ["exponential", "exponentials", "step-indexed"])
def test_after_a_cut_all_forms_have_the_same_gradients(own, options):
    x = torch.randn(12, BATCH, 3, dtype=torch.float64)
    plain = _learned(own, "matrix", "reference", **options)
    expected = _gradients(plain, _truncated(plain, x))
    assert any("write_rate" in name for name in expected)
    for form in ("attention", "chunked", "auto"):
        for backend in ("auto", "reference"):
            layer = _learned(own, form, backend, **options)
            found = _gradients(layer, _truncated(layer, x))
            assert found.keys() == expected.keys()
            for name, gradient in found.items():
                assert_close(gradient, expected[name], f"{form}, {backend}: {name}")


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("form", ["attention", "matrix", "chunked"])
def test_what_a_cut_leaves_is_the_derivative_with_a_constant_memory(form, backend):
    """By finite differences, of a state that is a matrix, which nothing can change any more."""
    backend = "reference" if form == "matrix" else backend
    layer, plain = _learned("exponential", form, backend), _learned("exponential", "matrix")
    x, later = torch.randn(2, 6, BATCH, 3, dtype=torch.float64)
    layer.zero_grad()
    layer(later, layer(x)[1].detach())[0].square().sum().backward()
    with torch.no_grad():
        memory = plain(x)[1]
        for name, parameter in plain.named_parameters():
            if "write_rate" not in name and "decays" not in name:
                continue
            losses = []
            for nudge in (1e-6, -2e-6):
                parameter += nudge
                losses.append(plain(later, memory)[0].square().sum())
            parameter += 1e-6
            slope = (losses[0] - losses[1]) / 2e-6
            torch.testing.assert_close(layer.get_parameter(name).grad, slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_of_a_power_law_the_write_rate_is_constant_and_the_exponent_is_not(backend):
    """It has no matrix. Old vectors, scaled so that they keep the write rate that they had, show
    what a change of it does to the new ones alone."""
    layer = _learned("power law", backend=backend)
    x, later = torch.randn(2, 6, BATCH, 3, dtype=torch.float64)
    old = layer(x)[1].detach()
    gradients = _gradients(layer, layer(later, old)[0].square().sum())
    with torch.no_grad():
        for name in ("log_write_rate_l0", "log_write_rate_l1", "decays.l0.log_exponent"):
            parameter, losses = layer.get_parameter(name), []
            rates = [layer.log_write_rate_l0.item(), layer.log_write_rate_l1.item()]
            for nudge in (1e-6, -2e-6):
                parameter += nudge
                now = torch.stack([layer.log_write_rate_l0, layer.log_write_rate_l1])
                kept = ((torch.tensor(rates, dtype=torch.float64) - now) / 2).exp()
                history = old.history * kept[:, None, None, None]
                state = dataclasses.replace(old, history=history)
                losses.append(layer(later, state)[0].square().sum())
            parameter += 1e-6
            slope = (losses[0] - losses[1]) / 2e-6
            torch.testing.assert_close(gradients[name], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", ["attention", "chunked"])
def test_a_state_that_was_loaded_or_made_without_gradients_is_a_constant_too(form):
    layer = _learned("exponential", form)
    x, later = torch.randn(2, 6, BATCH, 3, dtype=torch.float64)
    state = layer(x)[1]
    with torch.no_grad():
        without = layer(x)[1]
    states = [state.detach(), without, FastWeightsState.from_tensors(load(save(state.tensors())))]
    first, *others = [_gradients(layer, layer(later, s)[0].square().sum()) for s in states]
    for other in others:
        for name, gradient in first.items():
            assert_close(other[name], gradient, name)
    whole = _gradients(layer, layer(later, layer(x)[1])[0].square().sum())
    assert not torch.allclose(whole["log_write_rate_l0"], first["log_write_rate_l0"])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_cell_step_by_step(backend):
    """A constant vector stays one in the states of later steps, which are in the graph."""
    found = []
    for form in ("attention", "chunked"):
        torch.manual_seed(3)
        cell = FastWeightsRNNCell(
            3, WIDTH, decay=LEARNED["exponential"](), learn_write_rate=True, form=form,
            backend=backend, dtype=torch.float64,
        )  # fmt: skip
        x = torch.randn(9, BATCH, 3, generator=torch.Generator().manual_seed(1)).double()
        state, loss = None, 0.0
        for t, step in enumerate(x):
            if t % 4 == 3:
                state = state.detach()
            h, state = cell(step, state)
            loss = loss + h.square().sum()
        if form == "attention":
            assert state.constant_before.tolist() == [[7] * BATCH]
            assert state[1].constant_before.tolist() == [7]
            assert state.to(torch.float16).constant_before.dtype == torch.int64
            assert state.detach().constant_before is None
        found.append(_gradients(cell, loss))
    for name, gradient in found[0].items():
        assert_close(found[1][name], gradient, name)


def test_samples_that_were_cut_at_different_steps():
    packed = [
        nn.utils.rnn.pack_sequence(
            [torch.randn(n, 3).double() for n in lengths], enforce_sorted=False
        )
        for lengths in ((5, 2, 4), (3, 6, 1), (2, 2, 2))
    ]
    found = []
    for form in ("attention", "matrix", "chunked"):
        layer = _learned("exponential", form)
        state, loss = None, 0.0
        for i, part in enumerate(packed):
            output, state = layer(part, state.detach() if i == 1 else state)
            loss = loss + output.data.square().sum()
        found.append(_gradients(layer, loss))
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert_close(other[name], gradient, name)


@pytest.mark.parametrize("form", ["attention", "chunked"])
def test_within_a_transform_a_state_in_the_graph_is_not_a_constant(form):
    """Though ``requires_grad`` says so of what is inside of a vmap."""
    layer = _learned("exponential", form)
    x, later = torch.randn(2, 6, BATCH, 3, dtype=torch.float64)

    def loss(parameters):
        def alone(x, later):
            call = torch.func.functional_call
            _, state = call(layer, parameters, (x[:, None],))
            return call(layer, parameters, (later[:, None], state))[0]

        return torch.func.vmap(alone, in_dims=1)(x, later).square().sum()

    expected = _gradients(layer, layer(later, layer(x)[1])[0].square().sum())
    apart = {n: p.detach() for n, p in layer.named_parameters()}
    for name, gradient in torch.func.grad(loss)(apart).items():
        if name in expected:
            assert_close(gradient, expected[name], name)
    _, tangent = torch.func.jvp(
        loss, (apart,), ({n: torch.ones_like(p) for n, p in apart.items()},)
    )
    assert_close(tangent, sum(gradient.sum() for gradient in expected.values()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_layer_cuts_as_an_eager_one():
    torch._dynamo.reset()
    layer = _learned("exponential")
    x = torch.randn(12, BATCH, 3, dtype=torch.float64)
    expected = _gradients(layer, _truncated(layer, x))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for name, gradient in _gradients(layer, _truncated(compiled, x)).items():
        assert_close(gradient, expected[name], name)

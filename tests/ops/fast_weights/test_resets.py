"""A reset before a step: h and the memory of that sample begin anew, in every form alike."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastweights import FastWeightsRNN
from fastweights.decay import Exponential, Free, PowerLaw, StepIndexed
from fastweights.ops.fast_weights import LayerState, Options, SlowWeights, fast_weights
from tests.tolerances import assert_close

DECAYS = {
    "exponential": lambda: Exponential(0.9, learnable=True),
    "power law": lambda: PowerLaw(0.5, learnable=True),
    "by the clock": StepIndexed,
    "free": lambda: Free(5),
    "sum": lambda: PowerLaw(0.5).as_exponentials(),
}
RECURRENT = ("exponential", "sum")


def _call(seed, length, batch, width, carried, norm, decay, ended):
    """A call in double precision: its arguments, and its leaves."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0):
        numbers = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (scale * numbers).requires_grad_()

    drive = draw(length, batch, width, scale=0.5)
    recurrent = draw(width, width, scale=0.5 / width**0.5)
    gain, bias = (draw(width), draw(width)) if norm else (None, None)
    hidden, history = draw(batch, width), draw(carried, batch, width, scale=0.3)
    rate = torch.tensor(0.3 if norm else 0.01, dtype=torch.float64, requires_grad=True)
    steps = carried + torch.randint(3, (batch,), generator=generator)
    state = LayerState(hidden, steps, history if carried else None)
    lengths = torch.randint(length + 1, (batch,), generator=generator) if ended else None
    resets = torch.rand(length, batch, generator=generator) < 0.3
    r = DECAYS[decay]().double()
    leaves = [
        x for x in (drive, recurrent, gain, bias, hidden, rate, *r.parameters()) if x is not None
    ]
    leaves += [history] if carried else []
    weights = SlowWeights(recurrent, gain, bias)
    return (drive, weights, r, rate, state), {"lengths": lengths, "resets": resets}, leaves


@settings(max_examples=60)
@given(
    seed=st.integers(0, 999),
    length=st.integers(1, 25),
    batch=st.integers(1, 6),
    width=st.integers(1, 18),
    carried=st.sampled_from([0, 0, 3]),
    norm=st.booleans(),
    write=st.sampled_from(["before_read", "after_read"]),
    query=st.sampled_from(["preliminary", "previous"]),
    inner_steps=st.integers(0, 2),
    detach=st.booleans(),
    decay=st.sampled_from(list(DECAYS)),
    form=st.sampled_from(["attention", "chunked"]),
    chunk_size=st.sampled_from([1, 3, 16]),
    ended=st.booleans(),
)
def test_the_kernel_is_the_reference_from_one_reset_to_the_next(
    seed, length, batch, width, carried, norm, write, query, inner_steps, detach, decay, form,
    chunk_size, ended,
):  # fmt: skip
    form = form if decay in RECURRENT else "attention"
    options = Options(
        inner_steps=inner_steps, layer_norm=norm, write=write, query=query, detach_writes=detach
    )
    results = []
    for backend in ("reference", "native"):
        call, where, leaves = _call(seed, length, batch, width, carried, norm, decay, ended)
        output, after = fast_weights(
            *call, options, **where, form=form, backend=backend, chunk_size=chunk_size
        )
        memory = after.history if after.matrix is None else after.matrix
        # What a gradient of a symmetric matrix weighs is its symmetric part.
        seen = torch.linspace(-1, 1, memory.numel(), dtype=torch.float64).view(memory.shape)
        seen = seen if after.matrix is None else seen + seen.mT
        loss = (output * output.detach().cos()).sum() + after.hidden.sum() + (memory * seen).sum()
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        results.append(([output, after.hidden, memory, after.steps.double()], gradients))
    (values, gradients), (found, found_gradients) = results
    for one, other in zip(found, values, strict=True):
        assert_close(one, other)
    for one, other in zip(found_gradients, gradients, strict=True):
        both = [x for x in (one, other) if x is not None]
        if both:
            none = torch.zeros_like(both[0])
            assert_close(none if one is None else one, none if other is None else other)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"batch_first": True}, {"form": "chunked"}, {"decay": StepIndexed()}, {"num_layers": 2}],
    ids=str,
)
def test_a_layer_computes_each_episode_as_if_it_stood_alone(arguments):
    """To the last bit."""
    layer, x = FastWeightsRNN(3, 5, **arguments), torch.randn(9, 2, 3)
    resets = torch.zeros(9, 2, dtype=torch.bool)
    resets[4, 0] = resets[0, 1] = resets[7, 1] = True
    turn = functools.partial(torch.transpose, dim0=0, dim1=1) if layer.batch_first else lambda t: t
    output, state = layer(turn(x), resets=turn(resets))
    output = turn(output)
    for sample, start in ((0, 4), (1, 7)):
        for steps in (slice(0, start), slice(start, 9)):
            alone, after = layer(turn(x[steps, sample : sample + 1]))
            assert torch.equal(turn(alone)[:, 0], output[steps, sample])
        assert torch.equal(after.hidden[:, 0], state.hidden[:, sample])
    assert state.steps.tolist() == [5, 2]
    alone, _ = layer(x[:, 0], resets=resets[:, 0])
    assert torch.equal(alone, output[:, 0])


def test_a_backward_direction_forgets_at_the_same_places():
    layer, x = FastWeightsRNN(3, 5, bidirectional=True), torch.randn(9, 1, 3)
    resets = torch.zeros(9, 1, dtype=torch.bool)
    resets[4] = True
    output, _ = layer(x, resets=resets)
    assert torch.equal(output[:4], layer(x[:4])[0])
    assert torch.equal(output[4:], layer(x[4:])[0])


def test_what_a_reset_forgets_goes_on_being_forgotten_in_the_next_call():
    layer, x = FastWeightsRNN(3, 5), torch.randn(12, 1, 3)
    resets = torch.zeros(8, 1, dtype=torch.bool)
    resets[5] = True
    _, state = layer(x[:8], resets=resets)
    output, _ = layer(x[8:], state)
    expected, _ = layer(x[5:])
    assert_close(output, expected[3:].double())


def test_resets_that_do_not_fit():
    layer, x = FastWeightsRNN(3, 5), torch.randn(4, 2, 3)
    with pytest.raises(
        TypeError, match=r"resets must be a tensor of torch\.bool, got torch\.int64"
    ):
        layer(x, resets=torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="got list"):
        layer(x, resets=[[True]])
    with pytest.raises(ValueError, match=r"resets must have shape \(4, 2\) .* got \(4,\)"):
        layer(x, resets=torch.zeros(4, dtype=torch.bool))
    packed = torch.nn.utils.rnn.pack_sequence([x[:, 0]])
    with pytest.raises(ValueError, match="resets must be None where the input is a PackedSequence"):
        layer(packed, resets=torch.zeros(4, 1, dtype=torch.bool))
    drive, options = torch.zeros(4, 2, 5), Options()
    weights, decay = SlowWeights(torch.eye(5)), Exponential(0.9)
    with pytest.raises(ValueError, match=r"resets must have shape \(4, 2\), got \(2, 4\)"):
        fast_weights(
            drive, weights, decay, 0.5, None, options, resets=torch.zeros(2, 4, dtype=torch.bool)
        )

"""The input's product and the gradients of the weights, which the kernels make themselves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fastweights import FastWeightsRNN
from fastweights.ops.fast_weights import InputProjection, fast_weights
from fastweights.ops.fast_weights.options import project
from tests.problems import problem, run, solve
from tests.tolerances import assert_close

FORMS = ["attention", "chunked"]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [15, 16, 17, 40])
def test_slices_of_steps(length, form, dtype):
    """A slice has sixteen steps."""
    given = problem(length, 11, 6, features=11)
    expected = solve(given.to(torch.float64))
    found = solve(given.to(dtype), form=form, backend="native", chunk_size=7)
    for name, tensor in found.items():
        assert_close(tensor, expected[name], name)


@pytest.mark.parametrize("form", FORMS)
def test_groups_of_several_fours(form):
    given = problem(3, 4 * 16 + 9, 4, features=2)  # at most sixteen groups, of whole fours
    expected = solve(given.to(torch.float64))
    for name, tensor in solve(given.to(torch.float64), form=form, backend="native").items():
        assert_close(tensor, expected[name], name)


@pytest.mark.parametrize("form", FORMS)
def test_inputs_too_wide_for_the_kernels_and_those_that_are_not(form):
    for features in (512, 513):
        given = problem(3, 2, 4, features=features)
        expected = solve(given.to(torch.float64))
        for name, tensor in solve(given.to(torch.float64), form=form, backend="native").items():
            assert_close(tensor, expected[name], name)


@pytest.mark.parametrize("form", FORMS)
def test_nobody_asks_for_the_gradient_of_the_input(form):
    given = problem(5, 3, 4, features=7).to(torch.float64)
    quiet = given.with_source(given.source.detach())
    leaves = [given.weights.recurrent, *given.drive[1:]]
    for backend in ("native", "reference"):
        output = run(quiet, form=form, backend=backend)[0]
        gradients = torch.autograd.grad(output.square().sum(), leaves)
        if backend == "native":
            found = gradients
    for one, other in zip(found, gradients, strict=True):
        assert_close(one, other)
    frozen = dataclasses.replace(quiet, drive=InputProjection(*(x.detach() for x in quiet.drive)))
    output = run(frozen, form=form, backend="native")[0]
    (alone,) = torch.autograd.grad(output.square().sum(), leaves[:1])
    assert torch.equal(alone, found[0])


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_computes_the_same_bits_on_any_number_of_threads_and_in_any_batch(form):
    """The output, the state and the gradient of the input; the weights' gradients, which are sums
    over the batch, on any number of threads."""
    torch.manual_seed(0)
    layer, x = FastWeightsRNN(37, 20, 2, form=form, bidirectional=True), torch.randn(11, 128, 37)
    cotangent = torch.randn(11, 128, 40)

    def everything(samples):
        source = x[:, samples].requires_grad_()
        output, state = layer(source)
        gradients = torch.autograd.grad(
            output, [source, *layer.parameters()], cotangent[:, samples]
        )
        return [output, state.hidden, *gradients]

    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4, 8):
            torch.set_num_threads(threads)
            results.append(everything(slice(None)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one, same)
    for samples in (slice(0, 1), slice(5, 8), slice(100, 117)):
        for one, whole in zip(everything(samples)[:3], results[0][:3], strict=True):
            assert torch.equal(one, whole[:, samples])


def test_a_drive_that_does_not_fit():
    given = problem(3, 2, 4, features=5)

    def refused(error, message, **parts):
        drive = given.drive._replace(**parts)
        call = dataclasses.replace(given, drive=drive)
        with pytest.raises(error, match=message):
            run(call, backend="auto")

    x, weight, bias = given.drive
    refused(
        ValueError, r"drive\.input must have shape \(T, B, I\) .* got \(3, 2\)", input=x[..., 0]
    )
    refused(
        ValueError, r"drive\.weight must have shape \(H, 5\), got \(4, 4\)", weight=weight[:, 1:]
    )
    refused(
        ValueError,
        r"weights\.recurrent must have shape \(3, 3\)",
        weight=weight[1:],
        bias=None,
    )
    refused(ValueError, r"drive\.bias must have shape \(4,\), got \(3,\)", bias=bias[1:])
    refused(TypeError, r"drive\.input must be torch\.float64", input=x.float())
    refused(TypeError, r"drive\.bias must be torch\.float64", bias=bias.float())


def test_the_product():
    x, weight = torch.randn(3, 2, 5), torch.randn(4, 5)
    drive = InputProjection(x, weight)
    assert torch.equal(project(drive), x @ weight.t())
    assert project(x) is x
    assert (drive.shape, drive.dtype, drive.device.type) == ((3, 2, 4), torch.float32, "cpu")
    given = problem(3, 2, 4, features=5)
    call = (given.weights, given.decay, given.write_rate, given.state, given.options)
    output, _ = fast_weights(given.drive, *call, backend="reference")
    assert torch.equal(fast_weights(given.drive.product(), *call, backend="reference")[0], output)

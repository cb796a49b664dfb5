"""What the chunked kernel promises beyond the right numbers."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastweights import FastWeightsRNN, FastWeightsState
from fastweights.decay import Exponential, PowerLaw, StepIndexed
from fastweights.ops.fast_weights import cpu
from tests.problems import matrix_of, problem, run, solve
from tests.tolerances import assert_close

CHUNKED = {"form": "chunked", "backend": "native", "chunk_size": 3}
ROWS = 4  # samples that are worked out side by side
DTYPES = [torch.float32, torch.float64]
KINDS = [
    {},
    {"norm_preliminary": True, "inner_steps": 2},
    {"layer_norm": False, "write": "after_read", "query": "previous"},
    {"detach_writes": True, "decay": "learned-exponential"},
    {"features": 9},
    {"features": 3, "input_bias": False},
]


def _from_matrix(given):
    """The same start with its memory as a matrix, a leaf like the rest."""
    matrix = matrix_of(given.state, given).detach().requires_grad_()
    return dataclasses.replace(given, state=given.state._replace(history=None, matrix=matrix))


def _values(given):
    """All that a call gives, without and with a graph, and the gradients of its inputs."""
    with torch.no_grad():
        plain = run(given, **CHUNKED)[0]
    results = solve(given, **CHUNKED)
    assert torch.equal(plain, results["output"])
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_sample_is_bitwise_the_same_in_every_batch(kind, dtype):
    """Also for batches that do not fill the lanes of a vector, and with samples that end."""
    lanes = ROWS
    batch = 2 * lanes + 3
    lengths = [8 - i % 5 for i in range(batch)]
    full = _from_matrix(problem(8, batch, 5, carried=2, lengths=lengths, **kind).to(dtype))
    cotangents = [torch.randn(batch, 8, 5), torch.randn(batch, 5, 5)]

    def everything(given, samples):
        output, after, _ = run(given, **CHUNKED)
        loss = (cotangents[0][samples].to(dtype) * output.transpose(0, 1)).sum()
        loss = loss + (cotangents[1][samples].to(dtype) * after.matrix).sum()
        inputs = [given.source, given.state.hidden, given.state.matrix]
        drive, hidden, matrix = torch.autograd.grad(loss, inputs)
        return output.transpose(0, 1), after.matrix, drive.transpose(0, 1), hidden, matrix

    expected = everything(full, slice(None))
    for first, last in [(0, 1), (3, 4), (0, lanes - 1), (1, lanes + 1), (2, 2 * lanes + 2)]:
        samples = slice(first, last)
        state = full.state
        part = dataclasses.replace(
            full.with_source(full.source[:, samples].detach().requires_grad_()),
            state=state._replace(
                hidden=state.hidden[samples].detach().requires_grad_(),
                steps=state.steps[samples],
                matrix=state.matrix[samples].detach().requires_grad_(),
            ),
            lengths=full.lengths[samples],
        )
        for alone, whole in zip(everything(part, samples), expected, strict=True):
            assert torch.equal(alone, whole[samples])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_number_of_threads_changes_nothing(kind, dtype):
    """Bitwise."""
    given = problem(7, 5 * ROWS - 1, 6, **kind)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(_values(given.to(dtype)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(other[name], tensor), name


def test_not_even_nan_crosses_over():
    lanes = ROWS
    given = problem(9, lanes + 1, 4)
    clean = run(given, **CHUNKED)[0]
    given.source[1, 1] = torch.nan
    spoilt, after, _ = run(given, **CHUNKED)
    others = [i for i in range(lanes + 1) if i != 1]
    assert torch.equal(spoilt[:, others], clean[:, others])
    assert torch.equal(spoilt[:1], clean[:1])
    assert spoilt[1:, 1].isnan().all()
    assert after.matrix[1].isnan().all()


@pytest.mark.usefixtures("nan_filled")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_memory_that_was_never_written_is_never_read(kind, dtype):
    assert torch.empty(3).isnan().all()
    given = problem(8, 3, 5, carried=2, lengths=[8, 3, 0], **kind)
    expected = solve(given.to(torch.float64))
    for name, tensor in _values(given.to(dtype)).items():
        assert_close(tensor, expected[name], name)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="MALLOC_PERTURB_ is glibc's")
def test_scratch_that_was_never_written_is_never_read():
    """The kernels' own scratch, which torch knows nothing of, full of huge numbers."""
    code = """
import torch
from tests.problems import problem, solve
from tests.tolerances import assert_close
for kind in ({}, {"inner_steps": 0}, {"layer_norm": False, "write": "after_read"}):
    for dtype in (torch.float32, torch.float64):
        given = problem(8, 3, 5, carried=2, **{"inner_steps": 2, **kind})
        expected = solve(given.to(torch.float64))
        results = solve(given.to(dtype), form="chunked", backend="native", chunk_size=3)
        for name, tensor in results.items():
            assert_close(tensor, expected[name], name)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "MALLOC_PERTURB_": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_second_derivative_and_who_has_one():
    given = problem(4, 2, 4).to(torch.float64)
    output, _, _ = run(given, **CHUNKED)
    (first,) = torch.autograd.grad(output.square().sum(), given.drive, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        first.square().sum().backward()


@pytest.mark.parametrize("part", ["output", "matrix"])
def test_the_gradient_of_either_result_alone(part):
    given = problem(7, 3, 4, carried=1)
    gradients = []
    for how in (CHUNKED, {"form": "matrix"}):
        own = given.to(torch.float64)
        output, after, _ = run(own, **how)
        ((output if part == "output" else after.matrix) ** 2).sum().backward()
        gradients.append([leaf.grad for leaf in own.leaves().values()])
    for ours, expected in zip(*gradients, strict=True):
        assert_close(ours, expected)


def test_an_empty_batch_has_gradients_too():
    given = _from_matrix(problem(4, 0, 5).to(torch.float32))
    results = solve(given, **CHUNKED)
    assert results["output"].shape == (4, 0, 5)
    assert results["memory"].shape == (0, 5, 5)
    assert results["d weights.recurrent"].abs().sum() == 0


def test_thousands_of_steps():
    """Far beyond anything that was written at the start, in values and gradients."""
    given = problem(3000, 1, 4)
    how = {"form": "chunked", "backend": "native"}
    output, after, _ = run(given.to(torch.float64), **how)
    expected, end, _ = run(given, form="matrix")
    assert_close(output, expected)
    assert_close(after.matrix, end.matrix)
    short = dataclasses.replace(given, drive=given.drive[:300])
    results = solve(short.to(torch.float32), **how)
    for name, tensor in solve(short.to(torch.float64), form="matrix").items():
        assert_close(results[name], tensor, name)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_power_law_in_chunks(backend):
    """Near the exact power law, by far nearer than the best single exponential."""
    exact = problem(150, 2, 8, decay="power-law")
    expected, _, memory = run(exact)
    total = dataclasses.replace(exact, decay=PowerLaw(0.5).as_exponentials(1e-3, 1000))
    output, after, approximate = run(total, form="chunked", backend=backend)
    assert after.matrix.shape == (2, total.decay.components, 8, 8)
    error = (output - expected).abs().max() / expected.abs().max()
    assert 1e-10 < error < 2e-3
    assert (approximate - memory).abs().max() < 2e-3 * memory.abs().max()
    single = dataclasses.replace(exact, decay=Exponential(0.98))
    assert (run(single)[0] - expected).abs().max() > 20 * (output - expected).abs().max()


def test_a_layer_carries_every_matrix_of_its_decay():
    layer = FastWeightsRNN(3, 4, 2, decay=PowerLaw().as_exponentials(0.01, 100), form="chunked")
    x = torch.randn(9, 3, 3)
    whole, _ = layer(x)
    first, state = layer(x[:5])
    assert state.matrix.shape == (2, 3, layer.decay.components, 4, 4)
    rest, _ = layer(x[5:], FastWeightsState.from_tensors(state.tensors()))
    assert_close(torch.cat([first, rest]), whole)
    alone, _ = layer(x[5:, 1], state[1])
    assert_close(alone, whole[5:, 1])
    with pytest.raises(ValueError, match=r"state\.matrix must have shape"):
        layer(x, dataclasses.replace(state, matrix=state.matrix[:, :, 0]))


def test_a_long_sequence_compiled_and_exported():
    """The whole layer as one graph; the program takes any batch."""
    layer, x = FastWeightsRNN(3, 4), torch.randn(120, 5, 3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    output, state = layer(x)
    assert state.matrix is not None
    assert torch.equal(compiled(x)[0], output)
    state = state.detach()  # as from one piece of a long sequence to the next
    assert torch.equal(compiled(x, state)[0], layer(x, state)[0])
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, (x,), dynamic_shapes=({1: batch},)).module()
    for size in (2, 11):
        y = torch.randn(120, size, 3)
        assert_close(program(y)[0], layer(y)[0])


def test_why_not():
    given = _from_matrix(problem(3, 2, 4, carried=1))

    def reason(**changes):
        call = dataclasses.replace(given, **changes)
        return cpu.unsupported_reason(call.drive, call.decay, call.state, "chunked")

    assert reason() is None
    assert "CPU" in reason(drive=given.drive.to("meta"))
    assert "float32 and float64" in reason(drive=given.drive.bfloat16())
    assert "StepIndexed" in reason(decay=StepIndexed())
    state = given.state
    lopsided = state.matrix.detach().clone()
    lopsided[1, 0, 2] += 1e-9
    assert "not symmetric" in reason(state=state._replace(matrix=lopsided))
    lopsided[1, 0, 2] = torch.nan  # is for the kernel to show, not to refuse
    lopsided[1, 2, 0] = torch.nan
    assert reason(state=state._replace(matrix=lopsided)) is None

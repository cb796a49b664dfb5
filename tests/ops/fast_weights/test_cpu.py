"""What the fused kernel promises beyond the right numbers."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastweights.decay import Exponential, Free, StepIndexed
from fastweights.nn import FastWeightsRNN
from fastweights.ops.fast_weights import LayerState, cpu, fast_weights
from tests.ops.fast_weights.op_checks import check_native_ops
from tests.problems import problem, run, solve
from tests.tolerances import assert_close

NATIVE = {"form": "attention", "backend": "native"}
ROWS = 4  # samples that are worked out side by side
DTYPES = [torch.float32, torch.float64]
KINDS = [
    {},
    {"norm_preliminary": True, "inner_steps": 2},
    {"layer_norm": False, "write": "after_read"},
    {"memory": "static", "query": "previous"},
    {"memory": "none", "inner_steps": 0},
    {"features": 9},
    {"features": 3, "input_bias": False, "layer_norm": False},
]


def _values(given):
    """All that a call gives, without and with a graph, and the gradients of its inputs."""
    with torch.no_grad():
        plain = run(given, **NATIVE)[0]
    results = solve(given, **NATIVE)
    assert torch.equal(plain, results["output"])
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_sample_is_bitwise_the_same_in_every_batch(kind, dtype):
    """Also for batches that do not fill the lanes of a vector."""
    lanes = ROWS
    full = problem(5, 2 * lanes + 3, 5, carried=2, **kind).to(dtype)
    output, _, _ = run(full, **NATIVE)
    weights = torch.randn(output.shape, dtype=dtype)
    inputs = [full.source, full.state.hidden, full.state.history]
    gradients = torch.autograd.grad((weights * output).sum(), inputs, allow_unused=True)
    for first, last in [(0, 1), (3, 4), (0, lanes - 1), (1, lanes + 1), (2, 2 * lanes + 2)]:
        part = full.part(slice(first, last)).to(dtype)
        alone, _, _ = run(part, **NATIVE)
        assert torch.equal(alone, output[:, first:last])
        own = torch.autograd.grad(
            (weights[:, first:last] * alone).sum(),
            [part.source, part.state.hidden, part.state.history],
            allow_unused=True,
        )
        for a, b, axis in zip(own, gradients, (1, 0, 1), strict=True):
            if a is not None:
                assert torch.equal(a, b.narrow(axis, first, last - first))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_not_even_nan_crosses_over(kind):
    lanes = ROWS
    given = problem(6, lanes + 1, 4, carried=1, **kind)
    clean = run(given, **NATIVE)[0]
    given.source[1, 1] = torch.nan
    spoilt = run(given, **NATIVE)[0]
    others = [i for i in range(lanes + 1) if i != 1]
    assert torch.equal(spoilt[:, others], clean[:, others])
    assert torch.equal(spoilt[:1], clean[:1])
    if kind.get("inner_steps") != 0:
        assert spoilt[1, 1].isnan().all() or "norm" not in str(kind)
    assert spoilt[1, 1].isnan().any(), "a NaN must come through, not turn into a quiet zero"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_number_of_threads_changes_nothing(kind, dtype):
    """Bitwise: the blocks are dealt out, and their sums are added in one order.

    The gradients of η and of a static memory are sums that torch works out, as is the memory as a
    matrix.
    """
    blocks = 70  # some in the same group
    given = problem(4, blocks * ROWS - 1, 6, carried=1, **kind)
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
            if name in ("d weights.memory", "d write_rate", "memory"):
                assert_close(other[name], tensor, name)
            else:
                assert torch.equal(other[name], tensor), name


@pytest.mark.usefixtures("nan_filled")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_memory_that_was_never_written_is_never_read(kind, dtype):
    assert torch.empty(3).isnan().all()
    given = problem(5, 3, 5, carried=2, **kind)
    expected = solve(given.to(torch.float64))
    for name, tensor in _values(given.to(dtype)).items():
        assert_close(tensor, expected[name], name)


@pytest.mark.parametrize("write", ["before_read", "after_read"])
@pytest.mark.parametrize(("length", "carried"), [(9, 0), (12, 6), (14, 3)])
@pytest.mark.parametrize("form", ["attention", "chunked"])
def test_what_four_reads_put_off_arrives(form, length, carried, write):
    """Lengths with and without steps left over, histories with and without vectors left over."""
    given = problem(length, 2, 5, carried=carried, write=write).to(torch.float64)
    expected = solve(given, form=form, backend="reference", chunk_size=10)
    for name, tensor in solve(given, form=form, backend="native", chunk_size=10).items():
        assert_close(tensor, expected[name], name)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="MALLOC_PERTURB_ is glibc's")
def test_scratch_that_was_never_written_is_never_read():
    """The kernels' own scratch, which torch knows nothing of, full of huge numbers."""
    code = """
import torch
from tests.problems import problem, solve
from tests.tolerances import assert_close
for kind in ({}, {"memory": "static"}, {"layer_norm": False, "write": "after_read"}):
    for dtype in (torch.float32, torch.float64):
        given = problem(5, 3, 5, carried=2, inner_steps=2, **kind)
        expected = solve(given.to(torch.float64))
        for name, tensor in solve(given.to(dtype), form="attention", backend="native").items():
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


def test_calls_hand_their_memory_on():
    """Sixteen groups' sums and the packed weights are 5 MB here, or 1,200 pages of 4 KiB."""
    resource = pytest.importorskip("resource", reason="no count of page faults")
    layer, input = FastWeightsRNN(8, 256), torch.randn(2, 64, 8)

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        layer(input)[0].sum().backward()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert min(faults() for _ in range(10)) < 500


def test_no_second_derivative_and_who_has_one():
    given = problem(3, 2, 4).to(torch.float64)
    output, _, _ = run(given, **NATIVE)
    (first,) = torch.autograd.grad(output.square().sum(), given.drive, create_graph=True)
    assert_close(first, solve_first(given))
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        first.square().sum().backward()


def solve_first(given):
    output = run(given, form="attention", backend="reference")[0]
    return torch.autograd.grad(output.square().sum(), given.drive)[0]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", ["static", "clocks", "shared", "chunks"])
def test_the_ops_keep_what_torch_asks_of_ops(keep, kind):
    check_native_ops(batch=5, keep=keep, kind=kind)


def test_inputs_in_any_memory_layout():
    given = problem(4, 3, 5, carried=2)
    expected = run(given, **NATIVE)[0]
    state = given.state
    strange = dataclasses.replace(
        given,
        drive=given.drive.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        weights=given.weights._replace(
            recurrent=given.weights.recurrent.t().contiguous().t(),
            norm_weight=torch.stack([given.weights.norm_weight] * 2, 1)[:, 0],
        ),
        state=state._replace(history=state.history.flip(0).contiguous().flip(0)),
    )
    assert torch.equal(run(strange, **NATIVE)[0], expected)
    one = given.drive[:, :1].expand(4, 3, 5)  # stride 0
    same = LayerState(state.hidden[:1].expand(3, 5), state.steps)
    copies = run(dataclasses.replace(given, drive=one, state=same), **NATIVE)[0]
    assert torch.equal(copies[:, 0], copies[:, 2])


class _Halved(Exponential):
    """From elsewhere, and not what its rate says."""

    def _at(self, ages):
        return 0.5 * super()._at(ages)


@pytest.mark.parametrize("start", ["nothing", "zeros"])
def test_a_table_that_is_kept_is_never_stale(start):
    """Of a decay that cannot change, for a write rate that is a number."""
    given = problem(5, 3, 4).to(torch.float32)

    def differs(decay, write_rate=0.1, length=5):
        state = None if start == "nothing" else given.state
        call = (given.drive[:length], given.weights, decay, write_rate, state, given.options)
        output, after = fast_weights(*call, backend="native")
        expected, expected_after = fast_weights(*call, backend="reference")
        assert_close(output, expected.double())
        assert_close(after.history, expected_after.history.double())
        assert torch.equal(after.steps, expected_after.steps)
        return output

    decay = Exponential(0.5)
    with torch.inference_mode():
        first = differs(decay)
    again = differs(decay)
    assert torch.equal(first, again)
    again.sum().backward()  # through a table that was made where nothing takes part in a graph
    assert given.drive.grad.abs().sum() > 0
    assert not torch.equal(first, differs(decay, 0.3))
    differs(decay, length=2)
    decay._rate = 0.9
    assert not torch.equal(first, differs(decay))
    assert not torch.equal(first, differs(_Halved(0.5)))
    learned = Exponential(0.5, learnable=True)
    differs(learned)
    with torch.no_grad():
        learned.logit_rate.fill_(2.0)
    assert not torch.equal(first, differs(learned))
    loaded = Free(4, values=[0.5, 0.25, 0.75])
    differs(loaded)
    loaded.load_state_dict({"values": torch.tensor([0.9, 0.8, 0.7])})
    assert not torch.equal(first, differs(loaded))
    differs(StepIndexed(0.5))


def test_an_empty_batch_has_gradients_too():
    given = problem(4, 0, 5).to(torch.float32)
    results = solve(given, **NATIVE)
    assert results["output"].shape == (4, 0, 5)
    assert results["d weights.recurrent"].abs().sum() == 0
    assert results["d drive"].shape == (4, 0, 5)


def test_inputs_are_left_as_they_were():
    given = problem(4, 3, 5, carried=2)
    copy = given.to(torch.float64)
    solve(copy, **NATIVE)
    for name, tensor in given.leaves().items():
        assert torch.equal(copy.leaves()[name], tensor), name


def test_why_not():
    given = problem(3, 2, 4, carried=1)

    def reason(form="attention", **changes):
        call = dataclasses.replace(given, **changes)
        return cpu.unsupported_reason(call.drive, call.decay, call.state, form)

    assert reason() is None
    assert "CPU" in reason(drive=given.drive.to("meta"))
    assert "float32 and float64" in reason(drive=given.drive.bfloat16())
    assert "matrix form" in reason("matrix")

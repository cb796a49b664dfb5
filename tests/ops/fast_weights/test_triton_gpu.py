"""What the GPU kernels promise beyond the right numbers."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastweights.decay import Exponential
from fastweights.ops.fast_weights import LayerState, SlowWeights, fast_weights, triton_gpu
from tests.devices import HAS_TRITON, TRITON_DEVICES, needs_cuda, needs_interpreter
from tests.ops.fast_weights.op_checks import check_ops
from tests.problems import matrix_of, problem, run, solve
from tests.tolerances import assert_close

TRITON = {"form": "attention", "backend": "triton"}
KINDS = [
    {},
    {"norm_preliminary": True, "inner_steps": 2},
    {"layer_norm": False, "write": "after_read", "nonlinearity": "tanh"},
    {"memory": "static", "query": "previous"},
    {"memory": "none", "inner_steps": 0},
]


@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_sample_is_bitwise_the_same_in_every_batch(kind, device):
    full = problem(3, 3, 5, carried=1, **kind).to(torch.float32, device)
    output, _, _ = run(full, **TRITON)
    weights = torch.randn(output.shape).to(output)
    inputs = [full.drive, full.state.hidden, full.state.history]
    gradients = torch.autograd.grad((weights * output).sum(), inputs, allow_unused=True)
    for first, last in [(0, 1), (1, 3)]:
        part = full.part(slice(first, last)).to(torch.float32, device)
        alone, _, _ = run(part, **TRITON)
        assert torch.equal(alone, output[:, first:last])
        own = torch.autograd.grad(
            (weights[:, first:last] * alone).sum(),
            [part.drive, part.state.hidden, part.state.history],
            allow_unused=True,
        )
        for a, b, axis in zip(own, gradients, (1, 0, 1), strict=True):
            if a is not None:
                assert torch.equal(a, b.narrow(axis, first, last - first))


@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_not_even_nan_crosses_over(kind, device):
    given = problem(3, 2, 4, carried=1, **kind).to(torch.float32, device)
    with torch.no_grad():
        clean = run(given, **TRITON)[0]
        given.drive[1, 1] = torch.nan
        spoilt = run(given, **TRITON)[0]
    assert torch.equal(spoilt[:, 0], clean[:, 0])
    assert torch.equal(spoilt[0], clean[0])
    assert spoilt[1, 1].isnan().all() or kind.get("inner_steps") == 0
    assert spoilt[1, 1].isnan().any(), "a NaN must come through, not turn into a quiet zero"


@pytest.mark.usefixtures("nan_filled")
@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_memory_that_was_never_written_is_never_read(kind, device):
    given = problem(3, 2, 5, carried=2, **kind)
    expected = solve(given.to(torch.float64))
    results = solve(given.to(torch.float32, device), **TRITON)
    with torch.no_grad():
        plain = run(given.to(torch.float32, device), **TRITON)[0]
    assert torch.equal(plain, results["output"])
    for name, tensor in results.items():
        assert_close(tensor.cpu(), expected[name], name)


@pytest.mark.parametrize("device", TRITON_DEVICES)
def test_a_sequence_in_two_parts_gives_the_same_bits(device):
    """h(t) is used as it is stored, rounded to bfloat16."""
    given = problem(6, 1, 16, carried=1).to(torch.bfloat16, device)
    with torch.no_grad():
        whole, after, _ = run(given, **TRITON)
        first, between, _ = run(dataclasses.replace(given, drive=given.drive[:3]), **TRITON)
        rest = dataclasses.replace(given, drive=given.drive[3:], state=between)
        second, end, _ = run(rest, **TRITON)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(end.history, after.history)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [32, 64, 100, 128, 200, 256])
def test_many_samples_at_once_give_the_same_bits_every_time(width, dtype):
    """Threads that did not wait for one another would show here."""
    given = problem(63, 300, width, carried=5, inner_steps=2).to(dtype, "cuda")
    first, *others = (solve(given, **TRITON) for _ in range(5))
    for other in others:
        for name, tensor in first.items():
            assert torch.equal(tensor, other[name]), name
    if dtype != torch.bfloat16:
        expected = solve(given.to(torch.float64, "cuda"))
        for name, tensor in first.items():
            assert_close(tensor, expected[name], name)


@pytest.mark.parametrize("device", TRITON_DEVICES)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", ["static", "clocks", "shared"])
def test_the_ops_keep_what_torch_asks_of_ops(keep, kind, device):
    ops = torch.ops.fastweights
    forward, backward = (
        ops.attention_form_triton.default,
        ops.attention_form_triton_backward.default,
    )
    check_ops(forward, backward, batch=2, keep=keep, kind=kind, device=device)


@needs_interpreter
def test_inputs_in_any_memory_layout_and_left_as_they_were():
    given = problem(2, 3, 5, carried=2)
    expected = run(given, **TRITON)[0]
    state = given.state
    strange = dataclasses.replace(
        given,
        drive=given.drive.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        weights=SlowWeights(
            recurrent=given.weights.recurrent.t().contiguous().t(),
            norm_weight=torch.stack([given.weights.norm_weight] * 2, 1)[:, 0],
            norm_bias=given.weights.norm_bias,
        ),
        state=state._replace(history=state.history.flip(0).contiguous().flip(0)),
    )
    assert torch.equal(run(strange, **TRITON)[0], expected)
    copy = given.to(torch.float64)
    solve(copy, **TRITON)
    for name, tensor in given.leaves().items():
        assert torch.equal(copy.leaves()[name], tensor), name


@pytest.mark.parametrize("device", TRITON_DEVICES)
def test_an_empty_batch_has_gradients_too(device):
    results = solve(problem(4, 0, 5).to(torch.float32, device), **TRITON)
    assert results["output"].shape == (4, 0, 5)
    assert results["d weights.recurrent"].abs().sum() == 0
    assert results["d drive"].shape == (4, 0, 5)


@needs_interpreter
def test_no_second_derivative_and_who_has_one():
    given = problem(2, 1, 4).to(torch.float64)
    output, _, _ = run(given, **TRITON)
    (first,) = torch.autograd.grad(output.square().sum(), given.drive, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        first.square().sum().backward()


def test_why_not(monkeypatch):
    given = problem(3, 2, 4, carried=1)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_gpu, "_installed", lambda: True)

    def reason(**changes):
        call = dataclasses.replace(given, **changes)
        return triton_gpu.unsupported_reason(call.drive, call.state, call.options)

    assert reason() is None
    assert "CUDA tensors, got meta" in reason(drive=given.drive.to("meta"))
    assert "float64 and bfloat16, got torch.float16" in reason(drive=given.drive.half())
    assert "at most 256 features, got 257" in reason(drive=torch.zeros(1, 2, 257))
    matrix = LayerState(given.state.hidden, given.state.steps, matrix=matrix_of(given.state, given))
    assert "matrix" in reason(state=matrix)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "CUDA tensors, got cpu" in reason()
    monkeypatch.setattr(triton_gpu, "_installed", lambda: False)
    assert "not installed" in reason()


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
@pytest.mark.parametrize(
    ("device", "length", "taken"),
    [
        ("cuda", 3, "triton_gpu.attention_form"),
        ("cuda", 1024, "triton_gpu.attention_form"),
        ("cuda", 1025, "reference.chunked_form"),
        ("cpu", 3, "cpu.recurrence"),
        ("cpu", 1024, "cpu.recurrence"),
    ],
)
def test_auto_takes_it_on_cuda_and_never_the_interpreter(device, length, taken, monkeypatch):
    """With tensors that have a device and no numbers, so that no GPU is needed."""
    ran = []
    for form in ("cpu.recurrence", "triton_gpu.attention_form", "reference.chunked_form"):
        where = f"fastweights.ops.fast_weights.recurrence.{form}"
        monkeypatch.setattr(where, lambda *call, form=form, **how: (ran.append(form), None))
    with FakeTensorMode():
        drive = torch.zeros(length, 2, 4, device=device)
        state = LayerState.zeros(2, 4, dtype=drive.dtype, device=device)
        weights = SlowWeights(torch.zeros(4, 4, device=device))
        rate = torch.zeros((), device=device)
        options = problem(1, 1, 1).options
        fast_weights(drive, weights, Exponential(0.9), rate, state, options)
    assert ran == [taken]


COMPILED = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from fastweights.ops.fast_weights import triton_gpu
from tests.problems import problem

class Driver:
    get_current_device = get_current_stream = lambda *_: 0
    get_current_target = lambda _: GPUTarget("cuda", capability, 32)

launch = JITFunction.run

def compile_only(kernel, *arguments, warmup, **how):
    built = launch(kernel, *arguments, warmup=True, **how)
    assert built.metadata.shared <= 48 * 1024, built.metadata.shared
    print(kernel.__name__)

JITFunction.run = compile_only
driver.set_active(Driver())
static = {"norm_preliminary": True, "nonlinearity": "tanh", "memory": "static"}
previous = {"layer_norm": False, "query": "previous", "write": "after_read"}
for capability, dtype, width, options in (
    (90, torch.float32, 128, {"inner_steps": 2}),
    (80, torch.bfloat16, 200, static),
    (80, torch.float64, 20, previous),
):
    given = problem(3, 2, width, carried=1, **options).to(dtype)
    output, _ = triton_gpu.attention_form(
        given.drive, given.weights, given.decay, given.write_rate, given.state, given.options
    )
    output.sum().backward()
"""


@pytest.mark.skipif(not HAS_TRITON, reason="needs triton")
def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """All but the launch: the interpreter takes programs that the compiler refuses."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=root,
        env={
            **os.environ,
            "TRITON_INTERPRET": "0",
            "TRITON_CACHE_DIR": str(tmp_path),
            "PYTHONPATH": str(root),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["forward", "backward"] * 3, done.stderr

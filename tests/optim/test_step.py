"""Which path a step takes, that it says why, and that it makes no tensor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fastweights.ops import dispatch
from fastweights.ops.slow_fast import cpu
from fastweights.optim import SlowFast

FAST = {"lr": 0.03, "momentum": 0.5, "decay": 0.01}
SIZES = [(20, 30), (30,), (64,)]


def parameters(dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for size in SIZES:
        p = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype))
        p.grad = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        found.append(p)
    return found


def sgd(params: Any, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(params, **{"lr": 0.02, "momentum": 0.9, **options})


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each call of a fused kernel moved."""
    calls: list[int] = []

    def counted(step: Callable[..., None]) -> Callable[..., None]:
        def counting(*columns: Any, **options: Any) -> None:
            calls.append(len(columns[0]))
            step(*columns, **options)

        return counting

    for name in ("sgd_step", "adam_step"):
        monkeypatch.setattr(cpu, name, counted(getattr(cpu, name)))
    return calls


@pytest.mark.parametrize("backend", ["auto", "native"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_on_the_cpu_is_fused(
    backend: str, nesterov: bool, fused: list[int]
) -> None:
    params = parameters()
    optimizer = SlowFast(sgd(params, nesterov=nesterov), **FAST, backend=backend)
    optimizer.step()
    optimizer.step()
    assert fused == [3, 3]
    assert optimizer.slow_optimizer.state[params[0]]["momentum_buffer"].any()


def test_parameters_that_learn_later_start_as_sgd_starts_them(fused: list[int]) -> None:
    results = []
    for backend in ("native", "foreach"):
        params = parameters(torch.float64)
        optimizer = SlowFast(sgd(params, dampening=0.5), **FAST, backend=backend)
        late, params[1].grad = params[1].grad, None
        optimizer.step()
        params[1].grad = late
        optimizer.step()
        optimizer.step()
        results.append([*params, *(optimizer.fast_weights(p) for p in params)])
    assert fused == [2, 1, 2, 3]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


ADAMS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": lambda params: torch.optim.Adam(params, lr=0.1, weight_decay=0.1),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.1, betas=(0.8, 0.9), eps=0.01),
    "AdamW upwards": lambda params: torch.optim.AdamW(params, lr=0.1, maximize=True),
}


@pytest.mark.parametrize("slow", ADAMS)
def test_adam_is_fused_and_remembers_what_adam_remembers(slow: str, fused: list[int]) -> None:
    """Also where a parameter starts later; another step can take over from a fused one."""
    results = []
    for backends in (("native", "native"), ("foreach", "foreach"), ("native", "foreach")):
        params = parameters(torch.float64)
        optimizer = SlowFast(ADAMS[slow](params), **FAST, backend=backends[0])
        late, params[1].grad = params[1].grad, None
        optimizer.step()
        params[1].grad = late
        optimizer.step()
        optimizer.backend = backends[1]
        optimizer.step()
        states = [optimizer.slow_optimizer.state[p] for p in params]
        assert [state["step"].item() for state in states] == [3, 2, 3]
        assert [state["step"].dtype for state in states] == [torch.float32] * 3
        results.append(
            [*params, *(optimizer.fast_weights(p) for p in params)]
            + [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
        )
    assert fused == [2, 3, 3, 2, 3]
    for others in results[1:]:
        for a, b in zip(results[0], others, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def with_tensor_lr(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return sgd(params, lr=torch.tensor(0.02), foreach=False)


def with_odd_layout(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    params[0].data = params[0].data.t()
    params[0].grad = params[0].grad.t()
    return sgd(params)


def scheduled(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    optimizer = sgd(params)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return optimizer


class OwnSGD(torch.optim.SGD):
    pass


@pytest.mark.parametrize(
    ("slow", "reason"),
    [
        (lambda p: torch.optim.RMSprop(p), "the slow optimizer is RMSprop"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "AdamW runs with amsgrad"),
        (lambda p: torch.optim.Adam(p, torch.tensor(0.1)), "an option of Adam is a tensor"),
        (lambda p: OwnSGD(p, momentum=0.9), "the slow optimizer is OwnSGD"),
        (lambda p: sgd(p, momentum=0), "without momentum"),
        (with_tensor_lr, "an option of SGD is a tensor"),
        (with_odd_layout, "not contiguous"),
        (scheduled, "wrapped"),
    ],
)
def test_other_steps_are_not_fused_and_say_why(
    slow: Callable[..., torch.optim.Optimizer],
    reason: str,
    fused: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    params = parameters()
    optimizer = SlowFast(slow(params), **FAST)
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="fastweights"):
        optimizer.step()
    assert not fused
    assert optimizer.fast_norm() > 0
    assert "backend foreach" in caplog.text
    assert reason in caplog.text


def test_a_backend_that_cannot_run_is_refused_before_anything_moves() -> None:
    with pytest.raises(
        ValueError, match=r"backend='native' cannot run this slow_optimizer.*RMSprop"
    ):
        SlowFast(torch.optim.RMSprop(parameters()), **FAST, backend="native")
    with pytest.raises(ValueError, match=r"backend must be one of 'auto'.*got 'cuda'"):
        SlowFast(sgd(parameters()), **FAST, backend="cuda")
    params = parameters(torch.bfloat16)
    before = [p.detach().clone() for p in params]
    optimizer = SlowFast(sgd(params), **FAST, backend="native")
    with pytest.raises(ValueError, match=r"backend='native' cannot run this.*bfloat16"):
        optimizer.step()
    assert all(map(torch.equal, before, params))
    assert not optimizer.slow_optimizer.state


@pytest.mark.parametrize("backend", ["foreach", "native"])
@pytest.mark.parametrize("rehearsing", [False, True])
def test_a_step_makes_no_tensor(backend: str, rehearsing: bool) -> None:
    optimizer = SlowFast(sgd(parameters(), foreach=True), **FAST, backend=backend)
    allocated = []
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            if rehearsing:
                with optimizer.rehearsal():
                    optimizer.step()
            else:
                optimizer.step()
        events = record.profiler.kineto_results.events()
        allocated.append(max((e.nbytes() for e in events if e.name() == "[memory]"), default=0))
    # The first step makes the state, which shows that the profiler would see it. After it, torch
    # wraps the numbers it multiplies with, 8 bytes each, as for any optimizer.
    smallest = min(torch.Size(size).numel() for size in SIZES) * 4
    assert allocated[0] >= smallest
    assert max(allocated[1:]) <= 8 < smallest


def test_mixed_dtypes_in_one_optimizer() -> None:
    halves, doubles = parameters(torch.bfloat16), parameters(torch.float64)
    optimizer = SlowFast(sgd([*halves, *doubles]), **FAST)
    alone = parameters(torch.float64)
    expected = SlowFast(sgd(alone), **FAST)
    for _ in range(3):
        optimizer.step()
        expected.step()
    for p, q in zip(doubles, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)
        assert optimizer.fast_weights(p).dtype is torch.float64
    for p, q in zip(halves, alone, strict=True):
        torch.testing.assert_close(p.double(), q.detach(), rtol=0.02, atol=0.02)
        assert optimizer.fast_weights(p).dtype is torch.bfloat16


def test_complex_parameters() -> None:
    p = nn.Parameter(torch.tensor([1 + 1j], dtype=torch.complex128))
    optimizer = SlowFast(torch.optim.SGD([p], lr=0.1), lr=0.5, momentum=0.0, decay=0.5)
    p.grad = torch.tensor([0 + 2j], dtype=torch.complex128)
    optimizer.step()
    torch.testing.assert_close(optimizer.slow_weights(p), torch.tensor([1 + 0.8j]).to(p.dtype))
    torch.testing.assert_close(optimizer.fast_weights(p), torch.tensor([-0.5j]).to(p.dtype))
    assert optimizer.fast_norm() == 0.5


def test_parameters_on_two_devices() -> None:
    """The meta device computes nothing, but mixes as little with the CPU as any other."""
    here, alone = parameters(torch.float64), parameters(torch.float64)
    there = nn.Parameter(torch.empty(3, device="meta"))
    there.grad = torch.empty(3, device="meta")
    optimizer, expected = SlowFast(sgd([*here, there]), **FAST), SlowFast(sgd(alone), **FAST)
    for _ in range(3):
        optimizer.step()
        expected.step()
    assert optimizer.fast_weights(there).device.type == "meta"
    for p, q in zip(here, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_parameters_on_a_gpu_and_the_cpu() -> None:
    here, there = parameters(torch.float64), parameters(torch.float64)
    for p in there:
        gradient = p.grad
        p.grad = None
        p.data = p.data.cuda()
        p.grad = gradient.cuda()
    optimizer = SlowFast(sgd([*here, *there]), **FAST)
    for _ in range(3):
        optimizer.step()
    for p, q in zip(here, there, strict=True):
        assert q.is_cuda
        torch.testing.assert_close(p.detach(), q.detach().cpu(), rtol=0, atol=1e-13)
        assert optimizer.fast_weights(q).is_cuda

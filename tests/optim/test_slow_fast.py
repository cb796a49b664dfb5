"""SlowFast against ten lines of float64, over long random sequences of everything it can do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastweights.optim import SlowFast

FAST = {"lr": 0.03, "momentum": 0.5, "decay": 0.01}
SHAPES = [(3, 4), (4,), (2, 1, 3)]
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SGD = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}
NESTEROV = {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True}


# -- the ten lines ---------------------------------------------------------------------------------


def sgd_rule(s, g, m, lr, momentum, weight_decay, nesterov):  # type: ignore[no-untyped-def]
    g = g + weight_decay * s
    m["v"] = momentum * m["v"] + g if "v" in m else g
    return s - lr * (g + momentum * m["v"] if nesterov else m["v"])


def adamw_rule(s, g, m, lr, betas, eps, weight_decay):  # type: ignore[no-untyped-def]
    m["t"] = t = m.get("t", 0) + 1
    m["m"] = betas[0] * m.get("m", 0.0) + (1 - betas[0]) * g
    m["v"] = betas[1] * m.get("v", 0.0) + (1 - betas[1]) * g * g
    s = s * (1 - lr * weight_decay)
    return s - lr * m["m"] / (1 - betas[0] ** t) / (np.sqrt(m["v"] / (1 - betas[1] ** t)) + eps)


class TenLines:
    """Slow weights s, fast weights f and last fast updates Δf of one parameter."""

    def __init__(self, w: np.ndarray, rule: Callable[..., np.ndarray], options: dict) -> None:
        self.s, self.f, self.Δf = w, np.zeros_like(w), np.zeros_like(w)
        self.rule, self.options, self.memory = rule, dict(options), {}

    def step(self, g: np.ndarray | None, frozen: bool, lr: float, momentum: float, decay: float):  # type: ignore[no-untyped-def]
        if g is None:
            self.f = (1 - decay) * self.f
            return
        if not frozen:
            self.s = self.rule(self.s, g, self.memory, **self.options)
        self.Δf = momentum * self.Δf - lr * g
        self.f = (1 - decay) * (self.f + self.Δf)


# -- the same, at random ---------------------------------------------------------------------------

CASES: dict[str, tuple[Any, Callable[..., np.ndarray], dict, dict, str]] = {
    "sgd-reference": (torch.optim.SGD, sgd_rule, SGD, {"foreach": False}, "reference"),
    "sgd-foreach": (torch.optim.SGD, sgd_rule, SGD, {"foreach": True}, "foreach"),
    "sgd-fused": (torch.optim.SGD, sgd_rule, SGD, {"fused": True}, "foreach"),
    "sgd-native": (torch.optim.SGD, sgd_rule, SGD, {}, "native"),
    "nesterov-foreach": (torch.optim.SGD, sgd_rule, NESTEROV, {"foreach": True}, "foreach"),
    "nesterov-native": (torch.optim.SGD, sgd_rule, NESTEROV, {}, "auto"),
    "adamw-native": (torch.optim.AdamW, adamw_rule, ADAMW, {}, "native"),
    "adamw-loop": (torch.optim.AdamW, adamw_rule, ADAMW, {"foreach": False}, "foreach"),
    "adamw-foreach": (torch.optim.AdamW, adamw_rule, ADAMW, {"foreach": True}, "foreach"),
    "adamw-fused": (torch.optim.AdamW, adamw_rule, ADAMW, {"fused": True}, "foreach"),
}


STEPS = 1000
EVENTS = ("freeze", "relax", "consolidate", "clear", "slow_only", "lr", "fast_lr", "resume", "copy")


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    script=st.lists(
        st.tuples(st.integers(0, STEPS - 1), st.sampled_from(EVENTS)), min_size=30, max_size=90
    ),
)
def test_equals_ten_lines_over_a_thousand_random_steps(
    case: str, seed: int, script: list[tuple[int, str]]
) -> None:
    """Random steps with random events between them: what may come between steps, in any order."""
    slow_class, rule, slow_options, how, backend = CASES[case]
    rng = np.random.default_rng(seed)
    expected = [TenLines(rng.standard_normal(shape), rule, slow_options) for shape in SHAPES]
    targets = [rng.standard_normal(shape) for shape in SHAPES]

    def build() -> SlowFast:
        params = [torch.nn.Parameter(torch.from_numpy(e.s + e.f)) for e in expected]
        return SlowFast(slow_class(params, **slow_options, **how), **FAST, backend=backend)

    def check() -> None:
        for p, e in zip(optimizer.param_groups[0]["params"], expected, strict=True):
            for ours, theirs in (
                (p.detach(), e.s + e.f),
                (optimizer.slow_weights(p), e.s),
                (optimizer.fast_weights(p), e.f),
            ):
                np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)

    optimizer = build()
    fast_options, frozen = dict(FAST), False
    events = sorted(script)
    for step in range(STEPS):
        while events and events[0][0] == step:
            event = events.pop(0)[1]
            if event == "freeze":
                frozen = not frozen
            elif event == "relax":
                n = int(rng.integers(0, 50))
                optimizer.relax(n)
                for e in expected:
                    e.f = (1 - FAST["decay"]) ** n * e.f
            elif event == "consolidate":
                optimizer.consolidate()
                for e in expected:
                    e.s, e.f, e.Δf = e.s + e.f, np.zeros_like(e.f), np.zeros_like(e.f)
            elif event == "clear":
                optimizer.clear()
                for e in expected:
                    e.f, e.Δf = np.zeros_like(e.f), np.zeros_like(e.f)
            elif event == "slow_only":
                params = optimizer.param_groups[0]["params"]
                before = [p.detach().clone() for p in params]
                with optimizer.slow_only():
                    for p, e in zip(params, expected, strict=True):
                        np.testing.assert_allclose(p.detach().numpy(), e.s, rtol=0, atol=1e-12)
                assert all(map(torch.equal, before, params))
            elif event == "lr":
                lr = optimizer.param_groups[0]["lr"] = slow_options["lr"] * rng.uniform(0.1, 2)
                for e in expected:
                    e.options["lr"] = lr
            elif event == "fast_lr":
                fast_options["lr"] = optimizer.param_groups[0]["fast_lr"] = rng.uniform(0, 0.1)
            elif event == "resume":
                resumed, state = build(), copy.deepcopy(optimizer.state_dict())
                for new, old in zip(
                    resumed.param_groups[0]["params"],
                    optimizer.param_groups[0]["params"],
                    strict=True,
                ):
                    new.data.copy_(old.data)  # what the model's own state would bring back
                resumed.load_state_dict(state)
                optimizer = resumed
            else:
                optimizer = copy.deepcopy(optimizer)
        for p, e, target in zip(
            optimizer.param_groups[0]["params"], expected, targets, strict=True
        ):
            noisy = target + 0.1 * rng.standard_normal(target.shape)
            # (torch's own fused SGD cannot meet a parameter for the first time later on.)
            if rng.random() < 0.1 and (step > 0 or case != "sgd-fused"):
                p.grad = g = None
            else:
                # The gradient of a bowl, at the weight each of the two has arrived at.
                p.grad, g = p.detach() - torch.from_numpy(noisy), (e.s + e.f) - noisy
            e.step(g, frozen, **fast_options)
        with optimizer.rehearsal() if frozen else nullcontext():
            optimizer.step()
        if step % 100 == 99:
            check()
    norm = np.sqrt(sum((e.f**2).sum() for e in expected))
    assert optimizer.fast_norm() == pytest.approx(norm, abs=1e-12)


# -- what each word promises -----------------------------------------------------------------------

BACKENDS = ["reference", "foreach", "native"]


def make(backend: str = "auto", dtype: torch.dtype = torch.float64, **fast: float):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES
    ]
    sgd = torch.optim.SGD(params, lr=0.02, momentum=0.9)
    return params, SlowFast(sgd, **{**FAST, **fast}, backend=backend)


def give_gradients(params: list[torch.nn.Parameter], seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rehearsal_freezes_everything_slow(backend: str) -> None:
    params, optimizer = make(backend)
    give_gradients(params)
    optimizer.step()
    slow = [optimizer.slow_weights(p) for p in params]
    fast = [optimizer.fast_weights(p) for p in params]
    momentum = [optimizer.slow_optimizer.state[p]["momentum_buffer"].clone() for p in params]
    with optimizer.rehearsal(), optimizer.rehearsal():
        optimizer.step()
    for p, s, f, m in zip(params, slow, fast, momentum, strict=True):
        assert torch.equal(optimizer.slow_weights(p), s)
        assert torch.equal(optimizer.slow_optimizer.state[p]["momentum_buffer"], m)
        assert not torch.isclose(optimizer.fast_weights(p), f).any()
    optimizer.step()
    for p, s in zip(params, slow, strict=True):
        assert not torch.isclose(optimizer.slow_weights(p), s).any()


def test_rehearsal_ends_with_an_exception() -> None:
    params, optimizer = make()
    give_gradients(params)
    with pytest.raises(KeyError), optimizer.rehearsal():
        raise KeyError
    optimizer.step()
    assert optimizer.slow_optimizer.state[params[0]]["momentum_buffer"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_but_learning_moves_a_bit_of_a_slow_weight(dtype: torch.dtype) -> None:
    params, optimizer = make("foreach", dtype, lr=0.1)
    give_gradients(params)
    optimizer.step()
    slow = [optimizer.slow_weights(p) for p in params]
    for step in range(200):
        give_gradients(params, step)
        with optimizer.rehearsal():
            optimizer.step()
        optimizer.zero_grad()
        optimizer.step()
        optimizer.relax(1)
        with optimizer.slow_only():
            assert all(map(torch.equal, slow, params))
    assert optimizer.fast_norm() > 0.1
    assert all(torch.equal(s, optimizer.slow_weights(p)) for s, p in zip(slow, params, strict=True))
    optimizer.clear()
    assert all(map(torch.equal, slow, params))


@pytest.mark.parametrize("backend", BACKENDS)
def test_slow_weights_survive_an_overlay_that_overflows(backend: str) -> None:
    params, optimizer = make(backend, torch.float32)
    give_gradients(params)
    optimizer.step()
    slow = [optimizer.slow_weights(p) for p in params]
    with optimizer.rehearsal():
        for p in params:
            p.grad.fill_(torch.inf)
        optimizer.step()
        for p in params:
            p.grad.fill_(-torch.inf)
        optimizer.step()
    assert not any(p.isfinite().any() for p in params)
    with torch.no_grad():
        for p in params:
            p.add_(0.0)  # seen as a change from outside, of nothing
    optimizer.clear()
    assert all(map(torch.equal, slow, params))


def test_slow_only_restores_every_bit_also_after_an_exception() -> None:
    params, optimizer = make(dtype=torch.float32, lr=3.0)
    give_gradients(params)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    slow = [optimizer.slow_weights(p) for p in params]

    def look_and_fail() -> None:
        with optimizer.slow_only():
            with optimizer.slow_only():
                pass
            assert all(map(torch.equal, slow, params))
            assert all(torch.equal(optimizer.slow_weights(p), p) for p in params)
            with torch.no_grad():
                params[0].fill_(7.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look_and_fail()
    assert all(map(torch.equal, before, params))
    assert not any(map(torch.equal, slow, params))
    optimizer.step()  # and it learns again


@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.step(),
        lambda o: o.relax(1),
        lambda o: o.clear(),
        lambda o: o.consolidate(),
        lambda o: o.state_dict(),
        lambda o: o.load_state_dict({}),
        lambda o: o.__getstate__(),
    ],
)
def test_slow_only_refuses_what_would_mix_up_the_weights(call: Callable[[Any], Any]) -> None:
    params, optimizer = make()
    give_gradients(params)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    with optimizer.slow_only(), pytest.raises(RuntimeError, match="inside slow_only"):
        call(optimizer)
    assert all(map(torch.equal, before, params))


def test_relax_is_that_many_steps_without_gradients() -> None:
    (params, one), (others, other) = make(), make()
    for p, o in ((params, one), (others, other)):
        give_gradients(p)
        o.step()
        o.zero_grad()
    one.relax(17)
    for _ in range(17):
        other.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)
    assert one.fast_norm() == pytest.approx(other.fast_norm())


def test_relax_uses_the_decay_of_each_group() -> None:
    params, _ = make()
    groups = [{"params": params[:1]}, {"params": params[1:], "fast_decay": 0.5}]
    optimizer = SlowFast(torch.optim.SGD(groups, lr=0.1), lr=0.1, momentum=0.0, decay=0.0)
    give_gradients(params)
    optimizer.step()
    before = [optimizer.fast_weights(p) for p in params]
    optimizer.relax(3)
    assert torch.equal(optimizer.fast_weights(params[0]), before[0])
    torch.testing.assert_close(optimizer.fast_weights(params[1]), before[1] / 8)


def test_clear_and_consolidate() -> None:
    params, optimizer = make()
    give_gradients(params)
    optimizer.step()
    slow = [optimizer.slow_weights(p) for p in params]
    optimizer.clear()
    assert all(map(torch.equal, slow, params))
    assert optimizer.fast_norm() == 0
    optimizer.step()
    optimizer.zero_grad()
    effective = [p.detach().clone() for p in params]
    optimizer.consolidate()
    assert all(map(torch.equal, effective, params))
    assert all(torch.equal(optimizer.slow_weights(p), p) for p in params)
    optimizer.step()  # no update is left that would move anything
    assert all(map(torch.equal, effective, params))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parameter_without_gradient_decays_and_learns_nothing(backend: str) -> None:
    params, optimizer = make(backend)
    give_gradients(params)
    optimizer.step()
    optimizer.step()
    frozen = params[0]
    frozen.requires_grad_(False)
    frozen.grad = None
    slow, fast = optimizer.slow_weights(frozen), optimizer.fast_weights(frozen)
    update = optimizer.state[frozen]["fast_update"].clone()
    optimizer.step()
    assert torch.equal(optimizer.slow_weights(frozen), slow)
    torch.testing.assert_close(optimizer.fast_weights(frozen), 0.99 * fast, rtol=0, atol=1e-15)
    assert torch.equal(optimizer.state[frozen]["fast_update"], update)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parameter_never_trained_is_never_touched(backend: str) -> None:
    params, optimizer = make(backend)
    before = params[0].detach().clone()
    for seed in range(3):
        give_gradients(params, seed)
        params[0].grad = None
        optimizer.step()
    optimizer.relax(2)
    assert torch.equal(params[0], before)
    assert params[0] not in optimizer.state
    assert not optimizer.fast_weights(params[0]).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["in place", "new data"])
def test_a_change_from_outside_is_a_change_of_the_slow_weight(backend: str, how: str) -> None:
    params, optimizer = make(backend)
    give_gradients(params)
    optimizer.step()
    optimizer.step()
    p = params[0]
    slow, fast = optimizer.slow_weights(p), optimizer.fast_weights(p)
    with torch.no_grad():
        if how == "in place":
            p[0] += 1.0
        else:
            p.data = torch.cat([p[:1] + 1.0, p[1:]])
    momentum = optimizer.slow_optimizer.state[p]["momentum_buffer"].clone()
    with optimizer.rehearsal():
        optimizer.step()  # finds it without being asked for the weights
    update = optimizer.state[p]["fast_update"]
    torch.testing.assert_close(optimizer.fast_weights(p), 0.99 * (fast + update))
    torch.testing.assert_close(optimizer.slow_weights(p)[0], slow[0] + 1)
    assert torch.equal(optimizer.slow_weights(p)[1:], slow[1:])
    torch.testing.assert_close(p.detach(), optimizer.slow_weights(p) + optimizer.fast_weights(p))
    assert torch.equal(optimizer.slow_optimizer.state[p]["momentum_buffer"], momentum)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_returned_is_a_copy_and_gradients_are_left_alone(backend: str) -> None:
    params, optimizer = make(backend)
    give_gradients(params)
    gradient = params[0].grad.clone()
    optimizer.step()
    assert torch.equal(params[0].grad, gradient)
    slow, fast = optimizer.slow_weights(params[0]), optimizer.fast_weights(params[0])
    kept = slow.clone(), fast.clone()
    optimizer.step()
    assert torch.equal(slow, kept[0])
    assert torch.equal(fast, kept[1])
    assert not slow.requires_grad
    assert not fast.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_maximize_climbs_with_both(backend: str) -> None:
    results = []
    for maximize in (False, True):
        params, _ = make()
        sgd = torch.optim.SGD(params, lr=0.02, momentum=0.9, maximize=maximize)
        optimizer = SlowFast(sgd, **FAST, backend=backend)
        for step in range(3):
            give_gradients(params, step)
            for p in params:
                p.grad *= -1 if maximize else 1
            optimizer.step()
        results.append([optimizer.fast_weights(p) for p in params] + params)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_weight_decay_pulls_on_the_slow_weight_alone() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = SlowFast(
        torch.optim.AdamW([p], lr=0.1, weight_decay=0.5), lr=0.1, momentum=0.0, decay=0.0
    )
    with optimizer.rehearsal():
        p.grad = torch.full_like(p, -90.0)
        optimizer.step()  # f = 9
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(optimizer.fast_weights(p), torch.full_like(p, 9.0))
    torch.testing.assert_close(optimizer.slow_weights(p), torch.full_like(p, 0.95))

"""What the fused kernel must not be handed: the step goes another way then, with the same result.

Every case is compared with the reference, or with what torch's SGD does there.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastweights.ops.slow_fast import cpu
from fastweights.optim import SlowFast

FAST = {"lr": 0.03, "momentum": 0.5, "decay": 0.01}
BACKENDS = ["auto", "native", "foreach", "reference"]


def learner(
    backend: str = "auto", dtype: torch.dtype = torch.float32, **sgd: Any
) -> tuple[nn.Linear, SlowFast]:
    model = nn.Linear(5, 3, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.arange(15.0).view(3, 5) / 7)
        model.bias.fill_(0.3)
    slow = torch.optim.SGD(model.parameters(), **{"lr": 0.02, "momentum": 0.9, **sgd})
    return model, SlowFast(slow, **FAST, backend=backend)


def learn(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    x = torch.linspace(-1, 1, 20, dtype=model.weight.dtype).view(4, 5)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every call of the fused kernel."""
    calls: list[int] = []
    step = cpu.sgd_step

    def counted(*columns: Any, **options: Any) -> None:
        calls.append(len(columns[0]))
        step(*columns, **options)

    monkeypatch.setattr(cpu, "sgd_step", counted)
    return calls


# -- a model that changes its dtype, its memory or its shape ---------------------------------------


@pytest.mark.parametrize("backend", ["auto", "foreach", "reference"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
)
def test_a_model_that_changes_its_dtype_learns_on_as_with_sgd(
    backend: str, before: torch.dtype, after: torch.dtype
) -> None:
    model, optimizer = learner(backend, before)
    learn(model, optimizer)
    weights = model.weight.detach().clone()
    slow, fast = optimizer.slow_weights(model.weight), optimizer.fast_weights(model.weight)
    model.to(after)
    assert torch.equal(model.weight, weights.to(after))
    assert torch.equal(optimizer.slow_weights(model.weight), slow.to(after))
    assert torch.equal(optimizer.fast_weights(model.weight), fast.to(after))
    learn(model, optimizer)
    assert {v.dtype for v in optimizer.state[model.weight].values()} == {after}

    expected, other = learner("reference", before)
    learn(expected, other)
    expected.to(after)
    learn(expected, other)
    tolerance = 0.05 if torch.bfloat16 in (before, after) else 1e-6
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_slow_weights_follow_sgd_alone_after_double() -> None:
    model, optimizer = learner()
    alone = copy.deepcopy(model)
    plain = torch.optim.SGD(alone.parameters(), lr=0.02, momentum=0.9)
    for step in range(4):
        if step == 2:
            model.double()
            alone.double()
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            p.grad = torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view(p.shape)
            q.grad = p.grad.clone()
        optimizer.step()
        plain.step()
        optimizer.zero_grad()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(optimizer.slow_weights(p), q.detach(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("during", ["slow_only", "rehearsal"])
def test_a_model_may_change_its_dtype_inside_a_block(during: str) -> None:
    model, optimizer = learner()
    learn(model, optimizer)
    slow = optimizer.slow_weights(model.weight).double()
    with getattr(optimizer, during)():
        model.double()
        if during == "rehearsal":
            learn(model, optimizer)
        else:
            torch.testing.assert_close(model.weight.detach(), slow, rtol=0, atol=1e-6)
    assert torch.equal(optimizer.slow_weights(model.weight), slow)
    learn(model, optimizer)


def test_explicit_native_says_which_tensor_does_not_fit_and_which_backend_can() -> None:
    model, optimizer = learner("native")
    learn(model, optimizer)
    model.double()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        ValueError,
        match=r"momentum_buffer is torch.float32, but its weight torch.float64.*'foreach' can",
    ):
        learn(model, optimizer, 1)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "act", ["step", "relax", "clear", "consolidate", "state_dict", "fast_norm"]
)
def test_a_parameter_of_another_shape_is_an_error(backend: str, act: str) -> None:
    model, optimizer = learner(backend)
    learn(model, optimizer)
    model.weight.grad = None
    model.weight.data = torch.zeros(4, 5)
    bias = model.bias.detach().clone()
    with pytest.raises(
        RuntimeError, match=r"slow_weight in the state of parameter 0 .*\(3, 5\).*\(4, 5\)"
    ):
        getattr(optimizer, act)(*([1] if act == "relax" else []))
    assert torch.equal(model.bias, bias)


@pytest.mark.parametrize("key", ["slow_weight", "fast_weight", "fast_update"])
def test_a_state_with_a_part_missing_is_an_error(key: str) -> None:
    model, optimizer = learner()
    learn(model, optimizer)
    del optimizer.state[model.weight][key]
    with pytest.raises(RuntimeError, match=f"{key} in the state of parameter 0 of group 0 must be"):
        learn(model, optimizer, 1)


def test_a_state_dict_of_another_model_is_refused_and_changes_nothing() -> None:
    model, optimizer = learner()
    learn(model, optimizer)
    other = nn.Linear(4, 3)
    foreign = SlowFast(torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9), **FAST)
    other(torch.ones(4)).sum().backward()
    foreign.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"slow_weight in the state of parameter 0.*\(3, 4\)"):
        optimizer.load_state_dict(foreign.state_dict())
    after = optimizer.state_dict()
    for key, state in before["state"].items():
        assert all(torch.equal(value, after["state"][key][name]) for name, value in state.items())


# -- tensors that are not what they seem -----------------------------------------------------------

Change = Callable[[nn.Linear, SlowFast], None]


def lazily_negated(tensor: Tensor) -> Tensor:
    """The same values, of which memory holds the negatives, as of an imaginary part's conjugate."""
    return torch._neg_view(-tensor)


def negated_gradient(model: nn.Linear, _: SlowFast) -> None:
    model.weight.grad = lazily_negated(model.weight.grad)


def negated_state(model: nn.Linear, optimizer: SlowFast) -> None:
    state = optimizer.state[model.weight]
    state["fast_update"] = lazily_negated(state["fast_update"])


def zero_gradient(model: nn.Linear, _: SlowFast) -> None:
    model.weight.grad = torch._efficientzerotensor((3, 5))


def expanded_gradient(model: nn.Linear, _: SlowFast) -> None:
    model.weight.grad = torch.ones(1, 1).expand(3, 5)


def transposed_state(model: nn.Linear, optimizer: SlowFast) -> None:
    state = optimizer.state[model.weight]
    state["slow_weight"] = state["slow_weight"].t().contiguous().t()


def double_state(model: nn.Linear, optimizer: SlowFast) -> None:
    for state in (optimizer.state[model.weight], optimizer.slow_optimizer.state[model.weight]):
        state.update({key: value.double() for key, value in state.items()})


def shared_memory(model: nn.Linear, optimizer: SlowFast) -> None:
    row = torch.cat([torch.zeros(3), optimizer.state[model.bias]["slow_weight"]])
    optimizer.state[model.bias]["slow_weight"] = row[3:]
    model.bias.grad = row[2:5]


def subclass_gradient(model: nn.Linear, _: SlowFast) -> None:
    model.weight.grad = model.weight.grad.as_subclass(Odd)


class Odd(Tensor):
    """A tensor of a class of its own."""


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "change",
    [
        negated_gradient,
        negated_state,
        zero_gradient,
        expanded_gradient,
        transposed_state,
        double_state,
        shared_memory,
        subclass_gradient,
    ],
    ids=lambda change: change.__name__,
)
def test_tensors_whose_bits_are_not_their_values(
    change: Change, backend: str, fused: list[int]
) -> None:
    results = []
    for chosen in (backend, "reference"):
        model, optimizer = learner(chosen)
        learn(model, optimizer)
        fused.clear()
        change(model, optimizer)
        if results:  # the same values, in memory of their own
            for p in model.parameters():
                p.grad = p.grad.as_subclass(Tensor).clone().resolve_neg().contiguous()
                for key, value in optimizer.state[p].items():
                    optimizer.state[p][key] = value.clone().resolve_neg()
        optimizer.step()
        assert not fused
        results.append([*model.parameters(), *map(optimizer.fast_weights, model.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_parameters_are_refused(backend: str) -> None:
    p = nn.Parameter(torch.eye(3).to_sparse())
    p.grad = torch.eye(3).to_sparse()
    optimizer = SlowFast(torch.optim.SGD([p], lr=0.1, momentum=0.9), **FAST, backend=backend)
    with pytest.raises(RuntimeError, match="does not support sparse parameters: parameter 0"):
        optimizer.step()


@pytest.mark.parametrize("backend", ["auto", "foreach", "reference"])
def test_on_the_meta_device_a_step_computes_nothing(backend: str) -> None:
    model = nn.Linear(5, 3, device="meta")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = SlowFast(sgd, **FAST, backend=backend)
    model(torch.ones(2, 5, device="meta")).sum().backward()
    optimizer.step()
    assert optimizer.fast_weights(model.weight).is_meta


def test_a_default_device_changes_nothing() -> None:
    model, optimizer = learner()
    learn(model, optimizer)
    with torch.device("meta"):
        optimizer.step()
        with optimizer.slow_only():
            pass
        optimizer.relax(2)
        assert optimizer.fast_norm() > 0
    assert not any(v.is_meta for state in optimizer.state.values() for v in state.values())


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(4), r"slow has shape \(4,\), but its weight \(3,\)"),
        (torch.zeros(3, dtype=torch.float64), "slow is torch.float64, but its weight"),
        (torch.zeros(3, device="meta"), "slow is on meta"),
        (torch.zeros(3).to_sparse(), "slow has the layout torch.sparse_coo"),
        (torch._efficientzerotensor((3,)), "slow has no memory"),
        (lazily_negated(torch.zeros(3)), "slow is negated"),
        (torch.zeros(3, 2)[:, 0], "slow is not contiguous"),
        (torch.empty(3, dtype=torch.float16), "slow is torch.float16"),
        (torch.zeros(3).as_subclass(Odd), "slow is a Odd"),
    ],
)
def test_the_kernel_says_what_does_not_fit(tensor: Tensor, reason: str) -> None:
    refusal = cpu.unsupported_reason([torch.zeros(3)], slow=[tensor])
    assert refusal is not None
    assert re.match(reason, refusal)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_the_kernel_refuses_quantised_tensors() -> None:
    quantised = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    refusal = cpu.unsupported_reason([torch.zeros(3)], slow=[quantised])
    assert refusal == "slow is torch.qint8, not float32 or float64"


def test_the_kernel_does_not_reach_beyond_the_memory_of_a_tensor() -> None:
    emptied, w = torch.zeros(100), torch.zeros(100)
    emptied.untyped_storage().resize_(40)
    refusal = cpu.unsupported_reason([w], slow=[emptied])
    assert refusal == "slow has less memory than its shape says"
    assert cpu.unsupported_reason([w], slow=[w]) == "two of the tensors share memory"
    parts = torch.zeros(10)
    assert cpu.unsupported_reason([parts[:6]], slow=[parts[4:]]) is not None
    assert cpu.unsupported_reason([parts[:5]], slow=[parts[5:]]) is None


def a_tensor_of_two() -> tuple[nn.Parameter, SlowFast]:
    """A parameter that wraps two tensors, whose version does not count what is written to them."""
    p = nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))
    optimizer = SlowFast(torch.optim.SGD([p], lr=0.1, momentum=0.9), **FAST)
    for _ in range(3):
        p.grad = TwoTensor(torch.ones(3), torch.ones(3))
        optimizer.step()
    p.grad = None
    return p, optimizer


@pytest.mark.parametrize("then", ["step", "relax", "clear", "slow_only", "state_dict"])
def test_what_is_written_inside_of_a_tensor_is_not_undone(then: str) -> None:
    p, optimizer = a_tensor_of_two()
    fast = optimizer.fast_weights(p).a
    with torch.no_grad():
        p.a.fill_(9.0)
        p.b.fill_(9.0)
    if then == "slow_only":
        with optimizer.slow_only():
            torch.testing.assert_close(p.a.detach(), 9.0 - fast)
    elif then == "relax":
        optimizer.relax(0)
    else:
        getattr(optimizer, then)()
    torch.testing.assert_close(optimizer.slow_weights(p).a, 9.0 - fast)


def test_slow_weights_inside_of_a_tensor_stay_to_the_last_bit() -> None:
    p, optimizer = a_tensor_of_two()
    slow = optimizer.slow_weights(p).a
    with optimizer.rehearsal():
        for step in range(200):
            p.grad = TwoTensor(*(torch.full((3,), 0.1 * (step % 7 - 3)) for _ in range(2)))
            optimizer.step()
    assert torch.equal(optimizer.slow_weights(p).a, slow)


@pytest.mark.parametrize("written", [False, True])
def test_loading_no_fast_weights_into_a_tensor_of_two(written: bool) -> None:
    p, optimizer = a_tensor_of_two()
    slow = optimizer.slow_weights(p).a
    if written:
        with torch.no_grad():
            p.a.fill_(9.0)
            p.b.fill_(9.0)
    optimizer.load_state_dict(torch.optim.SGD([p], lr=0.1, momentum=0.9).state_dict())
    assert torch.equal(p.a, torch.full((3,), 9.0) if written else slow)
    assert optimizer.fast_norm() == 0


def adam_learner(backend: str) -> tuple[nn.Linear, SlowFast]:
    model, _ = learner()
    optimizer = SlowFast(torch.optim.AdamW(model.parameters(), lr=0.1), **FAST, backend=backend)
    learn(model, optimizer, 1)
    return model, optimizer


def test_two_counts_of_steps_for_one_parameter_move_nothing() -> None:
    model, optimizer = adam_learner("auto")
    optimizer.slow_optimizer.state[model.bias]["step"] = torch.ones(2)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError):  # torch's own
        optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))
    assert optimizer.slow_optimizer.state[model.weight]["exp_avg"].isfinite().all()


def test_a_count_of_steps_may_be_an_integer() -> None:
    results = []
    for backend in ("auto", "reference"):
        model, optimizer = adam_learner(backend)
        for state in optimizer.slow_optimizer.state.values():
            state["step"] = torch.tensor(1)
        learn(model, optimizer, 2)
        results.append([*model.parameters(), *map(optimizer.fast_weights, model.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


# -- transforms, compilers, modes ------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "foreach", "reference"])
@pytest.mark.parametrize("change", [negated_gradient, negated_state], ids=lambda c: c.__name__)
def test_a_compiled_step_refuses_what_compiled_code_may_misread(
    change: Change, backend: str
) -> None:
    torch.compiler.reset()
    model, optimizer = learner(backend)
    learn(model, optimizer)
    change(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=r"inside torch.compile with parameter 0.*resolve_neg"):
        torch.compile(optimizer.step, backend="eager")()
    assert all(map(torch.equal, before, model.parameters()))


def graph_breaks(*shapes: tuple[int, ...]) -> int:
    torch.compiler.reset()
    counters.clear()
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = SlowFast(torch.optim.SGD(params, lr=0.1, momentum=0.9), **FAST)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        step()
    return sum(counters["graph_break"].values())


@pytest.mark.filterwarnings("default")
def test_a_compiled_step_does_not_stop_at_every_parameter() -> None:
    assert graph_breaks((3,), (3, 2), (1, 4, 2), (5,), (2, 2, 2, 2)) == graph_breaks((3,))


def under_vmap(step: Callable[[], Any]) -> None:
    torch.func.vmap(lambda x: (step(), x)[1])(torch.ones(2))


def under_grad(step: Callable[[], Any]) -> None:
    torch.func.grad(lambda x: (step(), x)[1])(torch.ones(()))


def under_jvp(step: Callable[[], Any]) -> None:
    one = torch.ones(())
    torch.func.jvp(lambda x: (step(), x)[1], (one,), (one,))


def under_forward_mode(step: Callable[[], Any]) -> None:
    with forward_ad.dual_level():
        step()


def under_trace(step: Callable[[], Any]) -> None:
    torch.jit.trace(lambda x: (step(), x + 1)[1], (torch.ones(2),), check_trace=False)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
        return function(*args, **(kwargs or {}))


def under_a_mode(step: Callable[[], Any]) -> None:
    with _Mode():
        step()


# Which backends step under it, and what the others say.
TRANSFORMS = {
    "vmap": (under_vmap, (), "cannot step inside a transform of torch.func"),
    "grad": (under_grad, (), "cannot step inside a transform of torch.func"),
    "jvp": (under_jvp, (), "cannot step inside a transform of torch.func"),
    "jit.trace": (under_trace, (), "cannot step inside torch.jit.trace"),
    "forward mode": (
        under_forward_mode,
        ("auto", "reference"),
        "cannot run.*forward-mode differentiation.*backend='reference' can",
    ),
    "dispatch mode": (
        under_a_mode,
        ("auto", "foreach", "reference"),
        "cannot run.*a mode that sees every operation.*backend='foreach' can",
    ),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_every_transform_gets_the_whole_step_or_an_error(
    transform: str, backend: str, fused: list[int]
) -> None:
    model, optimizer = learner(backend)
    expected, other = learner("reference")
    learn(model, optimizer)
    learn(expected, other)
    fused.clear()
    run, able, reason = TRANSFORMS[transform]
    if backend in able:
        run(optimizer.step)
        other.step()
    else:
        with pytest.raises((ValueError, RuntimeError), match=reason):
            run(optimizer.step)
    assert not fused
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        for key, value in optimizer.state[p].items():
            torch.testing.assert_close(value, other.state[q][key])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_tangents_of_gradients_reach_the_weights(backend: str) -> None:
    """w moves by −(ε_s + keep ε_f) g in a first step, and so does its tangent."""
    model, optimizer = learner(backend)
    learn(model, optimizer, 1)
    optimizer.clear()
    with forward_ad.dual_level():
        tangent = torch.ones(3)
        model.weight.grad = None
        model.bias.grad = forward_ad.make_dual(torch.zeros(3), tangent)
        optimizer.step()
        found = forward_ad.unpack_dual(model.bias).tangent
    torch.testing.assert_close(found, -(0.02 + 0.99 * 0.03) * tangent)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_a_transform_are_refused_before_anything_moves(backend: str) -> None:
    model, optimizer = learner(backend)
    learn(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()]

    def leak(x: Tensor) -> Tensor:
        model.bias.grad = x
        return x

    torch.func.vmap(leak)(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match=r"cannot step with a tensor of.*parameter 1"):
        optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_inference_mode_the_slow_weights_can_be_seen(backend: str) -> None:
    model, optimizer = learner(backend)
    learn(model, optimizer)
    before, x = model.weight.detach().clone(), torch.ones(2, 5)
    slow = torch.nn.functional.linear(x, *map(optimizer.slow_weights, model.parameters()))
    with torch.inference_mode(), optimizer.slow_only():
        torch.testing.assert_close(model(x), slow.detach())
    assert torch.equal(model.weight, before)
    learn(model, optimizer)


@pytest.mark.parametrize("backend", BACKENDS)
def test_models_in_parallel_learn_as_each_alone(backend: str) -> None:
    """Ensembles: functional calls under vmap, gradients of the stacked weights, one optimizer."""
    models = [learner()[0] for _ in range(2)]
    with torch.no_grad():
        models[1].weight.mul_(-1)
    weights, _ = torch.func.stack_module_state(models)
    optimizer = SlowFast(
        torch.optim.SGD(weights.values(), lr=0.02, momentum=0.9), **FAST, backend=backend
    )
    x = torch.linspace(-1, 1, 20).view(4, 5)
    for _ in range(3):
        optimizer.zero_grad()
        outputs = torch.func.vmap(lambda w: torch.func.functional_call(models[0], w, (x,)))(weights)
        outputs.square().mean(dim=(1, 2)).sum().backward()
        optimizer.step()
    for index, model in enumerate(models):
        sgd = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        learn(model, SlowFast(sgd, **FAST))
        for name, p in model.named_parameters():
            torch.testing.assert_close(weights[name][index], p)

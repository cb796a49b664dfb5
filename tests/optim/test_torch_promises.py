"""What torch promises of any optimizer: groups, hooks, saving, copying, schedulers, scaling."""

from __future__ import annotations

import copy
import io
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastweights.optim import SlowFast

FAST = {"lr": 0.03, "momentum": 0.5, "decay": 0.01}
SLOW: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, fused=True),
    "sgd plain": lambda p: torch.optim.SGD(p, lr=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adam loop": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
}


def network(seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return model


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    return (model(x) - y).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def everything(model: nn.Module, optimizer: SlowFast) -> list[Tensor]:
    found = []
    for p in model.parameters():
        found += [p.detach().clone(), optimizer.slow_weights(p), optimizer.fast_weights(p)]
        for value in optimizer.slow_optimizer.state[p].values():
            found.append(torch.as_tensor(value).clone())
    return found


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    assert all(map(torch.equal, a, b))


# -- any slow optimizer ----------------------------------------------------------------------------


@pytest.mark.parametrize("slow", SLOW)
def test_slow_weights_move_as_the_slow_optimizer_alone_moves_them(slow: str) -> None:
    """With gradients that do not depend on the weights, the fast weights change nothing."""
    model, alone = network(), network()
    optimizer = SlowFast(SLOW[slow](model.parameters()), **FAST)
    plain = SLOW[slow](alone.parameters())
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            q.grad = p.grad.clone()
        optimizer.step()
        plain.step()
    for p, q in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(optimizer.slow_weights(p), q.detach(), rtol=0, atol=1e-13)
        assert not torch.allclose(p, q)


# NAdam alone does not: torch keeps its product of momenta in float32 and loads it as float64.
@pytest.mark.parametrize("slow", [name for name in SLOW if name != "nadam"])
def test_resumes_exactly_from_what_was_saved(slow: str, tmp_path: Path) -> None:
    model = network()
    optimizer = SlowFast(SLOW[slow](model.parameters()), **FAST)
    train(model, optimizer, range(3))
    with optimizer.rehearsal():
        train(model, optimizer, range(3, 5))
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    train(model, optimizer, range(5, 9))

    for order in ("model first", "optimizer first"):
        saved = torch.load(path, weights_only=True)
        fresh = network(seed=7)
        resumed = SlowFast(SLOW[slow](fresh.parameters()), lr=0.5, momentum=0.1, decay=0.9)
        if order == "model first":
            fresh.load_state_dict(saved["model"])
        resumed.load_state_dict(saved["optimizer"])
        if order == "optimizer first":
            fresh.load_state_dict(saved["model"])
        train(fresh, resumed, range(5, 9))
        assert_same(everything(model, optimizer), everything(fresh, resumed))


def test_the_saved_state_belongs_to_nobody_else() -> None:
    model, other = network(), network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(2))
    twin = SlowFast(SLOW["sgd"](other.parameters()), **FAST)
    twin.load_state_dict(optimizer.state_dict())
    before = [optimizer.fast_weights(p) for p in model.parameters()]
    train(other, twin, range(2, 4))
    assert_same(before, [optimizer.fast_weights(p) for p in model.parameters()])


def test_state_is_exchanged_with_the_slow_optimizer_alone() -> None:
    model, other = network(), network()
    plain = SLOW["adamw"](model.parameters())
    train(model, plain, range(3))
    optimizer = SlowFast(SLOW["adamw"](other.parameters()), **FAST)
    train(other, optimizer, range(2))
    optimizer.param_groups[0]["fast_lr"] = 0.25
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert optimizer.fast_norm() == 0
    assert optimizer.param_groups[0]["fast_lr"] == 0.25
    first = next(other.parameters())
    assert torch.equal(
        optimizer.slow_optimizer.state[first]["exp_avg"],
        plain.state[next(model.parameters())]["exp_avg"],
    )
    train(other, optimizer, range(3, 4))
    back = SLOW["adamw"](network().parameters())
    back.load_state_dict(optimizer.state_dict())
    assert next(iter(back.state.values()))["step"] == 4


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(2))
    before = everything(model, optimizer)
    for wrong in (nn.Linear(2, 2).parameters(), [{"params": [p]} for p in network().parameters()]):
        state = SlowFast(SLOW["sgd"](wrong), **FAST).state_dict()
        with pytest.raises(ValueError, match="param"):
            optimizer.load_state_dict(state)
        assert_same(before, everything(model, optimizer))


def test_hooks_around_saving_see_the_whole_state() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(1))
    seen: dict[str, Any] = {}
    optimizer.register_state_dict_pre_hook(lambda o: seen.update(before=True))
    optimizer.register_state_dict_post_hook(lambda o, s: seen.update(saved=set(s["state"][0])))
    optimizer.register_load_state_dict_pre_hook(
        lambda o, s: seen.update(loading=set(s["state"][0]))
    )
    optimizer.register_load_state_dict_post_hook(lambda o: seen.update(after=o.fast_norm()))
    state = optimizer.state_dict()
    optimizer.clear()
    optimizer.load_state_dict(state)
    keys = {"momentum_buffer", "slow_weight", "fast_weight", "fast_update"}
    assert seen["before"]
    assert seen["saved"] == keys
    assert seen["loading"] == keys
    assert seen["after"] == optimizer.fast_norm()


def test_saving_and_loading_leave_no_hooks_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    calls: list[str] = []
    slow = optimizer.slow_optimizer
    for name in ("state_dict", "load_state_dict"):
        method = getattr(slow, name)
        monkeypatch.setattr(
            slow, name, lambda *a, n=name, m=method: (calls.append(n), m(*a))[1], raising=False
        )
    for _ in range(3):
        optimizer.load_state_dict(optimizer.state_dict())
    assert calls == 3 * ["state_dict", "load_state_dict"]


def test_the_parameters_decide_where_a_loaded_state_does_not_go_with_them() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, range(2, 4))
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer.load_state_dict(state)
    for p, w in zip(model.parameters(), weights, strict=True):
        assert torch.equal(p, w)
        assert torch.equal(optimizer.fast_weights(p), optimizer.state[p]["fast_weight"])
        torch.testing.assert_close(optimizer.slow_weights(p) + optimizer.fast_weights(p), w)


def test_what_is_saved_goes_with_what_the_parameters_hold() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(2))
    with torch.no_grad():
        model[0].weight.mul_(2)
    saved = optimizer.state_dict()["state"][0]
    torch.testing.assert_close(saved["slow_weight"] + saved["fast_weight"], model[0].weight.data)


@pytest.mark.parametrize("look", ["slow_only", "relax", "state_dict"])
def test_what_is_loaded_never_becomes_part_of_a_graph(look: str) -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(2))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    if look == "slow_only":
        with optimizer.slow_only():
            pass
    else:
        getattr(optimizer, look)(*([1] if look == "relax" else []))
    assert not any(v.requires_grad for state in optimizer.state.values() for v in state.values())
    copy.deepcopy(optimizer)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("slow", ["sgd", "adamw"])
def test_copies_go_on_by_themselves(slow: str, how: str) -> None:
    model = network()
    optimizer = SlowFast(SLOW[slow](model.parameters()), **FAST, backend="foreach")
    train(model, optimizer, range(3))
    pair = {"model": model, "optimizer": optimizer}
    if how == "deepcopy":
        twin = copy.deepcopy(pair)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(pair))
    else:
        buffer = io.BytesIO()
        torch.save(pair, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert twin["optimizer"].backend == "foreach"
    before = everything(model, optimizer)
    assert_same(before, everything(twin["model"], twin["optimizer"]))
    train(twin["model"], twin["optimizer"], range(3, 6))
    assert_same(before, everything(model, optimizer))
    train(model, optimizer, range(3, 6))
    assert_same(everything(model, optimizer), everything(twin["model"], twin["optimizer"]))


# -- groups ----------------------------------------------------------------------------------------


def test_groups_have_options_of_their_own() -> None:
    model = network()
    a, b = model[0].parameters(), model[2].parameters()
    groups = [
        {"params": a, "lr": 0.5},
        {"params": b, "fast_lr": 0.0, "fast_momentum": 0.1, "fast_decay": 0.5},
    ]
    optimizer = SlowFast(torch.optim.SGD(groups, lr=0.1, momentum=0.9), **FAST)
    assert optimizer.param_groups is optimizer.slow_optimizer.param_groups
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1]
    assert [g["fast_lr"] for g in optimizer.param_groups] == [0.03, 0.0]
    assert [g["fast_decay"] for g in optimizer.param_groups] == [0.01, 0.5]
    train(model, optimizer, range(1))
    assert optimizer.fast_weights(model[0].weight).any()
    assert not optimizer.fast_weights(model[2].weight).any()


@pytest.mark.parametrize("through", ["SlowFast", "slow optimizer"])
def test_a_group_added_later_learns(through: str) -> None:
    model = network()
    optimizer = SlowFast(SLOW["adamw"](model[0].parameters()), **FAST)
    train(model, optimizer, range(2))
    adder = optimizer if through == "SlowFast" else optimizer.slow_optimizer
    adder.add_param_group({"params": list(model[2].parameters()), "lr": 0.5, "fast_lr": 0.125})
    train(model, optimizer, range(2, 4))
    group = optimizer.param_groups[1]
    assert (group["lr"], group["fast_lr"], group["fast_decay"]) == (0.5, 0.125, 0.01)
    assert optimizer.fast_weights(model[2].weight).any()
    assert optimizer.slow_optimizer.state[model[2].weight]["step"] == 2


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        (lambda p, q: {"params": [q], "fast_lr": -1.0}, ValueError, "fast_lr of parameter group 1"),
        (lambda p, q: {"params": [q], "fast_decay": "x"}, TypeError, "fast_decay of parameter gr"),
        (lambda p, q: {"params": [p]}, ValueError, "more than one parameter group"),
        (lambda p, q: {"params": {q}}, TypeError, "ordered collections"),
        (lambda p, q: [q], TypeError, "must be a dict"),
    ],
)
def test_a_group_that_cannot_be_is_not_added(
    group: Callable[..., Any], error: type[Exception], message: str
) -> None:
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SlowFast(torch.optim.SGD([p]), **FAST)
    with pytest.raises(error, match=message):
        optimizer.add_param_group(group(p, q))
    assert len(optimizer.param_groups) == 1


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_twice_is_refused() -> None:
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="same parameter twice"):
        SlowFast(torch.optim.SGD([p, p]), **FAST)
    optimizer = SlowFast(torch.optim.SGD([p]), **FAST)
    with pytest.raises(ValueError, match="same parameter twice"):
        optimizer.add_param_group({"params": [q, q]})
    assert len(optimizer.param_groups) == 1


def test_named_parameters_are_named_in_errors() -> None:
    model = nn.Embedding(5, 2, sparse=True)
    optimizer = SlowFast(torch.optim.SGD(model.named_parameters()), **FAST)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="'weight' of group 0"):
        optimizer.step()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr", "momentum", "decay"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-0.1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("0.1", TypeError),
        (None, TypeError),
        (True, TypeError),
        (torch.tensor(0.1), TypeError),
    ],
)
def test_impossible_options_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    with pytest.raises(error, match=f"^{name} must be .*, got "):
        SlowFast(sgd, **{**FAST, name: value})
    assert "fast_lr" not in sgd.param_groups[0]


@pytest.mark.parametrize(("name", "value"), [("momentum", 1.0), ("decay", 1.5)])
def test_options_have_upper_ends(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        SlowFast(torch.optim.SGD([nn.Parameter(torch.ones(1))]), **{**FAST, name: value})


def test_an_option_made_impossible_later_is_refused_before_anything_moves() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(1))
    before = everything(model, optimizer)
    optimizer.param_groups[0]["fast_decay"] = 2.0
    for act in (optimizer.step, lambda: optimizer.relax(1)):
        with pytest.raises(ValueError, match="fast_decay of parameter group 0"):
            act()
    assert_same(before, everything(model, optimizer))


@pytest.mark.parametrize(
    ("slow", "error", "message"),
    [
        (lambda p: p, TypeError, "slow_optimizer must be a torch.optim.Optimizer"),
        (lambda p: SlowFast(torch.optim.SGD(p), **FAST), TypeError, "not itself a SlowFast"),
        (lambda p: torch.optim.LBFGS(p), ValueError, "LBFGS evaluates the loss several times"),
        (
            lambda p: torch.optim.SGD(p, differentiable=True),
            ValueError,
            "differentiable=True in parameter group 0",
        ),
    ],
)
def test_slow_optimizers_it_cannot_use_are_refused(
    slow: Callable[..., Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SlowFast(slow([nn.Parameter(torch.ones(1))]), **FAST)


@pytest.mark.parametrize("steps", [-1, 1.5, True, "3"])
def test_relax_refuses_what_is_no_number_of_steps(steps: Any) -> None:
    optimizer = SlowFast(torch.optim.SGD([nn.Parameter(torch.ones(1))]), **FAST)
    with pytest.raises((TypeError, ValueError), match="steps must be an integer >= 0, got"):
        optimizer.relax(steps)


def test_weights_of_a_stranger_are_refused() -> None:
    optimizer = SlowFast(torch.optim.SGD([nn.Parameter(torch.ones(1))]), **FAST)
    stranger = nn.Parameter(torch.ones(1))
    for ask in (optimizer.slow_weights, optimizer.fast_weights):
        with pytest.raises(ValueError, match="parameter must be one"):
            ask(stranger)


@pytest.mark.parametrize("backend", ["auto", "foreach", "reference", "native"])
def test_sparse_gradients_are_refused_before_anything_moves(backend: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Embedding(5, 2, sparse=True))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = SlowFast(sgd, **FAST, backend=backend)
    (model[0](torch.ones(2)).sum() + model[1](torch.tensor([1, 2])).sum()).backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="does not support sparse gradients: parameter 2 of"):
        optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))
    assert not sgd.state


def test_a_slow_step_that_fails_leaves_both_weights_as_they_were() -> None:
    model = network()
    optimizer = SlowFast(SLOW["adamw"](model.parameters()), **FAST)
    train(model, optimizer, range(2))

    def fail(*_: Any) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(9.0)
        raise ArithmeticError

    handle = optimizer.slow_optimizer.register_step_pre_hook(fail)
    before = [(p.detach().clone(), optimizer.slow_weights(p)) for p in model.parameters()]
    with pytest.raises(ArithmeticError):
        optimizer.step()
    handle.remove()
    for p, (w, s) in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, w)
        assert torch.equal(optimizer.slow_weights(p), s)


# -- steps, hooks, closures ------------------------------------------------------------------------


def test_hooks_run_around_the_whole_step_and_around_the_slow_one() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(2))
    p = next(model.parameters())
    calls: list[str] = []
    slow = optimizer.slow_weights(p)

    def inside(*_: Any) -> None:
        calls.append("slow")
        assert torch.equal(p, slow)

    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    handle = optimizer.slow_optimizer.register_step_pre_hook(inside)
    optimizer.step()
    assert calls == ["pre", "slow", "post"]
    handle.remove()
    optimizer.step()
    assert calls == ["pre", "slow", "post", "pre", "post"]


def test_hooks_of_the_slow_optimizer_are_not_passed_over() -> None:
    results = []
    for hooked in (False, True):
        model = network()
        optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
        count: list[int] = []
        if hooked:
            optimizer.slow_optimizer.register_step_post_hook(lambda *_, c=count: c.append(1))
        train(model, optimizer, range(3))
        assert len(count) == 3 * hooked
        results.append(everything(model, optimizer))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_the_count_of_steps_is_that_of_learning_steps() -> None:
    model = network()
    optimizer = SlowFast(SLOW["adamw"](model.parameters()), **FAST)
    train(model, optimizer, range(3))
    with optimizer.rehearsal():
        train(model, optimizer, range(2))
    optimizer.relax(5)
    train(model, optimizer, range(1))
    assert {int(s["step"]) for s in optimizer.slow_optimizer.state.values()} == {4}


@pytest.mark.parametrize("slow", ["sgd", "adamw"])
def test_a_closure_is_called_once_at_the_effective_weights(slow: str) -> None:
    model, other = network(), network()
    optimizer = SlowFast(SLOW[slow](model.parameters()), **FAST)
    expected = SlowFast(SLOW[slow](other.parameters()), **FAST)
    train(other, expected, range(3))
    for step in range(3):
        calls = []

        def closure(step: int = step, calls: list[Tensor] = calls) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            calls.append(loss)
            return loss

        loss = optimizer.step(closure)
        assert len(calls) == 1
        assert loss is calls[0]
    assert optimizer.step() is None
    expected.step()
    assert_same(everything(model, optimizer), everything(other, expected))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    loss_of(model, 0).backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    for p in model.parameters():
        assert (p.grad is None) is set_to_none
        assert set_to_none or not p.grad.any()


def test_zero_gradients_are_learned_from_and_absent_ones_are_not() -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SlowFast(torch.optim.SGD([p], lr=0.1, momentum=0.9), lr=1.0, momentum=0.5, decay=0)
    p.grad = -torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    assert optimizer.fast_weights(p).item() == 1.0
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert optimizer.fast_weights(p).item() == 1.5


# -- schedulers and scaling ------------------------------------------------------------------------


def test_a_scheduler_moves_the_slow_learning_rate_alone() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    train(model, optimizer, range(1))
    scheduler.step()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["fast_lr"]) == (0.01, 0.03)
    assert optimizer.slow_optimizer.param_groups[0]["lr"] == 0.01
    assert scheduler.get_last_lr() == [0.01]


def test_a_scheduler_of_the_slow_optimizer_goes_on() -> None:
    model = network()
    sgd = SLOW["sgd"](model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.5)
    optimizer = SlowFast(sgd, **FAST)
    for step in range(2):
        train(model, optimizer, range(step, step + 1))
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.005


def test_one_cycle_moves_learning_rate_and_momentum_of_the_slow_weights() -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    before = dict(optimizer.param_groups[0])
    train(model, optimizer, range(1))
    scheduler.step()
    after = optimizer.param_groups[0]
    assert after["lr"] > before["lr"]
    assert after["momentum"] < before["momentum"]
    assert after["fast_momentum"] == 0.5


@pytest.mark.parametrize("slow", ["sgd", "sgd fused", "adamw fused"])
def test_automatic_scaling_skips_slow_and_fast_together(slow: str) -> None:
    model, expected = network().float(), network().float()
    optimizer = SlowFast(SLOW[slow](model.parameters()), **FAST)
    plain = SlowFast(SLOW[slow](expected.parameters()), **FAST)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    x = torch.ones(3, 4)

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(factor * model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    for _ in range(2):
        step(1.0)
        plain.zero_grad()
        expected(x).square().mean().backward()
        plain.step()
    for a, b in zip(everything(model, optimizer), everything(expected, plain), strict=True):
        torch.testing.assert_close(a, b)
    before = everything(model, optimizer)
    step(float("inf"))
    assert scaler.get_scale() == 2.0
    assert_same(before, everything(model, optimizer))
    step(1.0)
    assert not torch.equal(before[2], optimizer.fast_weights(model[0].weight))


def test_a_scheduler_of_the_fast_rate_is_one_of_this_optimizer() -> None:
    """Trainers look for a scheduler's optimizer among those they train, with ``in``."""
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    other = SlowFast(SLOW["sgd"](network().parameters()), **FAST)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.fast, 1, gamma=0.5)
    assert optimizer.fast is optimizer.fast
    assert scheduler.optimizer in [other, optimizer]
    assert scheduler.optimizer not in [other]
    assert {optimizer: 1}[optimizer.fast] == 1
    assert optimizer.fast != other.fast
    train(model, optimizer, range(1))
    scheduler.step()
    assert optimizer.param_groups[0]["fast_lr"] == 0.015


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # as of any copied scheduler
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copied_scheduler_moves_the_copied_optimizer(how: str) -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.fast, 1, gamma=0.5)
    train(model, optimizer, range(1))
    together = {"optimizer": optimizer, "scheduler": scheduler}
    twins = copy.deepcopy(together) if how == "deepcopy" else pickle.loads(pickle.dumps(together))
    assert twins["scheduler"].optimizer is twins["optimizer"].fast
    twins["scheduler"].step()
    assert twins["optimizer"].param_groups[0]["fast_lr"] == 0.015
    assert optimizer.param_groups[0]["fast_lr"] == 0.03


# -- a state that others changed -------------------------------------------------------------------


def clear_all(optimizer: SlowFast) -> None:
    optimizer.state.clear()


def assign(optimizer: SlowFast) -> None:
    optimizer.state = defaultdict(dict)


def remove_one(optimizer: SlowFast) -> None:
    del optimizer.state[optimizer.param_groups[0]["params"][0]]


def empty_one(optimizer: SlowFast) -> None:
    optimizer.state[optimizer.param_groups[0]["params"][0]].clear()


def replace_one(optimizer: SlowFast) -> None:
    optimizer.state[optimizer.param_groups[0]["params"][0]] = {"mine": 3}


RESETS = pytest.mark.parametrize(
    "reset", [clear_all, assign, remove_one, empty_one, replace_one], ids=lambda f: f.__name__
)


@RESETS
@pytest.mark.parametrize("source", ["learned", "copied", "loaded"])
def test_an_overlay_removed_by_others_is_no_secret(
    reset: Callable[[SlowFast], None], source: str
) -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(3))
    if source == "copied":
        model, optimizer = copy.deepcopy((model, optimizer))
    elif source == "loaded":
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    weights = [p.detach().clone() for p in model.parameters()]
    reset(optimizer)
    first = next(model.parameters())
    for act in (
        optimizer.step,
        optimizer.state_dict,
        optimizer.fast_norm,
        lambda: optimizer.relax(1),
        lambda: optimizer.slow_only().__enter__(),
        lambda: optimizer.slow_weights(first),
        lambda: optimizer.fast_weights(first),
        lambda: copy.deepcopy(optimizer),
    ):
        with pytest.raises(RuntimeError, match=r"parameter 0 of group 0 still holds fast weights"):
            act()
    assert all(map(torch.equal, weights, model.parameters()))


@RESETS
@pytest.mark.parametrize("remedy", ["clear", "consolidate"])
def test_clear_and_consolidate_know_an_overlay_that_was_removed(
    reset: Callable[[SlowFast], None], remedy: str
) -> None:
    results = []
    for removed in (False, True):
        model = network()
        optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
        train(model, optimizer, range(3))
        if removed:
            reset(optimizer)
        getattr(optimizer, remedy)()
        train(model, optimizer, range(3, 5))
        results.append(everything(model, optimizer))
    assert_same(*results)


@RESETS
def test_a_state_without_fast_weights_may_be_reset(reset: Callable[[SlowFast], None]) -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    reset_before = [p.detach().clone() for p in model.parameters()]
    optimizer.state.clear()
    assert all(map(torch.equal, reset_before, model.parameters()))
    train(model, optimizer, range(3))
    optimizer.clear()
    reset(optimizer)
    train(model, optimizer, range(3, 5))
    assert optimizer.fast_norm() > 0


def test_a_state_moved_by_others_is_taken_as_it_is() -> None:
    """Trainers replace the dict of a parameter when they move it to another device."""
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(3))
    for p, state in optimizer.state.items():
        optimizer.state[p] = {key: value.clone() for key, value in state.items()}
    expected = network()
    other = SlowFast(SLOW["sgd"](expected.parameters()), **FAST)
    train(expected, other, range(3))
    train(model, optimizer, range(3, 5))
    train(expected, other, range(3, 5))
    assert_same(everything(model, optimizer), everything(expected, other))


@pytest.mark.parametrize("kind", ["slow optimizer's", "unlearned"])
def test_loading_a_state_without_fast_weights_takes_them_out_of_the_parameters(kind: str) -> None:
    model, other = network(), network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(3))
    slow = [optimizer.slow_weights(p) for p in model.parameters()]
    plain = SLOW["sgd"](other.parameters())
    train(other, plain, range(2))
    state = plain.state_dict()
    if kind == "unlearned":
        state = SlowFast(SLOW["sgd"](network().parameters()), **FAST).state_dict()
    optimizer.load_state_dict(copy.deepcopy(state))
    assert optimizer.fast_norm() == 0
    assert all(map(torch.equal, slow, model.parameters()))


def test_a_model_loaded_before_a_state_without_fast_weights_stays() -> None:
    model, other = network(), network(seed=3)
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(3))
    plain = SLOW["sgd"](other.parameters())
    train(other, plain, range(2))
    model.load_state_dict(other.state_dict())
    optimizer.load_state_dict(plain.state_dict())
    assert all(map(torch.equal, other.parameters(), model.parameters()))


def test_a_loaded_state_that_does_not_go_with_the_model_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = network()
    optimizer = SlowFast(SLOW["sgd"](model.parameters()), **FAST)
    train(model, optimizer, range(2))
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, range(2, 4))
    for order in ("model first", "optimizer first"):
        if order == "model first":
            model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        if order == "optimizer first":
            model.load_state_dict(saved["model"])
        train(model, optimizer, range(2, 4))
    assert not caplog.messages
    optimizer.load_state_dict(saved["optimizer"])
    train(model, optimizer, range(4, 6))
    assert len(caplog.messages) == len(list(model.parameters()))
    assert "parameter 0 of group 0 does not hold what the optimizer's loaded" in caplog.messages[0]

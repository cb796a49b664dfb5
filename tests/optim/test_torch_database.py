"""Every optimizer and every setting that PyTorch tests its own optimizers with, as the slow one.

The tests are those of PyTorch's ``test/test_optim.py`` that say something of `SlowFast`, adapted.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastweights.optim import SlowFast

pytest.importorskip("expecttest", reason="PyTorch's own test tools need it")
with pytest.MonkeyPatch.context() as patch:
    # Importing them would forbid every later test to set a flag of torch.backends.
    patch.setattr(torch.backends, "disable_global_flags", lambda: None)
    database = pytest.importorskip("torch.testing._internal.common_optimizers")

FAST = {"lr": 0.03, "momentum": 0.5, "decay": 0.01}


def settings_of_torch() -> Iterator[Any]:
    for info in database.optim_db:
        if info.step_requires_closure or info.only_supports_sparse_grads:
            continue  # LBFGS and SparseAdam are refused: see below
        ways: list[dict[str, bool]] = [{}, {"foreach": False}]
        ways += [{way: True} for way in ("foreach", "fused") if way in info.supported_impls]
        if "foreach" not in info.supported_impls:
            ways = [{}]
        for given, way in itertools.product(info.optim_inputs_func(device="cpu"), ways):
            options = {**given.kwargs, **way}
            # Tensor learning rates need the loop, or to be capturable, which is for accelerators.
            tensors = any(isinstance(v, Tensor) for v in options.values())
            if options.get("capturable") or (tensors and "foreach" in way and way["foreach"]):
                continue
            name = info.optim_cls.__name__
            yield pytest.param(
                info.optim_cls, options, id=f"{name}-{given.desc}-{next(iter(way), 'default')}"
            )


LEARN = list(settings_of_torch())
# One way of each, where a test is about something else than the ways to step.
ONE_WAY = [case for case in LEARN if case.id.endswith("-default")]
every_setting = pytest.mark.parametrize(("slow_class", "options"), ONE_WAY)
INFOS = [
    info
    for info in database.optim_db
    if not (info.step_requires_closure or info.only_supports_sparse_grads)
]
every_optimizer = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)


def run(
    optimizer: torch.optim.Optimizer, params: list[nn.Parameter], seed: int, steps: int = 4
) -> None:
    """Steps with gradients that do not depend on the weights."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        optimizer.step()


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (2, 5)]  # matrices, because Muon takes no others
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [nn.Parameter(values.to(dtype)) for values in drawn]


@pytest.mark.parametrize(("slow_class", "options"), LEARN)
def test_slow_weights_move_alike_and_saving_resumes(slow_class: Any, options: dict) -> None:
    alone, params = parameters(), parameters()
    plain = slow_class(alone, **copy.deepcopy(options))
    optimizer = SlowFast(slow_class(params, **copy.deepcopy(options)), **FAST)
    run(plain, alone, seed=1)
    run(optimizer, params, seed=1)
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(optimizer.slow_weights(p), q.detach(), rtol=0, atol=1e-12)
        assert optimizer.fast_weights(p).all()

    resumed_params = copy.deepcopy(params)
    resumed = SlowFast(slow_class(resumed_params, **copy.deepcopy(options)), **FAST)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin = copy.deepcopy(optimizer)
    twin_params = twin.param_groups[0]["params"]
    run(optimizer, params, seed=2)
    run(resumed, resumed_params, seed=2)
    run(twin, twin_params, seed=2)
    for p, r, t in zip(params, resumed_params, twin_params, strict=True):
        assert torch.equal(p, t)
        # NAdam saves a product of momenta as float32 and goes on in float64.
        torch.testing.assert_close(
            p, r, rtol=0, atol=1e-6 if slow_class is torch.optim.NAdam else 0
        )
        assert torch.equal(optimizer.fast_weights(p), twin.fast_weights(t))
        assert torch.equal(optimizer.fast_weights(p), resumed.fast_weights(r))


@pytest.mark.parametrize(
    "info",
    [
        info
        for info in database.optim_db
        if info.step_requires_closure or info.only_supports_sparse_grads
    ],
    ids=lambda info: info.optim_cls.__name__,
)
def test_what_it_cannot_use_is_refused(info: Any) -> None:
    params = parameters()
    before = [p.detach().clone() for p in params]

    def use() -> None:
        optimizer = SlowFast(info.optim_cls(params), **FAST)
        for p in params:
            p.grad = torch.ones_like(p).to_sparse()
        optimizer.step()

    with pytest.raises((ValueError, RuntimeError), match=r"evaluates the loss|sparse gradients"):
        use()
    assert all(map(torch.equal, before, params))


def both(
    slow_class: Any, options: dict[str, Any], dtype: torch.dtype = torch.float64
) -> tuple[torch.optim.Optimizer, list[nn.Parameter], SlowFast, list[nn.Parameter]]:
    """The slow optimizer alone, and the same under fast weights."""
    alone, params = parameters(dtype), parameters(dtype)
    plain = slow_class(alone, **copy.deepcopy(options))
    return plain, alone, SlowFast(slow_class(params, **copy.deepcopy(options)), **FAST), params


def assert_slow_as_alone(
    optimizer: SlowFast, params: list[nn.Parameter], alone: list[nn.Parameter], tolerance: float
) -> None:
    for p, q in zip(params, alone, strict=True):
        slow = optimizer.slow_weights(p)
        torch.testing.assert_close(slow, q.detach(), rtol=tolerance, atol=tolerance)


@every_optimizer
def test_errors_of_the_slow_optimizer_come_through(info: Any) -> None:
    for case in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = case.optimizer_error_input
        if case.error_on is database.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                SlowFast(info.optim_cls(given.params, **given.kwargs), **FAST)
            continue
        optimizer = SlowFast(info.optim_cls(given.params, **given.kwargs), **FAST)
        before = [p.detach().clone() for p in given.params]
        with pytest.raises(case.error_type, match=case.error_regex):
            optimizer.step()
        assert all(map(torch.equal, before, given.params))


def bowl_after(
    slow_class: Any, options: dict[str, Any], schedulers: list[Any], which: str
) -> tuple[float, float]:
    """The error of a linear map before and after twenty steps."""
    params = parameters()[:1]
    optimizer = SlowFast(slow_class(params, **copy.deepcopy(options)), **FAST)
    started = [make(optimizer.fast if which == "fast" else optimizer) for make in schedulers]
    x = torch.linspace(-1, 1, 4, dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = params[0].mv(x).square().sum()
        (-error if options.get("maximize") else error).backward()
        return error.detach()

    first = closure().item()
    for _ in range(20):
        error = optimizer.step(closure)
        for scheduler in started:
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(error)
            else:
                scheduler.step()
    return first, closure().item()


@every_setting
def test_goes_in_the_right_direction(slow_class: Any, options: dict[str, Any]) -> None:
    first, last = bowl_after(slow_class, options, [], "slow")
    assert last < first


@every_optimizer
@pytest.mark.parametrize("which", ["slow", "fast"])
def test_goes_in_the_right_direction_with_schedulers(info: Any, which: str) -> None:
    options = info.optim_inputs_func(device="cpu")[0].kwargs
    for schedulers in info.scheduler_inputs:
        first, last = bowl_after(info.optim_cls, options, list(schedulers), which)
        assert last < first


@every_setting
def test_a_step_without_gradients_does_nothing(slow_class: Any, options: dict[str, Any]) -> None:
    plain, alone, optimizer, params = both(slow_class, options)
    optimizer.step()
    assert all(map(torch.equal, params, alone))
    assert not optimizer.state
    assert len(optimizer.slow_optimizer.state) == len(plain.state)  # Adagrad has some at once


@every_setting
def test_gradients_of_zero_move_no_fast_weight(slow_class: Any, options: dict[str, Any]) -> None:
    plain, alone, optimizer, params = both(slow_class, options)
    for _ in range(3):
        for p in (*params, *alone):
            p.grad = torch.zeros_like(p)
        plain.step()
        optimizer.step()
    assert optimizer.fast_norm() == 0
    assert_slow_as_alone(optimizer, params, alone, 1e-14)
    assert all(torch.equal(optimizer.slow_weights(p), p) for p in params)


@every_setting
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_slow_weights_move_alike_in_every_dtype(
    slow_class: Any, options: dict[str, Any], dtype: torch.dtype
) -> None:
    plain, alone, optimizer, params = both(slow_class, options, dtype)
    run(plain, alone, seed=1)
    run(optimizer, params, seed=1)
    assert_slow_as_alone(optimizer, params, alone, 1e-6 if dtype is torch.float32 else 1e-2)
    assert {v.dtype for state in optimizer.state.values() for v in state.values()} == {dtype}


@pytest.mark.parametrize(
    ("slow_class", "options"),
    [
        case
        for case in ONE_WAY
        if case.values[0] in [info.optim_cls for info in INFOS if info.supports_complex]
    ],
)
def test_complex_parameters_move_as_pairs_of_reals(
    slow_class: Any, options: dict[str, Any]
) -> None:
    results = []
    for as_pairs in (False, True):
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
        p = nn.Parameter(drawn if as_pairs else torch.view_as_complex(drawn))
        optimizer = SlowFast(slow_class([p], **copy.deepcopy(options)), **FAST)
        for _ in range(4):
            gradient = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
            p.grad = gradient if as_pairs else torch.view_as_complex(gradient)
            optimizer.step()
        found = [p.detach(), optimizer.slow_weights(p), optimizer.fast_weights(p)]
        results.append(found if as_pairs else [torch.view_as_real(value) for value in found])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@every_setting
def test_an_empty_parameter_learns_nothing(slow_class: Any, options: dict[str, Any]) -> None:
    if slow_class in (torch.optim.Adafactor, torch.optim.Muon):
        pytest.skip("divides by the size of a parameter")
    params = [*parameters(), nn.Parameter(torch.empty(0, 3, dtype=torch.float64))]
    optimizer = SlowFast(slow_class(params, **copy.deepcopy(options)), **FAST)
    run(optimizer, params, seed=1, steps=2)
    assert params[2].shape == (0, 3)
    assert optimizer.fast_norm() > 0


@every_setting
def test_a_saved_state_loads_as_weights_only(slow_class: Any, options: dict[str, Any]) -> None:
    _, _, optimizer, params = both(slow_class, options)
    run(optimizer, params, seed=1)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded, saved = torch.load(file, weights_only=True), optimizer.state_dict()
    assert loaded["param_groups"] == saved["param_groups"]
    for key, state in saved["state"].items():
        assert state.keys() == loaded["state"][key].keys()
        for name, value in state.items():
            torch.testing.assert_close(value, loaded["state"][key][name], rtol=0, atol=0)


@every_optimizer
def test_a_state_saved_by_an_older_torch_loads(info: Any) -> None:
    """Older ones had not all of today's options, and counted steps in plain numbers."""
    options = info.optim_inputs_func(device="cpu")[0].kwargs
    _, _, optimizer, params = both(info.optim_cls, options)
    run(optimizer, params, seed=1)
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        for flag in info.not_og_supported_flags:
            group.pop(flag, None)
    if info.optim_cls is not torch.optim.Muon:
        for state in old["state"].values():
            if "step" in state and info.optim_cls is not torch.optim.ASGD:
                state["step"] = float(state["step"])
    resumed_params = copy.deepcopy(params)
    resumed = SlowFast(info.optim_cls(resumed_params, **copy.deepcopy(options)), **FAST)
    resumed.load_state_dict(old)
    run(optimizer, params, seed=2)
    run(resumed, resumed_params, seed=2)
    for p, q in zip(params, resumed_params, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


@every_optimizer
def test_groups_have_learning_rates_of_their_own(info: Any) -> None:
    options = info.optim_inputs_func(device="cpu")[0].kwargs
    results = []
    for fast in (False, True):
        params = parameters()
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 1e-4, "weight_decay": 0.1}]
        optimizer = info.optim_cls(groups, **copy.deepcopy(options))
        if fast:
            optimizer = SlowFast(optimizer, **FAST)
        run(optimizer, params, seed=1)
        results.append([optimizer.slow_weights(p) if fast else p.detach() for p in params])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@every_optimizer
def test_names_of_parameters_are_saved(info: Any) -> None:
    options = info.optim_inputs_func(device="cpu")[0].kwargs
    named = list(zip(("first", "second"), parameters(), strict=True))
    optimizer = SlowFast(info.optim_cls(named, **copy.deepcopy(options)), **FAST)
    run(optimizer, [p for _, p in named], seed=1, steps=1)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["first", "second"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["param_names"] == ["first", "second"]


@every_optimizer
def test_a_deep_copy_has_every_public_attribute(info: Any) -> None:
    options = info.optim_inputs_func(device="cpu")[0].kwargs
    _, _, optimizer, params = both(info.optim_cls, options)
    run(optimizer, params, seed=1, steps=1)
    names = {name for name in dir(optimizer) if not name.startswith("_")}
    assert names == {name for name in dir(copy.deepcopy(optimizer)) if not name.startswith("_")}


@every_optimizer
def test_hooks_are_called_once_a_step(info: Any) -> None:
    options = info.optim_inputs_func(device="cpu")[0].kwargs
    _, _, optimizer, params = both(info.optim_cls, options)
    calls: list[str] = []
    for name, owner in (("whole", optimizer), ("slow", optimizer.slow_optimizer)):
        owner.register_step_pre_hook(lambda *_, n=name: calls.append(f"before {n}"))
        owner.register_step_post_hook(lambda *_, n=name: calls.append(f"after {n}"))
    run(optimizer, params, seed=1, steps=2)
    assert calls == 2 * ["before whole", "before slow", "after slow", "after whole"]

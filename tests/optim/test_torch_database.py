"""Every optimizer and every setting that PyTorch tests its own optimizers with, as the slow one."""

from __future__ import annotations

import copy
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


def run(
    optimizer: torch.optim.Optimizer, params: list[nn.Parameter], seed: int, steps: int = 4
) -> None:
    """Steps with gradients that do not depend on the weights."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (2, 5)]  # matrices, because Muon takes no others
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]


@pytest.mark.parametrize(("slow_class", "options"), list(settings_of_torch()))
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

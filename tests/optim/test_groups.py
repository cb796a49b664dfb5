"""The view of the fast options that schedulers are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fastweights.optim import SlowFast
from fastweights.optim._groups import check_group, check_option

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.1),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5, eta_min=0.001),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "sequence": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3),
            torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        ],
        milestones=[3],
    ),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=10),
}


def make() -> SlowFast:
    groups = [
        {"params": [nn.Parameter(torch.ones(2))], "lr": 0.5},
        {"params": [nn.Parameter(torch.ones(3))], "fast_lr": 0.25},
    ]
    return SlowFast(
        torch.optim.SGD(groups, lr=0.1, momentum=0.9), lr=0.125, momentum=0.5, decay=0.01
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_move_the_fast_rate_as_they_move_any(name: str) -> None:
    optimizer = make()
    peer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.125, 0.25)],
        momentum=0.5,
    )
    ours, expected = SCHEDULERS[name](optimizer.fast), SCHEDULERS[name](peer)
    for _ in range(8):
        optimizer.step()
        peer.step()
        ours.step()
        expected.step()
        for group, other in zip(optimizer.param_groups, peer.param_groups, strict=True):
            assert group["fast_lr"] == pytest.approx(other["lr"])
            assert group["fast_momentum"] == pytest.approx(other["momentum"])
        assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1]
        assert [g["momentum"] for g in optimizer.param_groups] == [0.9, 0.9]


def test_a_plateau_lowers_the_fast_rate() -> None:
    optimizer = make()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer.fast, factor=0.5, patience=0)
    for _ in range(2):
        optimizer.step()
        scheduler.step(1.0)
    assert [g["fast_lr"] for g in optimizer.param_groups] == [0.0625, 0.125]


def test_slow_and_fast_scheduled_together_and_saved() -> None:
    optimizer = make()
    slow = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    fast = torch.optim.lr_scheduler.ExponentialLR(optimizer.fast, 0.1)
    optimizer.step()
    slow.step()
    fast.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.05]
    assert [g["fast_lr"] for g in optimizer.param_groups] == pytest.approx([0.0125, 0.025])
    resumed = make()
    new_slow = torch.optim.lr_scheduler.ExponentialLR(resumed, 0.5)
    new_fast = torch.optim.lr_scheduler.ExponentialLR(resumed.fast, 0.1)
    resumed.load_state_dict(optimizer.state_dict())
    new_slow.load_state_dict(slow.state_dict())
    new_fast.load_state_dict(fast.state_dict())
    for o, schedulers in ((optimizer, (slow, fast)), (resumed, (new_slow, new_fast))):
        o.step()
        for scheduler in schedulers:
            scheduler.step()
    assert [g["fast_lr"] for g in resumed.param_groups] == [
        g["fast_lr"] for g in optimizer.param_groups
    ]
    assert [g["lr"] for g in resumed.param_groups] == [0.125, 0.025]


def test_a_scheduler_called_before_any_step_warns_as_usual() -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(make().fast, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_the_view_shows_the_groups_and_refuses_the_rest() -> None:
    optimizer = make()
    view = optimizer.fast
    assert view is optimizer.fast
    first = view.param_groups[0]
    assert dict(first) == {
        "params": optimizer.param_groups[0]["params"],
        "lr": 0.125,
        "momentum": 0.5,
        "decay": 0.01,
    }
    assert len(first) == 4
    first["extra"] = 1
    assert optimizer.param_groups[0]["fast_extra"] == 1
    del first["extra"]
    assert "extra" not in first
    assert view.defaults == {"lr": 0.125, "momentum": 0.5, "decay": 0.01}
    p = optimizer.param_groups[0]["params"][0]
    p.grad = torch.ones(2)
    view.step()
    assert torch.equal(p, torch.ones(2))
    view.zero_grad()
    assert p.grad is None
    assert "2 parameter groups" in repr(view)
    for refused in (
        view.state_dict,
        lambda: view.load_state_dict({}),
        lambda: view.add_param_group({"params": []}),
    ):
        with pytest.raises(RuntimeError, match="SlowFast optimizer itself"):
            refused()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("fast_lr", (0, 0.5, 100), (-1e-9, math.inf, math.nan)),
        ("fast_momentum", (0, 0.999), (-0.1, 1, math.nan)),
        ("fast_decay", (0, 0.5, 1), (-0.1, 1.001, math.nan)),
    ],
)
def test_ranges(name: str, good: tuple[float, ...], bad: tuple[float, ...]) -> None:
    options = {"params": [], "fast_lr": 0, "fast_momentum": 0, "fast_decay": 0}
    for value in good:
        check_option(name, value)
        check_group({**options, name: value}, 3)
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} must be"):
            check_option(name, value)
        with pytest.raises(ValueError, match=f"^{name} of parameter group 3 must be"):
            check_group({**options, name: value}, 3)

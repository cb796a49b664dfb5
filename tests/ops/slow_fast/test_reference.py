"""The reference against the equations written out for single numbers, and against torch's SGD."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fastweights.ops.slow_fast import reference

FAST = {"fast_lr": 0.3, "fast_momentum": 0.5, "keep": 0.9}


def test_follows_the_equations_for_one_connection() -> None:
    slow_lr, slow_momentum, fast_lr, fast_momentum, h = 0.02, 0.9, 0.3, 0.5, 0.01
    s, Δs, f, Δf = 0.7, 0.0, 0.0, 0.0
    w, v, slow, fast, update = (
        torch.tensor([x], dtype=torch.float64) for x in (0.7, 0.0, 0.7, 0.0, 0.0)
    )
    for step in range(20):
        gradient = torch.cos(5 * w)
        g = float(gradient)
        Δs = slow_momentum * Δs - slow_lr * g
        s = s + Δs
        Δf = fast_momentum * Δf - fast_lr * g
        f = (1 - h) * (f + Δf)
        reference.sgd_step(
            [w],
            [gradient],
            [v],
            [slow],
            [fast],
            [update],
            slow_lr=slow_lr,
            slow_momentum=slow_momentum,
            dampening=0.0,
            weight_decay=0.0,
            nesterov=False,
            first=step == 0,
            fast_lr=fast_lr,
            fast_momentum=fast_momentum,
            keep=1 - h,
        )
        assert float(slow) == pytest.approx(s, abs=1e-14)
        assert float(fast) == pytest.approx(f, abs=1e-14)
        assert float(update) == pytest.approx(Δf, abs=1e-14)
        assert float(w) == pytest.approx(s + f, abs=1e-14)
        assert float(-slow_lr * v) == pytest.approx(Δs, abs=1e-14)


@pytest.mark.parametrize(
    ("nesterov", "dampening", "weight_decay", "maximize"),
    [
        (n, d, wd, m)
        for n, d, wd, m in itertools.product((False, True), (0.0, 0.3), (0.0, 0.1), (False, True))
        if not (n and d)
    ],
)
def test_slow_weights_move_as_torch_sgd_moves_them(
    nesterov: bool, dampening: float, weight_decay: float, maximize: bool
) -> None:
    generator = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randn(7, generator=generator, dtype=torch.float64)

    p = torch.nn.Parameter(draw())
    sgd = torch.optim.SGD(
        [p],
        lr=0.1,
        momentum=0.9,
        nesterov=nesterov,
        dampening=dampening,
        weight_decay=weight_decay,
        maximize=maximize,
        foreach=False,
    )
    f, update, s = draw(), draw(), p.detach().clone()
    w, v = torch.full((2, 7), torch.nan, dtype=torch.float64)
    for step in range(4):
        gradient = draw()
        p.grad = gradient.clone()
        sgd.step()
        reference.sgd_step(
            [w],
            [gradient],
            [v],
            [s],
            [f],
            [update],
            slow_lr=0.1,
            slow_momentum=0.9,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            first=step == 0,
            maximize=maximize,
            **FAST,
        )
        torch.testing.assert_close(s, p.detach(), rtol=0, atol=1e-14)
        assert torch.equal(w, s + f)


def test_maximize_turns_the_fast_update_round() -> None:
    g = torch.tensor([2.0])
    down, up = torch.tensor([1.0]), torch.tensor([-1.0])
    reference.learn([down], [g], lr=0.5, momentum=0.5)
    reference.learn([up], [g], lr=0.5, momentum=0.5, maximize=True)
    assert down.item() == -0.5
    assert up.item() == 0.5


def test_without_updates_the_overlay_only_decays() -> None:
    w, s, f = torch.tensor([5.0]), torch.tensor([3.0]), torch.tensor([2.0])
    reference.copy([w], [s])
    assert w.item() == 3.0
    reference.apply_overlay([w], [f], None, keep=0.5)
    assert (w.item(), f.item()) == (4.0, 1.0)

"""Layers of every kind that an overlay can be laid over, with inputs for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastweights

__all__ = ["LAYERS", "Conv1D", "learn", "network"]


class Conv1D(nn.Module):
    """What transformers calls so: a linear layer whose weight is (inputs, outputs)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(0.3 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return rows.view(*x.shape[:-1], self.nf)


# name: a layer, an input for a batch of five, and a rank
LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int]] = {
    "linear": (lambda: nn.Linear(6, 4), lambda: torch.randn(5, 6), 2),
    "linear-3d": (lambda: nn.Linear(6, 4, bias=False), lambda: torch.randn(5, 3, 6), 4),
    "transposed": (lambda: Conv1D(4, 6), lambda: torch.randn(5, 3, 6), 2),
    "embedding": (lambda: nn.Embedding(9, 4), lambda: torch.randint(9, (5, 3)), 2),
    "embedding-padding": (
        lambda: nn.Embedding(9, 4, padding_idx=0),
        lambda: torch.randint(9, (5,)),
        3,
    ),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), lambda: torch.randn(5, 3, 8), 2),
    "conv1d-groups": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, groups=2),
        lambda: torch.randn(5, 4, 9),
        3,
    ),
    "conv2d": (
        lambda: nn.Conv2d(3, 4, (3, 2), dilation=2, padding="same"),
        lambda: torch.randn(5, 3, 7, 6),
        2,
    ),
    "conv2d-depthwise": (
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="circular"),
        lambda: torch.randn(5, 4, 5, 6),
        2,
    ),
}


def learn(overlay: fastweights.Overlay, *, seed: int = 1, scale: float = 0.5) -> None:
    """Give the factors some values, as learning would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in overlay.parameters():
            factor.add_(scale * torch.randn(factor.shape, generator=generator).to(factor))


def network() -> nn.Module:
    """Two linear layers, and statistics that change in training."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

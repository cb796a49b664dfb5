"""Networks with slow and fast weights, one per seed and all at once, and the pairs they learn.

Every tensor has the seeds in its first dimension. The statements that move the weights are those
of `fastweights.ops.slow_fast.reference`, for all connections together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fastweights.experiments.deblurring_model.config import DeblurringConfig

__all__ = ["Group", "Networks", "Pairs", "Rate"]

Array = NDArray[np.float64]
Group = tuple[Tensor, Tensor]


class Pairs:
    """Inputs (seeds, pairs, inputs) and targets: the old pairs, the new, the never learned."""

    def __init__(self, config: DeblurringConfig, seeds: Sequence[int]) -> None:
        old, new = config.associations, config.associations + config.new_associations
        total = new + max(config.rehearsed)
        inputs, targets = [], []
        for seed in seeds:
            rng = np.random.default_rng([seed, 0])
            chosen = rng.permutation(2**config.inputs)[:total]
            inputs.append(chosen[:, None] >> np.arange(config.inputs) & 1)
            targets.append(rng.integers(0, 2, (total, config.outputs)))
        x, d = (torch.from_numpy(np.stack(a).astype(np.float64)) for a in (inputs, targets))
        self.old: Group = x[:, :old].contiguous(), d[:, :old].contiguous()
        self.new: Group = x[:, old:new].contiguous(), d[:, old:new].contiguous()
        self.never: Group = x[:, new:].contiguous(), d[:, new:].contiguous()


class Rate(NamedTuple):
    lr: float
    momentum: float


class Networks:
    """A logistic network with one hidden layer per seed; slow and fast weights of all of them.

    A network's weights lie in one row, (seeds, weights); the layers are views of it.
    """

    def __init__(self, config: DeblurringConfig, seeds: Sequence[int]) -> None:
        self.config = config
        size = (config.inputs + 1) * config.hidden + (config.hidden + 1) * config.outputs
        start = [
            np.random.default_rng([seed, 1]).uniform(-config.init_range, config.init_range, size)
            for seed in seeds
        ]
        self.slow = torch.from_numpy(np.stack(start))
        self.slow_change = torch.zeros_like(self.slow)
        self.fast = torch.zeros_like(self.slow)
        self.fast_change = torch.zeros_like(self.slow)

    def add_noise(self, std: float, seeds: Sequence[int]) -> None:
        size = self.slow.shape[1]
        noise = [np.random.default_rng([seed, 2]).normal(0, std, size) for seed in seeds]
        self.slow += torch.from_numpy(np.stack(noise))

    def _layers(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views: hidden weights (seeds, inputs, hidden), biases, output weights, biases."""
        c, n = self.config, flat.shape[0]
        sizes = [c.inputs * c.hidden, c.hidden, c.outputs * c.hidden, c.outputs]
        w1, b1, w2, b2 = flat.split(sizes, dim=1)
        # The output layer lies transposed: the products with it are faster.
        w2 = w2.view(n, c.outputs, c.hidden)
        return w1.view(n, c.inputs, c.hidden), b1.unsqueeze(1), w2, b2.unsqueeze(1)

    def learn(
        self,
        x: Tensor,
        d: Tensor,
        *,
        sweeps: int,
        slow: Rate | None,
        fast: Rate | None,
        warmup: int = 0,
    ) -> None:
        """One update per sweep; weights without a rate keep still, though fast ones decay."""
        c = self.config
        shrink = F.softshrink if c.margin_error == "beyond" else F.hardshrink
        weights, gradient = self.slow + self.fast, torch.empty_like(self.slow)
        w1, b1, w2, b2 = self._layers(weights)
        g1, gb1, g2, gb2 = self._layers(gradient)
        hidden = x.new_empty(*x.shape[:2], c.hidden)
        to_hidden, y, to_y = torch.empty_like(hidden), torch.empty_like(d), torch.empty_like(d)
        for sweep in range(sweeps):
            torch.baddbmm(b1, x, w1, out=hidden).sigmoid_()
            torch.baddbmm(b2, hidden, w2.mT, out=y).sigmoid_()
            torch.sub(y, d, out=to_y)
            if c.margin:
                to_y = shrink(to_y, c.margin)
            to_y.mul_(y).mul_(y.neg_().add_(1))  # y (1 − y), the logistic function's slope
            torch.bmm(to_y, w2, out=to_hidden).mul_(hidden)
            to_hidden.addcmul_(to_hidden, hidden, value=-1)
            g1.copy_(torch.bmm(x.mT, to_hidden))
            gb1.copy_(to_hidden.sum(1, keepdim=True))
            g2.copy_(torch.bmm(to_y.mT, hidden))
            gb2.copy_(to_y.sum(1, keepdim=True))
            warm = sweep >= warmup
            if slow:
                momentum = slow.momentum if warm else c.warmup_momentum
                self.slow_change.mul_(momentum).add_(gradient, alpha=-slow.lr)
                self.slow.add_(self.slow_change)
            if fast:
                momentum = fast.momentum if warm else c.warmup_momentum
                self.fast_change.mul_(momentum).add_(gradient, alpha=-fast.lr)
                self.fast.add_(self.fast_change)
            self.fast.mul_(1 - c.decay)
            torch.add(self.slow, self.fast, out=weights)

    def score(self, pairs: Group, fast: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean |y − d| and fraction of bits right, (seeds,) each, with that much of f left."""
        x, d = pairs
        w1, b1, w2, b2 = self._layers(self.slow + fast * self.fast)
        hidden = torch.baddbmm(b1, x, w1).sigmoid_()
        y = torch.baddbmm(b2, hidden, w2.mT).sigmoid_()
        right = (y > 0.5) == (d > 0.5)
        return (y - d).abs().mean((1, 2)), right.double().mean((1, 2))

    def norms(self) -> tuple[Array, Array]:
        return self.slow.norm(dim=1).numpy(), self.fast.norm(dim=1).numpy()

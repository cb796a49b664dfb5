"""Networks that classify an image from its glimpses."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastweights.nn import FastWeightsRNN, FastWeightsState
from fastweights.tasks.glimpses import FIXED_ORDERS, FULL, PIXELS, QUADRANTS


class MultiLevel(nn.Module):
    """Fast weights that outlive the hidden vector: it is wiped between the levels.

    Where a fine glimpse follows a coarse one or the other way round, the hidden vector is written
    into the fast weights and starts from zero again. What the network knows of the level it left
    has to come back from the fast weights. The memory ages by a step as that happens.

    Args:
        layer: reads the glimpses.
        order: one of ``FIXED_ORDERS``.
    """

    def __init__(self, layer: FastWeightsRNN, order: str) -> None:
        super().__init__()
        self.layer, self.hidden_size = layer, layer.hidden_size
        coarse = [place < QUADRANTS for place in FIXED_ORDERS[order]]
        changes = [t for t, (one, other) in enumerate(pairwise(coarse), 1) if one != other]
        ends = [0, *changes, len(coarse)]
        self.lengths = [end - start for start, end in pairwise(ends)]

    def forward(self, x: Tensor) -> tuple[Tensor, FastWeightsState]:
        """Outputs (24, N, H) for glimpses (24, N, features), and the state after the last."""
        state, outputs = None, []
        for part in x.split(self.lengths):
            output, state = self.layer(part, None if state is None else _wiped(state))
            outputs.append(output)
        assert state is not None
        return torch.cat(outputs), state


def _wiped(state: FastWeightsState) -> FastWeightsState:
    """The hidden vector written and forgotten."""
    assert state.history is not None
    return FastWeightsState(
        hidden=torch.zeros_like(state.hidden),
        steps=state.steps + 1,
        history=torch.cat([state.history, state.hidden[:, None]], dim=1),
    )


class ConvNet(nn.Module):
    """Three layers with shared weights over all glimpses at once.

    The first is a convolution of 7 × 7 over both levels, the second joins the five views of a
    quadrant, the third the four quadrants; each has ``hidden_size`` channels and rectifiers.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.views = nn.Linear(PIXELS, hidden_size)
        self.quadrants = nn.Linear((1 + QUADRANTS) * hidden_size, hidden_size)
        self.whole = nn.Linear(QUADRANTS * hidden_size, hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Features (1, N, H) for glimpses (24, N, features) in the published order."""
        glimpses = x[..., :PIXELS].unflatten(0, (QUADRANTS, 2 + QUADRANTS))
        seen = torch.relu(self.views(glimpses[:, :-1]))  # the last view is the first once more
        parts = torch.relu(self.quadrants(seen.permute(0, 2, 1, 3).flatten(2)))
        return torch.relu(self.whole(parts.transpose(0, 1).flatten(1)))[None], None


class Classifier(nn.Module):
    """Glimpses, a layer that reads them, and a linear readout of its last output."""

    def __init__(self, layer: nn.Module, classes: int = 10) -> None:
        super().__init__()
        self.layer = layer
        self.readout = nn.Linear(int(layer.hidden_size), classes)  # type: ignore[arg-type]

    def forward(self, glimpses: Tensor) -> Tensor:
        """Logits (N, classes) for glimpses (N, 24, features) in units of 1 / FULL."""
        output, _ = self.layer(self.present(glimpses))
        return self.readout(output[-1])

    def present(self, glimpses: Tensor) -> Tensor:
        """What the layer sees: (24, N, features), from 0 to 1."""
        return glimpses.transpose(0, 1).to(torch.get_default_dtype()) / FULL


def attention_shares(model: Classifier, glimpses: Tensor) -> list[list[float]]:
    """How each step's attention is shared out among the glimpses before it.

    Args:
        model: with a layer of fast weights.
        glimpses: of N images, as the model takes them.

    Returns:
        24 × 24: row t is the mean over images of the shares that step t, which sees glimpse t,
        gives to the states after glimpses 0 … 23; the first row is 0.
    """
    assert isinstance(model.layer, FastWeightsRNN)
    device = next(model.parameters()).device
    with torch.no_grad():
        # The last read of a step; column m is the state after glimpse m − 1.
        weights = model.layer.attention(model.present(glimpses.to(device)))[:, -1].clamp(min=0)
    shares = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    mean = shares.mean(0)[:, 1:].cpu()
    rows = torch.cat([mean, mean.new_zeros(len(mean), 1)], dim=1).tolist()
    return [[round(share, 5) for share in row] for row in rows]

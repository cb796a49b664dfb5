"""A control: fast weights that read the memory of another sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.nn import FastWeightsRNN

__all__ = ["OthersMemory"]


class OthersMemory(nn.Module):
    """A fast-weights layer in which every sample reads the memory of its neighbour in the batch.

    What is read has the right scale, depth and statistics, and the wrong content. Everything else
    is as in the layer: one inner step, layer norm, and gradients through the memory too.

    Args:
        layer: whose parameters and settings it has.

    Raises:
        ValueError: the layer is not of the kind this loop computes.
    """

    def __init__(self, layer: FastWeightsRNN) -> None:
        super().__init__()
        default = FastWeightsRNN(layer.input_size, layer.hidden_size)
        if layer._options != default._options or layer.num_layers != 1:
            raise ValueError("layer must be one of the default options, one layer of it")
        self.layer = layer
        self.hidden_size = layer.hidden_size

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs (L, N, H) for inputs (L, N, in), and h with the vectors that were written.

        Needs more than one sample.
        """
        if x.shape[1] < 2:
            raise ValueError(f"input must hold at least 2 samples, got {x.shape[1]}")
        layer, own = self.layer, dict(self.layer.named_parameters())
        drive = F.linear(x, own["weight_ih_l0"], own["bias_l0"])
        norm = (own["norm_weight_l0"], own["norm_bias_l0"], layer.norm_eps)
        r = layer.decay.table(len(x), dtype=x.dtype, device=x.device)
        hidden, written, outputs = drive.new_zeros(drive.shape[1:]), [], []
        for t in range(len(x)):
            z = F.linear(hidden, own["weight_hh_l0"]) + drive[t]
            written.append(hidden)
            memories = torch.stack(written).roll(1, dims=1)
            v = torch.relu(z)
            scores = torch.einsum("tnh,nh->tn", memories, v)
            decayed = layer.write_rate * r[: t + 1].flip(0)
            read = torch.einsum("t,tn,tnh->nh", decayed, scores, memories)
            hidden = torch.relu(F.layer_norm(z + read, z.shape[-1:], *norm))
            outputs.append(hidden)
        return torch.stack(outputs), (hidden, torch.stack(written))

"""An LSTM with layer normalisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.initial import set_values
from fastweights.nn.baselines.boundary import check_state, project, restore, time_first
from fastweights.nn.conventions import RecurrentModule, check_dtype, one_state, without_autocast

__all__ = ["LayerNormLSTM"]


class LayerNormLSTM(RecurrentModule):
    """An LSTM that normalises its two products and the cell before it is read.

    .. math::
        (i, f, g, o) &= \\mathrm{LN}_1[W_h h(t)] + \\mathrm{LN}_2[W_x x(t)] + b \\\\
        c(t+1) &= \\sigma(f) \\odot c(t) + \\sigma(i) \\odot \\tanh(g) \\\\
        h(t+1) &= \\sigma(o) \\odot \\tanh(\\mathrm{LN}_3[c(t+1)])

    Each LN has its own learned gain and bias; the first two normalise all 4H pre-activations of
    the four gates together, as the equations are printed (some public code normalises gate by
    gate). Statistics are those of one sample at one step, with ε inside the root.

    Called as ``nn.LSTM``: ``output, (h, c) = layer(input, (h_0, c_0))``, with the same shapes,
    unbatched input included. Parameters of layer k: ``weight_ih_l{k}`` (W_x) and
    ``weight_hh_l{k}`` (W_h), their rows in the order i, f, g, o of ``nn.LSTM``; ``bias_l{k}``
    (b); gains and biases ``norm_hh_weight_l{k}``, ``norm_hh_bias_l{k}``, ``norm_ih_…``,
    ``norm_cell_…``.

    At the start weights are uniform on ±1/√H, as those of ``nn.LSTM``; b is 0, but
    ``forget_bias`` for the forget gate; gains are 1 and the norms' biases 0.

    Args:
        input_size: features of the input.
        hidden_size: H, features of the hidden vector and of the cell.
        num_layers: layers stacked on one another.
        layer_norm: False leaves out all three LN and gives the plain LSTM.
        norm_eps: ε > 0.
        forget_bias: b of the forget gate at the start.
        bias: whether there is a b.
        batch_first: input and output are (N, L, features).
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: an argument is impossible; the message names it.

    Source: Ba, Kiros & Hinton, "Layer Normalization" (2016), supplementary material, equations
    for the LSTM; the forget bias of 1 from Jozefowicz, Zaremba & Sutskever (2015).

    Example:
        >>> layer = LayerNormLSTM(37, 50)
        >>> output, (h, c) = layer(torch.randn(11, 128, 37))
        >>> output.shape, h.shape, c.shape
        (torch.Size([11, 128, 50]), torch.Size([1, 128, 50]), torch.Size([1, 128, 50]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        layer_norm: bool = True,
        norm_eps: float = 1e-5,
        forget_bias: float = 1.0,
        bias: bool = True,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size)
        self.hidden_size = check_integer("hidden_size", hidden_size)
        self.num_layers = check_integer("num_layers", num_layers)
        self.layer_norm = check_flag("layer_norm", layer_norm)
        self.norm_eps = check_number("norm_eps", norm_eps, 0, ends="()")
        self.forget_bias = check_number("forget_bias", forget_bias)
        self.bias = check_flag("bias", bias)
        self.batch_first = check_flag("batch_first", batch_first)
        check_dtype(dtype)
        gates = 4 * hidden_size
        for k in range(self.num_layers):
            shapes: dict[str, tuple[int, ...] | None] = {
                "weight_ih": (gates, input_size if k == 0 else hidden_size),
                "weight_hh": (gates, hidden_size),
                "bias": (gates,) if bias else None,
            }
            for name, size in (("ih", gates), ("hh", gates), ("cell", hidden_size)):
                shapes[f"norm_{name}_weight"] = (size,) if layer_norm else None
                shapes[f"norm_{name}_bias"] = (size,) if layer_norm else None
            for name, shape in shapes.items():
                empty = None if shape is None else torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(
                    f"{name}_l{k}", None if empty is None else nn.Parameter(empty)
                )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        bound, hidden = 1 / math.sqrt(self.hidden_size), self.hidden_size
        with torch.no_grad():
            for k in range(self.num_layers):
                self._get("weight_ih", k).uniform_(-bound, bound)
                self._get("weight_hh", k).uniform_(-bound, bound)
                if self.bias:
                    bias = torch.zeros(4 * hidden, dtype=torch.float64, device="cpu")
                    bias[hidden : 2 * hidden] = self.forget_bias
                    set_values(self._get("bias", k), bias)
                if self.layer_norm:
                    for name in ("ih", "hh", "cell"):
                        self._get(f"norm_{name}_weight", k).fill_(1.0)
                        self._get(f"norm_{name}_bias", k).zero_()

    def _get(self, name: str, layer: int) -> Any:
        return getattr(self, f"{name}_l{layer}")

    def forward(
        self,
        input: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        *,
        hx: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer over a sequence.

        Args:
            input: (L, N, input_size); (N, L, input_size) with ``batch_first``; or
                (L, input_size).
            state: (h, c) before the first step, each (num_layers, N, H), or (num_layers, H) for
                unbatched input; None starts from zeros.
            hx: the name that ``nn.LSTM`` has for ``state``.

        Returns:
            h after every step, in the input's layout, and (h, c) after the last one.

        Raises:
            ValueError, TypeError: the input or the state does not fit; the message says why.
        """
        state = one_state(state, hx)
        like: Tensor = self._get("weight_hh", 0)
        batched = isinstance(input, Tensor) and input.dim() == 3
        x = time_first(input, self.input_size, self.batch_first, like)
        shape = (self.num_layers, x.shape[1], self.hidden_size)
        if state is None:
            start = (like.new_zeros(shape), like.new_zeros(shape))
        elif not isinstance(state, (tuple, list)) or len(state) != 2:
            raise TypeError(f"state must be the pair (h, c), got {type(state).__name__}")
        else:
            start = (
                check_state("h of the state", state[0], shape, like, batched=batched),
                check_state("c of the state", state[1], shape, like, batched=batched),
            )
        last_h, last_c = [], []
        for k in range(self.num_layers):
            x, c = self._run(x, start[0][k], start[1][k], k)
            last_h.append(x[-1])
            last_c.append(c)
        h_n, c_n = torch.stack(last_h), torch.stack(last_c)
        if not batched:
            h_n, c_n = h_n[:, 0], c_n[:, 0]
        return restore(x, input, self.batch_first), (h_n, c_n)

    def _norm(self, x: Tensor, name: str, layer: int) -> Tensor:
        if not self.layer_norm:
            return x
        gain, shift = (self._get(f"norm_{name}_{kind}", layer) for kind in ("weight", "bias"))
        return F.layer_norm(x, (x.shape[-1],), gain, shift, self.norm_eps)

    def _run(self, x: Tensor, h: Tensor, c: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        hidden, bias = self.hidden_size, self._get("bias", layer)
        recurrent = self._get("weight_hh", layer).t()
        drive = project(x, self._get("weight_ih", layer), None)
        outputs = []
        with without_autocast(x.device):
            drive = self._norm(drive, "ih", layer)
            if bias is not None:
                drive = drive + bias
            for z in drive.unbind(0):
                z = z + self._norm(h @ recurrent, "hh", layer)
                i, f, g, o = z.split(hidden, dim=-1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(self._norm(c, "cell", layer))
                outputs.append(h)
        return torch.stack(outputs), c

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"layer_norm={self.layer_norm}, bias={self.bias}, batch_first={self.batch_first}"
        )

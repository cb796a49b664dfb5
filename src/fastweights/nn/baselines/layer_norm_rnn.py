"""A plain recurrent network with layer normalisation: fast weights without the fast weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.initial import set_identity, set_normal, set_values
from fastweights.nn.baselines.boundary import check_state, project, restore, time_first
from fastweights.nn.conventions import RecurrentModule, check_dtype, one_state, without_autocast

__all__ = ["LayerNormRNN"]

_FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh}


class LayerNormRNN(RecurrentModule):
    """A recurrent layer whose pre-activations are normalised over the features of each sample.

    .. math:: h(t+1) = f(\\mathrm{LN}[W h(t) + C x(t) + b])

    LN subtracts the mean and divides by √(variance + ε), both over the H features of one sample
    at one step, then applies a learned gain and bias.

    Called as ``nn.RNN``: ``output, h = layer(input, h_0)``, with the same shapes, unbatched input
    included. Parameters of layer k are named as in :class:`fastweights.FastWeightsRNN`:
    ``weight_ih_l{k}`` (C), ``weight_hh_l{k}`` (W), ``bias_l{k}`` (b), ``norm_weight_l{k}``,
    ``norm_bias_l{k}``. At the start W = I, C is normal with standard deviation 0.6 in the first
    layer and 0.6·√(2 / H) above, b = 0 and the gains are 1. W is not the 0.05·I of the fast
    weights, since without them W alone carries the past: in trial runs on associative retrieval
    0.05·I stayed below what I reached. :meth:`reset_parameters` takes other scales.

    Args:
        input_size: features of the input.
        hidden_size: H, features of the hidden vector.
        num_layers: layers stacked on one another.
        nonlinearity: f, "relu" or "tanh".
        norm_eps: ε > 0, inside the root.
        bias: whether there is a b.
        batch_first: input and output are (N, L, features).
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: an argument is impossible; the message names it.

    Source: Ba, Kiros & Hinton, "Layer Normalization" (2016), equation 4.

    Example:
        >>> layer = LayerNormRNN(37, 50)
        >>> output, h = layer(torch.randn(11, 128, 37))
        >>> output.shape, h.shape
        (torch.Size([11, 128, 50]), torch.Size([1, 128, 50]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "relu",
        norm_eps: float = 1e-5,
        bias: bool = True,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size)
        self.hidden_size = check_integer("hidden_size", hidden_size)
        self.num_layers = check_integer("num_layers", num_layers)
        if nonlinearity not in _FUNCTIONS:
            raise ValueError(f"nonlinearity must be 'relu' or 'tanh', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        self.norm_eps = check_number("norm_eps", norm_eps, 0, ends="()")
        self.bias = check_flag("bias", bias)
        self.batch_first = check_flag("batch_first", batch_first)
        check_dtype(dtype)
        for k in range(self.num_layers):
            shapes: dict[str, tuple[int, ...] | None] = {
                "weight_ih": (hidden_size, input_size if k == 0 else hidden_size),
                "weight_hh": (hidden_size, hidden_size),
                "bias": (hidden_size,) if bias else None,
                "norm_weight": (hidden_size,),
                "norm_bias": (hidden_size,),
            }
            for name, shape in shapes.items():
                empty = None if shape is None else torch.empty(shape, device=device, dtype=dtype)
                self.register_parameter(
                    f"{name}_l{k}", None if empty is None else nn.Parameter(empty)
                )
        self.reset_parameters()

    def reset_parameters(self, *, input_scale: float = 0.6, recurrent_scale: float = 1.0) -> None:
        """Draw all parameters anew.

        Args:
            input_scale: standard deviation of C's entries in the first layer.
            recurrent_scale: c in W = c·I.
        """
        input_scale = check_number("input_scale", input_scale, 0)
        recurrent_scale = check_number("recurrent_scale", recurrent_scale)
        for k in range(self.num_layers):
            above = math.sqrt(2 / self.hidden_size) if k else 1.0
            set_normal(self._get("weight_ih", k), input_scale * above)
            set_identity(self._get("weight_hh", k), recurrent_scale)
            if self.bias:
                set_values(self._get("bias", k), 0.0)
            set_values(self._get("norm_weight", k), 1.0)
            set_values(self._get("norm_bias", k), 0.0)

    def _get(self, name: str, layer: int) -> Any:
        return getattr(self, f"{name}_l{layer}")

    def forward(
        self, input: Tensor, state: Tensor | None = None, *, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over a sequence.

        Args:
            input: (L, N, input_size); (N, L, input_size) with ``batch_first``; or
                (L, input_size).
            state: h before the first step, (num_layers, N, H), or (num_layers, H) for unbatched
                input; None starts from zeros.
            hx: the name that ``nn.RNN`` has for ``state``.

        Returns:
            h after every step, in the input's layout, and after the last one, shaped as ``state``.

        Raises:
            ValueError, TypeError: the input or the state does not fit; the message says why.
        """
        state = one_state(state, hx)
        like: Tensor = self._get("weight_hh", 0)
        x = time_first(input, self.input_size, self.batch_first, like)
        shape = (self.num_layers, x.shape[1], self.hidden_size)
        if state is None:
            state = like.new_zeros(shape)
        else:
            state = check_state("state", state, shape, like, batched=input.dim() == 3)
        last = []
        for k in range(self.num_layers):
            x = self._run(x, state[k], k)
            last.append(x[-1])
        after = torch.stack(last)
        return restore(x, input, self.batch_first), after if input.dim() == 3 else after[:, 0]

    def _run(self, x: Tensor, h: Tensor, layer: int) -> Tensor:
        drive = project(x, self._get("weight_ih", layer), self._get("bias", layer))
        recurrent = self._get("weight_hh", layer).t()
        gain, shift = self._get("norm_weight", layer), self._get("norm_bias", layer)
        function = _FUNCTIONS[self.nonlinearity]
        outputs = []
        with without_autocast(x.device):
            for z in drive.unbind(0):
                z = torch.addmm(z, h, recurrent)
                h = function(F.layer_norm(z, (self.hidden_size,), gain, shift, self.norm_eps))
                outputs.append(h)
        return torch.stack(outputs)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"nonlinearity={self.nonlinearity!r}, bias={self.bias}, batch_first={self.batch_first}"
        )

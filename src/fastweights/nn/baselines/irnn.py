"""IRNN: a plain recurrent network of rectifiers that starts as an identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.initial import set_identity, set_normal, set_values
from fastweights.nn.conventions import check_dtype

__all__ = ["irnn"]


def irnn(
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    *,
    identity_scale: float = 1.0,
    input_std: float = 0.001,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.RNN:
    """An ``nn.RNN`` of rectifiers whose recurrent weights start as the identity.

    .. math:: h(t+1) = \\mathrm{relu}(W h(t) + C x(t) + b)

    At the start W = ``identity_scale`` · I and b = 0, so that without input a state is kept as
    it is, and C is normal with the small standard deviation ``input_std``.

    Args:
        input_size: features of the input.
        hidden_size: features of the hidden vector.
        num_layers: layers stacked on one another.
        identity_scale: what the identity is multiplied by; the paper takes 1, or less where long
            memory hurts.
        input_std: standard deviation of C's entries, in every layer; 0.001 in the paper.
        bias: whether there is a b.
        batch_first: input and output are (N, L, features).
        dropout: probability of dropout between layers.
        device: of the parameters.
        dtype: of the parameters.

    Returns:
        An ``nn.RNN``, which takes what every ``nn.RNN`` takes; ``reset_parameters()`` draws these
        parameters anew.

    Raises:
        ValueError, TypeError: an argument is impossible; the message names it.

    Source: Le, Jaitly & Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units" (2015).

    Example:
        >>> layer = irnn(37, 50)
        >>> output, h = layer(torch.randn(11, 128, 37))
        >>> output.shape, h.shape
        (torch.Size([11, 128, 50]), torch.Size([1, 128, 50]))
        >>> torch.equal(layer.weight_hh_l0, torch.eye(50))
        True
    """
    check_dtype(dtype)
    return IRNN(
        check_integer("input_size", input_size),
        check_integer("hidden_size", hidden_size),
        check_integer("num_layers", num_layers),
        nonlinearity="relu",
        bias=check_flag("bias", bias),
        batch_first=check_flag("batch_first", batch_first),
        dropout=check_number("dropout", dropout, 0, 1),
        device=device,
        dtype=dtype,
        identity_scale=check_number("identity_scale", identity_scale),
        input_std=check_number("input_std", input_std, 0),
    )


class IRNN(nn.RNN):
    """With parameters of its own to start from, also where they are drawn anew."""

    def __init__(self, *args: Any, identity_scale: float, input_std: float, **kwargs: Any) -> None:
        # Before the parameters, which nn.RNN draws as it is made.
        self.identity_scale, self.input_std = identity_scale, input_std
        super().__init__(*args, **kwargs)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.startswith("weight_hh"):
                set_identity(parameter, self.identity_scale)
            elif name.startswith("weight_ih"):
                set_normal(parameter, self.input_std)
            else:
                set_values(parameter, 0.0)

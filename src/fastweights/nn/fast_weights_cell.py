"""One step of the fast-weights RNN, a drop-in where ``nn.RNNCell`` stood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from fastweights.arguments import check_number
from fastweights.nn.base import FastWeightsBase, LayerNames
from fastweights.nn.conventions import one_state
from fastweights.nn.layer_options import LayerOptions, with_layer_options
from fastweights.nn.state import FastWeightsState
from fastweights.ops.fast_weights import LayerState

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FastWeightsRNNCell"]


class FastWeightsRNNCell(FastWeightsBase):
    """One step of :class:`fastweights.FastWeightsRNN`, with the same options and numbers.

    Parameters: ``weight_ih`` (C), ``weight_hh`` (W), ``bias`` (b), ``norm_weight``,
    ``norm_bias``. See the layer for the equations and the arguments.

    Raises:
        ValueError, TypeError: an argument is impossible; the message names it.

    Source: Ba, Hinton, Mnih, Leibo & Ionescu (2016), equations 1 and 2.

    Example:
        >>> import torch, fastweights
        >>> cell = fastweights.FastWeightsRNNCell(3, 4)
        >>> state = None
        >>> for x in torch.randn(5, 2, 3):
        ...     h, state = cell(x, state)
        >>> h.shape
        torch.Size([2, 4])
    """

    @with_layer_options
    def __init__(self, input_size: int, hidden_size: int, **options: Unpack[LayerOptions]) -> None:
        super().__init__(input_size, hidden_size, options)
        self._add_layer(LayerNames.of_cell(), self.input_size, options)
        self.reset_parameters()

    def reset_parameters(self, *, input_scale: float = 1.0, recurrent_scale: float = 0.05) -> None:
        """Draw all parameters anew.

        Args:
            input_scale: root mean square of C's entries; C is semi-orthogonal but for scale.
            recurrent_scale: c in W = c·I.

        Raises:
            ValueError, TypeError: a scale is not a finite number, or ``input_scale`` negative.
        """
        input_scale = check_number("input_scale", input_scale, 0)
        recurrent_scale = check_number("recurrent_scale", recurrent_scale)
        self._reset_layer(self._names[0], input_scale=input_scale, recurrent_scale=recurrent_scale)

    def forward(
        self,
        input: Tensor,
        state: FastWeightsState | None = None,
        *,
        hx: FastWeightsState | None = None,
    ) -> tuple[Tensor, FastWeightsState]:
        """h(t+1) and the new state.

        Args:
            input: x(t), shape (N, input_size) or (input_size,).
            state: what the previous step returned; None starts from nothing.
            hx: the name that ``nn.RNNCell`` has for ``state``.

        Raises:
            ValueError, TypeError: the input or the state does not fit; the message says why.
        """
        if hx is not None:
            state = one_state(state, hx)
        self._check_input(input, "(N, input_size) or (input_size,)", (1, 2))
        batched = input.dim() == 2
        x = input[None] if batched else input[None, None]
        start = None
        layered = True
        if state is not None:
            given = self._check_state(state, layers=1, batch=x.shape[1], batched=batched)
            layered = given.history is None
            start = given.layer(0)
            if layered:
                start = LayerState(given.hidden, given.steps, None, given.matrix)
        output, last = self._run_layer(x, self._names[0], start, layered=layered)
        after = FastWeightsState(*last) if layered else FastWeightsState.from_layers([last])
        return (output[0], after) if batched else (output[0, 0], after[0])

    def extra_repr(self) -> str:
        bias = "" if self._has_bias else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}, {self._options_repr()}{bias}"

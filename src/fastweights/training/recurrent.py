"""The state of a recurrent layer between segments: truncated back-propagation through time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastweights.nn import FastWeightsState

__all__ = ["CarriedState"]


class CarriedState:
    """Holds the state after one segment for the next, cut from the graph.

    Attributes:
        value: what the layer gave: a ``FastWeightsState``, a tensor, or a tuple of tensors as of
            ``nn.LSTM``; None at the beginning of a text.

    Example:
        >>> import torch
        >>> layer, carried = torch.nn.LSTM(3, 4), CarriedState()
        >>> for segment in torch.randn(2, 5, 1, 3):
        ...     output, state = layer(segment, carried.value)
        ...     output.sum().backward()  # through this segment alone
        ...     carried.keep(state)
        >>> sorted(carried.tensors())
        ['0', '1']
    """

    def __init__(self) -> None:
        self.value: Any = None

    def keep(self, state: Any) -> None:
        """Hold this state from now on."""
        if isinstance(state, tuple):
            self.value = tuple(part.detach() for part in state)
        else:
            self.value = state.detach()

    def tensors(self) -> dict[str, Tensor]:
        """The state by names, as a checkpoint takes it."""
        if self.value is None:
            return {}
        if isinstance(self.value, FastWeightsState):
            return self.value.tensors()
        parts = self.value if isinstance(self.value, tuple) else (self.value,)
        return {str(number): part for number, part in enumerate(parts)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`."""
        if not tensors:
            self.value = None
        elif "hidden" in tensors:
            self.value = FastWeightsState.from_tensors(tensors)
        else:
            parts = tuple(tensors[str(number)] for number in range(len(tensors)))
            self.value = parts if len(parts) > 1 else parts[0]

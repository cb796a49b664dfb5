"""What a fast-weights layer carries from one call to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastweights.ops.fast_weights import LayerState

__all__ = ["FastWeightsState"]

_BATCH_DIMENSION = {"hidden": 1, "steps": 0, "history": 2, "matrix": 1, "constant_before": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class FastWeightsState:
    """The hidden vectors and the fast memory of every layer, in place of ``h_0`` / ``h_n``.

    N is ``num_layers``, doubled when bidirectional, ordered as in ``nn.RNN``. Without a batch
    dimension (unbatched input) B is absent everywhere. At most one of ``history`` and ``matrix``
    is there: which one depends on the form that ran.

    Attributes:
        hidden: h(t), shape (N, B, H).
        steps: how many steps each sample has seen, int64, shape (B,).
        history: the vectors written so far, oldest first, shape (N, M, B, H); shorter samples
            are padded with zeros at the front.
        matrix: the fast weights A, write rate included, shape (N, B, H, H); with a decay that is
            a sum of M exponentials (N, B, M, H, H), one for each.
        constant_before: the step before which what the history holds was written outside of the
            graph, int64, shape (N, B), 0 where all of it is in the graph. Only there while a
            learned write rate or decay asks for it; see :meth:`detach`.

    Example:
        >>> import fastweights
        >>> layer = fastweights.FastWeightsRNN(3, 4)
        >>> output, state = layer(torch.randn(5, 2, 3))
        >>> state.hidden.shape, state[0].hidden.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 4]))
    """

    hidden: Tensor
    steps: Tensor
    history: Tensor | None = None
    matrix: Tensor | None = None
    constant_before: Tensor | None = None

    @classmethod
    def from_layers(cls, layers: Sequence[LayerState]) -> FastWeightsState:
        """Stack the states of single layers, which all have seen the same steps."""
        if len(layers) == 1:
            hidden = layers[0].hidden.unsqueeze(0).clone()  # it may be part of the output
        else:
            hidden = torch.stack([s.hidden for s in layers])
        steps = layers[0].steps
        constant = [s.constant_before for s in layers]
        if any(step is not None for step in constant):
            constant = [torch.zeros_like(steps) if step is None else step for step in constant]
        return cls(
            hidden=hidden,
            steps=steps,
            history=_stack([s.history for s in layers]),
            matrix=_stack([s.matrix for s in layers]),
            constant_before=_stack(constant),
        )

    def layer(self, index: int) -> LayerState:
        """The state of one layer, for the functional recurrence."""
        return LayerState(
            hidden=self.hidden[index],
            steps=self.steps,
            history=None if self.history is None else self.history[index],
            matrix=None if self.matrix is None else self.matrix[index],
            constant_before=None if self.constant_before is None else self.constant_before[index],
        )

    @property
    def batched(self) -> bool:
        """Whether the state has a batch dimension."""
        return self.hidden.dim() == 3

    def _map(self, function: Callable[[str, Tensor], Tensor]) -> FastWeightsState:
        return FastWeightsState(**{k: function(k, v) for k, v in self.tensors().items()})

    def detach(self) -> FastWeightsState:
        """The same state, cut from the graph: for truncated back-propagation through time.

        What it remembers is a constant from then on, in every form alike: a learned write rate,
        and a learned decay, get gradients through what is written after the cut, and through how
        the old memory fades after it; not through how the old was written, nor through how it
        faded until then. (A power law and others that are not ``recurrent`` weigh every old vector
        anew by its age, so of these the exponent does get a gradient through old vectors.) The
        same goes for a state that was loaded, or made without gradients.
        """
        return dataclasses.replace(
            self._map(lambda _, tensor: tensor.detach()), constant_before=None
        )

    def clone(self) -> FastWeightsState:
        """A copy that shares no memory with this one."""
        return self._map(lambda _, tensor: tensor.clone())

    def to(self, *args: Any, **kwargs: Any) -> FastWeightsState:
        """As ``Tensor.to``; a dtype applies to all but the step counts."""

        def move(name: str, tensor: Tensor) -> Tensor:
            moved = tensor.to(*args, **kwargs)
            # Steps not by way of a half, which cannot count beyond 256.
            return tensor.to(moved.device) if name in ("steps", "constant_before") else moved

        return self._map(move)

    def __getitem__(self, index: Any) -> FastWeightsState:
        """Samples of the batch: an integer gives an unbatched state, anything else a batched one.

        Raises:
            IndexError: the state has no batch dimension, or the index is out of range.
        """
        if not self.batched:
            raise IndexError("this state has no batch dimension to index")
        return self._map(
            # Contiguous, because safetensors saves nothing else.
            lambda name, tensor: tensor[
                (slice(None),) * _BATCH_DIMENSION[name] + (index,)
            ].contiguous()
        )

    def __len__(self) -> int:
        """The number of samples."""
        if not self.batched:
            raise TypeError("this state has no batch dimension")
        return self.hidden.shape[1]

    def __iter__(self) -> Any:
        # Without this, Python would iterate by __getitem__ and `h, c = state` would half work.
        raise TypeError("a FastWeightsState is not a sequence; use its attributes or state[i]")

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, ready for ``safetensors.torch.save_file``."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FastWeightsState:
        """The inverse of :meth:`tensors`.

        Raises:
            ValueError: a tensor is missing or not known.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown, missing = set(tensors) - known, {"hidden", "steps"} - set(tensors)
        if unknown or missing:
            raise ValueError(
                "tensors must hold hidden and steps, and may hold history or matrix, and "
                f"constant_before; "
                f"got {sorted(tensors)}"
            )
        return cls(**tensors)

    def unsqueeze(self) -> FastWeightsState:
        """An unbatched state as a batch of one."""
        return self._map(lambda name, tensor: tensor.unsqueeze(_BATCH_DIMENSION[name]))


def _stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    if len(present) == 1:
        return present[0].unsqueeze(0)
    return torch.stack(present) if present else None


# So that a state passes through torch.compile and torch.export, and loads with weights_only=True.
torch.export.register_dataclass(
    FastWeightsState, serialized_type_name="fastweights.nn.state.FastWeightsState"
)
torch.serialization.add_safe_globals([FastWeightsState])

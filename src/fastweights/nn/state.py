"""What a fast-weights layer carries from one call to the next."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastweights.decay import Decay, PowerLaw
from fastweights.ops.fast_weights import LayerState

__all__ = ["FastWeightsState", "warn_of_growth"]

_BATCH_DIMENSION = {"hidden": 1, "steps": 0, "history": 2, "matrix": 1, "constant_before": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class FastWeightsState:
    """The hidden vectors and the fast memory of every layer, in place of ``h_0`` / ``h_n``.

    N is ``num_layers``, doubled when bidirectional, ordered as in ``nn.RNN``. Without a batch
    dimension (unbatched input) B is absent everywhere. At most one of ``history`` and ``matrix``
    is there: which one depends on the form that ran.

    How many vectors there can be, for a state that is handed on from call to call:

    =================================  =========================================================
    decay                              M at most
    =================================  =========================================================
    exponential, step-indexed          a few times H, then one matrix instead
    sum of C exponentials              a few times C·H, then C matrices instead
    ``Free(length)``                   ``length``
    ``Factorial`` that is not learned  its ``horizon``, 64 for an exponent of ½
    ``PowerLaw``, learned factorial    **no bound**: one more with every step, 600 at step 600
    =================================  =========================================================

    With ``form="attention"`` there is no matrix, and the first two have no bound either. A state
    that has grown large in that way says so once;
    :meth:`fastweights.decay.PowerLaw.as_exponentials` makes a power law that does not grow.

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
    def from_hidden(cls, hidden: Tensor) -> FastWeightsState:
        """The state before the first step, with hidden vectors of one's own and an empty memory.

        Args:
            hidden: h(0), the ``h_0`` of an ``nn.RNN``, shape (N, B, H), or (N, H) unbatched.

        Raises:
            TypeError: ``hidden`` is not a tensor.
            ValueError: it has another number of dimensions.

        Example:
            >>> import fastweights
            >>> start = FastWeightsState.from_hidden(torch.ones(1, 2, 4))
            >>> output, state = fastweights.FastWeightsRNN(3, 4)(torch.randn(5, 2, 3), start)
        """
        if not isinstance(hidden, Tensor):
            raise TypeError(f"hidden must be a tensor, got {type(hidden).__name__}")
        if hidden.dim() not in (2, 3):
            raise ValueError(
                f"hidden must have shape (N, B, H) or (N, H), got {tuple(hidden.shape)}"
            )
        return cls(hidden, torch.zeros(hidden.shape[1:-1], dtype=torch.int64, device=hidden.device))

    @classmethod
    def from_layers(cls, layers: Sequence[LayerState]) -> FastWeightsState:
        """Stack the states of single layers, which all have seen the same steps."""
        if len(layers) == 1:
            hidden, steps, history, matrix, constant_before = layers[0]
            parts = (_alone(part) for part in (history, matrix, constant_before))
            return cls(hidden.unsqueeze(0), steps, *parts)
        steps = layers[0].steps
        constant = [s.constant_before for s in layers]
        if any(step is not None for step in constant):
            constant = [torch.zeros_like(steps) if step is None else step for step in constant]
        return cls(
            hidden=torch.stack([s.hidden for s in layers]),
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


def warn_of_growth(decay: Decay, form: str, vectors: int, hidden_size: int) -> None:
    """Say once, for every kind of decay, that a state grows without end.

    Not before it has become more than the five matrices that a sum of exponentials takes over a
    thousand steps.
    """
    bounded = decay.horizon is not None or (decay.recurrent and form != "attention")
    if bounded or vectors <= 10 * hidden_size + 100 or torch.compiler.is_compiling():
        return
    if decay.recurrent:
        instead = "form='auto' carries a matrix instead"
    elif isinstance(decay, PowerLaw):
        instead = "decay=PowerLaw(...).as_exponentials() carries a few matrices instead"
    else:
        instead = "a Free decay forgets what is older than its length"
    _warn_once(
        f"a state with {type(decay).__name__} decay and form={form!r} holds every vector that was "
        f"written, and grows by one with every step; {instead}"
    )


@functools.lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)


def _alone(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.unsqueeze(0)


def _stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    return torch.stack(present) if present else None


# So that a state passes through torch.compile and torch.export, and loads with weights_only=True.
torch.export.register_dataclass(
    FastWeightsState, serialized_type_name="fastweights.nn.state.FastWeightsState"
)
torch.serialization.add_safe_globals([FastWeightsState])

"""The fast-weights RNN as a layer, a drop-in where ``nn.RNN`` or ``nn.LSTM`` stood."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from fastweights.arguments import check_flag, check_integer, check_number
from fastweights.nn.base import FastWeightsBase, LayerNames
from fastweights.nn.conventions import RecurrentModule, one_state, without_autocast
from fastweights.nn.layer_options import LayerOptions, with_layer_options
from fastweights.nn.state import FastWeightsState
from fastweights.ops.fast_weights import LayerState
from fastweights.ops.fast_weights.inspect import Inspection, inspect_recurrence
from fastweights.ops.fast_weights.options import project

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FastWeightsRNN"]


_TIME_FIRST = "(L, N, input_size) or (L, input_size)"
_BATCH_FIRST = "(N, L, input_size) or (L, input_size)"


class FastWeightsRNN(FastWeightsBase, RecurrentModule):
    """A recurrent layer with an associative memory of its own recent past.

    With z(t) = W h(t) + C x(t) + b, ReLU f and layer normalisation LN over the features:

    .. math::
        A(t) &= \\lambda A(t-1) + \\eta\\, h(t) h(t)^\\top \\\\
        h_0(t+1) &= f(z(t)) \\\\
        h_s(t+1) &= f(\\mathrm{LN}[z(t) + A(t) h_{s-1}(t+1)]), \\quad s = 1 \\ldots S \\\\
        h(t+1) &= h_S(t+1)

    Shapes are those of ``nn.RNN``: input (L, N, input_size), (N, L, input_size) with
    ``batch_first``, (L, input_size) unbatched, or a ``PackedSequence``; output the same with
    ``hidden_size`` features (twice that when bidirectional).

    Parameters of layer k (suffix ``_reverse`` for the backward direction): ``weight_ih_l{k}`` (C),
    ``weight_hh_l{k}`` (W), ``bias_l{k}`` (b), ``norm_weight_l{k}``, ``norm_bias_l{k}``.

    Initialisation: W = 0.05·I as in the paper, which does not give C's. Ours, chosen on
    validation data of associative retrieval: a random semi-orthogonal matrix (a tight frame) with
    entries of root mean square 1, meant for one-hot inputs or others of about unit length, and
    √(2 / inputs) in upper layers, whose inputs have about half their features near 1.
    :meth:`reset_parameters` takes other scales.

    Under autocast the input product runs in the lower precision, the recurrence in that of the
    parameters.

    Args:
        input_size: features of the input.
        hidden_size: H, features of the hidden vector.
        num_layers: layers stacked on one another.
        inner_steps: S ≥ 0, reads of the memory per step.
        decay: a :class:`fastweights.decay.Decay`, or a number λ for ``Exponential(λ)``. A learnable
            decay is learned by every layer and direction for itself.
        write_rate: η. "auto" is 0.5; without layer norm, where that overflows, it is
            :func:`fastweights.theory.memory.stable_write_rate`, for inputs of about unit length.
        layer_norm: normalise in the inner loop.
        norm_preliminary: normalise h_0(t+1) too, as much public code does; it hurts.
        norm_eps: ε of the layer norm.
        nonlinearity: f, "relu" or "tanh".
        bias: whether there is a b.
        batch_first: input and output are (N, L, features).
        dropout: probability of dropout between layers.
        bidirectional: a second set of layers reads the sequence backwards.
        proj_size: 0; an ``nn.LSTM`` can project its hidden vector, this cannot.
        write: "before_read" (A(t) contains h(t), the paper) or "after_read".
        query: "preliminary" (the paper) or "previous": start the inner loop from h(t), so that
            S = 1 adds no depth.
        memory: "hebbian", or a control in its place: "identity", "random" (fixed), "learned"
            (slow) or "none".
        memory_scale: c of the control: c·I, or entries of standard deviation c / √H.
        detach_writes: stop the gradient through what is written.
        learn_write_rate: train log η.
        form: "attention", "matrix", "chunked" or "auto"; all give the same numbers, and the same
            gradients, also after :meth:`FastWeightsState.detach`.
        backend: "native" (CPU), "triton" (CUDA), "reference", or "auto", the fastest of them that
            supports the call; under a transform that does not see into a kernel that is the
            reference.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: an argument is impossible; the message names it.

    Source: Ba, Hinton, Mnih, Leibo & Ionescu, "Using Fast Weights to Attend to the Recent Past"
    (2016), equations 1 and 2; the inner loop's start without LN as printed there.

    Example:
        >>> import torch, fastweights
        >>> layer = fastweights.FastWeightsRNN(input_size=37, hidden_size=50)
        >>> x = torch.randn(11, 128, 37)
        >>> output, state = layer(x)              # (11, 128, 50)
        >>> output, state = layer(x, state)       # go on where the sequence stopped
        >>> output.shape, state.hidden.shape
        (torch.Size([11, 128, 50]), torch.Size([1, 128, 50]))
    """

    @with_layer_options
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, options)
        self.num_layers = check_integer("num_layers", num_layers)
        if check_integer("proj_size", proj_size, 0) != 0:
            raise ValueError(
                f"proj_size must be 0, got {proj_size}: the hidden vector is not projected; put "
                "an nn.Linear behind the layer"
            )
        self.bias = self._has_bias
        self.batch_first = check_flag("batch_first", batch_first)
        self.dropout = check_number("dropout", dropout, 0, 1)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        for k in range(self.num_layers):
            features = self.input_size if k == 0 else self.hidden_size * self._directions
            for backward in (False, True)[: self._directions]:
                names = LayerNames.of_layer(k, backward=backward)
                self._add_layer(names, features, options)
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _names_of(self, layer: int) -> list[LayerNames]:
        """Of each direction."""
        return self._names[layer * self._directions : (layer + 1) * self._directions]

    def reset_parameters(self, *, input_scale: float = 1.0, recurrent_scale: float = 0.05) -> None:
        """Draw all parameters anew.

        Args:
            input_scale: root mean square of C's entries in the first layer.
            recurrent_scale: c in W = c·I.

        Raises:
            ValueError, TypeError: a scale is not a finite number, or ``input_scale`` negative.
        """
        input_scale = check_number("input_scale", input_scale, 0)
        recurrent_scale = check_number("recurrent_scale", recurrent_scale)
        for k in range(self.num_layers):
            for names in self._names_of(k):
                features = self._get(names.weight_ih).shape[1]
                scale = input_scale if k == 0 else input_scale * math.sqrt(2 / features)
                self._reset_layer(names, input_scale=scale, recurrent_scale=recurrent_scale)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: FastWeightsState | None = None,
        *,
        hx: FastWeightsState | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, FastWeightsState]:
        """Run the layer over a sequence.

        Args:
            input: (L, N, input_size); (N, L, input_size) with ``batch_first``;
                (L, input_size) unbatched; or a ``PackedSequence``.
            state: what an earlier call returned; None starts from nothing.
            hx: the name that ``nn.RNN`` has for ``state``.
            resets: where a sequence begins anew, bool, (L, N), (N, L) with ``batch_first``, or (L,)
                unbatched: before such a step the sample forgets h and what it has written, as
                episodes that follow on one another in a batch want it. A backward direction
                forgets at the same places. Not together with a ``PackedSequence``.

        Returns:
            The output, shaped and batched as the input, with ``hidden_size`` features (twice that
            when bidirectional); and the state after the last step of each sample.

        Raises:
            ValueError, TypeError: the input or the state does not fit; the message says why.
        """
        if hx is not None:
            state = one_state(state, hx)
        if isinstance(input, PackedSequence):
            if resets is not None:
                raise ValueError("resets must be None where the input is a PackedSequence")
            return self._forward_packed(input, state)
        self._check_sequence(input)
        if state is not None:
            state = self._batched_state(state, input)
        if resets is not None:
            resets = self._checked_resets(resets, input)
        output, after = self._forward_padded(self._time_first(input), state, None, resets)
        if input.dim() == 2:
            return output[:, 0], after[0]
        return (output.transpose(0, 1) if self.batch_first else output), after

    def _check_sequence(self, input: Tensor) -> None:
        first = self.batch_first
        self._check_input(input, _BATCH_FIRST if first else _TIME_FIRST, (2, 3))
        if input.shape[input.dim() == 3 and first] == 0:
            raise ValueError(f"input must have at least one step, got shape {tuple(input.shape)}")

    def _checked_resets(self, resets: Any, input: Tensor) -> Tensor:
        """As the layers take them, (L, N)."""
        if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
            got = resets.dtype if isinstance(resets, Tensor) else type(resets).__name__
            raise TypeError(f"resets must be a tensor of torch.bool, got {got}")
        if resets.shape != input.shape[:-1]:
            raise ValueError(
                f"resets must have shape {tuple(input.shape[:-1])} like the input's steps, got "
                f"{tuple(resets.shape)}"
            )
        if resets.dim() == 1:
            return resets[:, None]
        return resets.t() if self.batch_first else resets

    def _time_first(self, input: Tensor) -> Tensor:
        """(L, N, features) of a batched or unbatched input."""
        if input.dim() == 2:
            return input[:, None]
        return input.transpose(0, 1) if self.batch_first else input

    def _batched_state(
        self, state: FastWeightsState | None, input: Tensor
    ) -> FastWeightsState | None:
        if state is None:
            return None
        batched = input.dim() == 3
        batch = self._time_first(input).shape[1]
        return self._check_state(state, layers=len(self._names), batch=batch, batched=batched)

    def _forward_packed(
        self, packed: PackedSequence, state: FastWeightsState | None
    ) -> tuple[PackedSequence, FastWeightsState]:
        self._check_input(packed.data, "(steps, input_size) in a PackedSequence", (2,))
        # The batch in packed order, longest first; the user's order comes back at the end.
        plain = PackedSequence(packed.data, packed.batch_sizes)
        x, lengths = pad_packed_sequence(plain)
        if state is not None:
            state = self._check_state(
                state, layers=len(self._names), batch=x.shape[1], batched=True
            )
            if packed.sorted_indices is not None:
                state = state[packed.sorted_indices]
        output, after = self._forward_padded(x, state, lengths.to(x.device))
        # Found where the lengths are, on the CPU, so that nothing waits and meta tensors do too.
        alive = torch.arange(x.shape[0], device=lengths.device)[:, None] < lengths
        data = output.flatten(0, 1)[alive.flatten().nonzero()[:, 0].to(x.device)]
        if packed.unsorted_indices is not None:
            after = after[packed.unsorted_indices]
        return packed._replace(data=data), after

    def _forward_padded(
        self,
        x: Tensor,
        state: FastWeightsState | None,
        lengths: Tensor | None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, FastWeightsState]:
        if len(self._names) == 1 and (state is None or state.history is None):
            start = None
            if state is not None:
                start = LayerState(state.hidden, state.steps, None, state.matrix)
            output, last = self._run_layer(x, self._names[0], start, lengths, resets, layered=True)
            return output, FastWeightsState(*last)
        after: list[LayerState] = []
        for k in range(self.num_layers):
            outputs = []
            for names in self._names_of(k):
                start = None if state is None else state.layer(len(after))
                source, forget = x, resets
                if names.backward:
                    source = _reversed(x, lengths)
                    # What is forgotten between two steps, seen from the other side.
                    forget = None if resets is None else resets.flip(0).roll(1, 0)
                output, last = self._run_layer(source, names, start, lengths, forget)
                outputs.append(_reversed(output, lengths) if names.backward else output)
                after.append(last)
            x = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
            if k < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x, FastWeightsState.from_layers(after)

    def attention(
        self, input: Tensor, state: FastWeightsState | None = None, *, layer: int = 0
    ) -> Tensor:
        """How much each step attends to each past step: η r(k) h(τ)·h_{s−1}(t+1).

        Args:
            input: (L, N, input_size), (N, L, input_size) with ``batch_first``, or
                (L, input_size).
            state: as for the layer; its memory must be a history.
            layer: which layer and direction, numbered as in ``state.hidden``.

        Returns:
            Shape (N, S, L, M + L): entry [n, s, t, m] is the weight with which inner step s + 1
            of step t reads the vector in column m. Columns are the M vectors of the incoming
            state, if any, then h(0), …, h(L−1); h(τ + 1) is the output at step τ. Steps of a
            backward direction are counted in its reading order. N is absent for unbatched input.

        Raises:
            ValueError, TypeError: the memory is not Hebbian, the state holds a matrix, ``layer``
                is out of range, or the input or the state does not fit.

        Example:
            >>> layer = FastWeightsRNN(3, 4)
            >>> layer.attention(torch.randn(5, 2, 3)).shape
            torch.Size([2, 1, 5, 5])
        """
        return self._inspect(input, state, layer).weights

    def fast_weight_matrix(
        self, input: Tensor, state: FastWeightsState | None = None, *, layer: int = 0
    ) -> Tensor:
        """The matrix A(t) that each step reads, for every step.

        Arguments and errors as for :meth:`attention`. This takes L·H² numbers per sample.

        Returns:
            Shape (N, L, H, H); N is absent for unbatched input.

        Example:
            >>> layer = FastWeightsRNN(3, 4)
            >>> layer.fast_weight_matrix(torch.randn(5, 2, 3)).shape
            torch.Size([2, 5, 4, 4])
        """
        return self._inspect(input, state, layer).matrices()

    def _inspect(self, input: Tensor, state: FastWeightsState | None, layer: int) -> Inspection:
        if self.memory != "hebbian":
            raise ValueError(f"memory={self.memory!r} attends to nothing; it must be 'hebbian'")
        layers = len(self._names)
        if not 0 <= check_integer("layer", layer, 0) < layers:
            raise ValueError(f"layer must lie in 0 … {layers - 1}, got {layer}")
        self._check_sequence(input)
        x, state = self._time_first(input), self._batched_state(state, input)
        below = layer // self._directions
        for k in range(below + 1):
            outputs = []
            for j, names in enumerate(self._names_of(k)):
                index = k * self._directions + j
                start = None if state is None else state.layer(index)
                source = _reversed(x, None) if names.backward else x
                output, _ = self._run_layer(source, names, start)
                if index == layer:
                    drive = project(self._project(source, names))
                    with without_autocast(x.device):
                        return inspect_recurrence(
                            drive,
                            output,
                            self._slow_weights(names),
                            self._layer_decay(names),
                            self._write_rate(names),
                            start,
                            self._options,
                            unbatched=input.dim() == 2,
                        )
                outputs.append(_reversed(output, None) if names.backward else output)
            x = torch.cat(outputs, dim=-1)
        raise AssertionError("unreachable: layer was checked")

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.num_layers != 1:
            parts.append(f"num_layers={self.num_layers}")
        parts.append(self._options_repr())
        for name, usual in (
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
        ):
            if getattr(self, name) != usual:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sample backwards in time, its padding left at the end."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, source[:, :, None].expand_as(x))

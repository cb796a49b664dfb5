"""An LSTM that attends to its own past hidden vectors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastweights.arguments import check_flag, check_integer
from fastweights.nn.baselines.boundary import check_state, project, restore, time_first
from fastweights.nn.conventions import RecurrentModule, check_dtype, one_state, without_autocast

__all__ = ["AttentionLSTM", "AttentionLSTMState"]


class AttentionLSTMState(NamedTuple):
    """What an :class:`AttentionLSTM` carries from one call to the next.

    Attributes:
        hidden: h of every layer, shape (num_layers, N, H).
        cell: c of every layer, shape (num_layers, N, H).
        history: the top layer's h at every step so far, oldest first, shape (M, N, H).

    N is absent throughout for unbatched input.
    """

    hidden: Tensor
    cell: Tensor
    history: Tensor


class AttentionLSTM(RecurrentModule):
    """An LSTM whose output looks back, by content, at all its earlier hidden vectors.

    With h(t) the hidden vector of the top layer of an ordinary LSTM:

    .. math::
        a(t, \\tau) &= \\mathrm{softmax}_{\\tau < t}(h(t)^\\top W_a h(\\tau)) \\\\
        r(t) &= \\sum_{\\tau < t} a(t, \\tau)\\, h(\\tau) \\\\
        y(t) &= \\tanh(W_c [r(t); h(t)])

    A step attends to the past only, not to itself; at the very first step there is no past and
    r = 0. The attention is Luong's, turned from the states of an encoder to the network's own
    past; the recurrence does not see what was read. It costs memory for every past hidden vector,
    which fast weights replace by one matrix.

    The score is Luong's "general" one by default. With ``score="dot"`` there is no W_a: what is
    looked for and what is looked up are then one vector, and in trial runs on associative
    retrieval it depended on learning rate and schedule whether that network learned at all.

    *On the name.* The table of Ba, Hinton, Mnih, Leibo & Ionescu (2016) has a column "A-LSTM".
    The abbreviation is ambiguous: besides an LSTM with attention it is in use for the Associative
    LSTM of Danihelka et al. (2016), which stores in complex-valued superpositions and has no
    attention at all. Nor are its settings known here. This class is the first reading, and its
    accuracy is no reproduction of that column.

    Called as ``nn.LSTM``, with the same shapes, unbatched input included, but for the state,
    which also holds the past. Parameters: those of an ``nn.LSTM`` under ``lstm.``, and
    ``weight_score`` (W_a, shape (H, H)) and ``weight_combine`` (W_c, shape (H, 2H)), uniform on
    ±1/√H and ±1/√(2H) at the start.

    Args:
        input_size: features of the input.
        hidden_size: H, features of the hidden vector, of the cell and of the output.
        num_layers: layers of the LSTM; the attention is over the top one.
        score: "general" or "dot".
        bias: whether the LSTM has biases; W_a and W_c have none.
        batch_first: input and output are (N, L, features).
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError, TypeError: an argument is impossible; the message names it.

    Source: Luong, Pham & Manning, "Effective Approaches to Attention-based Neural Machine
    Translation" (2015), equations 5, 7 and 8; attention over a language model's own past outputs as
    in Daniluk, Rocktäschel, Welbl & Riedel (2017).

    Example:
        >>> layer = AttentionLSTM(37, 50)
        >>> x = torch.randn(11, 128, 37)
        >>> output, state = layer(x)
        >>> output, state = layer(x, state)       # go on where the sequence stopped
        >>> output.shape, state.hidden.shape, state.history.shape
        (torch.Size([11, 128, 50]), torch.Size([1, 128, 50]), torch.Size([22, 128, 50]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        score: str = "general",
        bias: bool = True,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size = check_integer("input_size", input_size)
        self.hidden_size = check_integer("hidden_size", hidden_size)
        self.num_layers = check_integer("num_layers", num_layers)
        if score not in ("general", "dot"):
            raise ValueError(f"score must be 'general' or 'dot', got {score!r}")
        self.score = score
        self.batch_first = check_flag("batch_first", batch_first)
        check_flag("bias", bias)
        check_dtype(dtype)
        sizes = self.input_size, self.hidden_size, self.num_layers
        self.lstm = nn.LSTM(*sizes, bias=bias, device=device, dtype=dtype)
        square = torch.empty(self.hidden_size, self.hidden_size, device=device, dtype=dtype)
        self.weight_score = nn.Parameter(square) if score == "general" else None
        self.weight_combine = nn.Parameter(square.new_empty(self.hidden_size, 2 * self.hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.lstm.reset_parameters()
        for weight in (self.weight_score, self.weight_combine):
            if weight is not None:
                bound = 1 / math.sqrt(weight.shape[1])
                nn.init.uniform_(weight, -bound, bound)

    def flatten_parameters(self) -> None:
        """As of the ``nn.LSTM`` inside."""
        self.lstm.flatten_parameters()

    def forward(
        self,
        input: Tensor,
        state: AttentionLSTMState | None = None,
        *,
        hx: AttentionLSTMState | None = None,
    ) -> tuple[Tensor, AttentionLSTMState]:
        """Run the layer over a sequence.

        Args:
            input: (L, N, input_size); (N, L, input_size) with ``batch_first``; or
                (L, input_size).
            state: what an earlier call returned; None starts from nothing.
            hx: the name that ``nn.LSTM`` has for ``state``.

        Returns:
            y at every step, in the input's layout, and the state after the last one.

        Raises:
            ValueError, TypeError: the input or the state does not fit; the message says why.
        """
        state = one_state(state, hx)
        like = self.weight_combine
        x = time_first(input, self.input_size, self.batch_first, like)
        batched = input.dim() == 3
        if state is None:
            start, past = None, like.new_zeros(0, x.shape[1], self.hidden_size)
        else:
            checked = self._check_state(state, x.shape[1], batched)
            start, past = (checked.hidden, checked.cell), checked.history
        h, (hidden, cell) = self.lstm(x, start)
        with without_autocast(x.device):
            h = h.to(like.dtype)
            history = torch.cat([past, h])
            query = h if self.weight_score is None else h @ self.weight_score
            read = attend(query, history)
            output = torch.tanh(project(torch.cat([read, h], -1), like, None))
        after = AttentionLSTMState(hidden.to(like.dtype), cell.to(like.dtype), history)
        if not batched:
            after = AttentionLSTMState(*(tensor.squeeze(-2) for tensor in after))
        return restore(output, input, self.batch_first), after

    def _check_state(
        self, state: AttentionLSTMState, batch: int, batched: bool
    ) -> AttentionLSTMState:
        if not isinstance(state, AttentionLSTMState):
            raise TypeError(f"state must be an AttentionLSTMState, got {type(state).__name__}")
        stacked = (self.num_layers, batch, self.hidden_size)
        length = len(state.history) if isinstance(state.history, Tensor) else 0
        shapes = (stacked, stacked, (length, batch, self.hidden_size))
        return AttentionLSTMState(
            *(
                check_state(f"state.{name}", tensor, shape, self.weight_combine, batched=batched)
                for name, tensor, shape in zip(state._fields, state, shapes, strict=True)
            )
        )

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"score={self.score!r}, batch_first={self.batch_first}"
        )


def attend(query: Tensor, history: Tensor) -> Tensor:
    """r(t): what each of the last L steps of the history reads from the steps before it.

    Args:
        query: what the last L steps look for, shape (L, N, H).
        history: all M + L hidden vectors, shape (M + L, N, H).
    """
    steps, total = len(query), len(history)
    before = total - steps
    # A softmax over nothing is no number, so a step without a past does not take part.
    first = 0 if before else 1
    keys = history.transpose(0, 1)
    scores = query[first:].transpose(0, 1) @ keys.mT
    rows = torch.arange(before + first, total, device=query.device)[:, None]
    not_past = torch.arange(total, device=query.device) >= rows
    weights = torch.softmax(scores.masked_fill(not_past, -math.inf), dim=-1)
    reads = (weights @ keys).transpose(0, 1)
    return reads if before else torch.cat([torch.zeros_like(query[:1]), reads])

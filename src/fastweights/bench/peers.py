"""Whom the fast-weights layer is timed against: written for speed, not for reading.

The eager peers compute exactly what the layer does, with its own parameters, and are checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.bench.cases import Case
from fastweights.nn import FastWeightsRNN, FastWeightsState
from fastweights.training.config import ConfigError, nearest

__all__ = ["OURS", "PEERS", "Peer", "check_peers"]

OURS = "fast-weights"
DECAY, WRITE_RATE = 0.95, 0.5


class _Eager(nn.Module):
    """The layer's equations in plain PyTorch, S = 1, on the parameters of a layer."""

    def __init__(self, layer: FastWeightsRNN) -> None:
        super().__init__()
        self.weight_ih = layer.get_parameter("weight_ih_l0")
        self.weight_hh = layer.get_parameter("weight_hh_l0")
        self.bias = layer.get_parameter("bias_l0")
        self.norm_weight = layer.get_parameter("norm_weight_l0")
        self.norm_bias = layer.get_parameter("norm_bias_l0")
        self.norm_eps = layer.norm_eps

    def _norm(self, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], self.norm_weight, self.norm_bias, self.norm_eps)

    def _start(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """C x(t) + b of every step, and a zero h(0)."""
        drives = F.linear(x, self.weight_ih, self.bias).unbind(0)
        return drives, torch.zeros_like(drives[0])


class EagerMatrix(_Eager):
    """One H × H matrix per sample, as public code has it."""

    def forward(self, x: Tensor, state: FastWeightsState | None = None) -> Tensor:
        drives, h = self._start(x)
        if state is None or state.matrix is None:
            matrix = h.new_zeros(*h.shape, h.shape[1])
        else:
            h, matrix = state.hidden[0], state.matrix[0]
        outputs = []
        for drive in drives:
            matrix = torch.baddbmm(
                matrix, h[:, :, None], h[:, None, :], beta=DECAY, alpha=WRITE_RATE
            )
            z = torch.addmm(drive, h, self.weight_hh.t())
            read = torch.bmm(matrix, torch.relu(z)[:, :, None])[:, :, 0]
            h = torch.relu(self._norm(z + read))
            outputs.append(h)
        return torch.stack(outputs)


class EagerAttention(_Eager):
    """The vectors written so far in the place of the matrix."""

    def forward(self, x: Tensor) -> Tensor:
        drives, h = self._start(x)
        ages = torch.arange(x.shape[0] - 1, -1, -1, device=x.device)
        rates = WRITE_RATE * DECAY ** ages.to(x.dtype)
        written: list[Tensor] = []
        outputs = []
        for drive in drives:
            written.append(h)
            memories = torch.stack(written, 1)  # (B, m, H)
            z = torch.addmm(drive, h, self.weight_hh.t())
            scores = torch.bmm(memories, torch.relu(z)[:, :, None])[:, :, 0]
            scores = scores * rates[-len(written) :]
            read = torch.bmm(scores[:, None], memories)[:, 0]
            h = torch.relu(self._norm(z + read))
            outputs.append(h)
        return torch.stack(outputs)


def _compiled(layer: FastWeightsRNN) -> Any:
    torch.compiler.reset()  # or the tenth case would be refused: too many of them
    return torch.compile(EagerAttention(layer), fullgraph=True, dynamic=False)


def _as_it_is(state: FastWeightsState) -> FastWeightsState:
    return state


def _hidden(state: FastWeightsState) -> Tensor:
    return state.hidden[0]


def _hidden_and_cell(state: FastWeightsState) -> tuple[Tensor, Tensor]:
    """Two states of the same size for an LSTM; any numbers take it the same time."""
    return state.hidden[0], state.hidden[0].clone()


def _hidden_and_cell_of_layers(state: FastWeightsState) -> tuple[Tensor, Tensor]:
    return state.hidden, state.hidden.clone()


def _torch_rnn(kind: Callable[[int, int], nn.Module]) -> Callable[[FastWeightsRNN], nn.Module]:
    def build(layer: FastWeightsRNN) -> nn.Module:
        weight = layer.get_parameter("weight_hh_l0")
        return kind(layer.input_size, layer.hidden_size).to(weight.device, weight.dtype)

    return build


@dataclasses.dataclass(frozen=True)
class Peer:
    """A competitor.

    Attributes:
        label: how tables call it.
        build: makes it from our layer, with whose parameters it may compute the same.
        same: whether it does, and is checked.
        longest: sequences it can be asked to run; None for any.
        state: what it starts from in place of a state of ours; None where it cannot start from
            one, and takes no part in single steps with a state.
        cell: whether it is a cell, which takes part in nothing else.
    """

    label: str
    build: Callable[[FastWeightsRNN], Any]
    same: bool = False
    longest: int | None = None
    state: Callable[[FastWeightsState], Any] | None = None
    cell: bool = False

    def runs(self, case: Case) -> bool:
        """Whether it takes part in a case."""
        return self.state is not None if case.state else not self.cell


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "lstm": Peer("nn.LSTM", _torch_rnn(nn.LSTM), state=_hidden_and_cell_of_layers),
        "gru": Peer("nn.GRU", _torch_rnn(nn.GRU)),
        "rnn": Peer("nn.RNN", _torch_rnn(nn.RNN)),
        "eager-matrix": Peer("matrix loop", EagerMatrix, same=True, state=_as_it_is),
        "eager-attention": Peer("attention loop", EagerAttention, same=True),
        "lstm-cell": Peer(
            "nn.LSTMCell", _torch_rnn(nn.LSTMCell), state=_hidden_and_cell, cell=True
        ),
        "gru-cell": Peer("nn.GRUCell", _torch_rnn(nn.GRUCell), state=_hidden, cell=True),
        # It unrolls the loop: 11 steps compile for half a minute.
        "compiled": Peer("torch.compile", _compiled, same=True, longest=24),
    }
)


def check_peers(names: Sequence[str]) -> None:
    """Raise ConfigError at a peer nobody knows."""
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"unknown peer {name!r}: {nearest(name, list(PEERS))}")

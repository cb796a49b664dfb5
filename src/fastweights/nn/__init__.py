"""Layers with fast weights, and the baselines they are measured against."""

from fastweights.nn.baselines import AttentionLSTM, LayerNormLSTM, LayerNormRNN, irnn
from fastweights.nn.fast_weights_cell import FastWeightsRNNCell
from fastweights.nn.fast_weights_rnn import FastWeightsRNN
from fastweights.nn.state import FastWeightsState

__all__ = [
    "AttentionLSTM",
    "FastWeightsRNN",
    "FastWeightsRNNCell",
    "FastWeightsState",
    "LayerNormLSTM",
    "LayerNormRNN",
    "irnn",
]

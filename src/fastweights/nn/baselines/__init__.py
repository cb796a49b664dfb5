"""The recurrent networks that fast weights are measured against, besides ``nn.LSTM`` itself."""

from fastweights.nn.baselines.attention_lstm import AttentionLSTM, AttentionLSTMState
from fastweights.nn.baselines.irnn import irnn
from fastweights.nn.baselines.layer_norm_lstm import LayerNormLSTM
from fastweights.nn.baselines.layer_norm_rnn import LayerNormRNN

__all__ = ["AttentionLSTM", "AttentionLSTMState", "LayerNormLSTM", "LayerNormRNN", "irnn"]

"""Fast weights for PyTorch: layers, a two-timescale optimizer, and a laboratory."""

from fastweights import decay
from fastweights._version import __version__
from fastweights.nn import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState
from fastweights.optim import SlowFast

__all__ = [
    "FastWeightsRNN",
    "FastWeightsRNNCell",
    "FastWeightsState",
    "SlowFast",
    "__version__",
    "decay",
]

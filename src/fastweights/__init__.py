"""Fast weights for PyTorch: layers, a two-timescale optimizer, and a laboratory."""

from fastweights import decay
from fastweights._version import __version__
from fastweights.nn import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState
from fastweights.optim import Overlay, Overlays, SlowFast

__all__ = [
    "FastWeightsRNN",
    "FastWeightsRNNCell",
    "FastWeightsState",
    "Overlay",
    "Overlays",
    "SlowFast",
    "__version__",
    "decay",
]

"""Fast weights for PyTorch: layers, a two-timescale optimizer, and a laboratory."""

from fastweights import decay
from fastweights._version import __version__
from fastweights.nn import FastWeightsRNN, FastWeightsRNNCell, FastWeightsState

__all__ = ["FastWeightsRNN", "FastWeightsRNNCell", "FastWeightsState", "__version__", "decay"]

"""Fast weights for PyTorch: layers, a two-timescale optimizer, and a laboratory."""

from fastweights._version import __version__

__all__ = ["__version__"]

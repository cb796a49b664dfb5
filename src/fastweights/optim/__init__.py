"""Slow and fast weights for any module and any torch optimizer, and overlays over any model."""

from fastweights.optim.overlay import Overlay
from fastweights.optim.overlays import Overlays
from fastweights.optim.slow_fast import SlowFast

__all__ = ["Overlay", "Overlays", "SlowFast"]

"""Slow and fast weights for any module and any torch optimizer."""

from fastweights.optim.slow_fast import SlowFast

__all__ = ["SlowFast"]

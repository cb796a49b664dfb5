"""The fast-weights recurrence of Ba et al. (2016): one reference, several ways to run it."""

from fastweights.ops.fast_weights.options import InputProjection, LayerState, Options, SlowWeights
from fastweights.ops.fast_weights.recurrence import check_backend, check_form, fast_weights

__all__ = [
    "InputProjection",
    "LayerState",
    "Options",
    "SlowWeights",
    "check_backend",
    "check_form",
    "fast_weights",
]

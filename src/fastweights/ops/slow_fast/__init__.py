"""The update of slow and fast weights (Hinton & Plaut 1987), in place on lists of tensors.

`reference` is the specification, `foreach` the same without new tensors on any device, ``cpu`` both
halves in one pass, with SGD and momentum or with Adam on the CPU.
"""

from fastweights.ops.slow_fast import cpu, foreach, reference

__all__ = ["cpu", "foreach", "reference"]

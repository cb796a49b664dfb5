"""The update of slow and fast weights (Hinton & Plaut 1987), in place on lists of tensors.

`reference` is the specification, `foreach` the same without new tensors on any device, `numba_cpu`
both halves fused for SGD with momentum on the CPU.
"""

from fastweights.ops.slow_fast import foreach, numba_cpu, reference

__all__ = ["foreach", "numba_cpu", "reference"]

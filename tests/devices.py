"""Where the Triton kernels are tested: interpreted on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

__all__ = ["HAS_TRITON", "TRITON_DEVICES", "needs_cuda", "needs_interpreter"]

HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_interpreter = pytest.mark.skipif(
    not HAS_TRITON or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs triton with TRITON_INTERPRET=1",
)
needs_cuda = pytest.mark.skipif(
    not HAS_TRITON or not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs triton and a CUDA GPU",
)
TRITON_DEVICES = [
    pytest.param("cpu", marks=needs_interpreter),
    pytest.param("cuda", marks=needs_cuda),
]

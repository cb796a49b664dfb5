"""Before anything is collected: the GPU kernels where there is no GPU."""

from __future__ import annotations

import importlib.util
import os

import torch

if not torch.cuda.is_available():
    # Read when triton is imported, which torch may do: the kernels then run by NumPy on the CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")

collect_ignore: list[str] = []
if importlib.util.find_spec("triton") is None:
    collect_ignore.append("src/fastweights/ops/fast_weights/triton_kernels.py")

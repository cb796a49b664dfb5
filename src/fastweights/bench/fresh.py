"""The first calls of a process: importing, compiling, and what the memory grows by.

As a script, ``fresh.py 128x11x50 cpu``, it prints them as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing is timed below
    from fastweights.bench.cases import Case

__all__ = ["fresh_calls"]


def fresh_calls(case: Case, device: str) -> dict[str, Any]:
    """The first call with nothing compiled before, and then in another process.

    Returns:
        ``cold`` and ``cached``, each with the seconds of ``import_torch``,
        ``import_fastweights`` (on top of torch), ``first_call`` and ``next_call`` (a forward and
        a backward pass), and ``peak_bytes``, by which the next call made the memory grow
        (None where the system does not tell).
    """
    with tempfile.TemporaryDirectory(prefix="fastweights-") as folder:
        caches = {"TRITON_CACHE_DIR": folder}
        command = [sys.executable, __file__, case.name, device]
        return {
            name: json.loads(
                subprocess.run(
                    command,
                    env={**os.environ, **caches},
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
            )
            for name in ("cold", "cached")
        }


def _main(case_name: str, device: str) -> None:
    start = time.perf_counter()
    import torch

    times = {"import_torch": time.perf_counter() - start}
    start = time.perf_counter()
    import fastweights

    times["import_fastweights"] = time.perf_counter() - start
    from fastweights.bench.cases import INPUTS, parse_case
    from fastweights.bench.timing import seconds_of

    case = parse_case(case_name)
    layer = fastweights.FastWeightsRNN(INPUTS, case.width, device=device)
    plain = torch.nn.Linear(INPUTS, case.width, device=device)
    x = torch.rand(case.length, case.batch, INPUTS, device=device)

    def call() -> None:
        layer(x)[0].sum().backward()

    plain(x).sum().backward()  # what any first product and backward pass of torch sets up
    times["first_call"] = seconds_of(call, device)
    before = _memory(device, reset=True)
    times["next_call"] = seconds_of(call, device)
    after = _memory(device, reset=False)
    peak = None if before is None or after is None else after - before
    print(json.dumps({**times, "peak_bytes": peak}))


def _memory(device: str, *, reset: bool) -> int | None:
    """The most bytes that this process has held since the last reset; then begin anew."""
    if device != "cpu":
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        if reset:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except (AttributeError, OSError):  # another C library, another system
        return None
    peak = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return None if peak is None else 1024 * int(peak[1])


if __name__ == "__main__":
    _main(*sys.argv[1:])

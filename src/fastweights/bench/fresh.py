"""What a user waits for once: the first calls of a process, and an installation from source.

As a script, ``fresh.py 128x11x50 cpu``, it prints the first calls as JSON.
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

__all__ = ["fresh_calls", "fresh_install"]

_FIRST_GRADIENT = r"""
import fastweights, torch
layer = fastweights.FastWeightsRNN(3, 20)
layer(torch.rand(11, 8, 3))[0].sum().backward()
assert layer.weight_hh_l0.grad.isfinite().all()
from fastweights.ops import native
print(fastweights.__file__, native.missing_reason() is None, sep="\n")
"""


def fresh_calls(case: Case, device: str) -> dict[str, Any]:
    """The first training steps of a process with empty caches, and then of another process.

    On the CPU there is nothing to compile and no cache to fill, so the two should not differ; on
    a GPU the second process finds what Triton compiled in the first.

    Returns:
        ``cold`` and ``cached``, each with the seconds of ``import_torch``,
        ``import_fastweights`` (on top of torch), ``first_call`` and ``next_call`` (the first and
        the second training step of the process, a forward and a backward pass each), and
        ``peak_bytes``, by which the next call made the memory grow (None where the system does
        not tell).
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


def fresh_install() -> dict[str, Any]:
    """Install this source into a fresh virtual environment and work out a first gradient there.

    The environment sees the torch that runs now, whose download depends on the network more than
    on us; the tools that build the package come from pip's index or cache.

    Returns:
        ``pip_install`` (seconds of ``pip install --no-deps``, the build of the kernels included),
        ``first_gradient`` (seconds of the process that imports torch and the installed package,
        and trains for a step), and ``native``, whether it had the kernels; or ``skipped``, why it
        could not be timed.
    """
    import torch

    source = Path(__file__).parents[3]
    if not (source / "native" / "CMakeLists.txt").exists():
        return {"skipped": "no source tree: the package was installed from a wheel"}
    # Not what this process imports from, but what was installed.
    surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    with tempfile.TemporaryDirectory(prefix="fastweights-") as folder:
        home = Path(folder) / "venv"

        def run(*command: str) -> tuple[str, float]:
            start = time.perf_counter()
            done = subprocess.run(
                command, cwd=folder, env=surroundings, check=True, capture_output=True, text=True
            )
            return done.stdout, time.perf_counter() - start

        try:
            run(sys.executable, "-m", "venv", str(home))
            python = str(home / ("Scripts" if os.name == "nt" else "bin") / "python")
            told, _ = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
            packages = told.strip()
            _, install = run(python, "-m", "pip", "install", "--no-deps", str(source))
            # Afterwards, or pip would find a fastweights that is installed beside torch.
            torch_home = str(Path(torch.__file__).parents[1])
            Path(packages, "torch.pth").write_text(torch_home, encoding="utf-8")
            told, gradient = run(python, "-c", _FIRST_GRADIENT)
        except subprocess.CalledProcessError as error:
            reasons = [
                line.strip() for line in error.stderr.splitlines() if "error" in line.lower()
            ]
            return {"skipped": reasons[0] if reasons else str(error)}
    where, native = told.splitlines()
    if not Path(where).is_relative_to(packages):
        return {"skipped": f"another fastweights came first: {where}"}
    return {"pip_install": install, "first_gradient": gradient, "native": native == "True"}


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
    x = torch.rand(case.length, case.batch, INPUTS, device=device)

    def call() -> None:
        layer(x)[0].sum().backward()

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

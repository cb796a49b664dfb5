"""What a run ran on: versions, machine, commit."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["environment"]

PACKAGES = ("torch", "triton", "numpy", "scipy", "matplotlib", "safetensors")


@functools.cache
def environment() -> dict[str, Any]:
    """Versions, machine and commit, as JSON would hold them.

    Example:
        >>> sorted(environment())
        ['commit', 'cores', 'fastweights', 'gpu', 'packages', 'platform', 'processor', 'python']
    """
    import torch

    from fastweights import __version__

    return {
        "fastweights": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # not there, or installed without its metadata
        return None


def _commit() -> str | None:
    """The commit of the source tree, marked if it was changed; None outside a checkout."""
    here = Path(__file__)
    git = ["git", "--no-optional-locks", "-C", str(here.parent)]
    try:
        # Installed inside somebody else's checkout, we are not part of its commit.
        _output([*git, "ls-files", "--error-unmatch", here.name])
        commit = _output([*git, "rev-parse", "HEAD"])
        changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit} with changes" if changed else commit


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"

"""The reference builds without a warning and has every public name."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("furo")
pytest.importorskip("myst_parser")
pytest.importorskip("sphinx")

from sphinx.util.inventory import InventoryFile

DOCS = Path(__file__).parent.parent / "docs"
# Where a user imports from; what they list as public must have an entry.
PUBLIC = (
    "fastweights",
    "fastweights.decay",
    "fastweights.lab.experiment",
    "fastweights.nn",
    "fastweights.nn.baselines",
    "fastweights.ops.fast_weights",
    "fastweights.ops.fast_weights.inspect",
    "fastweights.ops.slow_fast",
    "fastweights.ops.slow_fast.reference",
    "fastweights.optim",
    "fastweights.report.section",
    "fastweights.report.statistics",
    "fastweights.tasks",
    "fastweights.tasks.glimpses",
    "fastweights.tasks.priming",
    "fastweights.theory.memory",
    "fastweights.theory.transfer",
    "fastweights.training.checkpoint",
    "fastweights.training.config",
    "fastweights.training.loop",
    "fastweights.training.recurrent",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; made by a process of its own, as a user makes them."""
    folder = tmp_path_factory.mktemp("html")
    command = ["-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    done = subprocess.run(
        [sys.executable, *command, "-d", str(folder / "doctrees"), str(DOCS), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def public_names(module: ModuleType) -> list[str]:
    """Those that it lists, or else what it defines itself and does not hide."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = (name for name, value in vars(module).items() if _is_of(value, module))
    return [name for name in own if not name.startswith("_")]


def _is_of(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and callable(value)


@pytest.mark.slow
def test_every_public_name_has_an_entry(built: Path) -> None:
    inventory = InventoryFile.loads((built / "objects.inv").read_bytes(), uri="")
    documented = {id(importlib.import_module(name)) for name in inventory.data["py:module"]}
    for kind in ("class", "data", "exception", "function"):
        for entry in inventory.data[f"py:{kind}"]:
            module, _, name = entry.rpartition(".")
            documented.add(id(getattr(importlib.import_module(module), name)))
    missing = [
        f"{package}.{name}"
        for package in PUBLIC
        for name in public_names(importlib.import_module(package))
        if id(getattr(importlib.import_module(package), name)) not in documented
    ]
    assert missing == ["fastweights.__version__"]

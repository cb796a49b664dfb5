"""Compiled code is taken up again only while no source file has changed."""

from __future__ import annotations

import gc
import importlib.util
import sys
from pathlib import Path

import numba
import pytest
from filelock import FileLock, Timeout
from numba.core import event
from numba.core.caching import IndexDataCacheFile

from fastweights.ops import compiled as module
from fastweights.ops.compiled import compiled

KERNEL = """
from helper import FACTOR
from fastweights.ops.compiled import compiled

@compiled()
def scaled(x):
    return FACTOR * x
"""


def load(folder: Path, factor: int) -> float:
    """What a kernel gives whose factor stands in another file, and from how many compilations."""
    (folder / "helper.py").write_text(f"FACTOR = {factor}.0\n")
    module._fingerprint.cache_clear()
    for name in ("helper", "kernel"):
        sys.modules.pop(name, None)
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    kernel = sys.modules["kernel"].scaled
    result = kernel(1.0)
    assert sum(kernel.stats.cache_hits.values()) + sum(kernel.stats.cache_misses.values()) == 1
    load.hits = sum(kernel.stats.cache_hits.values())  # type: ignore[attr-defined]
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kernel.py").write_text(KERNEL)
    monkeypatch.setattr(module, "_HERE", tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    module._fingerprint.cache_clear()
    for name in ("helper", "kernel"):
        sys.modules.pop(name, None)


def test_a_change_in_another_file_is_seen(folder: Path) -> None:
    assert load(folder, 2) == 2.0
    assert load(folder, 3) == 3.0  # Numba by itself would still say 2


def test_what_did_not_change_is_not_compiled_again(folder: Path) -> None:
    load(folder, 2)
    assert load.hits == 0  # type: ignore[attr-defined]
    load(folder, 2)
    assert load.hits == 1  # type: ignore[attr-defined]


def test_a_folder_that_is_given_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = folder / "given"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(given))
    load(folder, 2)
    assert list(given.rglob("*.nbi"))
    assert str(given) == numba.config.CACHE_DIR


def test_sources_that_cannot_be_written_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    load(folder, 2)
    assert list((folder / "home" / "fastweights").rglob("*.nbi"))


def test_no_two_processes_file_their_code_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, seen = IndexDataCacheFile.save, []

    def watched(self: IndexDataCacheFile, key: object, data: object) -> None:
        (lock,) = folder.rglob("lock")
        with pytest.raises(Timeout):
            FileLock(lock, timeout=0).acquire()
        seen.append(key)
        save(self, key, data)

    monkeypatch.setattr(IndexDataCacheFile, "save", watched)
    load(folder, 2)
    assert len(seen) == 1
    load(folder, 2)
    assert load.hits == 1  # type: ignore[attr-defined]


def test_options_reach_numba() -> None:
    assert compiled(inline="always")(lambda x: x).targetoptions["inline"] == "always"


@pytest.mark.parametrize("wanted", [True, False])
def test_no_garbage_collection_while_kernels_compile(folder: Path, wanted: bool) -> None:
    seen = []

    class Watcher(event.Listener):
        def on_start(self, _: event.Event) -> None:
            seen.append(gc.isenabled())

        def on_end(self, _: event.Event) -> None:
            pass

    before = gc.isenabled()
    try:
        gc.enable() if wanted else gc.disable()
        with event.install_listener("numba:compile", Watcher()):
            load(folder, 2)
        assert seen == [False]
        assert gc.isenabled() == wanted
    finally:
        gc.enable() if before else gc.disable()

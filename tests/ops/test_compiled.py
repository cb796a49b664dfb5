"""Compiled code is taken up again only while no source file has changed."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from pathlib import Path

import numba
import pytest
import torch
from filelock import FileLock, Timeout
from numba.core import event
from numba.core.caching import IndexDataCacheFile

from fastweights.ops import compiled as module
from fastweights.ops.compiled import Region

KERNEL = """
from helper import FACTOR
from fastweights.ops.compiled import Region, jit
from fastweights.ops.simd import address_of, array_at

@jit
def times(x):
    return FACTOR * x

@Region
def scaled(pointer):
    x = array_at(address_of(pointer), pointer, (1,))
    x[0] = times(x[0])
"""


def load(folder: Path, factor: int) -> float:
    """What a kernel gives whose factor stands in another file, and whether from the disk."""
    (folder / "helper.py").write_text(f"FACTOR = {factor}.0\n")
    module._fingerprint.cache_clear()
    for name in ("helper", "kernel"):
        sys.modules.pop(name, None)
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    region, x = sys.modules["kernel"].scaled, torch.ones(1)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(region.address(torch.float32))(x.data_ptr())
    load.hits = region._compiled[torch.float32].cache_hits  # type: ignore[attr-defined]
    return x.item()


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


def test_a_region_for_each_kind_of_number(folder: Path) -> None:
    load(folder, 2)
    region: Region = sys.modules["kernel"].scaled
    x = torch.full((1,), 0.1, dtype=torch.float64)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(region.address(torch.float64))(x.data_ptr())
    assert x.item() == 2 * 0.1
    assert region.address(torch.float64) != region.address(torch.float32)
    assert region.address(torch.float32) == region.address(torch.float32)


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

"""The library of C++ kernels: which one is loaded, and what is said where there is none."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastweights import ops
from fastweights.ops import dispatch, native
from fastweights.ops.fast_weights import recurrence
from fastweights.optim import SlowFast

FOLDERS = [Path(folder) / "_native" for folder in ops.__path__]
BUILT = sorted({path.stem.split("_")[1] for folder in FOLDERS for path in folder.glob("lib*")})


def compute_with(instruction_set: str | None, code: str) -> str:
    """What a fresh process prints, where PyTorch computes with that instruction set."""
    environment = {**os.environ}
    if instruction_set:
        environment["ATEN_CPU_CAPABILITY"] = instruction_set
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=120
    ).stdout.strip()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(ops, "__path__", [str(tmp_path)])
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    """As in a fresh process."""
    for cached in (native._load, native.kernel, native.vector_bytes, dispatch._warn_once):
        cached.cache_clear()
    recurrence._PLANS.clear()


@pytest.mark.skipif("avx2" not in BUILT, reason="not built for x86-64")
@pytest.mark.parametrize(("chosen", "size"), [("default", 16), ("avx2", 32)])
def test_the_instruction_set_is_pytorchs(chosen: str, size: int) -> None:
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT" and chosen != "default":
        pytest.skip("this processor has no AVX2")
    code = "from fastweights.ops import native; print(native.vector_bytes())"
    assert int(compute_with(chosen, code)) == size


def test_importing_loads_nothing() -> None:
    code = (
        "import fastweights; from fastweights.ops import native;"
        "print(native._load.cache_info().currsize)"
    )
    assert compute_with(None, code) == "0"


def test_a_lower_set_or_a_later_folder_serves_where_the_first_does_not(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    good = next(path for folder in FOLDERS for path in folder.glob("lib*baseline*"))
    (first / good.name.replace("baseline", "avx2")).write_bytes(b"not a library")
    assert native.load(["avx2", "baseline"], [first, second])[0] is None
    shutil.copy(good, second)
    library, reason = native.load(["avx2", "baseline"], [first, second])
    assert reason is None
    assert library is not None
    assert Path(library._name).parent == second


def test_of_two_the_one_built_last_is_taken(tmp_path: Path) -> None:
    good = next(path for folder in FOLDERS for path in folder.glob("lib*baseline*"))
    for folder, built in (("a", 2), ("b", 3), ("c", 1)):
        (tmp_path / folder).mkdir()
        os.utime(shutil.copy(good, tmp_path / folder), (built, built))
    library, _ = native.load(["baseline"], [tmp_path / folder for folder in "abc"])
    assert library is not None
    assert Path(library._name).parent == tmp_path / "b"


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "ABI_VERSION", native.ABI_VERSION + 1)
    library, reason = native.load(["baseline"], FOLDERS)
    assert library is None
    assert reason is not None
    assert f"is of another version ({native.ABI_VERSION - 1}, not {native.ABI_VERSION})" in reason


@pytest.mark.usefixtures("nothing_installed")
def test_missing_is_said_once_as_a_warning_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer = SlowFast(sgd, lr=0.1, momentum=0.5, decay=0.1)
    with caplog.at_level(logging.WARNING, logger="fastweights"):
        for _ in range(3):
            optimizer.step()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("compiled kernels are missing", "C++ compiler", "--force-reinstall"):
        assert part in record.getMessage()


@pytest.mark.usefixtures("nothing_installed")
def test_missing_is_an_error_where_they_were_asked_for() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"cannot run this .*: the compiled kernels are missing"):
        SlowFast(sgd, lr=0.1, momentum=0.5, decay=0.1, backend="native")
    with pytest.raises(RuntimeError, match="the compiled kernels are missing"):
        native.kernel("sgd_step", torch.float32)


@pytest.mark.usefixtures("nothing_installed")
def test_a_call_that_no_kernel_could_run_does_not_miss_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    with caplog.at_level(logging.WARNING, logger="fastweights"):
        SlowFast(sgd, lr=0.1, momentum=0.5, decay=0.1).step()
    assert not caplog.records


def test_a_traced_call_may_ask() -> None:
    code = """
import torch
from fastweights.ops import native
call = torch.compile(
    lambda x: x + (native.missing_reason() is None), fullgraph=True, backend="eager"
)
print(call(torch.zeros(1)).item(), native._load.cache_info().currsize)
"""
    assert compute_with(None, code) == "1.0 1"


CHECK = Path(__file__).parents[2] / "native" / "check.sh"
CALLS = ["tests/ops/slow_fast", "tests/ops/fast_weights/test_conformance.py"]
CHOSEN = "no_bit_depends or nothing_beside or native_backend_in_chunks"


@pytest.fixture(scope="module")
def recorded_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["asan", "tsan", "valgrind", "aarch64"])
def test_recorded_calls_elsewhere(mode: str, recorded_calls: Path) -> None:
    """With sanitizers, under valgrind and on an emulated ARM processor, where their tools are."""
    if shutil.which("bash") is None or not CHECK.exists():
        pytest.skip("it takes a shell and the sources")
    best = torch.backends.cpu.get_cpu_capability().lower()
    done = subprocess.run(
        ["bash", str(CHECK), mode, "--", *CALLS, "-k", CHOSEN],
        env={**os.environ, "CALLS": str(recorded_calls), "SETS": f"baseline {best}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
    assert ", 0 wrong" in done.stdout

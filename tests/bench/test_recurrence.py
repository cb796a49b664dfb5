"""The benchmark of the recurrence from end to end, and what it refuses to time."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastweights.bench import fresh, recurrence
from fastweights.bench.base import Settings, run_benchmark
from fastweights.bench.cases import Case
from fastweights.bench.fresh import fresh_calls
from fastweights.bench.peers import PEERS, EagerAttention, EagerMatrix
from fastweights.bench.recurrence import Recurrence, measure
from fastweights.nn import FastWeightsRNN
from fastweights.ops import native
from fastweights.training.config import ConfigError

SOURCE = Path(fresh.__file__).parents[3] / "native" / "CMakeLists.txt"
QUICK = Settings(cases=("3x5x4",), rounds=3, budget=0.1, fresh=False)


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    recurrence._problem.cache_clear()
    yield
    recurrence._problem.cache_clear()


def run(settings: Settings = QUICK) -> dict[str, Any]:
    benchmark = Recurrence()
    units = benchmark.units(settings)
    rows_after: list[int] = []
    report = run_benchmark(
        benchmark, settings, units, lambda unit, so_far: rows_after.append(len(so_far["rows"]))
    )
    assert rows_after == list(range(1, len(units) + 1))
    return json.loads(json.dumps(report, allow_nan=False))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return run()


def test_what_the_file_holds(report: dict[str, Any]) -> None:
    assert report["benchmark"] == "recurrence"
    assert {"commit", "packages", "processor", "cores"} <= report["environment"].keys()
    assert report["settings"]["rounds"] == 3
    assert isinstance(report["settings"]["freed_memory_kept"], bool)
    (row,) = report["rows"]
    assert (row["case"], row["threads"]) == ("3x5x4", 1)
    assert row["load"] is None or row["load"] >= 0
    for mode in ("training", "forward"):
        measured = row[mode]
        assert measured["flops"] == Case(3, 5, 4).flops(mode)
        assert measured["mm"]["size"] == round((measured["flops"] / 2) ** (1 / 3))
        timed = {"fast-weights", *PEERS} - {"compiled", "lstm-cell", "gru-cell"}
        assert measured["peers"].keys() == timed
        for found in (measured["mm"], *measured["peers"].values()):
            times = found["milliseconds"]
            assert 0 < times["low"] <= times["median"] <= times["high"]
            assert times["rounds"] >= 3
        checked = {name for name, found in measured["peers"].items() if "error" in found}
        assert checked == {"fast-weights", "eager-matrix", "eager-attention"}
    for name in checked:
        assert row["training"]["peers"][name]["error_in_double"] < 1e-12


def test_a_step_with_a_state_is_checked_and_timed_beside_cells() -> None:
    case = Case(3, 1, 8, state=True)
    row = measure(case, 1, Settings(rounds=3, budget=0.1))
    state = recurrence._problem(case, "cpu").state
    assert state is not None
    assert state.matrix is not None
    assert (state.matrix[0].flatten(1).norm(dim=1) > 0.1).all()  # the step has much to read
    assert (state.steps > case.width).all()
    for mode in ("training", "forward"):
        peers = row[mode]["peers"]
        assert peers.keys() == {"fast-weights", "lstm", "eager-matrix", "lstm-cell", "gru-cell"}
        assert all(found["milliseconds"]["median"] > 0 for found in peers.values())
        assert {n for n, found in peers.items() if "error" in found} == {
            "fast-weights",
            "eager-matrix",
        }
    assert row["training"]["peers"]["fast-weights"]["error_in_double"] < 1e-12
    assert row["parts"]["forward"] > 0


def test_a_step_from_another_state_gets_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FastWeightsRNN.forward

    def wrong(self: FastWeightsRNN, input: Tensor, state: Any = None) -> Any:
        if state is not None and self.backend == "auto" and input.dtype == torch.float64:
            state = dataclasses.replace(state, matrix=0.999 * state.matrix)
        return right(self, input, state)

    monkeypatch.setattr(FastWeightsRNN, "forward", wrong)
    with pytest.raises(recurrence.Disagreement, match="fast-weights: output is off by"):
        measure(Case(3, 1, 8, state=True), 1, QUICK)


def test_cells_take_one_step_from_states_of_their_own() -> None:
    case = Case(3, 1, 8, state=True)
    problem = recurrence._problem(case, "cpu")
    assert problem.state is not None
    h = problem.state.hidden[0]
    for name, kind in (("gru-cell", nn.GRUCell), ("lstm-cell", nn.LSTMCell)):
        torch.manual_seed(0)
        net = recurrence._build(name, problem.layer)
        assert type(net) is kind
        state = recurrence._state_for(name, problem.state)
        output, *gradients = recurrence._call(
            net, problem.x, problem.cotangent, "training", state
        )()
        alone = net(problem.x[0], h if name == "gru-cell" else (h, h))
        alone = alone if name == "gru-cell" else alone[0]
        assert torch.equal(output, alone)
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_samples_with_a_state_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(3, 1, 8, state=True)
    whole = recurrence._problem(case, "cpu").expected
    recurrence._problem.cache_clear()
    monkeypatch.setattr(recurrence, "_memory", lambda device: 1.0)
    for one, other in zip(whole, recurrence._problem(case, "cpu").expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [EagerMatrix, EagerAttention])
def test_eager_peers_compute_what_the_reference_does(kind: type[nn.Module]) -> None:
    layer = FastWeightsRNN(37, 6, backend="reference").double()
    x = torch.randn(9, 3, 37, dtype=torch.float64)
    torch.testing.assert_close(kind(layer)(x), layer(x)[0], rtol=1e-12, atol=1e-12)
    shared = {id(p) for p in kind(layer).parameters()}
    assert shared == {id(p) for p in layer.parameters()}


def test_a_wrong_layer_gets_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FastWeightsRNN.forward

    def wrong(self: FastWeightsRNN, input: Tensor, state: Any = None) -> Any:
        output, after = right(self, input, state)
        return (output * 1.001 if self.backend == "auto" else output), after

    monkeypatch.setattr(FastWeightsRNN, "forward", wrong)
    (row,) = run()["rows"]
    assert row["disagrees"].startswith("fast-weights: output is off by 0.001")
    assert row.keys() == {"case", "threads", "disagrees", "load"}


def test_a_wrong_gradient_gets_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 1.001 * g

    right = EagerMatrix.forward
    monkeypatch.setattr(EagerMatrix, "forward", lambda self, x: Off.apply(right(self, x)))
    (row,) = run()["rows"]
    assert row["disagrees"].startswith("eager-matrix: gradient 1 is off by 0.001")
    assert "training" not in row


def test_not_a_number_is_no_agreement() -> None:
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    with pytest.raises(recurrence.Disagreement, match="nan"):
        recurrence._checked("x", (bad,), (good,), 1.0, 1.0)


def test_single_precision_is_checked_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FastWeightsRNN.forward

    def wrong(self: FastWeightsRNN, input: Tensor, state: Any = None) -> Any:
        output, after = right(self, input, state)
        return (output * 1.001 if output.dtype == torch.float32 else output), after

    monkeypatch.setattr(FastWeightsRNN, "forward", wrong)
    (row,) = run()["rows"]
    assert row["disagrees"].endswith("allowed 5e-05")


def test_a_slow_peer_is_skipped_and_says_so() -> None:
    settings = Settings(rounds=3, budget=0.0, peers=("lstm",))
    peers = measure(Case(2, 33, 3), 1, settings)["training"]["peers"]
    assert peers["lstm"]["skipped"].startswith("takes at least")
    assert "milliseconds" in peers["fast-weights"]


def test_a_peer_that_keeps_too_much_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "_memory", lambda device: 1e3)
    peers = measure(Case(2, 40, 3), 1, Settings(rounds=3, peers=("eager-matrix",)))
    assert peers["training"]["peers"]["eager-matrix"]["skipped"].startswith("keeps at least")
    assert "milliseconds" in peers["forward"]["peers"]["eager-matrix"]  # which keeps nothing


def test_torch_compile_states_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    settings = Settings(rounds=3, budget=0.1, peers=("rnn",), compile=True)
    found = measure(Case(2, 3, 4), 1, settings)["training"]["peers"]["compiled"]
    assert found["compile_seconds"] > 0
    assert found["error"] < 1e-5
    long = measure(Case(2, 25, 4), 1, settings)["training"]["peers"]["compiled"]
    assert long == {"skipped": "unrolls 25 steps"}


def test_kept_bytes_counts_each_tensor_once_and_no_parameters() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            y = x * self.weight  # keeps x and the weight, which were there before
            z = y * y  # keeps y, twice
            return z.exp()  # keeps its result

    assert recurrence._kept_bytes(Net(), torch.ones(7, 5)) == 2 * 4 * 7 * 5


@pytest.mark.parametrize("case", [Case(8, 11, 50), Case(8, 200, 16)])
def test_a_step_keeps_two_vectors_and_the_matrices_of_its_chunks(case: Case) -> None:
    problem = recurrence._problem(case, "cpu")
    matrices = recurrence._matrix_bytes(case, problem.layer, problem.x)
    assert (matrices > 0) == (case.length > 100 + case.width)
    vectors = (recurrence._kept_bytes(problem.layer, problem.x) - matrices) / 4
    per_step = vectors / (case.batch * case.length * case.width)
    assert 2 <= per_step < 2.2


def test_the_parts_of_a_step_and_kernels_as_they_were() -> None:
    before = native.run
    for case in (Case(2, 11, 4), Case(2, 120, 4)):  # attention and chunks
        parts = measure(case, 1, Settings(rounds=3, budget=0.1, peers=("rnn",)))["parts"]
        assert 0 < parts["forward"] + parts["backward"] < parts["whole"]
        assert parts["gigabytes_per_second"] > 0.1
    assert native.run is before
    many = measure(Case(2, 3, 4), 2, Settings(rounds=3, budget=0.1, peers=("rnn",)))
    assert "parts" not in many  # shares of several threads' time would not add up


def test_samples_are_worked_out_in_slices_without_a_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(5, 6, 4)
    whole = recurrence._problem(case, "cpu").expected
    recurrence._problem.cache_clear()
    monkeypatch.setattr(recurrence, "_memory", lambda device: 1.0)
    sliced = recurrence._problem(case, "cpu").expected
    assert len(whole) == 1 + 5
    for one, other in zip(whole, sliced, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_every_case_on_every_number_of_threads_and_two_first_calls() -> None:
    settings = Settings(
        cases=("1x1x3+state", "1x2x3", "1x9x3", "1x5x3"), threads=(1, 2), install=True
    )
    keys = [tuple(unit.key.values()) for unit in Recurrence().units(settings)]
    timed = [(case, threads) for case in settings.cases for threads in (1, 2)]
    assert keys == [*timed, ("1x2x3", True), ("1x9x3", True), ("pip install", True)]
    steps = Recurrence().units(Settings(cases=("1x1x3+state",)))
    assert [unit.key for unit in steps] == [{"case": "1x1x3+state", "threads": 1}]


def test_unknown_peers_and_cases_are_refused() -> None:
    with pytest.raises(ConfigError, match="'lstn': did you mean 'lstm'"):
        Recurrence().units(Settings(peers=("lstn",)))
    with pytest.raises(ConfigError, match="'128x11': did you mean '128x11x50'"):
        Recurrence().units(Settings(cases=("128x11",)))


def _pip(monkeypatch: pytest.MonkeyPatch, told: str) -> list[list[str]]:
    """Whatever the installation would run, with nothing run; ``told`` is its last words."""
    commands = []

    def run(command: tuple[str, ...], *, env: dict[str, str], **_: Any) -> Any:
        assert "PYTHONPATH" not in env
        commands.append([str(part) for part in command])
        if "pip" in command and "fails" in told:
            raise subprocess.CalledProcessError(1, command, stderr=told)
        home = Path(commands[0][-1])
        home.mkdir(exist_ok=True)
        stdout = told.format(home=home) if "fastweights" in command[-1] else f"{home}\n"
        return subprocess.CompletedProcess(command, 0, stdout=stdout, stderr="")

    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setattr(fresh.subprocess, "run", run)
    return commands


@pytest.mark.skipif(not SOURCE.exists(), reason="needs the source tree")
def test_an_installation_is_timed_up_to_the_first_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = _pip(monkeypatch, "{home}/fastweights/__init__.py\nTrue\n")
    found = fresh.fresh_install()
    assert found["native"]
    assert found["pip_install"] > 0
    assert found["first_gradient"] > 0
    _, _, pip, gradient = commands
    assert pip[1:-1] == ["-m", "pip", "install", "--no-deps"]
    assert (Path(pip[-1]) / "pyproject.toml").exists()
    assert "backward()" in gradient[-1]


@pytest.mark.skipif(not SOURCE.exists(), reason="needs the source tree")
@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("so\nERROR: no network\nwhere pip fails", "ERROR: no network"),
        ("/elsewhere/fastweights/__init__.py\nTrue", "another fastweights came first"),
    ],
)
def test_why_an_installation_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, told: str, reason: str
) -> None:
    _pip(monkeypatch, told)
    found = fresh.fresh_install()
    assert found.keys() == {"skipped"}
    assert found["skipped"].startswith(reason)


def test_without_a_source_tree_nothing_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fresh, "__file__", str(tmp_path / "a" / "b" / "c" / "fresh.py"))
    assert fresh.fresh_install()["skipped"].startswith("no source tree")


def test_what_an_installed_package_runs_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", fresh._FIRST_GRADIENT], capture_output=True, text=True, check=True
    )
    where, kernels = done.stdout.splitlines()
    assert where.endswith("__init__.py")
    assert kernels == str(native.missing_reason() is None)


def test_the_first_call_is_timed_in_two_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> Any:
        folder = Path(env["TRITON_CACHE_DIR"])
        caches.append((folder, list(folder.iterdir())))
        (folder / "kernel").touch()
        assert command[0] == sys.executable
        assert command[2:] == ["3x5x4", "cpu"]
        return subprocess.CompletedProcess(command, 0, stdout='{"first_call": 1.5}')

    monkeypatch.setattr(fresh.subprocess, "run", run)
    found = fresh_calls(Case(3, 5, 4), "cpu")
    assert found == {"cold": {"first_call": 1.5}, "cached": {"first_call": 1.5}}
    (first, empty), (second, filled) = caches
    assert first == second
    assert not empty
    assert filled
    assert not first.exists()


def test_what_a_new_process_prints(capsys: pytest.CaptureFixture[str]) -> None:
    fresh._main("3x5x4", "cpu")
    found = json.loads(capsys.readouterr().out)
    names = {"import_torch", "import_fastweights", "first_call", "next_call", "peak_bytes"}
    assert found.keys() == names
    assert found["peak_bytes"] is None or found["peak_bytes"] >= 0


@pytest.mark.slow
@pytest.mark.skipif(not SOURCE.exists() or shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_a_gpu_runs_as_far_as_it_can_without_one(tmp_path: Path) -> None:
    script = SOURCE.parents[1] / ".ci" / "gpu"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(
        ["bash", str(script), str(tmp_path)],
        env={**os.environ, "DEVICE": "cpu", "PATH": path},
        check=True,
        capture_output=True,
    )
    (row,) = json.loads((tmp_path / "bench-gpu.json").read_text())["rows"]
    assert "milliseconds" in row["training"]["peers"]["lstm"]
    assert "nn.LSTM" in (tmp_path / "profile.txt").read_text()
    assert (tmp_path / "trace.json").stat().st_size > 0

"""The two smaller benchmarks from end to end, and what they refuse."""

from __future__ import annotations

import json

import pytest
import torch

from fastweights.bench import optimizer, tasks
from fastweights.bench.base import Benchmark, Settings, run_benchmark
from fastweights.bench.optimizer import OptimizerStep
from fastweights.bench.tasks import Generators
from fastweights.optim import SlowFast
from fastweights.training.config import ConfigError

QUICK = Settings(rounds=3, budget=0.05)


def test_a_step_is_timed_with_every_backend() -> None:
    case = optimizer._parse("sgd-1e3")
    row = optimizer.measure(case, 1, QUICK)
    assert (row["slow"], row["weights"]) == ("sgd", 1000)
    assert row["milliseconds"].keys() == {"alone", "foreach", "native"}
    row = optimizer.measure(optimizer._parse("adamw-1000"), 1, QUICK)
    assert row["milliseconds"].keys() == {"alone", "foreach", "native"}


def test_a_wrong_step_gets_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SlowFast.step

    def wrong(self: SlowFast) -> None:
        right(self)
        if self.backend == "native" and type(self.slow_optimizer) is torch.optim.SGD:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1e-9)

    monkeypatch.setattr(SlowFast, "step", wrong)
    settings = Settings(cases=("sgd-1e3", "adamw-1e3"), rounds=3, budget=0.05)
    benchmark = OptimizerStep()
    report = run_benchmark(benchmark, settings, benchmark.units(settings), lambda *_: None)
    first, second = report["rows"]
    assert first["disagrees"].startswith("native, sgd: weights are off by")
    assert "milliseconds" not in first
    assert "milliseconds" in second


def test_generators_are_timed_beside_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_MADE", 200)
    row = tasks.measure(3, 1, QUICK)
    assert json.loads(json.dumps(row)) == row
    assert row["made"] == 200
    assert {"make", "fast-weights", "lstm", "irnn"} <= row["milliseconds"].keys()


@pytest.mark.parametrize(
    ("benchmark", "settings", "message"),
    [
        (OptimizerStep(), Settings(cases=("sdg-1e4",)), "'sdg-1e4': did you mean 'sgd-1e4'"),
        (OptimizerStep(), Settings(cases=("sgd-many",)), "sgd-WEIGHTS"),
        (OptimizerStep(), Settings(cases=("sgd-9",)), "at least 10"),
        (OptimizerStep(), Settings(cases=("sgd-10.5",)), "sgd-WEIGHTS"),
        (OptimizerStep(), Settings(cases=("sgd-nan",)), "sgd-WEIGHTS"),
        (OptimizerStep(), Settings(peers=("lstm",)), "no peers"),
        (Generators(), Settings(cases=("retrieval-k5",)), "did you mean 'retrieval-k"),
        (Generators(), Settings(compile=True), "no peers"),
    ],
)
def test_what_cannot_be_is_refused(benchmark: Benchmark, settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark.units(settings)

"""The benchmark of overlays from end to end, on a small model, and what it refuses."""

from __future__ import annotations

import importlib.util

import pytest

from fastweights.bench.base import Settings, run_benchmark
from fastweights.bench.overlay import OverlayUse
from fastweights.optim import overlay_parts
from fastweights.training.config import ConfigError

SMALL = {"width": 64, "inner": 96, "layers": 1}
BENCHMARK = OverlayUse(SMALL, cycles=5, users=20)
WITH_PEFT = importlib.util.find_spec("peft") is not None


def measured(*cases: str) -> dict:
    settings = Settings(cases=cases, rounds=3, budget=0.05)
    return run_benchmark(BENCHMARK, settings, BENCHMARK.units(settings), lambda *_: None)


@pytest.mark.filterwarnings("default")  # of the peer
def test_every_case_is_measured_and_shown() -> None:
    report = measured()
    rows = {row["case"]: row for row in report["rows"]}
    assert not [row for row in rows.values() if "disagrees" in row]
    assert len(rows) == 12
    assert rows["cycles-bf16"]["changed"] == 0
    assert rows["cycles-bf16"]["cycles"] == 5
    assert rows["switch"]["users"] == 20
    section = BENCHMARK.section(report)
    goals, bits, forward, many = section.tables
    assert [len(table.rows) for table in (bits, forward, many)] == [3, 6, 3]
    assert len(goals.rows) == 3 + 6 * WITH_PEFT + 2 + 2
    for table in section.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    if WITH_PEFT:
        assert rows["cycles-bf16"]["peer_changed"] > 0
        assert {"alone", "overlay", "peft"} == rows["forward-fp32-1x1"]["milliseconds"].keys()


def test_a_wrong_batch_gets_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    right = overlay_parts._of_one_rank
    monkeypatch.setattr(overlay_parts, "_of_one_rank", lambda k, f: right(k, f[::-1]))
    (row,) = measured("per-sample-1")["rows"]
    assert row["disagrees"].startswith("samples are off by")
    assert "milliseconds" not in row


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(cases=("forwards-fp32-1x1",)), "did you mean 'forward-fp32-1x1'"),
        (Settings(peers=("lstm",)), "beside peft alone"),
        (Settings(compile=True), "beside peft alone"),
    ],
)
def test_what_cannot_be_is_refused(settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BENCHMARK.units(settings)

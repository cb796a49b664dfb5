"""Timing: who runs when and how often; no test here looks at a clock that runs by itself."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from fastweights.bench import timing
from fastweights.bench.timing import interleaved, using_threads


class Clock:
    """Time that passes only while somebody works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def work(self, name: str, *seconds: float):
        """A call that takes each of these times in turn, the last one ever after."""
        times = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += times.pop(0) if len(times) > 1 else times[0]

        return call


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = {"a": clock.work("a", 1.0), "b": clock.work("b", 2.0)}
    interleaved(calls, rounds=3, budget=100.0)
    assert "".join(clock.calls) == "aabb" + "ab" * 3  # first twice each, untimed and as a guess


def test_medians_and_quartiles_without_the_first_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    slow_start = clock.work("a", 50.0, 3.0, 0.001, 0.005, 0.002, 0.004, 0.003)
    found = interleaved({"a": slow_start}, rounds=5, budget=100.0)
    expected = {"median": 3.0, "low": 2.0, "high": 4.0, "rounds": 5}
    assert found["a"] == pytest.approx(expected)


def test_a_quick_call_is_repeated_and_its_mean_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = interleaved({"a": clock.work("a", 0.002)}, rounds=3, budget=100.0)
    assert len(clock.calls) == 2 + 3 * 10
    assert found["a"]["median"] == pytest.approx(2.0)


def test_a_slow_call_takes_part_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = {"a": clock.work("a", 1.0), "b": clock.work("b", 10.0), "c": clock.work("c", 2.0)}
    found = interleaved(calls, rounds=9, budget=10.0)
    assert {name: times["rounds"] for name, times in found.items()} == {"a": 9, "b": 3, "c": 5}


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of another C library")
def test_memory_that_was_kept_is_given_back() -> None:
    code = """
import os
import torch
from fastweights.bench.timing import give_back_memory, keep_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

assert keep_memory()
blocks = [torch.ones(1_000_000) for _ in range(64)]
stays = torch.ones(1000)  # at the end of the heap
del blocks
kept = resident()
give_back_memory()
assert kept - resident() > 200_000_000, (kept, resident())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

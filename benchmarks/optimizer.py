"""How long a step of slow and fast weights takes, against the optimizer that moves the slow ones.

Ratios of medians, peers interleaved in one process; nothing is printed for a case whose weights do
not agree with the plain reference. Run as `python benchmarks/optimizer.py [--help]`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from fastweights.optim import SlowFast

__all__ = ["compare", "main"]

_FAST = {"lr": 0.02, "momentum": 0.5, "decay": 0.01}
# What a step is compared with first: the peer of its ratio.
_SLOW: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9, foreach=True),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3, foreach=True),
}


def _parameters(count: int, tensors: int, seed: int, **where: Any) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [count // tensors + (i < count % tensors) for i in range(tensors)]
    return [torch.nn.Parameter(torch.randn(n, generator=generator).to(**where)) for n in sizes]


def _check(slow: str, backend: str) -> None:
    """Raise unless this optimizer does in float64 what the reference does."""
    results = []
    for name in (backend, "reference"):
        params = _parameters(3000, 3, 0, dtype=torch.float64)
        optimizer = SlowFast(_SLOW[slow](params), **_FAST, backend=name)
        for step in range(5):
            for p, g in zip(
                params, _parameters(3000, 3, step + 1, dtype=torch.float64), strict=True
            ):
                p.grad = g.detach()
            optimizer.step()
        results.append(params)
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def compare(
    slow: str,
    count: int,
    *,
    tensors: int = 10,
    device: str = "cpu",
    rounds: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Median milliseconds of one step: the slow optimizer alone, and with each fast backend.

    Args:
        slow: "SGD" (with momentum) or "AdamW", both foreach.
        count: weights in all.
        tensors: how many parameters they are spread over.
        device: where they live.
        rounds: interleaved rounds the median is taken over.
        seed: of the weights and gradients.
    """
    backends = ["foreach"]
    if slow == "SGD" and device == "cpu":
        backends.append("numba")
    optimizers: dict[str, torch.optim.Optimizer] = {
        "alone": _SLOW[slow](_parameters(count, tensors, seed, device=device))
    }
    for backend in backends:
        _check(slow, backend)
        params = _parameters(count, tensors, seed, device=device)
        optimizers[backend] = SlowFast(_SLOW[slow](params), **_FAST, backend=backend)
    gradients = [g.detach() * 1e-3 for g in _parameters(count, tensors, seed + 1, device=device)]
    for optimizer in optimizers.values():
        for p, g in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            p.grad = g

    def wait() -> None:
        if device != "cpu":
            torch.accelerator.synchronize()

    times: dict[str, list[float]] = {name: [] for name in optimizers}
    repeats = max(1, 200_000 // count)
    for round_ in range(rounds + 2):
        for name, optimizer in optimizers.items():
            wait()
            start = time.perf_counter()
            for _ in range(repeats):
                optimizer.step()
            wait()
            if round_ >= 2:  # the first two make state and compile
                times[name].append((time.perf_counter() - start) / repeats * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "slow": slow,
        "weights": count,
        "tensors": tensors,
        "device": device,
        "threads": torch.get_num_threads(),
        "milliseconds": medians,
        "ratio": {name: medians[name] / medians["alone"] for name in backends},
    }


def main() -> None:
    """Print one line per case, as text or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=float, nargs="+", default=[1e4, 1e5, 1e6, 1e7])
    parser.add_argument("--tensors", type=int, default=10)
    parser.add_argument("--slow", nargs="+", choices=_SLOW, default=list(_SLOW))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"# {platform.machine()}, {arguments.threads} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )
    for slow in arguments.slow:
        for count in arguments.weights:
            row = compare(
                slow,
                int(count),
                tensors=arguments.tensors,
                device=arguments.device,
                rounds=arguments.rounds,
            )
            if arguments.json:
                print(json.dumps(row), flush=True)
                continue
            ratios = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in row["ratio"].items())
            alone = row["milliseconds"]["alone"]
            print(f"{slow:6} {count:10.0f} weights: {alone:9.4f} ms alone; {ratios}", flush=True)


if __name__ == "__main__":
    main()

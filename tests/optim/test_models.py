"""SlowFast on models that are compiled, tied, distributed or trained in mixed precision."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fastweights.ops.slow_fast import cpu
from fastweights.optim import SlowFast

FAST = {"lr": 0.05, "momentum": 0.5, "decay": 0.02}
WORKER = Path(__file__).with_name("training_worker.py")


def test_two_processes_end_as_one_on_the_whole_batch(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    functions = runpy.run_path(str(WORKER))
    expected = {
        slow: functions["learn"](functions["network"](), slow, 0, 1) for slow in functions["SLOW"]
    }
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    for slow, parts in expected.items():
        for how in ("ddp", "fsdp"):
            first, second = (
                torch.load(tmp_path / f"{how}-{slow}-{rank}.pt", weights_only=True)
                for rank in range(2)
            )
            for name, tensors in parts.items():
                same = all(map(torch.equal, first[name], second[name]))
                assert same, f"{how}, {slow}: {name} differ"
                for ours, one_process in zip(first[name], tensors, strict=True):
                    assert ours.any()
                    torch.testing.assert_close(ours, one_process, rtol=0, atol=1e-12)


class Tied(nn.Module):
    """Input and output share one matrix, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            self.out.weight.copy_(torch.randn(7, 4, generator=generator))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(tokens))


def test_tied_weights_have_one_overlay() -> None:
    model = Tied()
    optimizer = SlowFast(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **FAST)
    weight = model.out.weight
    s, v = weight.detach().clone(), torch.zeros(7, 4)
    f, update = torch.zeros(7, 4), torch.zeros(7, 4)
    tokens = torch.tensor([1, 2, 3])
    for _ in range(3):
        w = (s + f).requires_grad_()
        loss = nn.functional.cross_entropy(w[tokens] @ w.t(), tokens + 1)
        (g,) = torch.autograd.grad(loss, w)
        v = 0.9 * v + g
        s = s - 0.1 * v
        update = 0.5 * update - 0.05 * g
        f = 0.98 * (f + update)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), tokens + 1).backward()
        optimizer.step()
    assert model.embedding.weight is weight
    torch.testing.assert_close(weight.detach(), s + f)
    torch.testing.assert_close(optimizer.fast_weights(weight), f)


# Dynamo has warnings of its own, which are not what is tested here.
@pytest.mark.filterwarnings("default")
def test_a_compiled_model_sees_every_change_of_its_weights() -> None:
    torch.compiler.reset()
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        compilations.append(graph)
        return graph.forward

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
        run = torch.compile(model, backend=backend) if compiled else model
        optimizer = SlowFast(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **FAST)
        outputs = []
        for _ in range(3):
            optimizer.zero_grad()
            run(x).square().mean().backward()
            optimizer.step()
            outputs.append(run(x).detach())
        with optimizer.slow_only():
            outputs.append(run(x).detach())
        outputs.append(run(x).detach())
        optimizer.relax(20)
        outputs.append(run(x).detach())
        results.append(outputs)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(results[0][2], results[0][3])
    assert torch.equal(results[0][2], results[0][4])
    assert not torch.allclose(results[0][4], results[0][5])
    assert len(compilations) == 1, "changed weights must not compile anew"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("backend", ["auto", "foreach"])
def test_the_step_itself_may_be_compiled(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()

    def foreign(*_: object, **__: object) -> None:
        raise AssertionError("torch.compile cannot look into a compiled kernel")

    monkeypatch.setattr(cpu, "sgd_step", foreign)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = SlowFast(sgd, **FAST, backend=backend if compiled else "reference")
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            step()
        results.append([*model.parameters(), *(map(optimizer.fast_weights, model.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_trained_in_mixed_precision() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = SlowFast(torch.optim.AdamW(model.parameters(), lr=0.01), **FAST)
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    y = x.prod(dim=1, keepdim=True)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            prediction = model(x)
        loss = (prediction.float() - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert optimizer.fast_weights(model[0].weight).dtype is torch.float32


def test_an_association_learned_in_rehearsal_fades_and_the_old_one_returns() -> None:
    """The point of it all: a temporary overlay on knowledge that is not lost."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 10, generator=generator)
    old, new = torch.tensor([[1.0]]), torch.tensor([[-1.0]])
    model = nn.Linear(10, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    sgd = torch.optim.SGD(model.parameters(), lr=0.02)
    optimizer = SlowFast(sgd, lr=0.05, momentum=0.0, decay=0.01)

    def teach(target: torch.Tensor, times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad()
            (model(x[:1]) - target).square().sum().backward()
            optimizer.step()

    teach(old, 100)
    optimizer.consolidate()
    with optimizer.rehearsal():
        teach(new, 100)
    assert abs(model(x[:1]).item() + 1) < 0.1
    with optimizer.slow_only():
        assert abs(model(x[:1]).item() - 1) < 0.05
    optimizer.relax(600)
    assert abs(model(x[:1]).item() - 1) < 0.05

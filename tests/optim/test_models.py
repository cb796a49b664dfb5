"""SlowFast on models that are compiled, tied, distributed or trained in mixed precision."""

from __future__ import annotations

import copy
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
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
@pytest.mark.parametrize("backend", ["auto", "native"])
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


# -- buffers ---------------------------------------------------------------------------------------


class Normalised(nn.Module):
    """With statistics, and with a memory that the module replaces by a longer one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = torch.cat([self.seen, x.detach().mean().view(1)])
        return self.out(self.norm(x))


def normalised() -> tuple[Normalised, SlowFast, Callable[[], None]]:
    model = Normalised()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = SlowFast(sgd, **FAST, model=model)
    generator = torch.Generator().manual_seed(0)

    def learn() -> None:
        optimizer.zero_grad()
        model(torch.randn(8, 3, generator=generator) + 1).square().mean().backward()
        optimizer.step()

    learn()
    learn()
    return model, optimizer, learn


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_buffers_come_back_with_the_slow_weights() -> None:
    model, optimizer, learn = normalised()
    before = buffers(model)
    for _ in range(2):  # two rehearsals, one overlay
        with optimizer.rehearsal():
            learn()
    rehearsed = buffers(model)
    assert not any(torch.equal(before[name], rehearsed[name]) for name in before)
    with optimizer.slow_only():
        assert same(before, buffers(model))
        model(torch.ones(4, 3))  # moves them, and what it moves is lost
    assert same(rehearsed, buffers(model))
    optimizer.relax(3)
    assert same(rehearsed, buffers(model))
    optimizer.clear()
    assert same(before, buffers(model))
    learn()
    learned = buffers(model)
    optimizer.clear()  # no rehearsal since: nothing to bring back
    assert same(learned, buffers(model))


@pytest.mark.parametrize("how", ["step", "consolidate"])
def test_buffers_become_slow_with_a_slow_step_or_by_consolidating(how: str) -> None:
    model, optimizer, learn = normalised()
    with optimizer.rehearsal():
        learn()
    if how == "step":
        learn()
    else:
        optimizer.consolidate()
    now = buffers(model)
    with optimizer.slow_only():
        assert same(now, buffers(model))
    optimizer.clear()
    assert same(now, buffers(model))


def test_slow_only_brings_buffers_back_after_an_exception() -> None:
    model, optimizer, _ = normalised()
    before = buffers(model)

    def fail() -> None:
        with optimizer.slow_only():
            model(torch.ones(4, 3))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert same(before, buffers(model))


@pytest.mark.parametrize("how", ["load", "deepcopy", "pickle"])
def test_slow_buffers_are_saved_and_copied(how: str) -> None:
    model, optimizer, learn = normalised()
    before = buffers(model)
    with optimizer.rehearsal():
        learn()
    if how == "load":
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        twin, other, _ = normalised()
        twin.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
    elif how == "deepcopy":
        twin, other = copy.deepcopy((model, optimizer))
    else:
        twin, other = pickle.loads(pickle.dumps((model, optimizer)))
    assert other.model is twin
    other.clear()
    assert same(before, buffers(twin))
    assert not same(before, buffers(model))


def test_slow_buffers_need_a_model() -> None:
    model, optimizer, learn = normalised()
    with optimizer.rehearsal():
        learn()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"slow_buffers.*model=model"):
        SlowFast(sgd, **FAST).load_state_dict(optimizer.state_dict())
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module or None, got generator"):
        SlowFast(sgd, **FAST, model=model.buffers())


def test_buffers_follow_their_model_to_another_dtype() -> None:
    model, optimizer, learn = normalised()
    before = buffers(model)
    with optimizer.rehearsal():
        learn()
    model.double()
    optimizer.clear()
    assert torch.equal(model.norm.running_mean, before["norm.running_mean"].double())
    assert torch.equal(model.norm.num_batches_tracked, before["norm.num_batches_tracked"])

"""Overlays over models that are compiled, distributed, quantised, copied or trained sparingly."""

from __future__ import annotations

import copy
import io
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastweights import Overlay, Overlays
from tests.overlay_layers import learn, network

WORKER = Path(__file__).with_name("overlay_worker.py")


def test_two_processes_end_as_one_on_the_whole_batch(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    functions = runpy.run_path(str(WORKER))
    (tmp_path / "one").mkdir()
    expected = functions["learn"](functions["network"](), tmp_path / "one", 0, 1)
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    for how in ("ddp", "fsdp"):
        first, second = (torch.load(tmp_path / f"{how}-{r}.pt") for r in range(2))
        for name, tensors in expected.items():
            assert all(map(torch.equal, first[name], second[name])), f"{how}: {name} differ"
            for ours, one_process in zip(first[name], tensors, strict=True):
                assert ours.any()
                error = (ours - one_process).abs().max()
                assert error < 1e-12, f"{how}: {name} is off by {error:.2g}"


# -- torch.compile -------------------------------------------------------------------------------


# Dynamo has warnings of its own, which are not what is tested here.
compiled_tests = pytest.mark.filterwarnings("default")


@compiled_tests
def test_a_compiled_model_sees_every_change() -> None:
    torch.compiler.reset()
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        compilations.append(graph)
        return graph.forward

    model = network().eval()
    run = torch.compile(model, backend=backend, fullgraph=True)
    x = torch.randn(4, 6)

    def same() -> bool:
        return torch.allclose(run(x), model(x), atol=1e-6)

    beneath = run(x)
    a = Overlay(model, rank=2, modules=nn.Linear, half_life=2, name="a")  # after compiling
    learn(a)
    assert not torch.allclose(run(x), beneath)
    assert same()
    count = len(compilations)
    optimizer = torch.optim.SGD(a.parameters(), lr=0.05)
    for _ in range(3):
        run(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert same()
    a.relax(updates=2)
    assert same()
    assert len(compilations) <= count + 1, "learning and fading must not compile anew"
    with a.off():
        assert torch.equal(run(x), beneath)
    assert same()
    b = Overlay(model, rank=1, modules=["3"], half_life=2, name="b")
    learn(b)
    assert same()
    overlays = Overlays(model)
    overlays.use("b")
    assert same()
    count = len(compilations)
    overlays.use("a")
    overlays.use("b")
    assert same()
    assert len(compilations) == count, "what was compiled for b is there still"
    with overlays.per_sample(["a", "b", None, "a"]):
        assert same()
    a.remove()
    b.remove()
    assert torch.equal(run(x), beneath)


@compiled_tests
def test_a_compiled_model_fades_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    now = [100.0]
    for module in ("overlay_fading", "overlay_parts"):
        monkeypatch.setattr(f"fastweights.optim.{module}.clock", lambda: now[0])
    model = network().eval()
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life="1h")
    learn(overlay)
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 6)
    fresh = run(x)
    now[0] += 3600
    assert not torch.allclose(run(x), fresh)
    torch.testing.assert_close(run(x), model(x))
    run(x).sum().backward()
    ours = [p.grad.clone() for p in overlay.parameters()]
    for p in overlay.parameters():
        p.grad = None
    model(x).sum().backward()
    for a, p in zip(ours, overlay.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


# -- memory and precision ------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, inside: nn.Module, *, save: bool) -> None:
        super().__init__()
        self.inside = inside
        self.save = save

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inside, x, use_reentrant=False) if self.save else self.inside(x)


def test_gradient_checkpointing() -> None:
    gradients = []
    x = torch.randn(5, 6)
    for save in (False, True):
        model = Checkpointed(network(), save=save)
        overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=2)
        learn(overlay)
        model(x).square().sum().backward()
        gradients.append([p.grad for p in overlay.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_and_half_precision() -> None:
    x = torch.randn(5, 6)
    expected = None
    for how in ("float", "autocast", "bfloat16"):
        model = network().eval()
        overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=2)
        learn(overlay)
        if how == "bfloat16":
            model.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            out = model(x.bfloat16() if how == "bfloat16" else x)
        out.float().square().sum().backward()
        assert out.dtype == (torch.float32 if how == "float" else torch.bfloat16)
        found = [out.float(), *(p.grad for p in overlay.parameters())]
        assert all(p.dtype == torch.float32 for p in overlay.parameters())
        expected = expected or found
        for ours, full in zip(found, expected, strict=True):
            assert (ours - full).norm() < 0.03 * full.norm()


def test_autocast_does_not_round_what_is_beneath() -> None:
    embedding = nn.Embedding(5, 4)
    x = torch.arange(5)
    expected = embedding(x)
    Overlay(embedding, rank=2, modules=nn.Embedding, half_life=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding(x), expected)


def test_fading_in_half_precision_does_not_stop_at_a_rounding() -> None:
    model = nn.Linear(6, 6).bfloat16()
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=200)
    learn(overlay)
    norm = overlay.norm()
    optimizer = torch.optim.SGD(overlay.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.step()
    assert overlay.norm() == pytest.approx(norm / 2, rel=1e-4)


def test_inference_mode() -> None:
    model = network().eval()
    x = torch.randn(4, 6)
    beneath = model(x)
    with torch.inference_mode():
        overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=2)
        learn(overlay)
        assert not torch.allclose(model(x), beneath)
        with overlay.off():
            assert torch.equal(model(x), beneath)
    model(x).sum().backward()  # what was made there can learn
    torch.optim.SGD(overlay.parameters(), lr=0.1).step()
    overlay.remove()
    assert torch.equal(model(x), beneath)


# -- what the model is ---------------------------------------------------------------------------


class Linear8bit(nn.Module):
    """As libraries make them: no nn.Linear, whole numbers and a scale, a gradient of its input."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.abs().max().item() / 127
        self.register_buffer("weight", (linear.weight / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def quantised(how: str) -> tuple[nn.Module, list[str]]:
    """A model, and the layers that torch can differentiate behind."""
    model = network().eval().requires_grad_(False)
    if how == "8 bit":
        model[0], model[3] = Linear8bit(model[0]), Linear8bit(model[3])
        return model, ["0", "3"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what is at hand without a package
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}), ["3"]


@pytest.mark.parametrize("how", ["8 bit", "dynamic"])
def test_quantised_linear_layers(how: str) -> None:
    model, layers = quantised(how)
    x = torch.randn(4, 6)
    beneath = model(x)
    state = model.state_dict()
    overlay = Overlay(model, rank=2, modules=layers, half_life=9)
    optimizer = torch.optim.AdamW(overlay.parameters(), lr=0.1)
    for _ in range(10):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < beneath.square().mean()
    with pytest.raises(ValueError, match=r"\.weight is quantised"):
        overlay.consolidate()
    overlay.remove()
    assert torch.equal(model(x), beneath)
    assert model.state_dict().keys() == state.keys()


def test_tied_weights_stay_tied_and_each_layer_has_its_own() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    x = torch.arange(7)
    overlay = Overlay(model, rank=2, modules=["1"], half_life=9)
    hidden = model[0](x)
    learn(overlay)
    assert model[1].weight is model[0].weight
    assert torch.equal(model[0](x), hidden)
    assert len(list(model.parameters())) == 1


def test_a_transformer_takes_no_short_cut_around_the_overlay() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        before = model(x)
        overlay = Overlay(model, rank=2, modules=["linear1"], half_life=9)
        learn(overlay)
        assert not torch.allclose(model(x), before)
        overlay.remove()
        assert torch.equal(model(x), before)


def test_copies_have_overlays_of_their_own() -> None:
    model = network().eval()
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=3)
    learn(overlay)
    x = torch.randn(4, 6)
    expected = model(x)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    pair = copy.deepcopy((model, overlay))
    assert pair[1].model is pair[0]
    for other in (copy.deepcopy(model), pair[0], torch.load(stream, weights_only=False)):
        assert torch.equal(other(x), expected)
        theirs = Overlays(other)["default"]
        optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
        norm = theirs.norm()
        optimizer.step()
        assert theirs.norm() == pytest.approx(norm * 2 ** (-1 / 3))
        theirs.clear()
        theirs.remove()
        assert not any(m._forward_hooks for m in other.modules())
    assert torch.equal(model(x), expected)


def test_a_pickled_overlay_fades_in_another_process(tmp_path: Path) -> None:
    model = network()
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=1)
    learn(overlay)
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; model = torch.load(sys.argv[1], weights_only=False); "
        "import fastweights; overlay = fastweights.Overlays(model)['default']; "
        "norm = overlay.norm(); torch.optim.SGD(overlay.parameters(), lr=0.1).step(); "
        "print(overlay.norm() / norm)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(told) == pytest.approx(0.5)


def test_copying_a_layer_copies_no_model() -> None:
    model = network()
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=3)
    learn(overlay)
    copied: dict[int, object] = {}
    layer = copy.deepcopy(model[0], copied)
    assert id(model) not in copied
    x = torch.randn(4, 6)
    assert torch.equal(layer(x), model[0](x))


def test_hooks_and_keywords_of_others() -> None:
    model = network().eval()
    seen = []
    model[0].register_forward_hook(lambda m, args, out: seen.append(out))
    overlay = Overlay(model, rank=2, modules=["0"], half_life=3)
    learn(overlay)
    x = torch.randn(4, 6)
    out = model[0](input=x)
    assert torch.equal(seen[0], out)
    overlay.remove()
    assert not torch.allclose(model[0](x), out)
    assert len(seen) == 2


def test_models_on_no_device_yet() -> None:
    with torch.device("meta"):
        model = network()
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=3)
    model.to_empty(device="cpu")
    model.load_state_dict(network().state_dict())
    model.eval()
    learn(overlay)
    assert model(torch.ones(1, 6)).isfinite().all()
    with overlay.off():
        assert torch.equal(model(torch.ones(1, 6)), network().eval()(torch.ones(1, 6)))

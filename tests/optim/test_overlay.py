"""What a model computes with overlays, how they fade, and what is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

import fastweights
from fastweights import Overlay, Overlays
from fastweights.optim import overlay_fading
from tests.overlay_layers import LAYERS, learn, network


def dense(model: nn.Module, overlay: Overlay, x: Tensor) -> Tensor:
    """What the model computes where ΔW is added to the weights themselves."""
    weights = {
        f"{name}.weight" if name else "weight": model.get_submodule(name).weight
        + overlay.fast_weights(name)
        for name in overlay.layers
    }
    with overlay.off():
        return torch.func.functional_call(model, weights, (x,))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_computes_with_the_sum_of_both_weights(kind: str) -> None:
    build, inputs, rank = LAYERS[kind]
    layer, x = build().double(), inputs()
    x = x.double() if x.is_floating_point() else x
    before = layer(x)
    overlay = Overlay(layer, rank=rank, modules=type(layer), half_life=10)
    torch.testing.assert_close(layer(x), before)  # it has learned nothing yet
    learn(overlay)
    assert not torch.allclose(layer(x), before)
    torch.testing.assert_close(layer(x), dense(layer, overlay, x))
    with overlay.off():
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_factors_learn_by_the_gradient_of_the_weights(kind: str) -> None:
    build, inputs, rank = LAYERS[kind]
    layer, x = build().double(), inputs()
    x = x.double() if x.is_floating_point() else x
    overlay = Overlay(layer, rank=rank, modules=type(layer), half_life=10)
    learn(overlay)
    layer(x).square().sum().backward()
    gradients = [p.grad for p in overlay.parameters()]
    part = overlay._state.parts[""]
    a, b = (p.detach().clone().requires_grad_() for p in (part.a, part.b))
    weight = layer.weight.detach() + overlay_kind(part).dense(layer, a, b)
    with overlay.off():
        out = torch.func.functional_call(layer, {"weight": weight}, (x,))
    out.square().sum().backward()
    if kind == "embedding-padding":  # torch does not let its vector learn
        a.grad[0] = 0
    for ours, expected in zip(gradients, (a.grad, b.grad), strict=True):
        if kind != "embedding-padding" or ours.shape == a.shape:
            torch.testing.assert_close(ours, expected)


def overlay_kind(part):
    from fastweights.optim.overlay_layers import kind_called

    return kind_called(part.kind)


def test_it_learns_with_any_optimizer_and_the_slow_weights_stay() -> None:
    x, y = torch.randn(16, 6), torch.randn(16, 3)
    for make in (
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.05),
        lambda p: torch.optim.Adagrad(p, lr=0.2),
        lambda p: torch.optim.Rprop(p, lr=0.01),
        lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
    ):
        model = network().requires_grad_(False)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        overlay = Overlay(model, rank=3, modules=[nn.Linear], half_life=50)
        optimizer = make(overlay.parameters())

        def loss(model: nn.Module = model, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            out = (model(x) - y).square().mean()
            out.backward()
            return out

        first = loss().item()
        for _ in range(15):
            optimizer.step(loss)
        assert loss().item() < 0.9 * first, type(optimizer).__name__
        now = model.state_dict()
        assert state.keys() == now.keys()
        assert all(torch.equal(state[k], now[k]) for k in state)


# -- fading --------------------------------------------------------------------------------------


def still(model: nn.Module, half_life: float | str = 4, **more) -> tuple[Overlay, Tensor]:
    """An overlay that has learned, and what it has."""
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=half_life, **more)
    learn(overlay)
    return overlay, overlay.fast_weights("0")


def test_each_step_halves_by_the_half_life_and_new_knowledge_enters_whole() -> None:
    model = network().double()
    overlay, f = still(model, half_life=3)
    b = overlay._state.parts["0"].b
    optimizer = torch.optim.SGD([b], lr=0.1)
    h = 1 - 2 ** (-1 / 3)
    for _ in range(3):
        b.grad = torch.ones_like(b)
        a = overlay._state.parts["0"].a.detach()
        f = (1 - h) * (f - 0.1 * torch.ones_like(b) @ a)
        optimizer.step()
        torch.testing.assert_close(overlay.fast_weights("0"), f)


def test_without_gradients_half_of_it_is_gone_after_a_half_life() -> None:
    overlay, f = still(network().double(), half_life=4)
    norm = overlay.norm()
    assert norm == pytest.approx(
        math.hypot(f.norm().item(), overlay.fast_weights("3").norm().item())
    )
    optimizer = torch.optim.AdamW(overlay.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.step()
    torch.testing.assert_close(overlay.fast_weights("0"), f / 2)
    assert overlay.norm() == pytest.approx(norm / 2)


def test_only_steps_of_an_optimizer_that_has_the_factors_fade_them() -> None:
    model = network()
    overlay, f = still(model)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.equal(overlay.fast_weights("0"), f)
    halves = [torch.optim.SGD([overlay._state.parts[n].b], lr=0.1) for n in ("0", "3")]
    halves[0].step()
    assert overlay.fast_weights("0").norm() < f.norm()
    other = overlay.fast_weights("3")
    halves[0].step()
    assert torch.equal(overlay.fast_weights("3"), other)
    halves[1].step()
    assert overlay.fast_weights("3").norm() < other.norm()


def test_accumulated_gradients_are_one_step() -> None:
    model = network()
    overlay, _ = still(model)
    optimizer = torch.optim.SGD(overlay.parameters(), lr=0.0)
    norm = overlay.norm()
    for _ in range(4):
        model(torch.randn(5, 6)).sum().backward()
        assert overlay.norm() == norm
    optimizer.step()
    assert overlay.norm() == pytest.approx(norm * 2**-0.25)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_fades_nothing(fused: bool) -> None:
    model = network()
    overlay, _ = still(model)
    optimizer = torch.optim.AdamW(overlay.parameters(), lr=0.0, weight_decay=0.0, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    norm = overlay.norm()
    for infinite in (True, False):
        optimizer.zero_grad()
        out = model(torch.randn(5, 6)).sum()
        scaler.scale(out * (math.inf if infinite else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        expected = norm if infinite else norm * 2**-0.25
        assert overlay.norm() == pytest.approx(expected, rel=1e-6)


def test_gradients_are_used_up_by_a_step_and_forgotten_with_the_models() -> None:
    """Trainers call the model's zero_grad, and the model does not have these parameters."""
    model = network()
    overlay, _ = still(model)
    params = overlay.parameters()
    optimizer = torch.optim.SGD(params[::2], lr=0.1)
    model(torch.randn(5, 6)).sum().backward()
    optimizer.step()
    assert [p.grad is None for p in params] == [True, False] * 2
    assert model[0].weight.grad is not None
    model.zero_grad()
    assert all(p.grad is None for p in (*params, *model.parameters()))
    overlay.remove()
    assert "zero_grad" not in vars(model)


class Outer(torch.optim.Optimizer):
    """Has the same parameters as the optimizer that it calls, as SAM and Lookahead do."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups[0]["params"], {})
        self.inner = inner

    def step(self, closure=None):
        if closure is not None:
            closure()
        self.inner.step()


def test_optimizers_inside_one_another_make_one_step() -> None:
    overlay, _ = still(network())
    inner = torch.optim.SGD(overlay.parameters(), lr=0.0)
    optimizer = Outer(inner)
    norm = overlay.norm()
    optimizer.step()
    assert overlay.norm() == pytest.approx(norm * 2**-0.25)

    def broken() -> None:
        raise KeyError("loss")

    with pytest.raises(KeyError):
        optimizer.step(broken)
    assert overlay.norm() == pytest.approx(norm * 2**-0.25)
    inner.step()  # a step that ended by an exception is not around it any more
    assert overlay.norm() == pytest.approx(norm * 2**-0.5)


def test_relax_fades_as_so_many_steps() -> None:
    overlay, f = still(network().double(), half_life=4)
    overlay.relax(updates=2.5)
    torch.testing.assert_close(overlay.fast_weights("0"), f * 2 ** (-2.5 / 4))
    overlay.relax(updates=1e9)
    assert overlay.norm() == 0
    model = network().double()
    overlay, f = still(model, half_life=math.inf)
    overlay.relax(updates=1e9)
    torch.testing.assert_close(overlay.fast_weights("0"), f)


@pytest.mark.parametrize("momentum", ["sgd", "adam"])
def test_momentum_does_not_bring_back_what_was_forgotten(momentum: str) -> None:
    for forget in (lambda o: o.relax(updates=1000), lambda o: o.clear()):
        torch.manual_seed(0)
        model = network().requires_grad_(False)
        overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=10)
        params = overlay.parameters()
        optimizer = (
            torch.optim.SGD(params, lr=0.05, momentum=0.9)
            if momentum == "sgd"
            else torch.optim.Adam(params, lr=0.05)
        )
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(16, 6)).square().mean().backward()
            optimizer.step()
        learned = overlay.norm()
        assert learned > 0.01
        forget(overlay)
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert overlay.norm() < 1e-6 * learned


def test_clock_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(overlay_fading, "clock", lambda: now[0])
    monkeypatch.setattr("fastweights.optim.overlay_parts.clock", lambda: now[0])
    model = network().double().eval()
    overlay, f = still(model, half_life="6h")
    x = torch.randn(4, 6).double()
    fresh = model(x)
    now[0] += 6 * 3600
    torch.testing.assert_close(overlay.fast_weights("0"), f / 2)
    torch.testing.assert_close(model(x), dense(model, overlay, x))
    assert not torch.allclose(model(x), fresh)
    overlay.relax(hours=6)
    torch.testing.assert_close(overlay.fast_weights("0"), f / 4)
    # The step adds to what is left by now, by the gradient of what is left by now.
    now[0] += 6 * 3600
    b = overlay._state.parts["0"].b
    a = overlay._state.parts["0"].a.detach().clone()
    weight = (model[0].weight + f / 8).detach().requires_grad_()
    with overlay.off():
        out = torch.func.functional_call(model[0], {"weight": weight}, (x,))
    out.square().sum().backward()
    model[0](x).square().sum().backward()
    torch.optim.SGD([b], lr=0.1).step()
    torch.testing.assert_close(overlay.fast_weights("0"), f / 8 - 0.1 * weight.grad @ a.T @ a)
    now[0] -= 3600  # a clock that was put back does not make it stronger
    assert overlay.norm() == overlay.norm()
    with pytest.raises(ValueError, match=r"relax\(hours="):
        overlay.relax(updates=1)


# -- several overlays ----------------------------------------------------------------------------


def users(model: nn.Module, names: str = "abc", rank: int = 2) -> Overlays:
    for seed, name in enumerate(names):
        for_types = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)
        kinds = [t for t in for_types if any(isinstance(m, t) for m in model.modules())]
        overlay = Overlay(
            model, rank=rank, modules=kinds or [type(model)], half_life=9, name=name, seed=seed
        )
        learn(overlay, seed=seed)
    return Overlays(model)


def test_overlays_are_switched_and_added_up() -> None:
    model = network().eval()
    x = torch.randn(4, 6)
    beneath = model(x)
    overlays = users(model, "ab")
    assert list(overlays) == ["a", "b"]
    assert overlays.on == ("a", "b")
    both = model[0](x)
    overlays.use("a")
    a = model[0](x)
    overlays.use("b")
    b = model[0](x)
    overlays.use()
    none = model[0](x)
    assert torch.equal(model(x), beneath)
    torch.testing.assert_close(both - none, (a - none) + (b - none))
    overlays["a"].enabled = True
    assert overlays.on == ("a",)
    assert torch.equal(model[0](x), a)
    with overlays.off():
        assert torch.equal(model(x), beneath)
    with overlays["a"].off(), pytest.raises(ValueError, match="no overlay 'c'"):
        overlays.use("c")
    assert overlays.on == ("a",)
    overlays["a"].remove()
    assert list(overlays) == ["b"]
    assert overlays.on == ()
    with pytest.raises(KeyError):
        overlays["a"]


@pytest.mark.parametrize("kind", LAYERS)
def test_each_sample_with_its_own_is_one_at_a_time(kind: str) -> None:
    build, inputs, rank = LAYERS[kind]
    layer, x = build().double(), inputs()
    x = x.double() if x.is_floating_point() else x
    overlays = users(layer, "abc", rank)
    names = ["b", None, "a", "c", "b"]
    with overlays.per_sample(names):
        together = layer(x)
        together.square().sum().backward()
    gradients = {name: [p.grad for p in overlays[name].parameters()] for name in "abc"}
    for name in "abc":
        for p in overlays[name].parameters():
            p.grad = None
    for i, name in enumerate(names):
        overlays.use(*([name] if name else []))
        alone = layer(x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
        alone.square().sum().backward()
    for name, expected in gradients.items():
        for p, gradient in zip(overlays[name].parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, gradient)


def test_samples_may_have_overlays_of_several_ranks_and_layers() -> None:
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for name, rank, modules in (("a", 1, ["1"]), ("b", 3, ["1", "3"]), ("c", 2, [nn.Embedding])):
        overlay = Overlay(model, rank=rank, modules=modules, half_life=9, name=name)
        learn(overlay, seed=rank)
    overlays = Overlays(model)
    x = torch.randint(9, (4, 5))
    names = ["c", "a", "b", None]
    overlays.use()
    with overlays.per_sample(names):
        together = model(x)
        with overlays["b"].off():
            without = model(x)
    assert overlays.on == ()
    for i, name in enumerate(names):
        overlays.use(*([name] if name else []))
        torch.testing.assert_close(together[i : i + 1], model(x[i : i + 1]))
    overlays.use()
    torch.testing.assert_close(without[2:], model(x[2:]))


def test_per_sample_refuses_what_it_cannot_tell_apart() -> None:
    model = network()
    overlays = users(model, "ab")
    with pytest.raises(TypeError, match="a list"), overlays.per_sample("ab"):
        pass
    with pytest.raises(ValueError, match="no overlay 'aa'"), overlays.per_sample(["aa"]):
        pass
    message = r"3 overlays: the input of 0 has the shape \(2, 6\)"
    with pytest.raises(ValueError, match=message), overlays.per_sample(["a", "b", "a"]):
        model(torch.randn(2, 6))
    overlays.use("a")
    assert torch.equal(model(torch.ones(2, 6)), model(torch.ones(2, 6)))  # all is as before
    with pytest.raises(RuntimeError, match="'a' changed buffers"), overlays.per_sample(["a"]):
        pass


# -- buffers -------------------------------------------------------------------------------------


def test_running_statistics_belong_to_the_overlays_that_were_on() -> None:
    model = network()
    model(torch.randn(9, 6))
    norm = model[1]
    slow = [b.clone() for b in model.buffers()]

    def equal(expected: list[Tensor]) -> bool:
        return all(map(torch.equal, model.buffers(), expected))

    a = Overlay(model, rank=2, modules=["0"], half_life=5, name="a")
    model(5 + torch.randn(9, 6))
    with_a = [b.clone() for b in model.buffers()]
    assert not equal(slow)
    with a.off():
        assert equal(slow)
    assert equal(with_a)
    saved = model.state_dict()
    assert torch.equal(saved["1.running_mean"], slow[0])
    assert saved["1.num_batches_tracked"] == 1
    b = Overlay(model, rank=2, modules=["0"], half_life=5, name="b")
    assert equal(with_a)  # b is added to a, and goes on from there
    model(torch.randn(9, 6))
    overlays = Overlays(model)
    overlays.use("a")
    assert equal(with_a)
    overlays.use("b")
    assert equal(slow)  # b alone was never on before
    with overlays.off():
        model(torch.randn(9, 6))  # the model beneath learns
        assert torch.equal(model.state_dict()["1.running_mean"], norm.running_mean)
        slow = [b.clone() for b in model.buffers()]
    overlays.use("a")
    a.clear()
    assert equal(slow)
    a.remove()
    b.remove()
    assert equal(slow)
    assert norm.num_batches_tracked == 2
    assert not model._state_dict_hooks
    assert not model._load_state_dict_pre_hooks
    assert not any(m._forward_hooks or m._forward_hooks_with_kwargs for m in model.modules())


def test_a_loaded_state_is_the_models_own() -> None:
    model, other = network(), network()
    other(3 + torch.randn(9, 6))
    overlay = Overlay(model, rank=2, modules=["0"], half_life=5)
    model(torch.randn(9, 6))
    model.load_state_dict(other.state_dict())
    assert torch.equal(model[1].running_mean, other[1].running_mean)
    with overlay.off():
        assert torch.equal(model[1].running_mean, other[1].running_mean)
    model(torch.randn(9, 6))
    overlay.remove()
    assert torch.equal(model[1].running_mean, other[1].running_mean)


# -- keeping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_consolidate_changes_the_slow_weights_and_says_so(kind: str, caplog) -> None:
    build, inputs, rank = LAYERS[kind]
    layer, x = build().double(), inputs()
    x = x.double() if x.is_floating_point() else x
    overlay = Overlay(layer, rank=rank, modules=type(layer), half_life=10)
    learn(overlay)
    if kind == "embedding-padding":
        with torch.no_grad():
            overlay.parameters()[0][0] = 0.0
    before, weight = layer(x), layer.weight.detach().clone()
    assert overlay.consolidate() == ["weight"]
    assert "changed 1 weights of the model for good" in caplog.text
    assert overlay.norm() == 0
    assert not torch.equal(layer.weight, weight)
    torch.testing.assert_close(layer(x), before)
    overlay.remove()
    torch.testing.assert_close(layer(x), before)


def test_consolidate_keeps_the_statistics_too() -> None:
    model = network()
    overlay = Overlay(model, rank=2, modules=["0"], half_life=5)
    model(5 + torch.randn(9, 6))
    mean = model[1].running_mean.clone()
    overlay.consolidate()
    overlay.remove()
    assert torch.equal(model[1].running_mean, mean)


def test_consolidate_refuses_weights_of_two_layers_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[2].weight = model[1].weight
    overlay = Overlay(model, rank=1, modules=[nn.Linear], half_life=5)
    learn(overlay)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"2\.weight is 1\.weight too"):
        overlay.consolidate()
    assert all(map(torch.equal, before, model.parameters()))
    assert overlay.norm() > 0


def test_an_overlay_that_was_removed_says_so() -> None:
    model = network()
    overlay = Overlay(model, rank=2, modules=["0"], half_life=5)
    optimizer = torch.optim.SGD(overlay.parameters(), lr=0.1)
    overlay.remove()
    assert repr(overlay) == "Overlay('default', removed)"
    optimizer.step()
    for use in (
        overlay.remove,
        overlay.clear,
        overlay.consolidate,
        overlay.norm,
        overlay.parameters,
        lambda: overlay.relax(updates=1),
        lambda: overlay.save("x"),
        lambda: overlay.off().__enter__(),
    ):
        with pytest.raises(RuntimeError, match="'default' was removed"):
            use()


# -- what is refused -----------------------------------------------------------------------------


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2)])
        self.norm = nn.LayerNorm(8)
        self.q_proj = nn.Linear(8, 8)


BAD = {
    "rank above": ({"rank": 9, "modules": ["q_proj"]}, ValueError, "at most 8 for layer 'q_proj'"),
    "rank 0": ({"rank": 0}, ValueError, "rank must be at least 1"),
    "rank 1.5": ({"rank": 1.5}, TypeError, "rank must be an integer"),
    "half-life 0": ({"half_life": 0}, ValueError, "half_life must be a number of updates above 0"),
    "half-life -1": ({"half_life": -1}, ValueError, "half_life must be"),
    "half-life nan": ({"half_life": math.nan}, ValueError, "half_life must be"),
    "half-life 0h": ({"half_life": "0h"}, ValueError, "half_life must be"),
    "half-life 6": ({"half_life": "6"}, ValueError, 'such as "90s"'),
    "half-life None": ({"half_life": None}, TypeError, "half_life must be"),
    "near": ({"modules": ["q_porj"]}, ValueError, "matches 'q_porj'; near it: q_proj"),
    "pattern": ({"modules": ["*.linear3"]}, ValueError, r"near it: layers\.0\.linear1"),
    "regex": ({"modules": [re.compile("x.*")]}, ValueError, r"matches 'x\.\*'; there are: layers"),
    "type": ({"modules": [nn.Conv1d]}, ValueError, "type Conv1d; there are"),
    "kind": ({"modules": ["norm"]}, ValueError, "'norm' is a LayerNorm: overlays can be laid over"),
    "below": ({"modules": ["layers.0"]}, ValueError, r"below it: layers\.0\.linear1"),
    "attention": ({"modules": ["out_proj"]}, ValueError, "MultiheadAttention uses its weight"),
    "none": ({"modules": []}, ValueError, "at least one layer"),
    "number": ({"modules": [3]}, TypeError, "modules must be"),
    "name": ({"name": ""}, TypeError, "name must be text"),
    "twice": ({"name": "there"}, ValueError, "has an overlay 'there' already"),
    "seed": ({"seed": -1}, ValueError, "seed must be at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_changes_nothing(case: str) -> None:
    wrong, error, message = BAD[case]
    model = Encoder()
    Overlay(model, rank=1, modules=["q_proj"], half_life=5, name="there")
    arguments = {"rank": 2, "modules": ["q_proj"], "half_life": 5, **wrong}
    with pytest.raises(error, match=message):
        Overlay(model, **arguments)
    assert list(Overlays(model)) == ["there"]
    assert sum(len(m._forward_hooks) for m in model.modules()) == 1


def test_overlays_of_a_part_are_refused() -> None:
    model = Encoder()
    Overlay(model, rank=1, modules=["linear1"], half_life=5)
    with pytest.raises(ValueError, match="laid over another module"):
        Overlay(model.layers[0], rank=1, modules=["linear1"], half_life=5)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        Overlay(3, rank=1, modules=["linear1"], half_life=5)


def test_relax_refuses_what_it_cannot_do() -> None:
    overlay, _ = still(network())
    norm = overlay.norm()
    for arguments, error, message in (
        ({}, TypeError, "either updates= or hours="),
        ({"updates": 1, "hours": 1}, TypeError, "either updates= or hours="),
        ({"updates": -1}, ValueError, "updates must be"),
        ({"updates": "2"}, TypeError, "updates must be"),
        ({"hours": 1}, ValueError, r"is 4 updates: relax\(updates="),
    ):
        with pytest.raises(error, match=message):
            overlay.relax(**arguments)
    assert overlay.norm() == norm


def test_names_patterns_and_types() -> None:
    model = Encoder()

    def layers(*modules: object) -> tuple[str, ...]:
        overlay = Overlay(model, rank=1, modules=list(modules), half_life=5)
        overlay.remove()
        return overlay.layers

    assert layers("linear1") == ("layers.0.linear1", "layers.1.linear1")
    assert layers("layers.1.linear1", "q_proj") == ("layers.1.linear1", "q_proj")
    assert layers("layers.?.linear2") == ("layers.0.linear2", "layers.1.linear2")
    assert layers(re.compile(r".*1\.linear\d")) == ("layers.1.linear1", "layers.1.linear2")
    assert len(layers(nn.Linear)) == 5
    assert repr(Overlay(model, rank=1, modules="q_proj", half_life="6h")) == (
        "Overlay('default', rank 1, 1 layer, half-life 6h)"
    )


def test_it_is_there_for_users() -> None:
    assert {"Overlay", "Overlays"} <= set(fastweights.__all__)


def test_stacks_of_a_batch_follow_what_is_learned() -> None:
    model = network().eval()
    overlays = users(model, "ab")
    x = torch.randn(3, 6)
    with overlays.per_sample(["a", "b", "a"]), torch.no_grad():
        first = model(x)
        assert torch.equal(model(x), first)
        overlays["a"].relax(updates=3)
        second = model(x)
        assert not torch.allclose(first[0], second[0])
        assert torch.equal(first[1], second[1])
        learn(overlays["b"], seed=9)
        assert not torch.allclose(second[1], model(x)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 40])
def test_without_gradients_the_same_is_computed_faster(dtype: torch.dtype, rows: int) -> None:
    model = network().to(dtype).eval()
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=3)
    learn(overlay)
    x = torch.randn(rows, 6).to(dtype)
    kept = x.clone()
    expected = model(x).detach()
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    assert torch.equal(x, kept)
    weights = [p.detach().clone() for p in model.parameters()]
    with torch.inference_mode():
        model(x)
    assert all(map(torch.equal, weights, model.parameters()))

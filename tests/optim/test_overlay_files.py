"""Overlays as files: what was saved is what is loaded, and everything else is refused."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fastweights import Overlay, Overlays
from fastweights.optim import overlay_files
from tests.overlay_layers import LAYERS, learn, network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = network()
    overlay = Overlay(model, rank=2, modules=[nn.Linear], half_life=200, name="skill")
    learn(overlay)
    model(4 + torch.randn(9, 6))  # its own statistics
    path = tmp_path / "skill.safetensors"
    overlay.save(path)
    return path


def bits(model: nn.Module) -> list[bytes]:
    return [t.detach().numpy().tobytes() for t in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("kind", LAYERS)
def test_what_was_saved_is_what_is_loaded(kind: str, tmp_path: Path) -> None:
    build, inputs, rank = LAYERS[kind]
    layer, x = build(), inputs()
    fresh = copy.deepcopy(layer)
    overlay = Overlay(layer, rank=rank, modules=type(layer), half_life="6h", name="it", seed=5)
    learn(overlay)
    path = tmp_path / "it.safetensors"
    overlay.save(path)
    loaded = Overlay.load(str(path), fresh)
    assert (loaded.name, loaded.half_life, loaded.rank) == ("it", "6h", rank)
    for ours, theirs in zip(loaded.parameters(), overlay.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(fresh(x), layer(x), rtol=1e-3, atol=1e-3)  # the clock goes on
    overlay.clear()
    loaded.clear()
    for ours, theirs in zip(loaded.parameters(), overlay.parameters(), strict=True):
        assert torch.equal(ours, theirs)  # they start from the same numbers again


def test_statistics_are_saved_and_stay_apart(saved: Path) -> None:
    model = network()
    before = bits(model)
    overlay = Overlay.load(saved, model, name="again")
    assert overlay.half_life == 200
    assert model[1].running_mean.abs().max() > 0
    with overlay.off():
        assert bits(model) == before
    overlay.remove()
    assert bits(model) == before


def test_a_loaded_overlay_goes_on_learning_and_fading(saved: Path) -> None:
    model = network()
    overlay = Overlay.load(saved, model)
    norm = overlay.norm()
    torch.optim.SGD(overlay.parameters(), lr=0.1).step()
    assert overlay.norm() == pytest.approx(norm * 2 ** (-1 / 200))
    overlay.half_life  # noqa: B018
    overlay = Overlay(model, rank=1, modules=["0"], half_life=math.inf, name="forever")
    overlay.save(saved)
    overlay.remove()
    assert Overlay.load(saved, model).half_life == math.inf


def altered(path: Path, change) -> None:
    """Write the file anew with a right checksum, as whoever wants to deceive would."""
    tensors, metadata = overlay_files.read_tensors(path)
    about = json.loads(metadata["overlay"])
    change(tensors, about)
    metadata["overlay"] = json.dumps(about)
    metadata["checksum"] = overlay_files._checksum(tensors, metadata)
    save_file(tensors, path, metadata)


def set_about(key: str, value: object):
    return lambda tensors, about: about.__setitem__(key, value)


DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "not a readable file"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable file"),
    "a bit": (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"!"), "damaged or was altered"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "not a readable file"),
    "torch.save": (lambda p: torch.save({"a": torch.ones(1)}, p), "not a readable file"),
    "another's": (lambda p: save_file({"a": torch.ones(1)}, p), "holds no overlay"),
    "header": (lambda p: p.write_bytes(b"\xff" * 8 + p.read_bytes()[8:]), "not a readable file"),
    "no layers": (lambda p: altered(p, set_about("layers", {})), "has no layers"),
    "half-life": (lambda p: altered(p, set_about("half_life", -1)), "half_life must be"),
    "name": (lambda p: altered(p, set_about("name", 3)), "its name must be text"),
    "list": (lambda p: altered(p, set_about("layers", [])), "is no overlay"),
    "not finite": (
        lambda p: altered(p, lambda t, a: t["0 B"].fill_(math.nan)),
        "layer '0' holds something else than finite numbers",
    ),
    "a factor more": (
        lambda p: altered(p, lambda t, a: t.__setitem__("7 A", torch.ones(1))),
        "no buffer '7 A'",
    ),
    "a buffer's shape": (
        lambda p: altered(p, lambda t, a: t.__setitem__("buffer 1.running_mean", torch.ones(9))),
        r"no buffer '1\.running_mean' of shape \[9\]",
    ),
    "another kind": (
        lambda p: altered(p, lambda t, a: a["layers"]["0"].__setitem__("kind", "conv2d")),
        "'0' is a Linear, not of the kind 'conv2d'",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_bad_file_is_named_and_changes_nothing(case: str, saved: Path) -> None:
    damage, message = DAMAGE[case]
    damage(saved)
    model = network()
    before = bits(model)
    with pytest.raises(ValueError, match=message) as error:
        Overlay.load(saved, model)
    assert str(saved) in str(error.value)
    assert bits(model) == before
    assert not Overlays(model)
    assert not any(m._forward_hooks for m in model.modules())


def other_shape() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 3))


def other_names() -> nn.Module:
    return nn.Sequential(network(), nn.Linear(3, 3))


def other_weights() -> nn.Module:
    torch.manual_seed(5)
    model = network()
    for module in model:
        if isinstance(module, nn.Linear):
            torch.manual_seed(7)
            module.reset_parameters()
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (other_shape, r"layer '0' takes factors of the shapes \[2, 6\] and \[9, 2\]"),
        (other_names, "'0' is a Sequential|no layer '3'"),
        (other_weights, "weights of layer '0' are not those that the overlay was made for"),
    ],
)
def test_another_model_is_refused_by_the_name_of_its_layer(
    build, message: str, saved: Path
) -> None:
    model = build()
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        Overlay.load(saved, model)
    assert bits(model) == before
    assert not Overlays(model)


def test_the_model_may_have_been_trained_on_or_be_of_another_dtype(saved: Path) -> None:
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    Overlay.load(saved, model.bfloat16())
    with pytest.raises(ValueError, match="has an overlay 'skill' already"):
        Overlay.load(saved, model)


def test_a_file_too_long_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_files, "LIMIT", 1000)
    with pytest.raises(ValueError, match="at most 1000 bytes are read"):
        Overlay.load(saved, network())
    overlay = Overlay(network(), rank=2, modules=[nn.Linear], half_life=1)
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="at most 1000 are read again"):
        overlay.save(saved)
    assert saved.read_bytes() == before


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Overlay.load(tmp_path / "none", network())
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        Overlay.load(tmp_path / "pipe", network())


# -- peft's format -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in LAYERS if "groups" not in k and "depth" not in k])
def test_an_adapter_there_and_back(kind: str, tmp_path: Path) -> None:
    build, inputs, rank = LAYERS[kind]
    model, x = nn.Sequential(build()), inputs()
    fresh = copy.deepcopy(model)
    overlay = Overlay(model, rank=rank, modules=["0"], half_life=3)
    learn(overlay)
    overlay.to_peft(tmp_path / "adapter")
    back = Overlay.from_peft(tmp_path / "adapter", fresh, half_life=7, name="adapter")
    assert (back.name, back.half_life, back.rank) == ("adapter", 7, rank)
    torch.testing.assert_close(fresh(x), model(x))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    overlay = Overlay(network(), rank=2, modules=[nn.Linear], half_life=3)
    learn(overlay)
    overlay.to_peft(tmp_path / "adapter")
    return tmp_path / "adapter"


def configure(folder: Path, **options: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_scaling_is_part_of_the_product(adapter: Path) -> None:
    factors = [p.clone() for p in Overlay.from_peft(adapter, network(), half_life=3).parameters()]
    for options, scale in (
        ({"lora_alpha": 8}, 4.0),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(2)),
        ({"lora_alpha": 8, "use_rslora": False, "alpha_pattern": {"0": 2}}, 1.0),
    ):
        configure(adapter, **options)
        scaled = Overlay.from_peft(adapter, network(), half_life=3).parameters()
        torch.testing.assert_close(scaled[1], factors[1] * scale)
        assert torch.equal(scaled[0], factors[0])


def drop(name: str):
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        del tensors[name]
        save_file(tensors, path)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: configure(f, peft_type="IA3"), "peft_type is 'IA3', must be 'LORA'"),
        (lambda f: configure(f, use_dora=True), "use_dora is set"),
        (lambda f: configure(f, modules_to_save=["0"]), "modules_to_save is set"),
        (lambda f: configure(f, bias="all"), "bias is 'all'"),
        (lambda f: configure(f, lora_alpha="1e9999"), "lora_alpha must be a number"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "cannot be read"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x"), "not a readable file"),
        (drop("base_model.model.0.lora_B.weight"), r"0\.lora_B\.weight"),
    ],
)
def test_a_bad_adapter_is_named_and_changes_nothing(change, message: str, adapter: Path) -> None:
    change(adapter)
    model = network()
    with pytest.raises(ValueError, match=message):
        Overlay.from_peft(adapter, model, half_life=3)
    assert not Overlays(model)
    assert not any(m._forward_hooks for m in model.modules())


def test_an_adapter_of_another_model_is_refused_by_its_layer(adapter: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("layer '0' takes factors")):
        Overlay.from_peft(adapter, other_shape(), half_life=3)


def test_convolutions_in_groups_have_no_adapter(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2))
    overlay = Overlay(model, rank=2, modules=["0"], half_life=3)
    with pytest.raises(ValueError, match="'0' convolves in groups"):
        overlay.to_peft(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
